//! HTTP as far as it is policy: what may be said again, what is known about a request, what is refused, and when a client
//! is to come back (semantics §3).
//!
//! Rule: nothing in here changes or moves bytes; the data plane does that, and asks.

pub mod busy;
pub mod events;
pub mod frames;
pub mod framing;
pub mod known;
pub mod lane;
pub mod method;
pub mod push;
pub mod queue;
pub mod replay;
mod wbxml;
pub mod wire;
