//! Deadlines, and the end of a session.
//!
//! Rule: every held command is answered, and backend connections end in good order (D1).

use std::time::{Duration, Instant};

use bascule_protocols::imap::farewell::{self, Farewell, unavailable};

use super::{
    converse, greet,
    orders::see_out,
    pipe::Pipe,
    relay::{Backend, End, Session},
    upload::Path,
};
use crate::{gate::Standing, session::stays};

/// How long a client may take to read what it was sent before.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Session {
    /// Since when the client waits for what is held.
    fn waits_since(&self) -> Option<Instant> {
        let literal = self.waiting_literal.as_ref().map(|w| w.since);
        let sending = self.sending.as_ref().filter(|_| !self.orders.flowed).map(|s| s.arrived);
        sending.or_else(|| self.queue.oldest().map(|held| held.arrived)).or(literal)
    }

    /// When [`Self::advance`] must look at the clock again.
    pub(super) fn due(&self) -> Option<Instant> {
        let limits = &self.world().config.limits;
        let held = self.waits_since();
        let ceiling = held.map(|since| since + limits.command_ceiling);
        let keepalive = held.map(|since| since.max(self.last_output) + limits.keepalive);
        let idle = self.relay.idling().then(|| self.last_output + limits.idle_keepalive);
        let logout =
            (!self.relay.idling()).then(|| self.last_input.max(self.last_output) + limits.autologout);
        [ceiling, keepalive, idle, logout].into_iter().flatten().min()
    }

    pub(super) fn deadlines(&mut self) -> Result<(), End> {
        let (now, limits) = (Instant::now(), self.door.world.config.limits.clone());
        let late = |since: Instant, limit: Duration| now.saturating_duration_since(since) >= limit;
        let held = self.waits_since();
        if let Some(since) = held {
            if late(since, limits.command_ceiling) {
                self.world().metrics.limits_hit.count("command_ceiling");
                return self.refuse_held();
            }
            if late(since.max(self.last_output), limits.keepalive)
                && !self.relay.mid_response()
                && self.upload.is_none()
            {
                self.say(b"* OK Still working\r\n");
            }
        }
        if self.relay.idling() && late(self.last_output, limits.idle_keepalive) && !self.relay.mid_response()
        {
            self.say(b"* OK Still here\r\n");
        }
        if !self.relay.idling() && late(self.last_input.max(self.last_output), limits.autologout) {
            self.world().metrics.limits_hit.count("autologout");
            return Err(End::Farewell("autologout"));
        }
        Ok(())
    }

    /// Every held command is answered; none of them, nor those behind them, is executed (semantics §1.d.2).
    pub(super) fn refuse_held(&mut self) -> Result<(), End> {
        let half_sent = self.sending.is_some() || self.queue.streams();
        if half_sent && (self.relay.mid_response() || self.relay.in_flight().1 > 0) {
            // What it is answering would never come to its end.
            return Err(End::Farewell("ceiling"));
        }
        self.refuse_queue();
        if half_sent {
            // It waits for the rest of a command that will not come.
            self.drop_backend()?;
        }
        self.refuse_waiting_literal("ceiling")
    }

    /// Refuses what waits whole, or is being sent.
    pub(super) fn refuse_queue(&mut self) {
        if let Some(sending) = self.sending.take() {
            self.world().metrics.held_commands.sub(i64::from(sending.since.is_some()));
            if !sending.answered {
                self.say(&unavailable(&sending.sent.tag));
            }
        }
        while let Some(held) = self.queue.pop() {
            self.world().metrics.held_commands.sub(i64::from(held.since.is_some()));
            self.say(&unavailable(&held.sent.tag));
        }
        self.describe_queue();
    }

    /// Refuses what is being received: now where its client waits for `+`, else at its end.
    pub(super) fn refuse_upload(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        let answered = matches!(upload.path, Path::Streaming { answered: true, .. });
        let refusal = if answered { Vec::new() } else { unavailable(&upload.tag) };
        if self.relay.undecided() {
            self.relay.cancel_literal();
            self.say(&refusal);
        } else {
            self.relay.discard(refusal);
        }
        self.describe_queue();
    }

    pub(super) fn refuse_waiting_literal(&mut self, reason: &'static str) -> Result<(), End> {
        let Some(waiting) = self.waiting_literal.take() else { return Ok(()) };
        if !waiting.literal.sync {
            return Err(End::Farewell(reason));
        }
        self.relay.cancel_literal();
        self.say(&unavailable(&waiting.begins.map(|b| b.0).unwrap_or_default()));
        Ok(())
    }

    pub(super) async fn end(mut self, end: End) {
        self.counts.flush(&self.door.world.metrics, true);
        let gauge = self.world().metrics.held_commands.clone();
        let mut waiting = i64::from(self.sending.as_ref().is_some_and(|s| s.since.is_some()));
        while let Some(held) = self.queue.pop() {
            waiting += i64::from(held.since.is_some());
        }
        gauge.sub(waiting);
        let words = match end {
            End::Pipe => return self.into_pipe().await,
            End::Client => Vec::new(),
            End::Farewell(reason) => {
                self.world().metrics.farewells.count(reason);
                tracing::info!(session = self.entry.handle.id.0, reason, "farewell");
                self.last_words(waiting > 0)
            }
        };
        let left = self.leave_all();
        let Self { mut client, mut to_client, entry, door, .. } = self;
        let said = async {
            let pending = std::future::poll_fn(|cx| to_client.poll_flush(cx, &mut client));
            let _ = tokio::time::timeout(LAST_WORDS, pending).await;
            greet::close(&mut client, &words).await;
        };
        // A pool is left whether or not the client takes what it is told.
        let left = async {
            if !left.await {
                stays::until_open(&door.world, &entry.handle).await;
            }
            entry.handle.word.set(Standing::default());
            entry.handle.word_changed();
        };
        tokio::join!(said, left);
    }

    /// What a client is told that cannot be served on.
    fn last_words(&self, held: bool) -> Vec<u8> {
        let reads = self.relay.in_flight().1;
        let standing = match () {
            () if self.relay.mid_response() => farewell::Standing::Cut,
            // Nothing of what is held was executed: a client that finds the connection gone asks again.
            () if self.relay.mid_command() || reads > 0 || held => farewell::Standing::Reading,
            () => farewell::Standing::Quiet,
        };
        match farewell::farewell(standing, &self.relay.ambiguous()) {
            Farewell::Say(bytes) => bytes,
            Farewell::Close => Vec::new(),
        }
    }

    /// Backend connections end in good order. False: one of them has not.
    fn leave_all(&mut self) -> impl Future<Output = bool> + Send + use<> {
        let (backend, spare) = (self.backend.take(), self.spare.take());
        let errand = self.errand.take().filter(|_| stays::matters(self.world()));
        let mut ended = errand.is_some() || !self.orders.on_a_pool();
        let clean = self.relay.safepoint() && backend.as_ref().is_some_and(|backend| backend.out.is_empty());
        let idling = self.relay.own_outstanding();
        async move {
            if let Some(errand) = errand {
                ended &= see_out(errand).await;
            }
            if let Some(Backend { leg, .. }) = backend {
                ended &= if clean { converse::leave(leg, idling).await } else { converse::cut(leg).await };
            }
            if let Some(spare) = spare {
                ended &= spare.leave().await;
            }
            ended
        }
    }

    pub(super) async fn into_pipe(self) {
        let Some(mut backend) = self.backend else { return };
        let mut to_backend = std::mem::take(&mut backend.out);
        to_backend.keep(self.relay.unfinished());
        let mut to_client = self.to_client;
        to_client.keep(self.relay.unsent());
        let pipe = Pipe { client: self.client, to_client, backend: backend.leg, to_backend };
        pipe.run(&self.door.world, &self.entry.handle, backend.epoch).await;
    }
}

#[cfg(test)]
pub(in crate::session) mod tests {
    use std::sync::Arc;

    use bascule_protocols::imap::{
        capability::{Capabilities, Stage, pin},
        login::{Credentials, PreAuth, Verdict},
    };
    use tokio::{
        io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        config::{Config, Listener, Protocol, Storage},
        cutover::testing::{Rig, V4, config},
        net::stream::Leg,
        session::{World, door::Door, imap::login::LoggedIn, rates::Rates, registry::Order},
        topology::Epoch,
    };

    /// More than the buffers of a connection on this machine take.
    pub(in crate::session) const MUCH: usize = 64 << 20;

    pub(in crate::session) async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (ours.unwrap(), theirs.unwrap().0)
    }

    pub(in crate::session) fn listener() -> Listener {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[server]\nhostname = \"m\"\nstate_dir = {:?}\n[listener.imap]\nprotocol = \"imap\"\n\
             bind = [\"127.0.0.1:1143\"]\ntls = \"none\"\n[pool.v4]\ncontract = {{ storage = \"shared\" }}\n\
             capabilities = [\"IMAP4rev1\"]\n[pool.v4.imap]\nservers = [\"127.0.0.1:143\"]\ntls = {{ mode = \"none\" }}\n",
            dir.path()
        );
        let path = dir.path().join("x.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path).unwrap().listeners.remove("imap").unwrap()
    }

    pub(in crate::session::imap) fn credentials(capabilities: &Capabilities) -> Credentials {
        let verdict = PreAuth::new(Stage::Tls).step(b"a LOGIN alice pass\r\n", &pin(&[capabilities]));
        let (_, Verdict::Login(_, credentials)) = verdict else { panic!("{verdict:?}") };
        credentials
    }

    /// A session of alice on v4 between these two connections.
    fn session(world: &Arc<World>, client: TcpStream, server: TcpStream) -> Box<Session> {
        let listener = listener();
        let rates = Rates::new(&listener.smtp.rates);
        let door = Arc::new(Door { name: "imap".into(), listener, world: world.clone(), rates, tls: None });
        let entry = world.registry.enter("127.0.0.1:1".parse().unwrap(), "imap".into(), Protocol::Imap);
        entry.handle.describe(|info| info.identity = "alice".into());
        let capabilities = Capabilities::parse(b"IMAP4rev1 IDLE");
        let credentials = credentials(&capabilities);
        let backend = LoggedIn { leg: Leg::plain(server), pool: V4, epoch: Epoch(0), capabilities };
        Box::new(Session::new(door, Leg::plain(client), entry, backend, credentials, None))
    }

    /// A telephone without network in the middle of a download.
    #[tokio::test]
    async fn who_does_not_read_its_farewell_leaves_the_pool_all_the_same() {
        let world = Rig::new(config(Storage::Shared)).await.world;
        let ((_client, ours), (theirs, mut server)) = (pair().await, pair().await);
        let mut session = session(&world, ours, theirs);
        session.to_client.keep(&vec![b'x'; MUCH]);
        let handle = session.entry.handle.clone();
        let mut watch = world.registry.watch();
        tokio::spawn(session.run());
        tokio::spawn(async move {
            let mut said = [0; 64];
            // Told LOGOUT, it ends.
            assert!(server.read(&mut said).await.unwrap() > 0);
        });
        handle.give(Order::End);
        while handle.word.read().touches(V4) {
            watch.next().await;
        }
        assert!(world.registry.get(handle.id).is_some(), "the pool was left after the last words");
    }

    /// A server that keeps the connection after LOGOUT: the old pool may still have the user.
    #[tokio::test]
    async fn a_connection_that_does_not_end_is_there_for_as_long_as_the_hold_lasts() {
        for storage in [Storage::Shared, Storage::Replicated] {
            let world = Rig::new(config(storage)).await.world;
            let ((client, ours), (theirs, _server)) = (pair().await, pair().await);
            let session = session(&world, ours, theirs);
            let handle = session.entry.handle.clone();
            world.gate.shut(Instant::now(), Duration::from_secs(60)).unwrap();
            let mut watch = world.registry.watch();
            let task = tokio::spawn(session.run());
            drop(client);
            if storage == Storage::Shared {
                while !handle.word.read().waits {
                    watch.next().await;
                }
                assert!(handle.word.read().touches(V4), "nobody has seen it end");
                world.gate.open(Epoch(0)).unwrap();
                handle.wake();
            }
            task.await.unwrap();
            assert!(!handle.word.read().touches(V4), "{storage:?}");
        }
    }

    #[tokio::test]
    async fn a_session_that_ends_while_it_leaves_a_pool_sees_that_to_its_end() {
        let world = Rig::new(config(Storage::Shared)).await.world;
        let ((mut client, ours), (theirs, mut server)) = (pair().await, pair().await);
        let session = session(&world, ours, theirs);
        let handle = session.entry.handle.clone();
        world.gate.shut(Instant::now(), Duration::from_secs(60)).unwrap();
        handle.give(Order::Leave);
        let task = tokio::spawn(session.run());
        let mut said = [0; 64];
        assert!(server.read(&mut said).await.unwrap() > 0, "LOGOUT");
        handle.give(Order::End);
        while client.read(&mut said).await.unwrap() > 0 {}
        assert!(handle.word.read().touches(V4), "the server has not ended it yet");
        drop(server);
        task.await.unwrap();
        assert!(!handle.word.read().touches(V4));
    }

    #[tokio::test]
    async fn a_response_that_is_cut_at_the_ceiling_is_not_gone_on_with() {
        let mut config = config(Storage::Replicated);
        config.limits.command_ceiling = Duration::ZERO;
        let world = Rig::new(config).await.world;
        let ((mut client, ours), (theirs, mut server)) = (pair().await, pair().await);
        let mut session = session(&world, ours, theirs);
        session.backend.as_mut().unwrap().capabilities = Capabilities::parse(b"IMAP4rev1 LITERAL+");
        tokio::spawn(session.run());
        let upload = b"a LIST \"\" *\r\nb APPEND x {5+}\r\nhe";
        client.write_all(upload).await.unwrap();
        server.read_exact(&mut vec![0; upload.len()]).await.unwrap();
        server.write_all(b"* 1 FETCH (BODY[] {9}\r\nabc").await.unwrap();
        client.read_exact(&mut [0; 26]).await.unwrap();
        world.gate.shut(Instant::now(), Duration::from_secs(60)).unwrap();
        client.write_all(b"llo\r\n").await.unwrap();
        assert_eq!(client.read(&mut [0; 64]).await.unwrap(), 0, "not a word in the middle of its literal");
    }

    #[tokio::test]
    async fn an_upload_that_was_refused_early_ends_where_its_client_waits_for_a_plus() {
        let world = Rig::new(config(Storage::Shared)).await.world;
        let ((mut client, ours), (theirs, server)) = (pair().await, pair().await);
        let mut session = session(&world, ours, theirs);
        session.backend.as_mut().unwrap().capabilities = Capabilities::parse(b"IMAP4rev1 LITERAL+");
        tokio::spawn(session.run());
        let mut server = BufReader::new(server).lines();
        client.write_all(b"a APPEND x {10+}\r\n01234").await.unwrap();
        assert_eq!(server.next_line().await.unwrap().unwrap(), "a APPEND x {10+}");
        server.get_mut().write_all(b"a NO full\r\n").await.unwrap();
        let mut said = [0; 11];
        client.read_exact(&mut said).await.unwrap();
        client.write_all(b"56789 {20}\r\nb NOOP\r\n").await.unwrap();
        assert_eq!(server.next_line().await.unwrap().unwrap(), "0123456789 ", "its end, and no marker");
        assert_eq!(server.next_line().await.unwrap().unwrap(), "b NOOP");
    }

    #[tokio::test]
    async fn a_server_that_says_bye_is_there_until_it_has_gone() {
        let world = Rig::new(config(Storage::Shared)).await.world;
        let ((_client, ours), (theirs, mut server)) = (pair().await, pair().await);
        let session = session(&world, ours, theirs);
        let handle = session.entry.handle.clone();
        world.gate.shut(Instant::now(), Duration::from_secs(60)).unwrap();
        let mut watch = world.registry.watch();
        tokio::spawn(session.run());
        server.write_all(b"* BYE shutting down\r\n").await.unwrap();
        assert_eq!(server.read(&mut [0; 64]).await.unwrap(), 0, "nothing more is asked of it");
        assert!(handle.word.read().touches(V4));
        drop(server);
        while handle.word.read().touches(V4) {
            watch.next().await;
        }
    }
}
