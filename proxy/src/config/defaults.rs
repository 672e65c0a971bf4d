//! Every default with its reason.
//!
//! Rule: a number that an operator may change stands here and nowhere else.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: u64 = 1024 * 1024;

/// Longest `max_hold` that may be configured: mail clients give a command up after a minute or more, and past
/// it the hold is an outage with another name.
pub const MAX_HOLD_LIMIT: Duration = Duration::from_secs(60);

// The budget of one cutover (design §5.4): the five shares fill `max_hold`.

/// Short enough that a person takes it for a slow network, long enough for a hook and its proof.
pub const MAX_HOLD: Duration = Duration::from_secs(8);
/// A write that was sent whole is answered in milliseconds; two seconds also cover a busy disk.
pub const DRAIN: Duration = Duration::from_millis(2000);
/// A read-only switch and its proof with two rounds; stopping a service needs more, so the operator raises it.
pub const FENCE: Duration = Duration::from_millis(1500);
/// Replication behind an idle writer catches up within a second; promote and verify live here too.
pub const BARRIER: Duration = Duration::from_millis(2500);
/// One fsynced record, and the fence's proof asked once more.
pub const DECIDE: Duration = Duration::from_millis(500);
/// Releasing the old pool's fence and proving that it writes again.
pub const ABORT_RESERVE: Duration = Duration::from_millis(1500);

// Around the hold.

/// Views of thousands of sessions are learnt at a pace that the old pool does not feel.
pub const ARM_TIMEOUT: Duration = Duration::from_secs(60);
/// One pass may be luck, three in a row are a state.
pub const GUARD_PASSES: u32 = 3;
/// Guards ask databases and brokers: once a second is no load.
pub const GUARD_INTERVAL: Duration = Duration::from_secs(1);
/// What is logged in before the hold need not be in it, and a standby has nothing else to do.
pub const PREWARM: bool = true;
/// Five thousand sessions in 25 seconds, within `arm_timeout` and `resume_within`. A pool takes more when its
/// clients come back by themselves after an outage.
pub const LOGIN_RATE: u32 = 200;
/// A systematic difference between two pools shows in fifty mailboxes.
pub const VERIFY_SAMPLE: usize = 50;
/// Logins at once on a pool with cold caches; password hashing costs it up to a core each.
pub const RESTORE_CONCURRENCY: usize = 32;
/// A session in IDLE misses nothing but notices of new mail for this long.
pub const RESUME_WITHIN: Duration = Duration::from_secs(30);
/// Errors of the first minutes show in it, and the operator is still at the screen.
pub const SOAK: Duration = Duration::from_secs(600);
/// For hooks and checks; a program that hangs must not eat the whole budget unseen.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Dial, TLS and greeting of a server in the same network; more is a server that is not well.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

// `[limits]`

/// Three descriptors a session (one more while it moves) fit into 20 000 open files.
pub const CONNECTIONS: usize = 6_600;
/// Dovecot's own bound; long UID sets of FETCH and STORE stay well below.
pub const LINE: usize = 64 * KIB;
/// Search texts and mailbox names as literals; uploads are not counted here.
pub const COMMAND: usize = 128 * KIB;
/// Room for one command of full length and as much again of pipelined ones.
pub const HELD_BYTES: usize = 256 * KIB;
/// Clients pipeline a handful; a session with more is a script.
pub const HELD_COMMANDS: usize = 64;
/// Nearly every message without attachment stays in memory.
pub const UPLOAD_MEMORY: usize = 256 * KIB;
/// Above what mail platforms take as a message.
pub const UPLOAD: u64 = 64 * MIB;
/// Thirty-two uploads of full length at once.
pub const SPOOL: u64 = 2048 * MIB;
/// Sixty messages of a megabyte at once cost no file.
pub const SPOOL_MEMORY: u64 = 64 * MIB;
/// Dovecot's own bound before the login.
pub const LOGIN: Duration = Duration::from_secs(180);
/// Hold and paced resume together; clients give up at one minute or later.
pub const COMMAND_CEILING: Duration = Duration::from_secs(60);
/// Clients wait less for a login than for a command.
pub const LOGIN_CEILING: Duration = Duration::from_secs(45);
/// Before the ten seconds at which impatient clients call a server dead.
pub const KEEPALIVE: Duration = Duration::from_secs(8);
/// Dovecot's own `imap_idle_notify_interval`; keeps address translators from forgetting the connection.
pub const IDLE_KEEPALIVE: Duration = Duration::from_secs(120);
/// The least that RFC 3501 §5.4 allows; clients rely on it.
pub const AUTOLOGOUT: Duration = Duration::from_secs(1800);
/// A full handshake over a bad mobile network.
pub const HANDSHAKE: Duration = Duration::from_secs(15);
/// Typing errors are few; guessers reconnect and meet the pool's own protection.
pub const FAILED_LOGINS: u32 = 5;
/// Clients that reconnect do not all come in the same second.
pub const SHUTDOWN: Duration = Duration::from_secs(30);

// `[limits.http]`

/// A browser sends a head in one packet; more is a bad network, or somebody who keeps places taken.
pub const HTTP_HEADER: Duration = Duration::from_secs(10);
/// Long cookies and Kerberos tickets fit; what servers take by default is a quarter of it.
pub const HTTP_HEADER_SIZE: usize = 64 * KIB;
/// A large attachment over a slow uplink.
pub const HTTP_BODY: Duration = Duration::from_secs(600);
/// Twice what mail platforms take as a message, since attachments travel encoded.
pub const HTTP_BODY_SIZE: u64 = 128 * MIB;
/// Browsers keep connections for longer than a person reads a message; servers for about as long as this.
pub const HTTP_IDLE: Duration = Duration::from_secs(75);
/// Pages and balancers give a request up after one minute.
pub const HTTP_HOLD: Duration = Duration::from_secs(30);
/// More than a second's requests of a large platform's whole webmail.
pub const HTTP_HELD_REQUESTS: usize = 10_000;
/// Sixteen kilobytes for each of them.
pub const HTTP_HELD_BYTES: usize = 160 * 1024 * KIB;
/// So many times as many requests may wait for a place as are served.
pub const HTTP_QUEUE: usize = 4;
/// What browsers count on (RFC 9113 §6.5.2 recommends no less).
pub const HTTP_STREAMS: u32 = 100;
/// The longest long poll of an ActiveSync phone is 59 minutes.
pub const HTTP_SILENCE: Duration = Duration::from_secs(3600);
