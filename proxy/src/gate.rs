//! The gate of a cohort: open, or shut with a deadline, asked at every commit point.
//!
//! Rule: a session stores its own word and then looks at the gate; the cutover moves the gate and then looks
//! at the words. Whoever comes second sees the other. No command costs a shared write.
//!
//! ```text
//!          shut            expire
//!  Open ────────▶ Shut ──────────────▶ Expired
//!   ▲              │ decide (deadline not passed)
//!   │              ▼
//!   │           Deciding ──▶ Decided
//!   │              └───────▶ FailStop   (the record may or may not be on the disk)
//!   └── open(epoch): from Expired, Decided, or Shut on the way home
//! ```
//!
//! The decision and the deadline meet in one compare-and-swap, so that a process that was frozen between
//! looking at the clock and writing the decision cannot both expire and decide (design §5.2).

use std::time::{Duration, Instant};

use crate::{
    gate::sync::{AtomicBool, AtomicU64, Ordering, fence},
    topology::{Epoch, PoolId},
};

/// Atomics, exchanged for loom's when the model is checked.
mod sync {
    #[cfg(loom)]
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
    #[cfg(not(loom))]
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
}

/// What the gate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Commands of the current epoch flow.
    Open,
    /// Commands wait; the deadline runs.
    Shut,
    /// The deadline passed first: no decision can be taken any more.
    Expired,
    /// The decision is being written.
    Deciding,
    /// The decision stands.
    Decided,
    /// The decision's record may or may not exist: nobody is served writes until the operator says.
    FailStop,
}

impl Phase {
    /// As metrics and people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Shut => "shut",
            Self::Expired => "expired",
            Self::Deciding => "deciding",
            Self::Decided => "decided",
            Self::FailStop => "fail_stop",
        }
    }

    const ALL: [Self; 6] =
        [Self::Open, Self::Shut, Self::Expired, Self::Deciding, Self::Decided, Self::FailStop];
}

/// Bits 0-2 the phase, 3-26 the epoch, 27-63 the deadline in milliseconds since `base` (four years).
const EPOCH_SHIFT: u32 = 3;
const EPOCH_MASK: u64 = (1 << 24) - 1;
const DEADLINE_SHIFT: u32 = 27;

/// The gate of one cohort.
#[derive(Debug)]
pub struct Gate {
    word: AtomicU64,
    armed: AtomicBool,
    base: Instant,
}

/// The gate did not move because it was not where the caller believed it to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gate is {0:?}")]
pub struct NotThere(pub Phase);

impl Gate {
    /// An open gate.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            word: AtomicU64::new(pack(Phase::Open, epoch, 0)),
            armed: AtomicBool::new(false),
            base: Instant::now(),
        }
    }

    /// Whether a command of a session of this epoch may take effect. One load.
    pub fn admits(&self, epoch: Epoch) -> bool {
        self.word.load(Ordering::Acquire) & ((1 << DEADLINE_SHIFT) - 1) == pack(Phase::Open, epoch, 0)
    }

    /// What the gate says now.
    pub fn phase(&self) -> Phase {
        phase_of(self.word.load(Ordering::Acquire))
    }

    /// The epoch that is served, or was when the gate shut.
    pub fn epoch(&self) -> Epoch {
        epoch_of(self.word.load(Ordering::Acquire))
    }

    /// Time left until [`Self::expire`] succeeds; `None` unless shut.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let word = self.word.load(Ordering::Acquire);
        (phase_of(word) == Phase::Shut)
            .then(|| Duration::from_millis((word >> DEADLINE_SHIFT).saturating_sub(self.millis(now))))
    }

    /// Whether a cutover is preparing: bodies are kept whole from now on.
    pub fn armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed)
    }

    /// Sets [`Self::armed`].
    pub fn arm(&self, armed: bool) {
        self.armed.store(armed, Ordering::Relaxed);
    }

    /// Open → Shut. From here on every word that is read shows each command that was admitted.
    pub fn shut(&self, now: Instant, share: Duration) -> Result<(), NotThere> {
        let deadline = self.millis(now + share);
        self.step(Phase::Open, |epoch| pack(Phase::Shut, epoch, deadline))?;
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Shut → Expired, once the deadline has passed. False while it has not, or when a decision came first.
    pub fn expire(&self, now: Instant) -> bool {
        let word = self.word.load(Ordering::Acquire);
        phase_of(word) == Phase::Shut
            && self.millis(now) >= word >> DEADLINE_SHIFT
            && self.swap(word, pack(Phase::Expired, epoch_of(word), 0))
    }

    /// Shut → Deciding, if the deadline has not passed.
    pub fn decide(&self, now: Instant) -> Result<(), NotThere> {
        let word = self.word.load(Ordering::Acquire);
        if phase_of(word) != Phase::Shut {
            return Err(NotThere(phase_of(word)));
        }
        if self.millis(now) >= word >> DEADLINE_SHIFT {
            self.swap(word, pack(Phase::Expired, epoch_of(word), 0));
            return Err(NotThere(Phase::Expired));
        }
        if self.swap(word, pack(Phase::Deciding, epoch_of(word), 0)) {
            Ok(())
        } else {
            Err(NotThere(self.phase()))
        }
    }

    /// Deciding → Decided: the record is on the disk.
    pub fn decided(&self) -> Result<(), NotThere> {
        self.step(Phase::Deciding, |epoch| pack(Phase::Decided, epoch, 0))
    }

    /// Deciding → FailStop: nobody knows whether the record is on the disk.
    pub fn fail_stop(&self) -> Result<(), NotThere> {
        self.step(Phase::Deciding, |epoch| pack(Phase::FailStop, epoch, 0))
    }

    /// Any phase but Deciding → Open for sessions of `epoch`.
    pub fn open(&self, epoch: Epoch) -> Result<(), NotThere> {
        loop {
            let word = self.word.load(Ordering::Acquire);
            if phase_of(word) == Phase::Deciding {
                return Err(NotThere(Phase::Deciding));
            }
            // It may expire in between; that does not keep it from opening.
            if self.swap(word, pack(Phase::Open, epoch, 0)) {
                // As in [`Self::shut`]: who waits is seen from here on, or sees the open gate.
                fence(Ordering::SeqCst);
                return Ok(());
            }
        }
    }

    fn step(&self, from: Phase, to: impl Fn(Epoch) -> u64) -> Result<(), NotThere> {
        let word = self.word.load(Ordering::Acquire);
        if phase_of(word) == from && self.swap(word, to(epoch_of(word))) {
            return Ok(());
        }
        Err(NotThere(self.phase()))
    }

    fn swap(&self, from: u64, to: u64) -> bool {
        self.word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.base).as_millis())
            .unwrap_or(u64::MAX >> DEADLINE_SHIFT)
    }
}

fn pack(phase: Phase, epoch: Epoch, deadline: u64) -> u64 {
    phase as u64 | (u64::from(epoch.0) & EPOCH_MASK) << EPOCH_SHIFT | deadline << DEADLINE_SHIFT
}

fn phase_of(word: u64) -> Phase {
    Phase::ALL[(word & 7) as usize % Phase::ALL.len()]
}

fn epoch_of(word: u64) -> Epoch {
    Epoch(u32::try_from(word >> EPOCH_SHIFT & EPOCH_MASK).unwrap_or_default())
}

/// One session's own word: which pool it holds a connection to, and its commands in flight. Only the session
/// writes it; the cutover reads it after it has shut the gate.
#[derive(Debug, Default)]
pub struct Word(AtomicU64);

/// What a [`Word`] shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// The pool that the session holds, or is opening, a connection to.
    pub backend: Option<PoolId>,
    /// A second connection: to the pool that it is being verified on.
    pub spare: Option<PoolId>,
    /// Writes sent whole and not yet answered.
    pub writes: u16,
    /// Other commands sent and not yet answered.
    pub reads: u16,
    /// Of those reads one at least cannot be asked again of another pool: to leave this one costs the client its answer.
    pub costly: bool,
    /// Something of the session waits for the gate: it is to be woken when that moves. Whoever has nothing to do
    /// at a gate looks at it again with its next command, so that to move it costs nothing per session.
    pub waits: bool,
}

impl Standing {
    /// Whether the session has to hear that the gate moved: something of it waits, or is awaited.
    pub fn listens(&self) -> bool {
        self.waits || self.writes > 0 || self.reads > 0
    }

    /// Whether any connection to `pool` may exist.
    pub fn touches(&self, pool: PoolId) -> bool {
        self.backend == Some(pool) || self.spare == Some(pool)
    }

    fn pack(self) -> u64 {
        let pool = |p: Option<PoolId>| p.map_or(0, |p| u64::from(p.0) + 1);
        u64::from(self.writes)
            | u64::from(self.reads) << 16
            | pool(self.backend) << 32
            | u64::from(self.waits) << 40
            | u64::from(self.costly) << 41
            | pool(self.spare) << 48
    }

    fn unpack(word: u64) -> Self {
        let low = |w: u64| u16::try_from(w & 0xffff).unwrap_or(u16::MAX);
        let pool = |w: u64| u8::try_from(w & 0xff).ok().and_then(|w| w.checked_sub(1)).map(PoolId);
        Self {
            writes: low(word),
            reads: low(word >> 16),
            backend: pool(word >> 32),
            waits: word >> 40 & 1 == 1,
            costly: word >> 41 & 1 == 1,
            spare: pool(word >> 48),
        }
    }
}

impl Word {
    /// Announces `standing` and then asks the gate: true if the step may be taken. Where it is false the
    /// caller takes the announcement back with [`Self::set`].
    #[must_use]
    pub fn announce(&self, standing: Standing, gate: &Gate, epoch: Epoch) -> bool {
        self.0.store(standing.pack(), Ordering::Release);
        fence(Ordering::SeqCst);
        gate.admits(epoch)
    }

    /// States a fact that needs no leave: an answer came, a connection ended.
    pub fn set(&self, standing: Standing) {
        self.0.store(standing.pack(), Ordering::Release);
    }

    /// States that the session waits from now on. Whoever looks at the gate after this and finds it unmoved is
    /// seen by who moves it, and woken.
    pub fn wait(&self, standing: Standing) {
        self.0.store(standing.pack(), Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// What the session last said.
    pub fn read(&self) -> Standing {
        Standing::unpack(self.0.load(Ordering::Acquire))
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A gate in each phase.
    fn gates(now: Instant) -> Vec<Gate> {
        let steps: [&dyn Fn(&Gate); 6] = [
            &|_| {},
            &|gate| gate.shut(now, LONG).unwrap(),
            &|gate| {
                gate.shut(now, Duration::ZERO).unwrap();
                assert!(gate.expire(now));
            },
            &|gate| {
                gate.shut(now, LONG).unwrap();
                gate.decide(now).unwrap();
            },
            &|gate| {
                gate.shut(now, LONG).unwrap();
                gate.decide(now).unwrap();
                gate.decided().unwrap();
            },
            &|gate| {
                gate.shut(now, LONG).unwrap();
                gate.decide(now).unwrap();
                gate.fail_stop().unwrap();
            },
        ];
        let gate = |step: &&dyn Fn(&Gate)| {
            let gate = Gate::new(Epoch(3));
            step(&gate);
            gate
        };
        steps.iter().map(gate).collect()
    }

    #[test]
    fn only_an_open_gate_admits_and_only_its_epoch() {
        let now = Instant::now();
        for (gate, phase) in gates(now).iter().zip(Phase::ALL) {
            assert_eq!((gate.phase(), gate.epoch()), (phase, Epoch(3)));
            assert_eq!(gate.admits(Epoch(3)), phase == Phase::Open, "{phase:?}");
            assert!(!gate.admits(Epoch(4)), "{phase:?}");
        }
    }

    #[test]
    fn every_move_from_every_phase() {
        let now = Instant::now();
        // shut, expire, decide, decided, fail_stop, open
        let allowed = [
            (Phase::Open, [true, false, false, false, false, true]),
            (Phase::Shut, [false, true, true, false, false, true]),
            (Phase::Expired, [false, false, false, false, false, true]),
            (Phase::Deciding, [false, false, false, true, true, false]),
            (Phase::Decided, [false, false, false, false, false, true]),
            (Phase::FailStop, [false, false, false, false, false, true]),
        ];
        type Move<'a> = (&'static str, &'a dyn Fn(&Gate) -> bool);
        let moves: [Move<'_>; 6] = [
            ("shut", &|gate| gate.shut(now, LONG).is_ok()),
            ("expire", &|gate| gate.expire(now + 2 * LONG)),
            ("decide", &|gate| gate.decide(now).is_ok()),
            ("decided", &|gate| gate.decided().is_ok()),
            ("fail_stop", &|gate| gate.fail_stop().is_ok()),
            ("open", &|gate| gate.open(Epoch(4)).is_ok()),
        ];
        for (index, (phase, allowed)) in allowed.iter().enumerate() {
            for ((name, take), may) in moves.iter().zip(allowed) {
                assert_eq!(take(&gates(now)[index]), *may, "{name} from {phase:?}");
            }
        }
    }

    #[test]
    fn a_decision_after_the_deadline_is_the_expiry() {
        let gate = Gate::new(Epoch(0));
        let now = gate.base;
        gate.shut(now, LONG).unwrap();
        assert!(!gate.expire(now), "not yet");
        assert_eq!(gate.left(now), Some(LONG));
        assert_eq!(gate.decide(now + LONG), Err(NotThere(Phase::Expired)));
        assert_eq!(gate.phase(), Phase::Expired);
    }

    #[test]
    fn a_word_says_what_was_put_into_it() {
        let gate = Gate::new(Epoch(0));
        let word = Word::default();
        assert_eq!(word.read(), Standing::default());
        for pool in [None, Some(PoolId(0)), Some(PoolId(254))] {
            for (waits, costly) in [(false, false), (false, true), (true, false), (true, true)] {
                let spare = Some(PoolId(1));
                let standing = Standing { backend: pool, spare, writes: u16::MAX, reads: 7, costly, waits };
                assert!(word.announce(standing, &gate, Epoch(0)));
                assert_eq!(word.read(), standing);
            }
        }
    }
}

#[cfg(test)]
#[cfg(loom)]
mod model {
    use loom::{sync::Arc, thread};

    use super::*;

    const WRITING: Standing =
        Standing { backend: None, spare: None, writes: 1, reads: 0, costly: false, waits: false };

    /// A gate and so many sessions that announce a write; which were admitted, and which the scan has seen.
    fn race(sessions: usize) -> Vec<(bool, bool)> {
        let gate = Arc::new(Gate::new(Epoch(0)));
        let words: Vec<Arc<Word>> = (0..sessions).map(|_| Arc::new(Word::default())).collect();
        let announce = |word: &Arc<Word>| {
            let (gate, word) = (gate.clone(), word.clone());
            thread::spawn(move || word.announce(WRITING, &gate, Epoch(0)))
        };
        let threads: Vec<_> = words.iter().map(announce).collect();
        gate.shut(Instant::now(), Duration::from_secs(1)).unwrap();
        let seen: Vec<bool> = words.iter().map(|word| word.read().writes > 0).collect();
        let admitted = threads.into_iter().map(|thread| thread.join().unwrap());
        admitted.zip(seen).collect()
    }

    #[test]
    fn no_command_is_admitted_that_the_scan_does_not_see() {
        loom::model(|| {
            for (admitted, seen) in race(2) {
                assert!(seen || !admitted);
            }
        });
    }

    /// The same without the fences: shows that the model finds what they are for.
    #[test]
    #[should_panic(expected = "slipped through")]
    fn without_the_fences_a_command_slips_through() {
        use loom::sync::atomic::AtomicBool;

        loom::model(|| {
            let shut = Arc::new(AtomicBool::new(false));
            let word = Arc::new(AtomicBool::new(false));
            let (its_shut, its_word) = (shut.clone(), word.clone());
            let session = thread::spawn(move || {
                its_word.store(true, Ordering::Release);
                !its_shut.load(Ordering::Acquire)
            });
            shut.store(true, Ordering::Release);
            let seen = word.load(Ordering::Acquire);
            assert!(seen || !session.join().unwrap(), "slipped through");
        });
    }

    #[test]
    fn who_begins_to_wait_sees_the_gate_move_or_is_seen() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(Epoch(0)));
            let word = Arc::new(Word::default());
            let (its_gate, its_word) = (gate.clone(), word.clone());
            let session = thread::spawn(move || {
                its_word.wait(Standing { waits: true, ..Standing::default() });
                its_gate.admits(Epoch(0))
            });
            gate.shut(Instant::now(), Duration::from_secs(1)).unwrap();
            let woken = word.read().waits;
            let unmoved = session.join().unwrap();
            assert!(woken || !unmoved, "it sleeps before a shut gate");
        });
    }

    #[test]
    fn a_write_that_was_answered_is_not_waited_for_in_vain() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(Epoch(0)));
            let word = Arc::new(Word::default());
            let (its_gate, its_word) = (gate.clone(), word.clone());
            let session = thread::spawn(move || {
                let _ = its_word.announce(WRITING, &its_gate, Epoch(0));
                its_word.set(Standing::default());
            });
            gate.shut(Instant::now(), Duration::from_secs(1)).unwrap();
            session.join().unwrap();
            assert_eq!(word.read().writes, 0);
        });
    }

    #[test]
    fn expiry_and_decision_exclude_each_other() {
        loom::model(|| {
            let now = Instant::now();
            let gate = Arc::new(Gate::new(Epoch(0)));
            gate.shut(now, Duration::from_secs(1)).unwrap();
            let its_gate = gate.clone();
            // Frozen between looking at the clock and deciding: by the time it does, the deadline has passed.
            let decision = thread::spawn(move || its_gate.decide(now).is_ok());
            let expired = gate.expire(now + Duration::from_secs(2));
            let decided = decision.join().unwrap();
            assert!(decided != expired, "decided: {decided}, expired: {expired}");
            assert_eq!(gate.phase(), if decided { Phase::Deciding } else { Phase::Expired });
        });
    }

    #[test]
    fn a_gate_that_expires_meanwhile_opens_all_the_same() {
        loom::model(|| {
            let now = Instant::now();
            let gate = Arc::new(Gate::new(Epoch(0)));
            gate.shut(now, Duration::ZERO).unwrap();
            let its_gate = gate.clone();
            let expiry = thread::spawn(move || its_gate.expire(now));
            gate.open(Epoch(0)).unwrap();
            let _ = expiry.join().unwrap();
            assert!(gate.admits(Epoch(0)));
        });
    }

    #[test]
    fn an_older_epoch_is_never_admitted_after_a_switch() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(Epoch(0)));
            let word = Arc::new(Word::default());
            let (its_gate, its_word) = (gate.clone(), word.clone());
            let session = thread::spawn(move || its_word.announce(WRITING, &its_gate, Epoch(0)));
            gate.shut(Instant::now(), Duration::from_secs(1)).unwrap();
            let seen = word.read().writes > 0;
            if !seen {
                gate.decide(Instant::now()).unwrap();
                gate.decided().unwrap();
                gate.open(Epoch(1)).unwrap();
            }
            let admitted = session.join().unwrap();
            assert!(seen || !admitted, "a write for the old pool after the new one was opened");
        });
    }

    /// And of a gate that opens.
    #[test]
    fn who_begins_to_wait_sees_the_gate_open_or_is_seen() {
        loom::model(|| {
            let gate = Arc::new(Gate::new(Epoch(0)));
            gate.shut(Instant::now(), Duration::from_secs(1)).unwrap();
            let word = Arc::new(Word::default());
            let (its_gate, its_word) = (gate.clone(), word.clone());
            let session = thread::spawn(move || {
                its_word.wait(Standing { waits: true, ..Standing::default() });
                its_gate.admits(Epoch(0))
            });
            gate.open(Epoch(0)).unwrap();
            let seen = word.read().waits;
            let open = session.join().unwrap();
            assert!(seen || open, "it sleeps before an open gate");
        });
    }
}
