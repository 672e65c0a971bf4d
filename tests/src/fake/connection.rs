//! One connection: reads a command, executes it, answers; tells news while in IDLE.
//!
//! Rule: one command at a time, in the order of arrival; its effect is complete before a byte of its answer
//! leaves.

use std::{io, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch};

use super::{
    accounts::Account,
    knobs::Reaction,
    platform::{Denied, Options, Said, Shared, Tls},
    view::{View, line},
    wire::{Command, Wire},
};

/// `Ok` becomes `OK text`; an error says `NO` or `BAD` itself.
pub(super) type Answer = Result<String, String>;

pub(super) const UNAVAILABLE: &str = "NO [UNAVAILABLE] not able to do this now";

/// One client.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) options: Arc<Options>,
    pub(super) account: Option<Arc<Account>>,
    pub(super) view: Option<View>,
    pub(super) out: Vec<u8>,
    wire: Wire,
    said: watch::Receiver<Said>,
    tls: bool,
    /// Bytes that may still be sent before the connection is dropped.
    cut: Option<usize>,
}

/// What comes next on a connection that waits for a command.
enum Next {
    Line(Option<Vec<u8>>),
    Said(Said),
}

impl Connection {
    pub(super) async fn run(stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
        let recorder = shared.records.open();
        let options = shared.options();
        let said = shared.said.subscribe();
        let (wire, tls) = Wire::accept(stream, &options.tls, recorder).await?;
        let mut this =
            Self { shared, options, account: None, view: None, out: Vec::new(), wire, said, tls, cut: None };
        let greeting = format!("* OK [CAPABILITY {}] {}", this.capabilities(), this.options.greeting);
        line(&mut this.out, &greeting);
        this.flush().await?;
        this.serve().await
    }

    async fn serve(&mut self) -> io::Result<()> {
        loop {
            match self.next().await? {
                Next::Line(None) => return Ok(()),
                Next::Line(Some(first)) => {
                    match self.wire.command(first).await? {
                        Ok(command) if self.execute(&command).await? => return self.goodbye().await,
                        Ok(_) => {}
                        Err((tag, why)) => line(&mut self.out, &format!("{tag} BAD {why}")),
                    }
                    self.flush().await?;
                }
                Next::Said(said) => {
                    if self.say(&said).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn next(&mut self) -> io::Result<Next> {
        tokio::select! {
            line = self.wire.line() => Ok(Next::Line(line?)),
            Ok(()) = self.said.changed() => Ok(Next::Said(self.said.borrow_and_update().clone())),
        }
    }

    /// Whether the connection ends with it.
    async fn say(&mut self, said: &Said) -> io::Result<bool> {
        self.out.extend_from_slice(said.line.as_bytes());
        self.flush().await?;
        Ok(said.close)
    }

    /// True after LOGOUT.
    async fn execute(&mut self, command: &Command) -> io::Result<bool> {
        self.wire.recorder.command(&command.verb);
        let reaction = self.shared.reaction(&[&command.verb]);
        reaction.wait().await;
        if let Some(raw) = &reaction.raw {
            self.out.extend_from_slice(raw.as_bytes());
            self.flush().await?;
        }
        if reaction.drop {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if let Some(refusal) = &reaction.refuse {
            line(&mut self.out, &format!("{} {refusal}", command.tag));
            return Ok(false);
        }
        self.answer(command, &reaction).await?;
        if let Some(stall) = &reaction.withhold {
            stall.wait().await;
        }
        if reaction.cut.is_some() {
            self.cut = reaction.cut;
            self.flush().await?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(command.verb == "LOGOUT")
    }

    async fn answer(&mut self, command: &Command, reaction: &Reaction) -> io::Result<()> {
        let answer = match command.verb.as_str() {
            "AUTHENTICATE" => self.authenticate(command).await?,
            "IDLE" => self.idle().await?,
            "STARTTLS" => return self.starttls(&command.tag).await,
            _ => self.command(command),
        };
        self.tell(&command.verb, reaction.illegal_expunge);
        let text = answer.map_or_else(|refusal| refusal, |done| format!("OK {done}"));
        line(&mut self.out, &format!("{} {text}", command.tag));
        Ok(())
    }

    /// News of the selected mailbox, as far as the command allows them.
    fn tell(&mut self, verb: &str, illegal_expunge: bool) {
        let silent = matches!(verb, "SELECT" | "EXAMINE" | "CLOSE" | "UNSELECT" | "LOGOUT");
        let expunge = !matches!(verb, "FETCH" | "STORE" | "SEARCH" | "UID SEARCH") || illegal_expunge;
        if let (Some(view), Some(account), false) = (&mut self.view, &self.account, silent)
            && let Some(mailbox) = account.edit().mailbox(&view.name)
        {
            view.sync(mailbox, expunge, &mut self.out);
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let end = self.cut.map_or(self.out.len(), |left| left.min(self.out.len()));
        self.wire.io.write_all(&self.out[..end]).await?;
        self.wire.io.flush().await?;
        self.out = Vec::new();
        Ok(())
    }

    async fn goodbye(&mut self) -> io::Result<()> {
        self.wire.recorder.logout();
        self.flush().await?;
        self.wire.io.shutdown().await
    }

    async fn starttls(&mut self, tag: &str) -> io::Result<()> {
        let Tls::Starttls(config) = self.options.tls.clone() else {
            line(&mut self.out, &format!("{tag} BAD no TLS here"));
            return Ok(());
        };
        line(&mut self.out, &format!("{tag} OK begin"));
        self.flush().await?;
        self.wire.secure(config).await?;
        self.tls = true;
        Ok(())
    }

    async fn authenticate(&mut self, command: &Command) -> io::Result<Answer> {
        if command.args.first().map(|a| a.text().to_ascii_uppercase()).as_deref() != Some("PLAIN") {
            return Ok(Err("NO no such mechanism".into()));
        }
        let response = match command.args.get(1) {
            Some(initial) => initial.text().into_bytes(),
            None => {
                self.out.extend_from_slice(b"+ \r\n");
                self.flush().await?;
                self.wire.line().await?.ok_or(io::ErrorKind::UnexpectedEof)?
            }
        };
        if response == b"*" {
            return Ok(Err("BAD cancelled".into()));
        }
        let Ok(plain) = STANDARD.decode(&response) else { return Ok(Err("BAD not base64".into())) };
        let parts: Vec<_> = plain.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
        let [authzid, authcid, password] = parts.as_slice() else { return Ok(Err("BAD not PLAIN".into())) };
        Ok(self.login(authzid, authcid, password))
    }

    /// Opens an account; `authzid` is empty or whom the master wants to be.
    pub(super) fn login(&mut self, authzid: &str, authcid: &str, password: &str) -> Answer {
        if self.account.is_some() {
            return Err("BAD logged in already".into());
        }
        let (user, account) = self.shared.sign_in(&self.options, authzid, authcid, password).map_err(
            |denied| match denied {
                Denied::Unavailable => UNAVAILABLE,
                Denied::NotMaster => "NO [AUTHORIZATIONFAILED] not a master",
                Denied::Unknown => "NO [AUTHENTICATIONFAILED] who are you",
            },
        )?;
        self.account = Some(account);
        self.wire.recorder.login(&user);
        Ok(format!("[CAPABILITY {}] logged in", self.capabilities()))
    }

    pub(super) fn capabilities(&self) -> String {
        let mut all = self.options.capabilities.join(" ");
        if self.account.is_none() {
            all.push_str(" AUTH=PLAIN");
            if matches!(self.options.tls, Tls::Starttls(_)) && !self.tls {
                all.push_str(" STARTTLS");
            }
        }
        all
    }

    async fn idle(&mut self) -> io::Result<Answer> {
        if self.account.is_none() {
            return Ok(Err("BAD log in first".into()));
        }
        self.out.extend_from_slice(b"+ idling\r\n");
        loop {
            if let Some(view) = &mut self.view {
                view.changes.mark_unchanged();
            }
            self.tell("IDLE", false);
            self.flush().await?;
            tokio::select! {
                line = self.wire.line() => {
                    let line = line?.ok_or(io::ErrorKind::UnexpectedEof)?;
                    let done = line.eq_ignore_ascii_case(b"DONE");
                    return Ok(if done { Ok("IDLE done".into()) } else { Err("BAD expected DONE".into()) });
                }
                () = news(self.view.as_mut()) => {}
                Ok(()) = self.said.changed() => {
                    let said = self.said.borrow_and_update().clone();
                    if self.say(&said).await? {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                }
            }
        }
    }
}

/// Resolves when the selected mailbox changed; never where there is none.
async fn news(view: Option<&mut View>) {
    let changed = match view {
        Some(view) => view.changes.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}
