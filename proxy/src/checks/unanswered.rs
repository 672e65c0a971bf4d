//! Whose answer a proof waits for, so that whoever stops waiting can say what for.
//!
//! Rule: a name stands here as long as its question is open, with what was seen of it last; nothing is decided by it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The open questions of one proof.
pub struct Unanswered {
    open: Mutex<BTreeMap<String, String>>,
    tell: Box<dyn Fn(Vec<String>) + Send + Sync>,
}

impl fmt::Debug for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unanswered").field("open", &self.open).finish_non_exhaustive()
    }
}

/// A question that is open until this is dropped.
struct Open<'a>(&'a Unanswered, &'a str);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.change(|open| drop(open.remove(self.1)));
    }
}

impl Unanswered {
    /// `tell` hears of every change.
    pub fn told(tell: impl Fn(Vec<String>) + Send + Sync + 'static) -> Self {
        Self { open: Mutex::default(), tell: Box::new(tell) }
    }

    /// Where nobody asks what it waits for.
    pub fn unheard() -> Self {
        Self::told(|_| {})
    }

    /// `who` is asked until `answer` is there or given up.
    pub async fn until<T>(&self, who: &str, answer: impl Future<Output = T>) -> T {
        self.saw(who, "not answered yet");
        let _open = Open(self, who);
        answer.await
    }

    /// Seen of `who`, which is asked again.
    pub fn saw(&self, who: &str, what: &str) {
        self.change(|open| drop(open.insert(who.to_owned(), what.to_owned())));
    }

    /// Who has not answered, each with what was seen last.
    pub fn lines(&self) -> Vec<String> {
        let line = |(who, saw): (&String, &String)| match saw.strip_prefix(&**who) {
            Some(rest) if rest.starts_with(": ") => saw.clone(),
            Some(_) | None => format!("{who}: {saw}"),
        };
        self.open().iter().map(line).collect()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, String>)) {
        change(&mut self.open());
        (self.tell)(self.lines());
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{Duration, timeout};

    use super::*;

    #[tokio::test]
    async fn a_name_stands_until_its_answer_is_there_or_given_up() {
        let unanswered = Unanswered::unheard();
        let asked = unanswered.until("lmtp", async {
            unanswered.saw("lmtp", "451 later");
            assert_eq!(unanswered.lines(), ["imap: not answered yet", "lmtp: 451 later"]);
            unanswered.saw("lmtp", "lmtp: 452 full");
            assert_eq!(unanswered.lines()[1], "lmtp: 452 full", "named once");
        });
        let imap = unanswered.until("imap", pending::<()>());
        let after = async {
            asked.await;
            assert_eq!(unanswered.lines(), ["imap: not answered yet"]);
        };
        tokio::select! {
            biased;
            () = imap => {}
            () = after => {}
        }
        assert!(unanswered.lines().is_empty());
        let late = timeout(Duration::ZERO, unanswered.until("smtp", pending::<()>())).await;
        assert!(late.is_err() && unanswered.lines().is_empty());
    }
}
