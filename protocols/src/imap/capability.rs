//! Capability pinning: what clients are shown, the same before, during and after a cutover.
//!
//! Rule: what is not in [`KNOWN`] is not shown (RFC 2971 §5), and what is shown works on every pool.

use std::{fmt, sync::Arc};

/// The most capabilities that are read from one list; real servers have about sixty.
const MAX_WORDS: usize = 512;

/// The longest capability that is kept.
const MAX_WORD: usize = 128;

/// What a server says it can do: a set in the server's own order and spelling, compared without case. One text
/// with single spaces, so that the sessions of one server can share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities(Arc<str>);

impl Default for Capabilities {
    fn default() -> Self {
        Self("".into())
    }
}

impl Capabilities {
    /// Reads the arguments of a CAPABILITY response or response code, also with the word itself in front.
    /// What is no atom is left out.
    pub fn parse(text: &[u8]) -> Self {
        let words = text.split(|byte| byte.is_ascii_whitespace());
        words.filter_map(|word| std::str::from_utf8(word).ok()).collect()
    }

    /// Whether the server has it.
    pub fn has(&self, word: impl AsRef<[u8]>) -> bool {
        has(&self.0, word.as_ref())
    }

    /// All of them, in the server's order.
    pub fn iter(&self) -> impl Iterator<Item = &str> + '_ {
        words(&self.0)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What stands behind `NAME=`, where a server says it once.
    fn value(&self, prefix: &str) -> Option<&str> {
        self.iter().find_map(|word| strip_prefix(word, prefix))
    }
}

impl<'a> FromIterator<&'a str> for Capabilities {
    fn from_iter<I: IntoIterator<Item = &'a str>>(words: I) -> Self {
        let mut text = String::new();
        for word in words.into_iter().filter(|word| is_capability(word)).take(MAX_WORDS) {
            if !has(&text, word.as_bytes()) {
                if !text.is_empty() {
                    text.push(' ');
                }
                text.push_str(word);
            }
        }
        Self(text.into())
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(' ').filter(|word| !word.is_empty())
}

fn has(text: &str, word: &[u8]) -> bool {
    words(text).any(|own| own.as_bytes().eq_ignore_ascii_case(word))
}

/// As it stands in a response; [`Capabilities::parse`] reads it back.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a capability is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The proxy's own, from the greeting on: shown whatever the pools say.
    Own,
    /// From the greeting on, if every pool has it.
    OwnIfEvery,
    /// The proxy's own, from the login on.
    OwnAuthenticated,
    /// How this client may log in: depends on the listener and on TLS, see [`Stage`].
    Login,
    /// Shown if every pool has it.
    Every,
    /// Shown if every pool has it and ENABLE, without which it cannot be switched on.
    EveryEnable,
    /// `NAME=number`: shown with the lowest number if every pool has one.
    Lowest,
    /// `NAME=letters`: shown with the letters that every pool has.
    Letters,
    /// Never shown.
    Stripped,
}

/// One line of [`KNOWN`].
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The capability as it is shown. One that ends in `*` stands for all that begin so.
    pub name: &'static str,
    /// What is done with it.
    pub rule: Rule,
    /// Why.
    pub why: &'static str,
}

const fn row(name: &'static str, rule: Rule, why: &'static str) -> Known {
    Known { name, rule, why }
}

const COMMANDS: &str = "only adds commands or arguments, which pass";
const LIMIT: &str = "what fits must fit every pool";
const REFERRAL: &str = "a referral leads the client past the proxy";
const MODSEQ: &str = "a client's MODSEQs are worth what the pools' replication makes of them";
const LATER: &str = "its state cannot be restored yet";
const KEYS: &str = "the mailbox keys of one pool mean nothing on the other";
const ONE_POOL: &str = "registers or names what only one pool has";

/// Every capability the proxy knows. The first line that fits a name counts; a name that none fits is stripped.
pub const KNOWN: &[Known] = &[
    row("IMAP4rev1", Rule::Own, "the protocol of the proxy"),
    row("SASL-IR", Rule::Own, "the proxy reads AUTHENTICATE itself"),
    row("LITERAL-", Rule::Own, "the proxy owns literals and bounds what it must read unasked"),
    row("LITERAL+", Rule::Stripped, "never beside LITERAL- (RFC 7888 section 5)"),
    row("ID", Rule::Own, "answered by the proxy"),
    row("ENABLE", Rule::OwnIfEvery, "what was enabled is enabled again on the other pool"),
    row("IDLE", Rule::Own, "the proxy owns IDLE"),
    row("STARTTLS", Rule::Login, "the listener's choice, never after TLS"),
    row("LOGINDISABLED", Rule::Login, "no password in clear text"),
    row("AUTH=*", Rule::Login, "only mechanisms whose exchange the proxy can give to another pool"),
    row("INPROGRESS", Rule::OwnAuthenticated, "how the proxy keeps a held client patient"),
    row(
        "IMAP4rev2",
        Rule::Stripped,
        "changes the shape of responses once enabled, which is not restored yet",
    ),
    row("CONDSTORE", Rule::Every, MODSEQ),
    row("QRESYNC", Rule::EveryEnable, MODSEQ),
    row("UTF8=ACCEPT", Rule::EveryEnable, "changes the spelling of names, and is enabled again"),
    row("UTF8=ONLY", Rule::EveryEnable, "changes the spelling of names, and is enabled again"),
    row("APPENDLIMIT=*", Rule::Lowest, LIMIT),
    row("APPENDLIMIT", Rule::Every, "every pool decides by mailbox, and is asked"),
    row("MESSAGELIMIT=*", Rule::Lowest, LIMIT),
    row("SAVELIMIT=*", Rule::Lowest, LIMIT),
    row("ACL", Rule::Every, COMMANDS),
    row("RIGHTS=*", Rule::Letters, "a right that one pool lacks would be refused there"),
    row("BINARY", Rule::Every, COMMANDS),
    row("CATENATE", Rule::Every, COMMANDS),
    row("CHILDREN", Rule::Every, COMMANDS),
    row("CREATE-SPECIAL-USE", Rule::Every, COMMANDS),
    row("ESEARCH", Rule::Every, COMMANDS),
    row("ESORT", Rule::Every, COMMANDS),
    row("FILTERS", Rule::Every, COMMANDS),
    row("I18NLEVEL=1", Rule::Every, "comparisons only; nothing to restore"),
    row("LIST-EXTENDED", Rule::Every, COMMANDS),
    row("LIST-METADATA", Rule::Every, COMMANDS),
    row("LIST-MYRIGHTS", Rule::Every, COMMANDS),
    row("LIST-STATUS", Rule::Every, COMMANDS),
    row("METADATA", Rule::Every, COMMANDS),
    row("METADATA-SERVER", Rule::Every, COMMANDS),
    row("MOVE", Rule::Every, COMMANDS),
    row("MULTIAPPEND", Rule::Every, COMMANDS),
    row("MULTISEARCH", Rule::Every, COMMANDS),
    row("NAMESPACE", Rule::Every, COMMANDS),
    row("PARTIAL", Rule::Every, COMMANDS),
    row("PREVIEW", Rule::Every, COMMANDS),
    row("PREVIEW=*", Rule::Every, COMMANDS),
    row("QUOTA", Rule::Every, COMMANDS),
    row("QUOTA=*", Rule::Every, COMMANDS),
    row("QUOTASET", Rule::Every, COMMANDS),
    row("REPLACE", Rule::Every, COMMANDS),
    row("SAVEDATE", Rule::Every, COMMANDS),
    row("SEARCH=FUZZY", Rule::Every, COMMANDS),
    row("SNIPPET=*", Rule::Every, COMMANDS),
    row("SORT", Rule::Every, COMMANDS),
    row("SORT=*", Rule::Every, COMMANDS),
    row("SPECIAL-USE", Rule::Every, COMMANDS),
    row("STATUS=SIZE", Rule::Every, COMMANDS),
    row("THREAD=*", Rule::Every, COMMANDS),
    row("UIDPLUS", Rule::Every, COMMANDS),
    row("UNSELECT", Rule::Every, COMMANDS),
    row("URL-PARTIAL", Rule::Every, COMMANDS),
    row("WITHIN", Rule::Every, COMMANDS),
    row("COMPRESS=*", Rule::Stripped, "a dictionary cannot be moved"),
    row("CONTEXT=*", Rule::Stripped, LATER),
    row("I18NLEVEL=*", Rule::Stripped, LATER),
    row("LANGUAGE", Rule::Stripped, LATER),
    row("NOTIFY", Rule::Stripped, LATER),
    row("SEARCHRES", Rule::Stripped, LATER),
    row("UIDONLY", Rule::Stripped, LATER),
    row("UNAUTHENTICATE", Rule::Stripped, "a connection belongs to one user"),
    row("LOGIN-REFERRALS", Rule::Stripped, REFERRAL),
    row("MAILBOX-REFERRALS", Rule::Stripped, REFERRAL),
    row("OBJECTID", Rule::Stripped, "clients keep the ids, and nothing proves yet that they are replicated"),
    row("URLAUTH", Rule::Stripped, KEYS),
    row("URLAUTH=*", Rule::Stripped, KEYS),
    row("CLIENTID", Rule::Stripped, ONE_POOL),
    row("JMAPACCESS", Rule::Stripped, ONE_POOL),
    row("X*", Rule::Stripped, ONE_POOL),
];

/// The line of [`KNOWN`] that counts for a capability.
pub fn known(word: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|row| row.fits(word))
}

impl Known {
    fn fits(&self, word: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(prefix) => strip_prefix(word, prefix).is_some(),
            None => self.name.eq_ignore_ascii_case(word),
        }
    }
}

/// How far a client's connection is, which decides what it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// In clear text before the login.
    Plain {
        /// Whether the listener offers STARTTLS.
        starttls: bool,
    },
    /// Under TLS before the login.
    Tls,
    /// After the login.
    Authenticated,
}

/// What clients are shown: one fixed text for each stage of a connection, that no ENABLE and no cutover changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    plain: Box<str>,
    plain_starttls: Box<str>,
    tls: Box<str>,
    authenticated: Box<str>,
}

impl Pinned {
    /// What clients are shown after the login and this server does not have.
    pub fn beyond(&self, server: &Capabilities) -> Vec<String> {
        let shown = Capabilities::parse(self.bytes(Stage::Authenticated));
        let both = pin(&[&shown, server]);
        let kept = Capabilities::parse(both.bytes(Stage::Authenticated));
        shown.iter().filter(|word| !kept.has(word)).map(str::to_owned).collect()
    }

    /// What follows `CAPABILITY ` in a response or a response code.
    pub fn bytes(&self, stage: Stage) -> &[u8] {
        let text = match stage {
            Stage::Plain { starttls: false } => &self.plain,
            Stage::Plain { starttls: true } => &self.plain_starttls,
            Stage::Tls => &self.tls,
            Stage::Authenticated => &self.authenticated,
        };
        text.as_bytes()
    }
}

/// What the proxy alone can do.
impl Default for Pinned {
    fn default() -> Self {
        pin(&[])
    }
}

/// Pins what every one of `pools` can do and the proxy can carry from one to the other, whatever their order. The
/// lists are those that the pools show after a login; what they show before it is only part of that.
pub fn pin(pools: &[&Capabilities]) -> Pinned {
    let own = |row: &&Known| {
        matches!(row.rule, Rule::Own) || matches!(row.rule, Rule::OwnIfEvery) && every(pools, row.name)
    };
    let greeting: Vec<&str> = KNOWN.iter().filter(own).map(|row| row.name).collect();
    let authenticated = KNOWN.iter().filter(|row| row.rule == Rule::OwnAuthenticated).map(|row| row.name);
    let words = pools.first().map(|first| first.iter()).into_iter().flatten();
    let mut carried: Vec<String> = words.filter_map(|word| carry(pools, word)).collect();
    carried.sort_unstable();
    carried.dedup();

    let authenticated: Vec<&str> =
        greeting.iter().copied().chain(authenticated).chain(carried.iter().map(String::as_str)).collect();
    let greeting = greeting.join(" ");
    Pinned {
        plain: format!("{greeting} LOGINDISABLED").into(),
        plain_starttls: format!("{greeting} STARTTLS LOGINDISABLED").into(),
        tls: format!("{greeting} AUTH=PLAIN").into(),
        authenticated: authenticated.join(" ").into(),
    }
}

/// What is shown for a capability of the first pool.
fn carry(pools: &[&Capabilities], word: &str) -> Option<String> {
    match known(word)?.rule {
        Rule::Own | Rule::OwnIfEvery | Rule::OwnAuthenticated | Rule::Login | Rule::Stripped => None,
        Rule::Every => every(pools, word).then(|| word.to_ascii_uppercase()),
        Rule::EveryEnable => {
            (every(pools, word) && every(pools, "ENABLE")).then(|| word.to_ascii_uppercase())
        }
        Rule::Lowest => {
            let name = &word[..=word.find('=')?];
            let numbers = pools.iter().map(|pool| pool.value(name)?.parse::<u64>().ok());
            let lowest = numbers.collect::<Option<Vec<_>>>()?.into_iter().min()?;
            Some(format!("{}{lowest}", name.to_ascii_uppercase()))
        }
        Rule::Letters => {
            let name = &word[..=word.find('=')?];
            let values = pools.iter().map(|pool| pool.value(name)).collect::<Option<Vec<_>>>()?;
            let common = |letter: &char| values.iter().all(|value| value.contains(*letter));
            let letters: String = ('a'..='z').filter(common).collect();
            (!letters.is_empty()).then(|| name.to_ascii_uppercase() + &letters)
        }
    }
}

fn every(pools: &[&Capabilities], word: &str) -> bool {
    !pools.is_empty() && pools.iter().all(|pool| pool.has(word))
}

/// RFC 3501 `atom`, but not the word that introduces the list.
fn is_capability(word: &str) -> bool {
    let atom_char = |byte: u8| byte.is_ascii_graphic() && !br#"(){%*"\]"#.contains(&byte);
    (1..=MAX_WORD).contains(&word.len())
        && word.bytes().all(atom_char)
        && !word.eq_ignore_ascii_case("CAPABILITY")
}

/// [`str::strip_prefix`] without case.
fn strip_prefix<'a>(word: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = word.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// After the login, as the two versions say it (world.md W10: 2.4 adds the last ones).
    const DOVECOT_23: &str = "IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE SORT SORT=DISPLAY THREAD=REFERENCES \
        THREAD=REFS THREAD=ORDEREDSUBJECT MULTIAPPEND URL-PARTIAL CATENATE UNSELECT CHILDREN NAMESPACE UIDPLUS \
        LIST-EXTENDED I18NLEVEL=1 CONDSTORE QRESYNC ESEARCH ESORT SEARCHRES WITHIN CONTEXT=SEARCH LIST-STATUS \
        BINARY MOVE SNIPPET=FUZZY PREVIEW=FUZZY PREVIEW STATUS=SIZE SAVEDATE LITERAL+ NOTIFY";
    const ADDED_IN_24: &str = " REPLACE SPECIAL-USE COMPRESS=DEFLATE INPROGRESS";
    const CYRUS: &str = "IMAP4rev1 LITERAL+ ID ENABLE ACL ANNOTATE-EXPERIMENT-1 BINARY CATENATE CHILDREN CONDSTORE \
        CREATE-SPECIAL-USE ESEARCH ESORT LIST-EXTENDED LIST-METADATA LIST-MYRIGHTS LIST-STATUS MAILBOX-REFERRALS \
        METADATA MOVE MULTIAPPEND MULTISEARCH NAMESPACE OBJECTID PREVIEW QRESYNC QUOTA RIGHTS=kxten SAVEDATE \
        SEARCH=FUZZY SORT SORT=MODSEQ SORT=DISPLAY SPECIAL-USE STATUS=SIZE THREAD=ORDEREDSUBJECT THREAD=REFERENCES \
        UIDPLUS UNSELECT URL-PARTIAL URLAUTH URLAUTH=BINARY WITHIN XLIST XAPPLEPUSHSERVICE IDLE APPENDLIMIT=41943040 \
        UNAUTHENTICATE";

    fn caps(text: &str) -> Capabilities {
        Capabilities::parse(text.as_bytes())
    }

    fn shown(pools: &[&str], stage: Stage) -> String {
        let pools: Vec<Capabilities> = pools.iter().map(|text| caps(text)).collect();
        let pinned = pin(&pools.iter().collect::<Vec<_>>());
        String::from_utf8(pinned.bytes(stage).to_vec()).unwrap()
    }

    fn authenticated(pools: &[&str]) -> String {
        shown(pools, Stage::Authenticated)
    }

    #[test]
    fn a_server_that_lost_something_is_told_by_name() {
        let caps = |words: &str| Capabilities::parse(words.as_bytes());
        let (old, new) = (
            caps("IMAP4rev1 ENABLE MOVE UIDPLUS APPENDLIMIT=100"),
            caps("IMAP4rev1 ENABLE MOVE UIDPLUS APPENDLIMIT=50 QUOTA"),
        );
        let pinned = pin(&[&old, &new]);
        assert_eq!(pinned.beyond(&new), Vec::<String>::new());
        assert_eq!(pinned.beyond(&caps("IMAP4rev1 ENABLE MOVE APPENDLIMIT=50")), ["UIDPLUS"]);
        assert_eq!(pinned.beyond(&caps("IMAP4rev1 ENABLE MOVE UIDPLUS APPENDLIMIT=20")), ["APPENDLIMIT=50"]);
    }

    #[test]
    fn a_list_is_a_set_in_the_servers_spelling() {
        let list = caps("CAPABILITY IMAP4rev1  idle Idle AUTH=PLAIN X-Foo\r\n");
        assert_eq!(list.to_string(), "IMAP4rev1 idle AUTH=PLAIN X-Foo");
        assert!(list.has("IDLE") && list.has("x-foo") && list.has("imap4REV1"));
        assert!(!list.has("IDL") && !list.has("AUTH"));
    }

    #[test]
    fn what_is_no_atom_is_left_out() {
        let list = Capabilities::parse(b"IMAP4rev1 A(B \"Q\" {3} a]b \x01 \xc3\xa4 \xff MOVE");
        assert_eq!(list.to_string(), "IMAP4rev1 MOVE");
        assert!(caps(&"A".repeat(MAX_WORD + 1)).is_empty());
        let many: Vec<String> = (0..2 * MAX_WORDS).map(|n| format!("A{n}")).collect();
        assert_eq!(caps(&many.join(" ")).iter().count(), MAX_WORDS);
    }

    #[test]
    fn before_the_login_only_the_listener_and_tls_count() {
        let pools = [DOVECOT_23, CYRUS];
        let own = "IMAP4rev1 SASL-IR LITERAL- ID ENABLE IDLE";
        assert_eq!(shown(&pools, Stage::Tls), format!("{own} AUTH=PLAIN"));
        assert_eq!(shown(&pools, Stage::Plain { starttls: false }), format!("{own} LOGINDISABLED"));
        assert_eq!(shown(&pools, Stage::Plain { starttls: true }), format!("{own} STARTTLS LOGINDISABLED"));
    }

    #[test]
    fn after_the_login_two_dovecots_show_what_both_have() {
        let newer = format!("{DOVECOT_23}{ADDED_IN_24}");
        let both = "IMAP4rev1 SASL-IR LITERAL- ID ENABLE IDLE INPROGRESS BINARY CATENATE CHILDREN CONDSTORE ESEARCH \
            ESORT I18NLEVEL=1 LIST-EXTENDED LIST-STATUS MOVE MULTIAPPEND NAMESPACE PREVIEW PREVIEW=FUZZY QRESYNC \
            SAVEDATE SNIPPET=FUZZY SORT SORT=DISPLAY STATUS=SIZE THREAD=ORDEREDSUBJECT THREAD=REFERENCES THREAD=REFS \
            UIDPLUS UNSELECT URL-PARTIAL WITHIN";
        assert_eq!(authenticated(&[DOVECOT_23, &newer]), both);
        assert_eq!(authenticated(&[&newer, DOVECOT_23]), both);
    }

    /// Scenario 49 of semantics §5.
    #[test]
    fn scenario_49_what_one_pool_lacks_is_never_shown() {
        for pools in [[CYRUS, DOVECOT_23], [DOVECOT_23, CYRUS]] {
            let shown = authenticated(&pools);
            assert!(
                !shown.contains("METADATA") && !shown.contains("REFS") && !shown.contains("ACL"),
                "{shown}"
            );
            assert!(shown.contains("THREAD=REFERENCES") && shown.contains("MOVE"), "{shown}");
        }
    }

    /// Scenario 50.
    #[test]
    fn scenario_50_what_nobody_knows_is_never_shown() {
        let shown = authenticated(&[
            "IMAP4rev1 X-FOO XLIST NEWFANGLED MOVE",
            "IMAP4rev1 X-FOO XLIST NEWFANGLED MOVE",
        ]);
        assert_eq!(shown, "IMAP4rev1 SASL-IR LITERAL- ID IDLE INPROGRESS MOVE");
    }

    /// Scenario 51: whichever pool is asked first, in whatever order and spelling it answers.
    #[test]
    fn scenario_51_the_list_is_the_same_on_every_pool() {
        let lower = DOVECOT_23.to_ascii_lowercase();
        let backwards = lower.split_whitespace().rev().collect::<Vec<_>>().join(" ");
        let one = authenticated(&[CYRUS, DOVECOT_23]);
        assert_eq!(authenticated(&[&backwards, CYRUS]), one);
        assert_eq!(authenticated(&[CYRUS, &backwards]), one);
    }

    #[test]
    fn limits_are_the_lowest_and_letters_are_common() {
        for (one, other, expected) in [
            ("APPENDLIMIT=100", "APPENDLIMIT=20", Some("APPENDLIMIT=20")),
            ("appendlimit=100", "APPENDLIMIT=200", Some("APPENDLIMIT=100")),
            ("APPENDLIMIT", "APPENDLIMIT", Some("APPENDLIMIT")),
            ("APPENDLIMIT", "APPENDLIMIT=20", None),
            ("APPENDLIMIT=x", "APPENDLIMIT=20", None),
            ("MESSAGELIMIT=1000", "MESSAGELIMIT=500", Some("MESSAGELIMIT=500")),
            ("RIGHTS=kxten", "RIGHTS=texa", Some("RIGHTS=etx")),
            ("RIGHTS=kx", "RIGHTS=te", None),
            ("RIGHTS=kx", "ACL", None),
            ("I18NLEVEL=2", "I18NLEVEL=2", None),
            ("I18NLEVEL=1", "I18NLEVEL=1", Some("I18NLEVEL=1")),
        ] {
            let shown = authenticated(&[one, other]);
            let rest = shown.strip_prefix("IMAP4rev1 SASL-IR LITERAL- ID IDLE INPROGRESS").unwrap();
            assert_eq!(rest.strip_prefix(' '), expected, "{one} {other}");
        }
    }

    #[test]
    fn nothing_that_must_be_enabled_without_enable() {
        let with = "IMAP4rev1 ENABLE CONDSTORE QRESYNC UTF8=ACCEPT";
        assert!(authenticated(&[with, with]).ends_with(" INPROGRESS CONDSTORE QRESYNC UTF8=ACCEPT"));
        assert!(
            authenticated(&[with, &with.replace("ENABLE ", "")]).ends_with(" ID IDLE INPROGRESS CONDSTORE")
        );
        assert_eq!(shown(&[with, "IMAP4rev1"], Stage::Tls), "IMAP4rev1 SASL-IR LITERAL- ID IDLE AUTH=PLAIN");
    }

    #[test]
    fn without_pools_the_proxy_shows_itself() {
        let pinned = Pinned::default();
        assert_eq!(pinned.bytes(Stage::Authenticated), b"IMAP4rev1 SASL-IR LITERAL- ID IDLE INPROGRESS");
    }

    #[test]
    fn the_table_has_no_dead_line() {
        for (at, row) in KNOWN.iter().enumerate() {
            let sample = row.name.replace('*', "1");
            let earlier = KNOWN[..at].iter().find(|earlier| earlier.fits(&sample));
            assert!(row.fits(&sample) && (earlier.is_none() || row.name == "I18NLEVEL=*"), "{}", row.name);
            assert!(!row.why.is_empty());
        }
    }

    /// A word that the table has a rule for, or one that it has not.
    fn word() -> impl Strategy<Value = String> {
        let value = || {
            prop_oneof![Just("PLAIN"), Just("7"), Just("12"), Just("xte"), Just("kx"), Just("ORDEREDSUBJECT")]
        };
        prop_oneof![
            8 => (0..KNOWN.len(), value()).prop_map(|(at, value)| KNOWN[at].name.replace('*', value)),
            1 => "[!-~]{1,6}",
        ]
    }

    fn list() -> impl Strategy<Value = Capabilities> {
        proptest::collection::vec(word(), 0..60).prop_map(|words| words.iter().map(String::as_str).collect())
    }

    proptest! {
        #[test]
        fn whatever_the_pools_say_no_promise_is_broken(one in list(), other in list()) {
            assert_eq!(pin(&[&one, &other]), pin(&[&other, &one]));
            let pinned = pin(&[&one, &other]);
            let words = String::from_utf8(pinned.bytes(Stage::Authenticated).to_vec()).unwrap();
            let words: Vec<&str> = words.split(' ').collect();
            assert_eq!(words.len(), words.iter().collect::<BTreeSet<_>>().len());
            for word in words {
                match known(word).unwrap().rule {
                    Rule::Own | Rule::OwnAuthenticated => {}
                    Rule::OwnIfEvery | Rule::Every => assert!(one.has(word) && other.has(word)),
                    Rule::EveryEnable => assert!(["ENABLE", word].iter().all(|w| one.has(w) && other.has(w))),
                    Rule::Lowest | Rule::Letters => {
                        let name = &word[..=word.find('=').unwrap()];
                        assert!(one.value(name).is_some() && other.value(name).is_some());
                    }
                    Rule::Login | Rule::Stripped => panic!("{word} is shown"),
                }
            }
        }

        #[test]
        fn any_bytes_are_a_list(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let list = Capabilities::parse(&bytes);
            assert_eq!(caps(&list.to_string()), list);
            assert_eq!(pin(&[&list]), pin(&[&list, &list]));
        }
    }
}
