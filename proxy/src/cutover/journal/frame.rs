//! Records in a file: length, checksum, JSON; zeros after the last one.
//!
//! Rule: a bad record with nothing readable after it is a torn write and is dropped; one with a readable record
//! after it is damage, and is never skipped.

use std::io;

const HEADER: usize = 8;
/// No record is longer; a length above it is no length.
const LONGEST: usize = 16 * 1024;

/// What a file holds.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    /// Offset and JSON of each record.
    pub(super) records: Vec<(usize, &'a [u8])>,
    /// Where the last good record ends.
    pub(super) end: usize,
    /// Something that is no record follows it.
    pub(super) torn: bool,
}

impl Frames<'_> {
    /// Where the last record begins.
    pub(super) fn last_at(&self) -> usize {
        self.records.last().map_or(0, |(offset, _)| *offset)
    }
}

/// A record as it stands in the file.
pub(super) fn write(json: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(json.len()).ok().filter(|len| *len as usize <= LONGEST);
    let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the record is too long"))?;
    Ok([&len.to_le_bytes()[..], &checksum(len, json).to_le_bytes(), json].concat())
}

/// All records, or the offset of the first damaged one.
pub(super) fn read(bytes: &[u8]) -> Result<Frames<'_>, usize> {
    let mut records = Vec::new();
    let mut end = 0;
    while let Some(json) = first(&bytes[end..]) {
        records.push((end, json));
        end += HEADER + json.len();
    }
    let rest = &bytes[end..];
    if (1..rest.len()).any(|later| first(&rest[later..]).is_some()) {
        return Err(end);
    }
    Ok(Frames { records, end, torn: rest.iter().any(|b| *b != 0) })
}

/// The record that begins here, if one does.
fn first(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len);
    let size = usize::try_from(len).ok().filter(|size| (1..=LONGEST).contains(size))?;
    let json = rest.get(..size)?;
    (checksum(len, json) == u32::from_le_bytes(*crc)).then_some(json)
}

fn checksum(len: u32, json: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&len.to_le_bytes());
    hasher.update(json);
    hasher.finalize()
}
