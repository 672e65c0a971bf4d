//! Tests with Dovecot 2.3 and 2.4 on one mail store.
//!
//! Rule: each test has a rig of its own. They fail with a hint when they are not run by `tests/run`.

mod armed;
mod brake;
mod crowd;
mod cutover;
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
