//! A stream of events (`text/event-stream`, WHATWG HTML §9.2) on its way from a server to a client.
//!
//! Rule: an event goes on whole or not at all, byte for byte as it came; between two of them the server may be exchanged.

use memchr::memchr2;

/// An event longer than this goes on as it comes: from its beginning to its end the server cannot be exchanged.
const LARGEST: usize = 256 * 1024;
/// The longest id that is remembered; it has to fit into a head.
const LONGEST_ID: usize = 4096;
/// UTF-8's mark, which may stand before the first line.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// A line that means nothing, for a client that would hear nothing otherwise.
pub const COMMENT: &[u8] = b":\n\n";

/// What is known about a stream.
#[derive(Debug, Default)]
pub struct Events {
    /// What came and is not whole.
    kept: Vec<u8>,
    start: Start,
    /// The beginning of the line that is coming, as far as it matters.
    line: Vec<u8>,
    /// Whether anything but comments stands before it in its event.
    fields: bool,
    /// The last byte was a CR: an LF after it ends no further line.
    after_cr: bool,
    /// A long event is going on as it comes.
    passing: bool,
    /// The id that the event has which is coming.
    coming: Vec<u8>,
    /// The id of the last event that went on.
    last: Vec<u8>,
}

/// Whether the mark may still come.
#[derive(Debug)]
enum Start {
    /// So many bytes of it have.
    Mark(usize),
    Over,
}

impl Default for Start {
    fn default() -> Self {
        Self::Mark(0)
    }
}

impl Events {
    /// A stream whose client has already heard of this id.
    pub fn after(id: &[u8]) -> Self {
        Self { coming: id.to_vec(), last: id.to_vec(), ..Self::default() }
    }

    /// The id of the last event that went on; empty: none has one.
    pub fn last_id(&self) -> &[u8] {
        &self.last
    }

    /// Whether the client waits for the rest of an event.
    pub fn torn(&self) -> bool {
        self.passing
    }

    /// The stream goes on from another server: what was not whole is forgotten.
    pub fn reopen(&mut self) {
        let last = std::mem::take(&mut self.last);
        *self = Self::after(&last);
    }

    /// Takes what came; returns what may go on.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut rest = self.past_mark(bytes);
        if !rest.is_empty() && std::mem::take(&mut self.after_cr) && rest[0] == b'\n' {
            // Where its line has gone on, the line has ended there too.
            if !self.kept.is_empty() {
                self.kept.push(b'\n');
            }
            rest = &rest[1..];
        }
        let mut whole = 0;
        while let Some(end) = memchr2(b'\r', b'\n', rest) {
            self.begin(&rest[..end]);
            let crlf = rest[end..].starts_with(b"\r\n");
            self.after_cr = rest[end] == b'\r' && end + 1 == rest.len();
            let (line, after) = rest.split_at(end + 1 + usize::from(crlf));
            self.kept.extend_from_slice(line);
            rest = after;
            if self.line_ends() {
                (whole, self.passing) = (self.kept.len(), false);
            }
        }
        self.begin(rest);
        self.kept.extend_from_slice(rest);
        if self.passing || self.kept.len() - whole > LARGEST {
            (whole, self.passing) = (self.kept.len(), true);
        }
        let left = self.kept.split_off(whole);
        std::mem::replace(&mut self.kept, left)
    }

    /// Leaves out the mark: it may stand at the beginning only, and this may be the middle for the client.
    fn past_mark<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Start::Mark(seen) = self.start else { return bytes };
        let wanted = &MARK[seen..];
        let same = wanted.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        if same == wanted.len() {
            self.start = Start::Over;
            return &bytes[same..];
        }
        if same == bytes.len() {
            self.start = Start::Mark(seen + same);
            return &[];
        }
        // It was something else.
        self.start = Start::Over;
        self.begin(&MARK[..seen]);
        self.kept.extend_from_slice(&MARK[..seen]);
        bytes
    }

    /// More of the line that is coming.
    fn begin(&mut self, part: &[u8]) {
        const ID: &[u8] = b"id:";
        if self.line.len() >= ID.len() && !self.line.starts_with(ID) {
            return;
        }
        // One more than there may be shows that it is too long.
        let room = (ID.len() + 1 + LONGEST_ID + 1).saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
        if !self.line.starts_with(ID) {
            self.line.truncate(ID.len());
        }
    }

    /// A line has ended; true: what has come may go on.
    fn line_ends(&mut self) -> bool {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            self.fields = false;
            self.last.clone_from(&self.coming);
            return true;
        }
        if line[0] == b':' {
            return !self.fields;
        }
        self.fields = true;
        let value = match line.strip_prefix(b"id:") {
            Some(value) => value.strip_prefix(b" ").unwrap_or(value),
            None if line == b"id" => b"",
            None => return false,
        };
        if !value.contains(&0) && value.len() <= LONGEST_ID {
            self.coming = value.to_vec();
        }
        false
    }
}

/// Whether a client asks for a stream of events, by its Accept.
pub fn asked_for(accept: &str) -> bool {
    accept.split(',').any(is_stream)
}

/// Whether this Content-Type, or part of an Accept, is a stream of events.
pub fn is_stream(kind: &str) -> bool {
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What goes on of pieces, each by itself.
    fn pieces(events: &mut Events, pieces: &[&str]) -> Vec<String> {
        pieces.iter().map(|piece| String::from_utf8(events.feed(piece.as_bytes())).unwrap()).collect()
    }

    #[test]
    fn an_event_goes_on_when_it_is_whole() {
        let mut events = Events::default();
        let out =
            pieces(&mut events, &["id: 1\ndata: a", "\n", "\ndata", ": b\n\n: c\nid:2\n", "data\n", "\n"]);
        assert_eq!(out, ["", "", "id: 1\ndata: a\n\n", "data: b\n\n: c\n", "", "id:2\ndata\n\n"]);
        assert_eq!(events.last_id(), b"2");
    }

    #[test]
    fn an_id_counts_when_its_event_has_gone_on() {
        let mut events = Events::after(b"7");
        assert_eq!(events.last_id(), b"7");
        events.feed(b"id: 8\ndata: x\n");
        assert_eq!(events.last_id(), b"7");
        events.reopen();
        // What was forgotten has no say in what comes.
        events.feed(b"data: y\n\n");
        assert_eq!(events.last_id(), b"7");
        events.feed(b"id: a:b \r\n\r\n");
        assert_eq!(events.last_id(), b"a:b ");
        for same in ["id: 1\0\n\n", "ID: 2\n\n", " id: 3\n\n", "idea: 4\n\n", "id : 5\n\n"] {
            events.feed(same.as_bytes());
            assert_eq!(events.last_id(), b"a:b ", "{same}");
        }
        let long = format!("id: {}\n\n", "x".repeat(LONGEST_ID + 1));
        events.feed(long.as_bytes());
        assert_eq!(events.last_id(), b"a:b ");
        events.feed(b"id\n\n");
        assert_eq!(events.last_id(), b"");
    }

    #[test]
    fn lines_end_in_three_ways_wherever_they_are_cut() {
        let mut events = Events::default();
        assert_eq!(
            pieces(&mut events, &["data: a\r", "\ndata: b\r", "\r", "\n"]),
            ["", "", "data: a\r\ndata: b\r\r", ""]
        );
        assert_eq!(
            pieces(&mut events, &["id: 1\r\r", "id: 2\r", "\n\r\nid"]),
            ["id: 1\r\r", "", "id: 2\r\n\r\n"]
        );
        assert_eq!(events.last_id(), b"2");
    }

    #[test]
    fn comments_between_events_do_not_wait() {
        let mut events = Events::default();
        let out = pieces(&mut events, &[": ping\n", ":", "\n", "data: 1\n: not yet\n", "\n", ":\r"]);
        assert_eq!(out, [": ping\n", "", ":\n", "", "data: 1\n: not yet\n\n", ":\r"]);
    }

    #[test]
    fn the_mark_is_left_out_and_what_only_begins_like_it_is_not() {
        for (parts, whole) in [
            (vec![&b"\xef\xbb\xbfid: 1\n\n"[..]], &b"id: 1\n\n"[..]),
            (vec![b"\xef", b"\xbb", b"", b"\xbf", b"id: 1\n\n"], b"id: 1\n\n"),
            (vec![b"\xef", b"\xbbx\n\n"], b"\xef\xbbx\n\n"),
            (vec![b"", b"\n\n"], b"\n\n"),
        ] {
            let mut events = Events::default();
            let out: Vec<u8> = parts.iter().flat_map(|part| events.feed(part)).collect();
            assert_eq!(out, whole);
        }
    }

    #[test]
    fn a_long_event_goes_on_as_it_comes() {
        let mut events = Events::default();
        let long = format!("id: 9\ndata: {}", "x".repeat(LARGEST));
        assert_eq!(events.feed(long.as_bytes()), long.as_bytes());
        assert!(events.torn());
        assert_eq!(events.feed(b"y\n"), b"y\n");
        assert_eq!((events.torn(), events.last_id()), (true, &b""[..]));
        assert_eq!(events.feed(b"\ndata: z\n"), b"\n");
        assert_eq!((events.torn(), events.last_id()), (false, &b"9"[..]));
        assert_eq!(events.feed(b"\n"), b"data: z\n\n");
    }

    #[test]
    fn a_client_asks_for_a_stream_by_its_name() {
        assert!(asked_for("text/event-stream"));
        assert!(asked_for("text/html, Text/Event-Stream;q=0.9"));
        assert!(!asked_for("*/*"));
        assert!(!asked_for("text/event-streams"));
        assert!(is_stream("text/event-stream; charset=utf-8"));
    }

    /// The ids that a client has heard of, and the data of the events, as the standard has it; of whole text.
    fn heard(text: &str) -> (Vec<(String, String)>, String) {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let (mut events, mut id, mut last, mut data) =
            (Vec::new(), String::new(), String::new(), String::new());
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "" if line.is_empty() => {
                    last.clone_from(&id);
                    if !data.is_empty() {
                        events.push((id.clone(), std::mem::take(&mut data)));
                    }
                }
                "data" => data = data + value + "\n",
                "id" => value.clone_into(&mut id),
                _ => {}
            }
        }
        (events, last)
    }

    /// Lines and their ends.
    fn stream() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            "data: ?[a-c:]{0,5}",
            "id:? ?[0-9]{0,3}",
            ":[a-z ]{0,3}",
            "event: e",
            "[a-d]{0,3}",
            Just(String::new())
        ];
        let end = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
        proptest::collection::vec((line, end), 0..30)
            .prop_map(|lines| lines.into_iter().map(|(line, end)| line + end).collect())
    }

    proptest! {
        /// However the network cuts it, and whatever is said between two pieces: the client hears each whole event once,
        /// and no half of one.
        #[test]
        fn cuts_change_nothing(text in stream(), cuts in proptest::collection::vec(1usize..9, 1..60), comments: bool) {
            let mut events = Events::default();
            let (mut rest, mut out) = (text.as_bytes(), String::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                rest = after;
                out += std::str::from_utf8(&events.feed(piece)).unwrap();
                let (_, last) = heard(&out);
                prop_assert_eq!(last.as_bytes(), events.last_id());
                if comments {
                    out += std::str::from_utf8(COMMENT).unwrap();
                }
            }
            // A CR at the end may have been half of a line's end.
            let (all, last) = heard(&text);
            let (passed, _) = heard(&out);
            prop_assert_eq!(&passed, &all);
            prop_assert_eq!(events.last_id(), last.as_bytes());
        }

        /// Two servers with the same events: wherever the first one is lost, the client hears every event once.
        #[test]
        fn another_server_goes_on_where_the_first_one_was_lost(count in 1usize..12, at in 0usize..400, size in 1usize..7) {
            let stream = |after: usize| -> String {
                (after + 1..=count).map(|n| format!(": n\nid: {n}\r\ndata: {n}\ndata: {n}\n\n")).collect()
            };
            let mut events = Events::default();
            let first = stream(0);
            let mut out = Vec::new();
            for piece in first.as_bytes()[..at.min(first.len())].chunks(size) {
                out.extend(events.feed(piece));
            }
            let after = std::str::from_utf8(events.last_id()).unwrap().parse().unwrap_or(0);
            events.reopen();
            for piece in stream(after).as_bytes().chunks(size) {
                out.extend(events.feed(piece));
            }
            let (passed, _) = heard(std::str::from_utf8(&out).unwrap());
            let wanted: Vec<_> = (1..=count).map(|n| (n.to_string(), format!("{n}\n{n}\n"))).collect();
            prop_assert_eq!(passed, wanted);
        }

        /// Nothing breaks it, and nothing is lost or made up but a mark and an LF after a CR.
        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>, size in 1usize..9) {
            let mut events = Events::default();
            let mut out = Vec::new();
            for piece in bytes.chunks(size) {
                out.extend(events.feed(piece));
            }
            let plain = |bytes: &[u8]| bytes.iter().copied().filter(|b| *b != b'\n').collect::<Vec<_>>();
            let came = bytes.strip_prefix(MARK).unwrap_or(&bytes);
            prop_assert!(plain(came).starts_with(&plain(&out)));
        }
    }
}
