//! What can be seen while it happens.
//!
//! Rule: a terminal sees it move; anything else gets plain lines.

use std::{future::Future, io::IsTerminal as _, sync::Arc, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::audience::{Audience, Habit};

/// The table on the screen.
#[derive(Debug)]
pub(crate) struct Display {
    audience: Arc<Audience>,
    output: Output,
}

#[derive(Debug)]
enum Output {
    Terminal { screen: MultiProgress, title: ProgressBar, rows: Vec<ProgressBar> },
    Lines,
}

impl Display {
    pub(crate) fn new(audience: Arc<Audience>) -> Self {
        let output = if std::io::stdout().is_terminal() { terminal() } else { Output::Lines };
        Self { audience, output }
    }

    /// Shows what the clients feel while something runs.
    pub(crate) async fn during<T>(&self, title: &str, what: impl Future<Output = T>) -> T {
        let every = match &self.output {
            Output::Terminal { title: bar, .. } => {
                bar.set_message(title.to_owned());
                Duration::from_millis(100)
            }
            Output::Lines => {
                println!("{title}");
                Duration::from_secs(2)
            }
        };
        let mut tick = tokio::time::interval(every);
        tokio::pin!(what);
        loop {
            tokio::select! {
                done = &mut what => return done,
                _ = tick.tick() => self.draw(),
            }
        }
    }

    /// Says something that stays.
    pub(crate) fn say(&self, text: &str) {
        match &self.output {
            // What cannot be shown was shown to nobody: the terminal is gone.
            Output::Terminal { screen, .. } => drop(screen.println(text)),
            Output::Lines => println!("{text}"),
        }
    }

    /// The table moves no more.
    pub(crate) fn finish(&self) {
        self.draw();
        if let Output::Terminal { title, rows, .. } = &self.output {
            title.finish_with_message("everybody has left");
            rows.iter().for_each(ProgressBar::abandon);
        }
    }

    fn draw(&self) {
        match &self.output {
            Output::Terminal { rows, .. } => {
                for (row, habit) in rows.iter().zip(Habit::ALL) {
                    row.set_message(self.row(habit));
                }
            }
            Output::Lines => {
                let total = self.audience.total();
                let waiting: usize = Habit::ALL.into_iter().map(|h| self.audience.waiting(h).0).sum();
                println!(
                    "  {} sessions, {} commands, {} notices, {waiting} wait; longest wait {}; {} disconnected, {} refused, {} wrong",
                    total.sessions,
                    total.commands,
                    total.notices,
                    millis(total.waits.max()),
                    total.disconnected,
                    total.refused,
                    total.wrong.len(),
                );
            }
        }
    }

    fn row(&self, habit: Habit) -> String {
        let (waiting, longest) = self.audience.waiting(habit);
        let now = if longest < Duration::from_millis(30) {
            String::new()
        } else {
            format!("{waiting} wait, {longest:.1?}")
        };
        self.audience.felt(habit, |felt| {
            format!(
                "{:8}{:>8}{:>10}{:>9}{:>12}{:>12}{:>13}{:>9}{:>7}  {now}",
                habit.name(),
                felt.sessions,
                felt.commands,
                felt.notices,
                millis(felt.waits.value_at_quantile(0.5)),
                millis(felt.waits.max()),
                felt.disconnected,
                felt.refused,
                felt.wrong.len(),
            )
        })
    }
}

fn terminal() -> Output {
    let screen = MultiProgress::new();
    let line = || {
        let bar = screen.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        bar
    };
    let title = screen.add(ProgressBar::new_spinner());
    title.enable_steady_tick(Duration::from_millis(100));
    let head = line();
    head.set_message(format!(
        "{:8}{:>8}{:>10}{:>9}{:>12}{:>12}{:>13}{:>9}{:>7}  now",
        "habit", "sessions", "commands", "notices", "median", "longest", "disconnected", "refused", "wrong"
    ));
    head.tick();
    let rows = Habit::ALL.into_iter().map(|_| line()).collect();
    Output::Terminal { screen, title, rows }
}

pub(crate) fn millis(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1000.0)
}
