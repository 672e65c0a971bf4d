//! A cutover as it goes, on stderr: its state, the time left, what it waits for, which way back is open.
//!
//! Rule: a terminal sees it move; anything else gets one plain line at each change.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    admin::show,
    cutover::types::{Doing, Running, Stage, Status},
};

/// The display.
#[derive(Debug)]
pub struct Progress {
    output: Output,
    /// When the state that is shown began, and which it is.
    stage: Option<(Stage, Instant)>,
    latest: Option<(Running, Instant)>,
}

#[derive(Debug)]
enum Output {
    Terminal(ProgressBar),
    /// With the last line written.
    Lines(String),
}

impl Progress {
    /// Shows progress on stderr, moving if it is a terminal.
    pub fn new(terminal: bool) -> Self {
        let output = if terminal {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            Output::Terminal(bar)
        } else {
            Output::Lines(String::new())
        };
        Self { output, stage: None, latest: None }
    }

    /// Takes in a new status.
    pub fn update(&mut self, status: &Status) {
        let Some(running) = &status.cutover else { return };
        let now = Instant::now();
        self.latest = Some((running.clone(), now));
        if self.stage.is_some_and(|(stage, _)| stage == status.state) {
            return;
        }
        if let (Some((stage, since)), Output::Terminal(bar)) = (self.stage, &self.output) {
            bar.println(format!("✓ {stage:10} {}", show::seconds(millis(now - since))));
        }
        self.stage = Some((status.state, now));
        self.draw();
    }

    /// Lets the clock go on; to be called about twice a second.
    pub fn draw(&mut self) {
        let (Some((stage, _)), Some((running, at))) = (self.stage, &self.latest) else { return };
        match &mut self.output {
            Output::Terminal(bar) => bar.set_message(screen(stage, running, millis(at.elapsed()))),
            Output::Lines(last) => {
                let line = line(stage, running);
                if *last != line {
                    let _ = writeln!(std::io::stderr(), "{line}");
                    *last = line;
                }
            }
        }
    }

    /// Takes the display away, so that others can write.
    pub fn clear(&self) {
        if let Output::Terminal(bar) = &self.output {
            bar.finish_and_clear();
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The moving display: a few lines that are drawn again and again. `age` is that of what is shown.
fn screen(stage: Stage, running: &Running, age: u64) -> String {
    let left = running.budget_left_ms.map_or_else(String::new, |left| {
        format!("   {} left, then it aborts", show::seconds(left.saturating_sub(age)))
    });
    let waits = waits(running, |doing| {
        format!("{} (for {})", doing.what, show::seconds(doing.ms.saturating_add(age)))
    });
    let waits = waits.map_or_else(String::new, |waits| format!("\n  waits for  {waits}"));
    let meaning = show::meaning(stage);
    format!("{stage}: {meaning}{left}{waits}\n  way back   {}", show::clean(&running.way_back))
}

/// One line without what changes by itself.
fn line(stage: Stage, running: &Running) -> String {
    let waits = waits(running, |doing| doing.what.clone());
    let waits = waits.map_or_else(String::new, |waits| format!(" | waits for: {waits}"));
    format!("{stage}: {}{waits} | way back: {}", show::meaning(stage), show::clean(&running.way_back))
}

fn waits(running: &Running, step: impl Fn(&Doing) -> String) -> Option<String> {
    let waits = running.doing.is_some() || !running.waits_for.is_empty();
    waits.then(|| show::clean(&show::waits(running, step)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> Running {
        Running {
            id: 7,
            from: "v4".into(),
            to: "v5".into(),
            since_ms: 0,
            doing: Some(Doing { what: "hook fence engage of pool v4".into(), ms: 500 }),
            waits_for: vec!["2 writes: alice, b\x1b[2Job".into()],
            budget_left_ms: Some(4200),
            way_back: "abort: v4 serves again".into(),
        }
    }

    #[test]
    fn the_screen_counts_down_and_names_what_is_waited_for() {
        let text = screen(Stage::Holding, &running(), 1000);
        assert!(text.contains("hook fence engage of pool v4 (for 1.50 s); 2 writes"), "{text}");
        assert!(
            text.contains("3.20 s left")
                && text.contains("2 writes: alice")
                && text.contains("v4 serves again")
        );
        assert!(!text.contains('\x1b'), "control characters of a name reach the terminal: {text:?}");
    }

    #[test]
    fn a_plain_line_does_not_change_with_the_clock() {
        let mut later = running();
        later.budget_left_ms = Some(10);
        later.doing.as_mut().unwrap().ms = 4690;
        assert_eq!(line(Stage::Holding, &running()), line(Stage::Holding, &later));
    }
}
