//! `kind = "exec"` checks: a program of the operator's answers by its exit code.
//!
//! Rule: 0 is Pass, 2 is Fail, and everything else, a time limit too, is Unknown.

use crate::{
    checks::{
        Answer,
        hooks::{self, Outcome, Status},
    },
    config::Check,
};

/// When a check is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Any time before the gate shuts.
    Guard,
    /// After the fence was proved.
    Barrier,
}

impl Phase {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Barrier => "barrier",
        }
    }
}

/// Asks once.
pub(super) async fn ask(check: &Check, env: &[(&str, String)]) -> Answer {
    judge(&hooks::run(&check.hook, env).await)
}

fn judge(outcome: &Outcome) -> Answer {
    match outcome.status {
        Status::Exited(0) => Answer::Pass,
        Status::Exited(2) => Answer::Fail(outcome.to_string()),
        Status::Exited(_) | Status::Signalled(_) | Status::TimedOut | Status::NotStarted(_) => {
            Answer::Unknown(outcome.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        checks::ask,
        config::{CheckKind, Hook},
    };

    fn check(script: &str) -> Check {
        Check {
            name: "lag".into(),
            from: "v4".into(),
            to: "v5".into(),
            guard: true,
            barrier: true,
            hook: Hook {
                exec: ["/bin/sh", "-c", script].map(Into::into).to_vec(),
                timeout: Duration::from_millis(500),
            },
            kind: CheckKind::Exec,
        }
    }

    #[tokio::test]
    async fn exit_codes_are_answers() {
        assert_eq!(ask(&check("exit 0"), Phase::Guard).await, Answer::Pass);
        let Answer::Fail(saw) = ask(&check("echo lag 12; exit 2"), Phase::Guard).await else { panic!() };
        assert!(saw.starts_with("exit 2") && saw.ends_with("lag 12"), "{saw}");
        for unclear in ["exit 1", "exit 3", "exit 127", "kill -9 $$", "sleep 1000"] {
            let answer = ask(&check(unclear), Phase::Guard).await;
            assert!(matches!(answer, Answer::Unknown(_)), "{unclear}: {answer}");
        }
        let mut absent = check("");
        absent.hook.exec = vec!["/nonexistent/check".into()];
        assert!(matches!(ask(&absent, Phase::Barrier).await, Answer::Unknown(_)));
    }

    #[tokio::test]
    async fn the_program_knows_what_it_is_asked_for() {
        let wanted = r#"[ "$BASCULE_FROM $BASCULE_TO $BASCULE_PHASE" = "v4 v5 barrier" ]"#;
        assert_eq!(ask(&check(wanted), Phase::Barrier).await, Answer::Pass);
        assert!(!ask(&check(wanted), Phase::Guard).await.passed());
    }
}
