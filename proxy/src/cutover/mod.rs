//! The cutover: a pure machine, the journal of its phases, and the driver that carries out its effects.
//!
//! Rule: the machine decides, the driver acts, the journal remembers; nothing else moves the gate or the
//! topology.

pub mod machine;
pub mod types;
