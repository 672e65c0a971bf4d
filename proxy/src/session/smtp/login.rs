//! AUTH: the client's words, said to the active pool.
//!
//! Rule: a refusal reaches the client only as the active pool's own 5yz; anything else is asked again until the ceiling,
//! and then told as 454, since programs take every other failure for a wrong password (semantics §2.8).

use bascule_protocols::smtp::auth::{Exchange, Step};

use super::relay::{End, Session, Waiting};

impl Session {
    pub(super) fn on_auth(&mut self, arguments: &[u8]) -> Result<(), End> {
        let (exchange, step) = Exchange::begin(arguments);
        self.exchange = exchange;
        self.on_step(step)
    }

    pub(super) fn on_answer(&mut self, line: &[u8]) -> Result<(), End> {
        let Some(exchange) = &mut self.exchange else { return Err(End::Farewell("protocol")) };
        let step = exchange.answer(line);
        self.on_step(step)
    }

    fn on_step(&mut self, step: Step) -> Result<(), End> {
        match step {
            Step::Ask(words) => {
                self.relay.ask();
                self.say(words);
            }
            Step::Refuse(words) => {
                self.exchange = None;
                self.say(words);
            }
            Step::Done(credentials) => {
                self.exchange = None;
                let identity = String::from_utf8_lossy(&credentials.identity).into_owned();
                self.entry.handle.describe(|info| info.identity = identity);
                self.wait_for(Waiting::Login(credentials));
                return self.carry_on();
            }
        }
        Ok(())
    }

    /// A pool accepted the login that waits.
    pub(super) fn logged_in(&mut self) {
        let Some(wait) = self.waiting.take_if(|wait| matches!(wait.what, Waiting::Login(_))) else { return };
        self.release_clock(&wait);
        if let Waiting::Login(credentials) = wait.what {
            self.credentials = Some(credentials);
        }
        self.world().metrics.logins.count("ok");
        self.relay.now_authenticated();
        self.say(b"235 2.7.0 Logged in\r\n");
    }

    /// The active pool refused the login that waits.
    pub(super) fn login_refused(&mut self, words: &[u8]) -> Result<(), End> {
        let Some(wait) = self.waiting.take_if(|wait| matches!(wait.what, Waiting::Login(_))) else {
            // Somebody who was accepted before is refused now: the message under way cannot be said here.
            return Err(End::Farewell("refused"));
        };
        self.release_clock(&wait);
        self.world().metrics.logins.count("refused");
        self.entry.handle.describe(|info| info.identity.clear());
        self.failed_logins += 1;
        self.say(words);
        if self.failed_logins >= self.world().config.limits.failed_logins {
            self.world().metrics.limits_hit.count("failed_logins");
            self.say(b"421 4.7.0 Too many failed logins\r\n");
            return Err(End::Client);
        }
        Ok(())
    }
}
