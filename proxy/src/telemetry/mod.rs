//! Logs and metrics.
//!
//! Rule: every label value exists at zero from the start, so that an alert can be written before the first event;
//! a value that is not listed here counts as `other`. Handles are resolved once; no command looks up a label.

use std::sync::OnceLock;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector, process_collector::ProcessCollector,
};
use tracing_appender::non_blocking::ErrorCounter;

use crate::config::{Config, Protocol};

mod logs;

pub use logs::{LOG_VARIABLE, LogFormat, Logs};

/// The label values, each list complete but for `other`, which [`Family`] adds.
pub mod labels {
    /// Why a connection was refused before its greeting.
    pub const REFUSED: &[&str] = &[
        "backend_greeting",
        "busy",
        "connections",
        "early_talker",
        "handshake",
        "handshake_timeout",
        "not_ready",
        "open_relay",
        "proxy_header",
        "rate",
        "shutdown",
    ];
    /// What a login came to; `unavailable`: no server could be asked.
    pub const LOGINS: &[&str] = &["ok", "refused", "unavailable"];
    /// Why a session got its farewell.
    pub const FAREWELLS: &[&str] = &[
        "autologout",
        "backend_lost",
        "ceiling",
        "desync",
        "different",
        "kicked",
        "limbo",
        "limit",
        "pipe",
        "protocol",
        "read_in_flight",
        "refused",
        "shutdown",
        "unavailable",
        "upload",
    ];
    /// Why a session could not be moved.
    pub const UNMOVABLE: &[&str] = &[
        "appeared_between",
        "connection_stays",
        "count",
        "diverged",
        "enable",
        "expunged",
        "login_refused",
        "mailbox_refused",
        "name",
        "no_esearch",
        "no_target",
        "no_uidvalidity",
        "no_view",
        "pipe",
        "protocol",
        "read_in_flight",
        "read_only",
        "saved_search",
        "uidnext_fell",
        "uidvalidity",
        "unavailable",
        "view_unknown",
    ];
    /// Why a session became a byte pipe.
    pub const PIPES: &[&str] = &["configured", "desync"];
    /// What became of messages; `ambiguous_*`: the backend was lost between the final dot and its reply;
    /// `held`: the last byte waited for the gate; `relayed`: the server took it, `refused`: it did not.
    pub const MESSAGES: &[&str] = &[
        "ambiguous_replay",
        "ambiguous_tempfail",
        "delivered_before",
        "held",
        "not_kept",
        "poisoned",
        "refused",
        "relayed",
    ];
    /// What became of requests of HTTP; `unknown`: nobody knows whether it was carried out (502).
    pub const HTTP_REQUESTS: &[&str] =
        &["acme", "answered", "busy", "cut", "gone", "limited", "misdirected", "redirected", "unknown"];
    /// Why a request of HTTP was refused: two parsers might read it differently, or it is too large.
    pub const HTTP_REFUSED: &[&str] = &[
        "chunk",
        "coding",
        "field",
        "host",
        "http_body_size",
        "http_header_size",
        "length",
        "path",
        "two_lengths",
    ];
    /// Why a request of HTTP was said again; `settled` and `doubted`: what looking after an earlier try came to;
    /// `unauthorized`: a new pool refused credentials that the old one took; `poisoned`: not again, for it was the end of
    /// several servers.
    pub const HTTP_AGAIN: &[&str] =
        &["dial", "doubted", "gate", "lost", "poisoned", "settled", "unauthorized"];
    /// What became of streams of HTTP whose server was left or lost.
    /// `events_told`: of those of JMAP's push, whose clients were told to ask what has changed.
    pub const HTTP_STREAMS: &[&str] = &[
        "events_ended",
        "events_moved",
        "events_reopened",
        "events_told",
        "polls_again",
        "sockets_cut",
        "sockets_told",
    ];
    /// Keys of `[limits]`.
    pub const LIMITS: &[&str] = &[
        "address_connections",
        "address_messages",
        "address_requests",
        "autologout",
        "command",
        "command_ceiling",
        "connections",
        "failed_logins",
        "handshake",
        "held_bytes",
        "held_commands",
        "http_body",
        "http_body_size",
        "http_header",
        "http_header_size",
        "http_heard",
        "http_held_bytes",
        "http_held_requests",
        "http_hold",
        "http_queue",
        "http_queue_wait",
        "identity_messages",
        "identity_requests",
        "line",
        "login",
        "login_ceiling",
        "spool",
        "upload",
    ];
    /// How a cutover ended.
    pub const OUTCOMES: &[&str] = &["switched", "aborted", "limbo"];
    /// States of the cutover (design §5.2).
    pub const STATES: &[&str] = &[
        "idle",
        "armed",
        "holding",
        "fenced",
        "caught_up",
        "promoted",
        "verified",
        "deciding",
        "decided",
        "switching",
        "resuming",
        "soaking",
        "aborting",
        "limbo",
    ];
    /// What the gate says.
    pub const GATE: &[&str] = &["open", "shut", "expired", "deciding", "decided", "fail_stop"];
    /// Answers of checks and proofs.
    pub const ANSWERS: &[&str] = &["pass", "fail", "unknown"];
}

const OTHER: &str = "other";

/// Seconds: from what nobody feels to the longest hold that the configuration allows.
const HOLD_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// Counters by one label whose values are known.
#[derive(Debug)]
pub struct Family {
    known: &'static [&'static str],
    counters: Vec<IntCounter>,
    other: IntCounter,
}

impl Family {
    fn new(registry: &Registry, name: &str, help: &str, label: &str, known: &'static [&'static str]) -> Self {
        let all = register(registry, IntCounterVec::new(Opts::new(name, help), &[label]));
        let counter = |value: &str| all.with_label_values(&[value]);
        Self { known, counters: known.iter().map(|value| counter(value)).collect(), other: counter(OTHER) }
    }

    /// Counts one event with this label value.
    pub fn count(&self, value: &str) {
        self.handle(value).inc();
    }

    /// What was counted so far, by label value.
    pub fn counts(&self) -> std::collections::BTreeMap<&'static str, u64> {
        self.known.iter().copied().zip(self.counters.iter().map(IntCounter::get)).collect()
    }

    /// The counter of this label value, for callers that count often.
    pub fn handle(&self, value: &str) -> &IntCounter {
        let at = self.known.iter().position(|known| *known == value);
        at.and_then(|at| self.counters.get(at)).unwrap_or(&self.other)
    }
}

/// Gauges of which one is 1 and the others are 0.
#[derive(Debug)]
pub struct Choice {
    all: IntGaugeVec,
    values: std::sync::Mutex<Vec<String>>,
}

impl Choice {
    fn new(registry: &Registry, name: &str, help: &str, label: &str, known: &[&str]) -> Self {
        let all = register(registry, IntGaugeVec::new(Opts::new(name, help), &[label]));
        let choice = Self { all, values: std::sync::Mutex::default() };
        known.iter().for_each(|value| choice.add(value));
        choice
    }

    /// Makes a value known, at 0.
    fn add(&self, value: &str) {
        self.all.with_label_values(&[value]);
        self.values.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(value.to_owned());
    }

    /// From here on `value` is the one.
    pub fn set(&self, value: &str) {
        for known in &*self.values.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
            self.all.with_label_values(&[known]).set(i64::from(known == value));
        }
    }
}

/// Everything that `/metrics` shows. Handles are public: count where the event happens.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    log_lines_lost: IntCounter,
    lost: OnceLock<ErrorCounter>,
    sessions: IntGaugeVec,
    check_answers: IntCounterVec,
    open_relay: IntGaugeVec,
    dials_failed: IntCounterVec,
    /// Connections that were accepted.
    pub connections_accepted: IntCounter,
    /// By [`labels::REFUSED`].
    pub connections_refused: Family,
    /// By [`labels::LOGINS`].
    pub logins: Family,
    /// Commands forwarded or answered; sessions add in batches.
    pub commands: IntCounter,
    /// Commands that wait at the gate now.
    pub held_commands: IntGauge,
    /// Seconds that held commands waited.
    pub hold: Histogram,
    /// Seconds of it that were our own.
    pub hold_own: Histogram,
    /// By [`labels::FAREWELLS`].
    pub farewells: Family,
    /// By [`labels::UNMOVABLE`].
    pub unmovable: Family,
    /// Sessions that are byte pipes now.
    pub pipes: IntGauge,
    /// By [`labels::PIPES`].
    pub pipes_begun: Family,
    /// Bytes that came from clients.
    pub bytes_from_clients: IntCounter,
    /// Bytes that went to clients.
    pub bytes_to_clients: IntCounter,
    /// Bytes of uploads on disk now.
    pub uploads_spooled: IntGauge,
    /// Bytes of uploads in memory, of those that are not small (`limits.spool_memory`).
    pub uploads_memory: IntGauge,
    /// By [`labels::MESSAGES`].
    pub messages: Family,
    /// By [`labels::HTTP_REQUESTS`].
    pub http_requests: Family,
    /// Requests that wait for a place at their service.
    pub http_queued: IntGauge,
    /// Connections without a session, whose clients have asked for nothing for a while.
    pub http_parked: IntGauge,
    /// By [`labels::HTTP_REFUSED`].
    pub http_refused: Family,
    /// By [`labels::HTTP_AGAIN`].
    pub http_again: Family,
    /// By [`labels::HTTP_STREAMS`].
    pub http_streams: Family,
    /// Streams of events that are open.
    pub http_events: IntGauge,
    /// Long polls that wait.
    pub http_polls: IntGauge,
    /// WebSockets that are open.
    pub http_sockets: IntGauge,
    /// By [`labels::LIMITS`].
    pub limits_hit: Family,
    /// By [`labels::OUTCOMES`].
    pub cutovers: Family,
    /// One of [`labels::STATES`].
    pub cutover_state: Choice,
    /// One of [`labels::GATE`].
    pub gate_state: Choice,
    /// One of the pools, known after [`Metrics::prepare`].
    pub active_pool: Choice,
    /// How often the active pool has been swapped.
    pub epoch: IntGauge,
    /// 1 while the journal's last record is not written.
    pub journal_failed: IntGauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero, in a registry of their own.
    pub fn new() -> Self {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self())).expect("the registry is new");
        let r = &registry;
        let counters =
            |name, help, labels: &[&str]| register(r, IntCounterVec::new(Opts::new(name, help), labels));
        let gauges =
            |name, help, labels: &[&str]| register(r, IntGaugeVec::new(Opts::new(name, help), labels));
        let bytes = counters("bascule_bytes_total", "Bytes between clients and the proxy", &["direction"]);
        let outcomes = |name, help, known| Family::new(r, name, help, "outcome", known);
        let choice = |name, help, label, known: &[&str]| Choice::new(r, name, help, label, known);
        Self {
            log_lines_lost: counter(r, "bascule_log_lines_lost_total", "Log lines that stderr did not take"),
            lost: OnceLock::new(),
            sessions: gauges("bascule_sessions", "Client sessions alive", &["listener"]),
            check_answers: counters(
                "bascule_check_answers_total",
                "Answers of checks and proofs",
                &["check", "answer"],
            ),
            open_relay: gauges(
                "bascule_open_relay",
                "Whether servers send strangers' mail to strangers",
                &["pool", "protocol"],
            ),
            dials_failed: counters(
                "bascule_dials_failed_total",
                "Servers that a session could not reach",
                &["pool", "protocol"],
            ),
            connections_accepted: counter(r, "bascule_connections_accepted_total", "Connections accepted"),
            connections_refused: Family::new(
                r,
                "bascule_connections_refused_total",
                "Connections ended before their greeting",
                "reason",
                labels::REFUSED,
            ),
            logins: Family::new(r, "bascule_logins_total", "Logins by result", "result", labels::LOGINS),
            commands: counter(r, "bascule_commands_total", "Client commands"),
            held_commands: gauge(r, "bascule_held_commands", "Commands that wait at the gate"),
            hold: histogram(r, "bascule_hold_seconds", "Time that held commands waited"),
            hold_own: histogram(
                r,
                "bascule_hold_own_seconds",
                "Time that held commands waited, without hooks, fences and barriers",
            ),
            farewells: reasons(r, "bascule_farewells_total", "Farewells", labels::FAREWELLS),
            unmovable: reasons(r, "bascule_unmovable_total", "Sessions not moved", labels::UNMOVABLE),
            pipes: gauge(r, "bascule_pipes", "Sessions that are byte pipes"),
            pipes_begun: reasons(r, "bascule_pipes_total", "Sessions turned byte pipe", labels::PIPES),
            bytes_from_clients: bytes.with_label_values(&["from_clients"]),
            bytes_to_clients: bytes.with_label_values(&["to_clients"]),
            uploads_spooled: gauge(r, "bascule_uploads_spooled_bytes", "Uploads on disk"),
            uploads_memory: gauge(r, "bascule_uploads_memory_bytes", "Uploads in memory, but small ones"),
            messages: outcomes("bascule_messages_total", "Messages of SMTP and LMTP", labels::MESSAGES),
            http_requests: outcomes(
                "bascule_http_requests_total",
                "Requests of HTTP by what became of them",
                labels::HTTP_REQUESTS,
            ),
            http_queued: gauge(r, "bascule_http_queued", "Requests that wait for a place at their service"),
            http_parked: gauge(r, "bascule_http_parked", "Connections in clear text that are only watched"),
            http_refused: reasons(
                r,
                "bascule_http_refused_total",
                "Requests of HTTP refused",
                labels::HTTP_REFUSED,
            ),
            http_again: reasons(
                r,
                "bascule_http_again_total",
                "Requests of HTTP said again",
                labels::HTTP_AGAIN,
            ),
            http_streams: outcomes(
                "bascule_http_streams_total",
                "Streams of HTTP whose server was left or lost, by what became of them",
                labels::HTTP_STREAMS,
            ),
            http_events: gauge(r, "bascule_http_events", "Streams of events that are open"),
            http_polls: gauge(r, "bascule_http_polls", "Long polls that wait"),
            http_sockets: gauge(r, "bascule_http_sockets", "WebSockets that are open"),
            limits_hit: Family::new(r, "bascule_limits_hit_total", "Limits reached", "limit", labels::LIMITS),
            cutovers: outcomes("bascule_cutovers_total", "Cutovers ended", labels::OUTCOMES),
            cutover_state: choice("bascule_cutover_state", "State of the cutover", "state", labels::STATES),
            gate_state: choice("bascule_gate_state", "What the gate says", "state", labels::GATE),
            active_pool: choice("bascule_active_pool", "The pool that serves", "pool", &[]),
            epoch: gauge(r, "bascule_epoch", "Swaps of the active pool"),
            journal_failed: gauge(r, "bascule_journal_failed", "Last record of the journal not written"),
            registry,
        }
        .begin()
    }

    fn begin(self) -> Self {
        self.cutover_state.set("idle");
        self.gate_state.set("open");
        self
    }

    /// Makes the names of a configuration known: listeners, pools, checks. Once, at start.
    pub fn prepare(&self, config: &Config) {
        for listener in config.listeners.keys() {
            self.sessions.with_label_values(&[listener]);
        }
        for pool in &config.pools {
            self.active_pool.add(&pool.name);
            let mail = [Protocol::Smtp, Protocol::Submission, Protocol::Lmtp];
            let mail = mail.into_iter().filter(|protocol| pool.service(*protocol).is_some());
            let web = (!pool.http.is_empty()).then_some(Protocol::Http);
            for protocol in [Protocol::Imap].into_iter().chain(mail).chain(web) {
                self.dials_failed.with_label_values(&[&*pool.name, protocol.name()]);
            }
            for protocol in Protocol::RELAYS.into_iter().filter(|protocol| pool.service(*protocol).is_some())
            {
                self.open_relay(&pool.name, protocol.name(), false);
            }
        }
        for check in &config.cutover.checks {
            for answer in labels::ANSWERS {
                self.check_answers.with_label_values(&[&*check.name, answer]);
            }
        }
    }

    /// From here on lines that these logs lose are counted.
    pub fn watch_logs(&self, logs: &Logs) {
        let _ = self.lost.set(logs.lost());
    }

    /// The gauge of a listener's sessions; the listener keeps it.
    pub fn sessions(&self, listener: &str) -> IntGauge {
        self.sessions.with_label_values(&[listener])
    }

    /// What the relay self-test saw.
    pub fn open_relay(&self, pool: &str, protocol: &str, open: bool) {
        self.open_relay.with_label_values(&[pool, protocol]).set(i64::from(open));
    }

    /// A session could not reach a server.
    pub fn dial_failed(&self, pool: &str, protocol: &str) {
        self.dials_failed.with_label_values(&[pool, protocol]).inc();
    }

    /// A check or proof answered one of [`labels::ANSWERS`].
    pub fn check_answered(&self, check: &str, answer: &'static str) {
        self.check_answers.with_label_values(&[check, answer]).inc();
    }

    /// A held command was released after `(hold, hold_own)`.
    pub fn held(&self, (hold, own): (std::time::Duration, std::time::Duration)) {
        self.hold.observe(hold.as_secs_f64());
        self.hold_own.observe(own.as_secs_f64());
    }

    /// The text format of Prometheus.
    pub fn render(&self) -> String {
        if let Some(lost) = self.lost.get() {
            let lost = lost.dropped_lines() as u64;
            self.log_lines_lost.inc_by(lost.saturating_sub(self.log_lines_lost.get()));
        }
        // Fails only for a family without samples, which `gather` leaves out.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// Names and labels are constants of this file, so an illegal or doubled one shows in every test.
fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("names and labels are legal");
    registry.register(Box::new(metric.clone())).expect("every metric is registered once");
    metric
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help))
}

fn histogram(registry: &Registry, name: &str, help: &str) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(HOLD_BUCKETS.to_vec());
    register(registry, Histogram::with_opts(options))
}

fn reasons(registry: &Registry, name: &str, help: &str, known: &'static [&'static str]) -> Family {
    Family::new(registry, name, help, "reason", known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reconcile_finds_is_known() {
        for differs in bascule_protocols::imap::reconcile::Differs::ALL {
            assert!(labels::UNMOVABLE.contains(&differs.label()), "{differs:?}");
        }
    }

    #[test]
    fn every_label_value_stands_at_zero_from_the_start() {
        let text = Metrics::new().render();
        for (name, label, known) in [
            ("connections_refused", "reason", labels::REFUSED),
            ("logins", "result", labels::LOGINS),
            ("farewells", "reason", labels::FAREWELLS),
            ("unmovable", "reason", labels::UNMOVABLE),
            ("pipes", "reason", labels::PIPES),
            ("messages", "outcome", labels::MESSAGES),
            ("limits_hit", "limit", labels::LIMITS),
            ("cutovers", "outcome", labels::OUTCOMES),
        ] {
            for value in known.iter().chain([&OTHER]) {
                let line = format!("\nbascule_{name}_total{{{label}=\"{value}\"}} 0\n");
                assert!(text.contains(&line), "{line}");
            }
        }
        assert!(text.contains("bascule_cutover_state{state=\"idle\"} 1\n"));
        assert!(text.contains("bascule_cutover_state{state=\"limbo\"} 0\n"));
        assert!(text.contains("bascule_gate_state{state=\"open\"} 1\n"));
        assert!(text.contains("bascule_hold_own_seconds_count 0\n"));
        assert!(text.contains("process_open_fds "));
    }

    #[test]
    fn values_count_under_their_name_and_unknown_ones_under_other() {
        let metrics = Metrics::new();
        metrics.farewells.count("shutdown");
        metrics.farewells.count("a reason nobody listed");
        let text = metrics.render();
        assert!(text.contains("bascule_farewells_total{reason=\"shutdown\"} 1\n"));
        assert!(text.contains("bascule_farewells_total{reason=\"other\"} 1\n"));
        assert!(!text.contains("nobody listed"));
    }

    #[test]
    fn of_a_choice_exactly_one_is_set() {
        let metrics = Metrics::new();
        metrics.gate_state.set("shut");
        let text = metrics.render();
        assert!(text.contains("bascule_gate_state{state=\"shut\"} 1\n"));
        assert_eq!(text.matches("bascule_gate_state{").count(), labels::GATE.len());
        let set = text.lines().filter(|l| l.starts_with("bascule_gate_state{") && l.ends_with(" 1"));
        assert_eq!(set.count(), 1);
    }

    #[test]
    fn the_hold_and_our_share_are_told_apart() {
        let metrics = Metrics::new();
        metrics.held((std::time::Duration::from_secs(3), std::time::Duration::from_millis(2)));
        let text = metrics.render();
        assert!(text.contains("bascule_hold_seconds_bucket{le=\"2\"} 0\n"));
        assert!(text.contains("bascule_hold_own_seconds_bucket{le=\"0.0025\"} 1\n"));
    }

    #[test]
    fn the_names_of_the_configuration_stand_at_zero() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bascule.toml");
        let text = r#"
            server = { hostname = "mail.test", state_dir = "/var/lib/bascule" }
            listener.imap = { protocol = "imap", bind = ["127.0.0.1:0"], tls = "none" }
            [pool.v4]
            contract = { storage = "shared" }
            capabilities = ["IMAP4rev1"]
            imap = { servers = ["imap.test:143"], tls = { mode = "none" } }
        "#;
        std::fs::write(&path, text).unwrap();
        let metrics = Metrics::new();
        metrics.prepare(&Config::load(&path).map_err(|error| error.render()).unwrap());
        let text = metrics.render();
        assert!(text.contains("bascule_sessions{listener=\"imap\"} 0\n"));
        assert!(text.contains("bascule_active_pool{pool=\"v4\"} 0\n"));
        assert!(text.contains("bascule_dials_failed_total{pool=\"v4\",protocol=\"imap\"} 0\n"));
        assert!(!text.contains("protocol=\"lmtp\""), "it has none");
        metrics.active_pool.set("v4");
        assert!(metrics.render().contains("bascule_active_pool{pool=\"v4\"} 1\n"));
    }
}
