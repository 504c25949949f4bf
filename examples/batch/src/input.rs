//! Reads the items of the input, one line at a time and in bounded memory.

mod chat;
mod embeddings;
pub(crate) mod feed;
mod first_bytes;
pub(crate) mod line;
pub(crate) mod request;
pub(crate) mod template;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};

use crate::RunError;
use crate::endpoint::Kind;
use crate::options::{Defaults, Place};

/// The longest line: an image or a book fits.
const LONGEST_LINE: u64 = 64 * 1024 * 1024;

/// Bytes that are looked at for a line that says which endpoint the input is for: more than a service accepts in a request
/// for embeddings.
const MOST_PEEKED: usize = 4 * 1024 * 1024;

/// Bytes that are read at once.
const BUFFER: usize = 64 * 1024;

/// What some editors put before the first line.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Reads items from lines.
pub(crate) struct Reader {
    lines: Box<dyn BufRead + Send>,
    name: String,
    line: u64,
    index: usize,
    buffer: Vec<u8>,
}

/// A line that isn't blank.
pub(crate) struct Item<'a> {
    pub(crate) index: usize,
    /// From 1.
    pub(crate) line: u64,
    /// `None` where the line is too long to keep.
    text: Option<&'a [u8]>,
    crc32: u32,
}

impl Item<'_> {
    /// Of the line, so that a later run notices when it has changed.
    pub(crate) fn crc32(&self) -> u32 {
        self.text.map_or(self.crc32, |text| crc32fast::hash(text.trim_ascii()))
    }
}

impl Reader {
    /// Opens the input.
    ///
    /// # Errors
    /// Where it can't be read, or its first bytes show another format than JSON Lines.
    pub(crate) fn open(place: &Place) -> Result<Reader, RunError> {
        let (name, mut lines): (_, Box<dyn BufRead + Send>) = match place {
            Place::Standard => ("standard input".to_owned(), Box::new(BufReader::new(io::stdin()))),
            Place::File(path) => {
                let name = path.display().to_string();
                let cant = |why: &dyn std::fmt::Display| format!("can't read {name}: {why}");
                let file = File::open(path).map_err(|error| cant(&error))?;
                if path.is_dir() {
                    return Err(cant(&"it is a directory; name a file in it").into());
                }
                (name, Box::new(BufReader::with_capacity(BUFFER, file)))
            }
        };
        let first = lines.fill_buf().map_err(|error| format!("can't read {name}: {error}"))?;
        let file = if *place == Place::Standard { "FILE" } else { &name };
        first_bytes::check(first, file).map_err(|why| format!("{name} {why}"))?;
        Ok(Reader { lines, name, line: 0, index: 0, buffer: Vec::new() })
    }

    /// Which endpoint the input is for: that of the first line that says so, or chats. To be asked before the first item.
    ///
    /// # Errors
    /// Where the input can't be read.
    pub(crate) fn kind(&mut self, defaults: &Defaults) -> Result<Kind, String> {
        let mut peeked = Vec::new();
        let kind = loop {
            let from = peeked.len();
            let limited = (&mut self.lines).take((MOST_PEEKED - from) as u64).read_until(b'\n', &mut peeked);
            if limited.map_err(|error| format!("can't read {}: {error}", self.name))? == 0 {
                break Kind::Chat;
            }
            let line = &peeked[from..];
            if let Some(kind) = request::kind_of(line.strip_prefix(BOM).unwrap_or(line), defaults) {
                break kind;
            }
        };
        let rest = std::mem::replace(&mut self.lines, Box::new(io::empty()));
        self.lines = Box::new(Cursor::new(peeked).chain(rest));
        Ok(kind)
    }

    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// Where the input can't be read.
    pub(crate) fn next(&mut self) -> Result<Option<Item<'_>>, String> {
        loop {
            self.buffer.clear();
            self.line += 1;
            let (name, line) = (&self.name, self.line);
            let cant = |error: io::Error| format!("can't read {name} at line {line}: {error}");
            let limited = (&mut self.lines).take(LONGEST_LINE + 1).read_until(b'\n', &mut self.buffer);
            let length = limited.map_err(cant)?;
            if length == 0 {
                return Ok(None);
            }
            if line == 1 && self.buffer.starts_with(BOM) {
                self.buffer.drain(..BOM.len());
            }
            let mut crc32 = 0;
            let fits = length as u64 <= LONGEST_LINE;
            if !fits {
                let mut hasher = crc32fast::Hasher::new();
                hasher.update(&self.buffer);
                self.buffer = Vec::new();
                skip_line(&mut self.lines, &mut hasher).map_err(cant)?;
                crc32 = hasher.finalize();
            } else if self.buffer.trim_ascii().is_empty() {
                continue;
            }
            let (index, text) = (self.index, fits.then_some(&*self.buffer));
            self.index += 1;
            return Ok(Some(Item { index, line, text, crc32 }));
        }
    }

    /// Items read so far.
    pub(crate) fn count(&self) -> usize {
        self.index
    }
}

/// Skips the rest of a line that isn't kept.
fn skip_line(lines: &mut dyn BufRead, hasher: &mut crc32fast::Hasher) -> io::Result<()> {
    loop {
        let bytes = lines.fill_buf()?;
        let end = bytes.iter().position(|byte| *byte == b'\n').map(|newline| newline + 1);
        let length = end.unwrap_or(bytes.len());
        hasher.update(&bytes[..length]);
        lines.consume(length);
        if end.is_some() || length == 0 {
            return Ok(());
        }
    }
}

/// How many items a file has; `None` for what can be read only once.
pub(crate) fn count(place: &Place) -> Option<usize> {
    let Place::File(path) = place else { return None };
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut reader = Reader::open(place).ok()?;
    while reader.next().ok()?.is_some() {}
    Some(reader.index)
}
