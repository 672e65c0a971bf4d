//! One IMAP session: the driver between a client, a backend and the machines of `bascule_protocols::imap`.

pub mod open;
