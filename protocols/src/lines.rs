//! Bytes → lines, for every protocol that has them.
//!
//! Rule: a whole line is lent from where it lies; only an unfinished one is kept, and never more of it than the limit.

use memchr::memchr;

/// Longer than the limit, and no end in sight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line too long")]
pub struct TooLong;

/// Cuts lines out of a stream; keeps only an unfinished one.
#[derive(Debug, Default)]
pub struct Lines {
    carry: Vec<u8>,
    spent: bool,
}

impl Lines {
    /// The next whole line of `input` with its line end, and how many bytes of `input` it took. `None`: all of
    /// `input` was taken and there is no line end yet.
    pub fn next<'a>(
        &'a mut self,
        input: &'a [u8],
        limit: usize,
    ) -> (usize, Result<Option<&'a [u8]>, TooLong>) {
        if std::mem::take(&mut self.spent) {
            self.carry = Vec::new();
        }
        match memchr(b'\n', input) {
            Some(end) if self.carry.len() + end > limit => (end + 1, Err(TooLong)),
            Some(end) if self.carry.is_empty() => (end + 1, Ok(Some(&input[..=end]))),
            Some(end) => {
                self.carry.extend_from_slice(&input[..=end]);
                self.spent = true;
                (end + 1, Ok(Some(&self.carry)))
            }
            None if self.carry.len() + input.len() > limit => (input.len(), Err(TooLong)),
            None => {
                self.carry.extend_from_slice(input);
                (input.len(), Ok(None))
            }
        }
    }

    /// The beginning of a line whose end has not come.
    pub fn unfinished(&self) -> &[u8] {
        if self.spent { &[] } else { &self.carry }
    }

    /// Takes the line that [`Self::next`] returned last, if it was kept here.
    pub fn take(&mut self) -> Vec<u8> {
        self.spent = false;
        std::mem::take(&mut self.carry)
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        self.carry.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_in_pieces_are_the_same_lines() {
        let input = b"a NOOP\r\nb X\nlong line here\r\n";
        for cut in 1..input.len() {
            let (mut lines, mut got) = (Lines::default(), Vec::new());
            for chunk in input.chunks(cut) {
                let mut rest = chunk;
                while !rest.is_empty() {
                    let (n, line) = lines.next(rest, 100);
                    if let Some(line) = line.unwrap() {
                        got.push(line.to_vec());
                    }
                    rest = &rest[n..];
                }
            }
            assert_eq!(got.concat(), input);
            assert_eq!(got.len(), 3);
        }
    }

    #[test]
    fn an_endless_line_is_refused_at_the_limit() {
        let mut lines = Lines::default();
        assert_eq!(lines.next(&[b'x'; 60], 100), (60, Ok(None)));
        assert_eq!(lines.next(&[b'x'; 60], 100).1, Err(TooLong));
        assert!(lines.held() <= 100);
    }
}
