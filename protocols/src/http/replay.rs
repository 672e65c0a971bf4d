//! What becomes of a request whose backend was lost, and of one that meets a shut gate (semantics §3.1, §3.2).
//!
//! Rule: a request that may have been executed is said again only where that comes to the same, or where the answer
//! shows what happened; the client is never told "try again" about an effect that may already be there, but for a client
//! whose server knows by a key what it has had already.
//!
//! | sent      | final response | body     | request                          | next                              |
//! |-----------|----------------|----------|----------------------------------|-----------------------------------|
//! | any       | begun          | any      | any                              | cut                               |
//! | nothing   | no             | not lost | any                              | again                             |
//! | nothing   | no             | lost     | any                              | busy                              |
//! | in part   | no             | not lost | any                              | again                             |
//! | in part   | no             | lost     | any                              | busy                              |
//! | all of it | no             | not lost | safe, idempotent, read-only POST | again                             |
//! | all of it | no             | not lost | PUT, DELETE, MKCOL               | again, and its answer is looked at |
//! | all of it | no             | lost     | safe, idempotent, read-only POST | busy                              |
//! | all of it | no             | any      | ActiveSync's Sync, FolderSync    | busy                              |
//! | all of it | no             | any      | everything else                  | unknown                           |

use super::method::Kind;

/// How much of a request a backend may have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Not a byte; or it said itself that it did nothing with it (REFUSED_STREAM, GOAWAY below the stream's number).
    Nothing,
    /// The end is missing, so that it cannot have been carried out.
    Part,
    /// The last byte as well.
    All,
}

/// What the client has of the answer. Informational responses do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Nothing of a final response.
    Nothing,
    /// A final response has begun.
    Begun,
}

/// Whether the request can be said again as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// It has none, all that came of it is kept, or nothing of it was read.
    Kept,
    /// It was longer than what is kept.
    Lost,
}

/// A request as the policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// By its method.
    pub kind: Kind,
    /// Known to change nothing, whatever the method says ([`super::known`]).
    pub read_only: bool,
    /// It has `If-Match` or `If-None-Match`.
    pub conditional: bool,
    /// Its client says it again with the same key, by which the server knows what it has had ([`super::known::is_keyed`]).
    pub keyed: bool,
}

/// What is done about a lost backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The request is said to the next backend.
    Again(Check),
    /// 503 with Retry-After: nothing happened, or to do it again comes to the same.
    Busy,
    /// 502 without Retry-After: nobody knows whether it was carried out.
    Unknown,
    /// The response ends where it is, in a way that shows that it is not whole.
    Cut,
}

/// What the answer to a request that was said again is looked at for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Nothing: it is the client's.
    None,
    /// 412 to a conditional PUT: where the resource already is what was sent it becomes 204 without ETag.
    Put,
    /// 404: it becomes 204.
    Delete,
    /// 405: where the collection is there it becomes 201.
    Mkcol,
}

impl Check {
    /// Whether an answer with this status may come from the request's own first execution.
    pub fn doubts(self, status: u16) -> bool {
        match self {
            Self::None => false,
            Self::Put => status == 412,
            Self::Delete => status == 404,
            Self::Mkcol => status == 405,
        }
    }
}

impl Request {
    /// Whether it takes effect.
    pub fn writes(self) -> bool {
        self.kind.writes() && !self.read_only
    }

    fn repeatable(self) -> bool {
        self.read_only || self.kind != Kind::Unsafe
    }

    fn check(self) -> Check {
        match self.kind {
            Kind::Put if self.conditional => Check::Put,
            // 412 to a conditional one sends its client to look, and it finds what it wanted.
            Kind::Delete => Check::Delete,
            Kind::Mkcol => Check::Mkcol,
            Kind::Put | Kind::Safe | Kind::Copy | Kind::Idempotent | Kind::Unsafe => Check::None,
        }
    }

    /// The backend is lost.
    pub fn after_loss(self, sent: Sent, received: Received, body: Body) -> Next {
        match (sent, received, body) {
            (_, Received::Begun, _) => Next::Cut,
            (Sent::All, ..) if !self.repeatable() && self.keyed => Next::Busy,
            (Sent::All, ..) if !self.repeatable() => Next::Unknown,
            (_, _, Body::Lost) => Next::Busy,
            (Sent::Nothing | Sent::Part, _, Body::Kept) => Next::Again(Check::None),
            (Sent::All, _, Body::Kept) => Next::Again(self.check()),
        }
    }
}

/// What becomes of the last byte of a request that meets a shut gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtGate {
    /// It waits, and goes to whoever wins.
    Wait,
    /// It goes to the old pool, which still drains.
    Finish,
    /// 503 with Retry-After: it was not kept, and the old pool takes nothing any more.
    Busy,
}

impl AtGate {
    /// `draining`: the drain still waits for this request.
    pub fn of(body: Body, draining: bool) -> Self {
        match (body, draining) {
            (Body::Kept, _) => Self::Wait,
            (Body::Lost, true) => Self::Finish,
            (Body::Lost, false) => Self::Busy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str) -> Request {
        Request { kind: Kind::of(method), read_only: false, conditional: false, keyed: false }
    }

    const METHODS: [&str; 8] = ["GET", "REPORT", "PUT", "DELETE", "MKCOL", "MOVE", "POST", "LOCK"];
    const KEPT: [Body; 2] = [Body::Kept, Body::Lost];

    #[test]
    fn what_was_not_sent_whole_cannot_have_been_done() {
        for method in METHODS {
            for sent in [Sent::Nothing, Sent::Part] {
                let next = |body| request(method).after_loss(sent, Received::Nothing, body);
                assert_eq!(next(Body::Kept), Next::Again(Check::None), "{method} {sent:?}");
                assert_eq!(next(Body::Lost), Next::Busy, "{method} {sent:?}");
            }
        }
    }

    #[test]
    fn what_was_sent_whole_is_said_again_where_that_comes_to_the_same() {
        for (method, kept, lost) in [
            ("GET", Next::Again(Check::None), Next::Busy),
            ("REPORT", Next::Again(Check::None), Next::Busy),
            ("PUT", Next::Again(Check::None), Next::Busy),
            ("DELETE", Next::Again(Check::Delete), Next::Busy),
            ("MKCOL", Next::Again(Check::Mkcol), Next::Busy),
            ("MOVE", Next::Again(Check::None), Next::Busy),
            ("PROPPATCH", Next::Again(Check::None), Next::Busy),
            ("POST", Next::Unknown, Next::Unknown),
            ("PATCH", Next::Unknown, Next::Unknown),
            ("LOCK", Next::Unknown, Next::Unknown),
        ] {
            let next = |body| request(method).after_loss(Sent::All, Received::Nothing, body);
            assert_eq!((next(Body::Kept), next(Body::Lost)), (kept, lost), "{method}");
        }
    }

    #[test]
    fn a_response_that_has_begun_is_never_begun_again() {
        for method in METHODS {
            for (sent, body) in
                [Sent::Nothing, Sent::Part, Sent::All].into_iter().zip(KEPT.into_iter().cycle())
            {
                assert_eq!(request(method).after_loss(sent, Received::Begun, body), Next::Cut, "{method}");
            }
        }
    }

    #[test]
    fn a_post_that_is_known_to_read_is_a_read() {
        let read = Request { read_only: true, ..request("POST") };
        assert_eq!(read.after_loss(Sent::All, Received::Nothing, Body::Kept), Next::Again(Check::None));
        assert_eq!(read.after_loss(Sent::All, Received::Nothing, Body::Lost), Next::Busy);
        assert!(!read.writes() && request("POST").writes() && !request("GET").writes());
    }

    #[test]
    fn what_has_a_key_is_its_client_s_to_say_again_and_never_ours() {
        let sync = Request { keyed: true, ..request("POST") };
        for body in KEPT {
            assert_eq!(sync.after_loss(Sent::All, Received::Nothing, body), Next::Busy);
            assert_eq!(sync.after_loss(Sent::All, Received::Begun, body), Next::Cut);
        }
        assert_eq!(sync.after_loss(Sent::Part, Received::Nothing, Body::Kept), Next::Again(Check::None));
        assert!(sync.writes());
    }

    #[test]
    fn the_answer_to_a_second_conditional_put_is_looked_at() {
        let put = Request { conditional: true, ..request("PUT") };
        assert_eq!(put.after_loss(Sent::All, Received::Nothing, Body::Kept), Next::Again(Check::Put));
        assert_eq!(put.after_loss(Sent::Part, Received::Nothing, Body::Kept), Next::Again(Check::None));
        let doubted = |check: Check| [204, 404, 405, 412].map(|status| check.doubts(status));
        assert_eq!(doubted(Check::Put), [false, false, false, true]);
        assert_eq!(doubted(Check::Delete), [false, true, false, false]);
        assert_eq!(doubted(Check::Mkcol), [false, false, true, false]);
        assert_eq!(doubted(Check::None), [false; 4]);
    }

    #[test]
    fn the_last_byte_waits_at_a_shut_gate_if_it_can() {
        assert_eq!(AtGate::of(Body::Kept, true), AtGate::Wait);
        assert_eq!(AtGate::of(Body::Kept, false), AtGate::Wait);
        assert_eq!(AtGate::of(Body::Lost, true), AtGate::Finish);
        assert_eq!(AtGate::of(Body::Lost, false), AtGate::Busy);
    }
}
