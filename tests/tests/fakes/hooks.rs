//! The hooks of a rig's proxy, which a test can stop, refuse or make lie.
//!
//! Rule: a hook that nobody touched does what it is for; a stall counts once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bascule_tests::fake::{Stall, control::Pair};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

/// What hooks do other than what they are for.
#[derive(Default)]
pub(super) struct Hooks(Mutex<HashMap<String, Script>>);

#[derive(Clone)]
enum Script {
    Stall(Stall),
    Refuse,
    Pretend,
}

impl Hooks {
    /// The hook waits when it is called; it goes on as the script says by then.
    pub(super) fn stall(&self, order: &str) -> Stall {
        let stall = Stall::default();
        self.set(order, Some(Script::Stall(stall.clone())));
        stall
    }

    /// The hook says no.
    pub(super) fn refuse(&self, order: &str) {
        self.set(order, Some(Script::Refuse));
    }

    /// The hook says that it is done and does nothing.
    pub(super) fn pretend(&self, order: &str) {
        self.set(order, Some(Script::Pretend));
    }

    /// The hook does what it is for.
    pub(super) fn mend(&self, order: &str) {
        self.set(order, None);
    }

    fn set(&self, order: &str, script: Option<Script>) {
        let mut scripts = self.0.lock().unwrap();
        match script {
            Some(script) => scripts.insert(order.into(), script),
            None => scripts.remove(order),
        };
    }

    fn script(&self, order: &str) -> Option<Script> {
        self.0.lock().unwrap().get(order).cloned()
    }

    /// A stall is over: it counts once.
    fn passed(&self, order: &str) {
        let mut scripts = self.0.lock().unwrap();
        if matches!(scripts.get(order), Some(Script::Stall(_))) {
            scripts.remove(order);
        }
    }

    async fn run(&self, pair: &Pair, order: &str) -> (u8, String) {
        loop {
            match self.script(order) {
                Some(Script::Stall(stall)) => {
                    stall.wait().await;
                    self.passed(order);
                }
                Some(Script::Refuse) => return (2, "refused by the test".into()),
                Some(Script::Pretend) => return (0, "done".into()),
                None => {
                    let reply = pair.obey(order).await;
                    return (reply.code, reply.text);
                }
            }
        }
    }

    async fn answer(&self, pair: &Pair, stream: UnixStream) {
        let mut stream = BufReader::new(stream);
        let mut order = String::new();
        if stream.read_line(&mut order).await.is_err() {
            return;
        }
        let mut nothing = [0];
        // A hook that was killed does not go on with its work.
        let (code, text) = tokio::select! {
            said = self.run(pair, order.trim()) => said,
            _ = stream.read(&mut nothing) => return,
        };
        // Whoever asked may be gone.
        let _ = stream.write_all(format!("{code} {text}\n").as_bytes()).await;
    }
}

/// Answers hooks, for ever.
pub(super) async fn serve(hooks: Arc<Hooks>, pair: Arc<Pair>, listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let (hooks, pair) = (hooks.clone(), pair.clone());
        tokio::spawn(async move { hooks.answer(&pair, stream).await });
    }
}
