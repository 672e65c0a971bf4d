//! A configuration of two pools for tests.
//!
//! Rule: every time in it is short, and no test asserts one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::config::{
    ClientAddress, Config, Contract, Cutover, Fence, FenceKind, Hook, Limits, Pool, Restore, Reverse, Server,
    Service, ServiceTls, StandbyLogin, Storage, Unmovable,
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Pools `v4` and `v5`, both with fence and promote, on storage of this kind.
pub(super) fn config(storage: Storage) -> Config {
    Config {
        path: "test.toml".into(),
        server: Server {
            hostname: "mail.test".into(),
            state_dir: "/nonexistent".into(),
            observe: None,
            threads: 1,
        },
        certificates: BTreeMap::new(),
        listeners: BTreeMap::new(),
        pools: vec![Arc::new(pool("v4", storage)), Arc::new(pool("v5", storage))],
        cutover: cutover(),
        limits: limits(),
    }
}

fn hook() -> Hook {
    Hook { exec: vec!["/bin/true".into()], timeout: ms(1000) }
}

fn pool(name: &str, storage: Storage) -> Pool {
    Pool {
        name: name.into(),
        contract: Contract {
            storage,
            standby_login: StandbyLogin::Yes,
            fence_reversible: true,
            fence_keeps_reads: storage == Storage::Replicated,
            promote_reversible: true,
            reverse: Reverse::None,
        },
        probes: vec![],
        imap: Service {
            server: "127.0.0.1:1".into(),
            tls: ServiceTls::None,
            restore: Restore::Client,
            client_address: ClientAddress::None,
            dial_timeout: ms(100),
        },
        capabilities: Some(vec!["IMAP4rev1".into()]),
        promote: Some(hook()),
        fence: Some(Fence { engage: hook(), release: hook(), kind: FenceKind::Refuse }),
    }
}

fn cutover() -> Cutover {
    Cutover {
        max_hold: ms(60_000),
        drain: ms(20_000),
        fence: ms(10_000),
        barrier: ms(10_000),
        decide: ms(5_000),
        abort_reserve: ms(5_000),
        arm_timeout: ms(30_000),
        guard_passes: 2,
        guard_interval: ms(5),
        verify_sample: 50,
        unmovable: Unmovable::Abort,
        restore_concurrency: 4,
        resume_within: ms(30_000),
        soak: ms(5),
        checks: vec![],
    }
}

fn limits() -> Limits {
    let second = ms(1000);
    Limits {
        connections: 100,
        line: 8192,
        command: 65536,
        held_bytes: 65536,
        held_commands: 16,
        upload_memory: 65536,
        upload: 1 << 20,
        spool: 1 << 24,
        login: 60 * second,
        command_ceiling: 60 * second,
        login_ceiling: 45 * second,
        keepalive: 8 * second,
        idle_keepalive: 120 * second,
        autologout: 1800 * second,
        handshake: 10 * second,
        failed_logins: 3,
        shutdown: second,
    }
}
