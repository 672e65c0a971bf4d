//! Tests with real servers: Dovecot 2.3 and 2.4 on one mail store, Cyrus 3.6 and 3.10 on one spool, and what stands beside them.
//!
//! Rule: each test has a rig of its own. They fail with a hint when they are not run by `tests/run`.

mod armed;
mod brake;
mod crowd;
mod cutover;
mod cyrus;
mod hold;
mod http_clients;
mod http_streams;
mod http_sync;
mod logins;
mod mail;
mod mbsync;
mod quiet;
mod rig;
mod scene;
mod secrets;
mod setup;
mod smtp_all;
mod smtp_clients;
mod smtp_faults;
mod smtp_rig;
mod thunderbird;
