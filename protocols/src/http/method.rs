//! What a method promises about being said twice (RFC 9110 §9.2, the IANA method registry, RFC 4918, 4791, 3253).
//!
//! Rule: a method that is not listed promises nothing.

/// What a request does, by its method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Changes nothing.
    Safe,
    /// A resource becomes what the request says.
    Put,
    /// A resource is gone afterwards.
    Delete,
    /// A collection is there afterwards: MKCOL, MKCALENDAR.
    Mkcol,
    /// COPY and MOVE.
    Copy,
    /// Said twice it comes to the same, and nobody sees from the answer that it was: PROPPATCH and its kin.
    Idempotent,
    /// Everything else.
    Unsafe,
}

const SAFE: [&str; 8] = ["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"];
const IDEMPOTENT: [&str; 4] = ["PROPPATCH", "UNLOCK", "ACL", "ORDERPATCH"];

impl Kind {
    /// Methods are case-sensitive (RFC 9110 §9.1).
    pub fn of(method: &str) -> Self {
        match method {
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "MKCOL" | "MKCALENDAR" => Self::Mkcol,
            "COPY" | "MOVE" => Self::Copy,
            other if SAFE.contains(&other) => Self::Safe,
            other if IDEMPOTENT.contains(&other) => Self::Idempotent,
            _ => Self::Unsafe,
        }
    }

    /// Whether it takes effect: the gate and the drain count it as a write.
    pub fn writes(self) -> bool {
        self != Self::Safe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_is_known_by_its_exact_name() {
        for (method, kind) in [
            ("GET", Kind::Safe),
            ("PROPFIND", Kind::Safe),
            ("REPORT", Kind::Safe),
            ("get", Kind::Unsafe),
            ("PUT", Kind::Put),
            ("DELETE", Kind::Delete),
            ("MKCALENDAR", Kind::Mkcol),
            ("MOVE", Kind::Copy),
            ("PROPPATCH", Kind::Idempotent),
            ("POST", Kind::Unsafe),
            ("PATCH", Kind::Unsafe),
            ("LOCK", Kind::Unsafe),
            ("BREW", Kind::Unsafe),
        ] {
            assert_eq!(Kind::of(method), kind, "{method}");
            assert_eq!(kind.writes(), kind != Kind::Safe);
        }
    }
}
