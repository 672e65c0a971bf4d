//! IDLE and the view search: what the proxy asks the backend under tags of its own.
//!
//! Rule: the client's IDLE is the proxy's; the backend idles beside it, and may be roused, asked and put to idle
//! again without a byte to the client.

use super::{Probe, Relay, ServerIdle};
use crate::imap::{
    farewell::answer,
    tag::Tag,
    view::{UidSet, View},
};

impl Relay {
    /// The client is in IDLE.
    pub fn idling(&self) -> bool {
        self.client_idle.is_some()
    }

    /// The client's IDLE begins. Returns what it is told.
    pub fn begin_idle(&mut self, tag: Tag) -> &'static [u8] {
        self.client_idle = Some(tag);
        b"+ idling\r\n"
    }

    /// What to send so that the backend idles too, if it should and does not.
    pub fn idle_backend(&mut self) -> Option<Vec<u8>> {
        let idle =
            self.client_idle.is_some() && self.safepoint() && matches!(self.server_idle, ServerIdle::No);
        if !idle || self.idle_refused {
            return None;
        }
        let ours = self.tags.make();
        let line = [ours.as_bytes(), b" IDLE\r\n"].concat();
        self.server_idle = ServerIdle::Asked(ours);
        Some(line)
    }

    /// The client said DONE. Returns `(for the client, for the backend)`: where `live` the backend's own end
    /// of IDLE is awaited (so that what it still has to say comes before the answer), else the answer is given
    /// at once.
    pub fn end_idle(&mut self, live: bool) -> (Option<Vec<u8>>, Option<&'static [u8]>) {
        let Some(tag) = self.client_idle.take() else { return (None, None) };
        if live && let Some(done) = self.leave_server_idle(Some(tag.clone())) {
            return (None, Some(done));
        }
        if live && let ServerIdle::Ending { answer, .. } = &mut self.server_idle {
            *answer = Some(tag);
            // What it was to end for comes at another time: the client waits.
            self.probe = Probe::No;
            return (None, None);
        }
        (Some(idle_completed(&tag)), None)
    }

    /// Whether the backend idles and the client does not: it must be roused before it reads a command, and heard to
    /// its end, as it may say before it what changes the numbers of a command.
    pub fn idles_alone(&self) -> bool {
        let alone = match self.server_idle {
            ServerIdle::No | ServerIdle::Ending { answer: Some(_), .. } => false,
            ServerIdle::Asked(_) | ServerIdle::Running(_) | ServerIdle::Ending { answer: None, .. } => true,
        };
        alone && self.client_idle.is_none()
    }

    /// Ends the backend's IDLE, if it runs, without a word to the client.
    pub fn rouse_backend(&mut self) -> Option<&'static [u8]> {
        self.leave_server_idle(None)
    }

    /// The tag of the client's IDLE, which ends without DONE.
    pub fn abandon_idle(&mut self) -> Option<Tag> {
        self.client_idle.take()
    }

    /// The client's DONE waits for the backend no longer (the gate shut): returns the answer.
    pub fn answer_done(&mut self) -> Option<Vec<u8>> {
        match &mut self.server_idle {
            ServerIdle::Ending { answer, .. } => answer.take().map(|tag| idle_completed(&tag)),
            ServerIdle::No | ServerIdle::Asked(_) | ServerIdle::Running(_) => None,
        }
    }

    /// Whether the client's DONE waits for the backend.
    pub fn ends_idle(&self) -> bool {
        matches!(self.server_idle, ServerIdle::Ending { answer: Some(_), .. })
    }

    fn leave_server_idle(&mut self, answer: Option<Tag>) -> Option<&'static [u8]> {
        match std::mem::replace(&mut self.server_idle, ServerIdle::No) {
            // DONE may follow IDLE before `+` has come (RFC 2177 lets the client send it; servers read it).
            idle @ (ServerIdle::Asked(_) | ServerIdle::Running(_)) => {
                let plus = matches!(idle, ServerIdle::Running(_));
                if let ServerIdle::Asked(ours) | ServerIdle::Running(ours) = idle {
                    self.server_idle = ServerIdle::Ending { ours, plus, answer };
                }
                Some(b"DONE\r\n")
            }
            other @ (ServerIdle::No | ServerIdle::Ending { .. }) => {
                self.server_idle = other;
                None
            }
        }
    }

    /// Learns the view of the selected mailbox (semantics §1.c.2). Returns what to send to the backend.
    pub fn probe(&mut self) -> Option<Vec<u8>> {
        let selected = self.state.selected.as_mut()?;
        if selected.exists == 0 {
            selected.view = View::new(UidSet::default(), 0);
            return None;
        }
        if let ServerIdle::Running(_) = self.server_idle {
            self.probe = Probe::Wanted;
            return self.leave_server_idle(None).map(<[u8]>::to_vec);
        }
        Some(self.search())
    }

    pub(super) fn search(&mut self) -> Vec<u8> {
        let ours = self.tags.make();
        // The message numbers are deliberate: no expunge may be reported during it (semantics §1.c.2).
        let line = [ours.as_bytes(), b" UID SEARCH RETURN (ALL COUNT) 1:*\r\n"].concat();
        self.probe = Probe::Searching { ours };
        line
    }
}

pub(super) fn idle_completed(tag: &Tag) -> Vec<u8> {
    answer(tag, "OK Idle completed.")
}
