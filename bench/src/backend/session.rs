//! One IMAP connection.
//!
//! Rule: replies to what came together leave together, and nothing is kept but a line.

use std::{io, sync::LazyLock};

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};

/// Messages of the mailbox; message n has n kB.
const MESSAGES: usize = 5000;
const KB: usize = 1000;
/// What may stand in a command, its literals aside.
const LONGEST_LINE: u64 = 64 * 1024;

/// What a platform of today offers, as far as a proxy may look at it.
const CAPABILITIES: &str = "IMAP4rev1 LITERAL- SASL-IR ID ENABLE IDLE NAMESPACE UIDPLUS MOVE UNSELECT ESEARCH \
                            CONDSTORE CHILDREN SPECIAL-USE LIST-EXTENDED LIST-STATUS MULTIAPPEND AUTH=PLAIN";

/// The longest message; the others are its beginnings.
pub(crate) static BODIES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut text = b"From: load@example.org\r\nSubject: what is measured\r\n\r\n".to_vec();
    let mut line = 0u64;
    while text.len() < MESSAGES * KB {
        text.extend_from_slice(format!("{line:076}\r\n").as_bytes());
        line += 1;
    }
    text.truncate(MESSAGES * KB);
    text
});

/// Serves until LOGOUT or the end of the connection.
pub(crate) async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut session =
        Session { stream: BufReader::with_capacity(4096, stream), out: Vec::new(), line: Vec::new() };
    session.say(&format!("* OK [CAPABILITY {CAPABILITIES}] ready"));
    while session.command().await? {}
    session.flush().await?;
    session.stream.get_mut().shutdown().await
}

struct Session<S> {
    stream: BufReader<S>,
    out: Vec<u8>,
    line: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Reads and answers one command; false if it was the last.
    async fn command(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.read_line().await?;
        while let Some((size, waits)) = literal(&self.line) {
            if waits {
                self.out.extend_from_slice(b"+ go on\r\n");
            }
            self.skip(size).await?;
            // The line goes on after the literal, which is nobody's business here.
            self.line.truncate(self.line.iter().rposition(|b| *b == b'{').unwrap_or_default());
            self.read_line().await?;
        }
        if self.line.is_empty() {
            return Ok(false);
        }
        let line = String::from_utf8_lossy(self.line.trim_ascii_end()).into_owned();
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (tag, verb, arguments) = (word(), word().to_ascii_uppercase(), word());
        self.obey(tag, &verb, arguments).await
    }

    async fn obey(&mut self, tag: &str, verb: &str, arguments: &str) -> io::Result<bool> {
        match verb {
            "NOOP" | "CHECK" | "CLOSE" | "UNSELECT" => {}
            "APPEND" => return self.done(tag, "OK [APPENDUID 1 5001] APPEND completed"),
            "LOGIN" => return self.logged_in(tag),
            "AUTHENTICATE" => {
                if !arguments.contains(' ') {
                    self.say("+ ");
                    self.line.clear();
                    self.read_line().await?;
                }
                return self.logged_in(tag);
            }
            "CAPABILITY" => self.say(&format!("* CAPABILITY {CAPABILITIES}")),
            "ID" => self.say("* ID NIL"),
            "ENABLE" => self.say(&format!("* ENABLED {arguments}")),
            "NAMESPACE" => self.say("* NAMESPACE ((\"\" \"/\")) NIL NIL"),
            "LIST" => self.say("* LIST (\\HasNoChildren) \"/\" INBOX"),
            "SELECT" | "EXAMINE" => self.selected(),
            "SEARCH" => self.say(&format!("* ESEARCH (TAG {tag:?}) COUNT {MESSAGES} ALL 1:{MESSAGES}")),
            "UID" => match arguments.split_once(' ') {
                Some((verb, arguments)) if verb.eq_ignore_ascii_case("FETCH") => {
                    self.fetch(arguments).await?;
                }
                _ => {
                    self.say(&format!("* ESEARCH (TAG {tag:?}) UID COUNT {MESSAGES} ALL 1:{MESSAGES}"));
                }
            },
            "FETCH" => self.fetch(arguments).await?,
            "IDLE" => {
                self.say("+ idling");
                self.line.clear();
                self.read_line().await?;
            }
            "LOGOUT" => {
                self.say("* BYE until next time");
                self.done(tag, "OK LOGOUT completed")?;
                return Ok(false);
            }
            _ => return self.done(tag, "BAD unknown"),
        }
        self.done(tag, "OK done")
    }

    fn logged_in(&mut self, tag: &str) -> io::Result<bool> {
        self.done(tag, &format!("OK [CAPABILITY {CAPABILITIES}] logged in"))
    }

    fn selected(&mut self) {
        self.say("* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)");
        self.say("* OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)] flags");
        self.say(&format!("* {MESSAGES} EXISTS"));
        self.say("* 0 RECENT");
        self.say("* OK [UIDVALIDITY 1] UIDs");
        self.say(&format!("* OK [UIDNEXT {}] next", MESSAGES + 1));
        self.say("* OK [HIGHESTMODSEQ 1] modseq");
    }

    /// The message of that number, which is also its UID.
    async fn fetch(&mut self, arguments: &str) -> io::Result<()> {
        let number = arguments.split_once(' ').and_then(|(number, _)| number.parse::<usize>().ok());
        let Some(number) = number.filter(|n| (1..=MESSAGES).contains(n)) else { return Ok(()) };
        let size = number * KB;
        self.out
            .extend_from_slice(format!("* {number} FETCH (UID {number} BODY[] {{{size}}}\r\n").as_bytes());
        self.flush().await?;
        self.stream.get_mut().write_all(&BODIES[..size]).await?;
        self.out.extend_from_slice(b")\r\n");
        Ok(())
    }

    fn say(&mut self, line: &str) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    #[expect(clippy::unnecessary_wraps, reason = "it is what every command ends with")]
    fn done(&mut self, tag: &str, text: &str) -> io::Result<bool> {
        self.say(&format!("{tag} {text}"));
        Ok(true)
    }

    /// Reads on to the end of a line, behind what the line holds already. What is to be said goes out before a wait.
    async fn read_line(&mut self) -> io::Result<()> {
        if !self.stream.buffer().contains(&b'\n') {
            self.flush().await?;
        }
        (&mut self.stream).take(LONGEST_LINE).read_until(b'\n', &mut self.line).await?;
        Ok(())
    }

    async fn skip(&mut self, size: u64) -> io::Result<()> {
        self.flush().await?;
        tokio::io::copy_buf(&mut (&mut self.stream).take(size), &mut tokio::io::sink()).await?;
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.stream.get_mut().write_all(&self.out).await?;
            self.out.clear();
        }
        self.stream.get_mut().flush().await
    }
}

/// The size of the literal that a line announces, and whether its sender waits for permission.
fn literal(line: &[u8]) -> Option<(u64, bool)> {
    let text = std::str::from_utf8(line.trim_ascii_end().strip_suffix(b"}")?).ok()?;
    let size = &text[text.rfind('{')? + 1..];
    match size.strip_suffix('+') {
        Some(size) => Some((size.parse().ok()?, false)),
        None => Some((size.parse().ok()?, true)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn said(input: &[u8]) -> String {
        let (mut client, server) = tokio::io::duplex(1 << 23);
        client.write_all(input).await.unwrap();
        serve(server).await.unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        said
    }

    #[tokio::test]
    async fn a_message_has_as_many_kilobytes_as_its_number_says() {
        let said = said(b"a LOGIN u p\r\nb SELECT INBOX\r\nc FETCH 64 (BODY.PEEK[])\r\nd LOGOUT\r\n").await;
        let (head, rest) = said.split_once("* 64 FETCH (UID 64 BODY[] {64000}\r\n").unwrap();
        assert!(head.contains("a OK") && head.contains("b OK"), "{head}");
        assert!(rest[64_000..].starts_with(")\r\nc OK"));
        assert!(said.ends_with("d OK LOGOUT completed\r\n"));
    }

    #[tokio::test]
    async fn logins_come_in_every_form_and_uploads_vanish() {
        let said = said(
            b"a LOGIN {1}\r\nu {1}\r\np\r\nb AUTHENTICATE PLAIN\r\nAHUAcA==\r\nc AUTHENTICATE PLAIN AHUAcA==\r\n\
              d APPEND INBOX {5+}\r\na\r\nb\n\r\ne IDLE\r\nDONE\r\nf LOGOUT\r\n",
        )
        .await;
        let replies: Vec<&str> =
            said.lines().filter_map(|l| l.split_once(" OK").map(|(tag, _)| tag)).collect();
        assert_eq!(replies, ["*", "a", "b", "c", "d", "e", "f"], "{said}");
    }
}
