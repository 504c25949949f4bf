//! What an earlier run did: its output is read, mended at its end, and freed of what failed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::Failure;
use crate::input::Item;

/// The highest index that is believed: the marks of a billion items take 1 GB.
const MOST_ITEMS: usize = 1_000_000_000;

/// The mark of an item that isn't done, and of one whose line of the input isn't known. All others are made of the line's
/// checksum.
const UNDONE: u8 = 0;
const UNKNOWN: u8 = 1;

/// The items that are done.
#[derive(Default)]
pub(crate) struct Done {
    marks: Vec<u8>,
    count: usize,
    /// Of the output.
    name: String,
}

/// What is read of a line of an output.
#[derive(Deserialize)]
struct Seen {
    index: usize,
    crc32: Option<u32>,
    error: Option<IgnoredAny>,
    /// There in each line, so that another kind of file is noticed.
    #[serde(rename = "attempts")]
    _attempts: u32,
}

/// Where the whole lines of an output end.
struct End {
    at: u64,
    /// Whether the last one has its newline.
    newline: bool,
}

impl Done {
    /// Reads what is done, and changes nothing. What failed isn't done if it shall be tried again.
    pub(crate) fn read(file: &mut File, name: &str, retry_failed: bool) -> Result<Done, Failure> {
        Done::read_to_end(file, name, retry_failed).map(|(done, _)| done)
    }

    /// Reads what is done, and cuts off a last line that was torn.
    pub(crate) fn mend(file: &mut File, name: &str) -> Result<Done, Failure> {
        let cant = |error: io::Error| Failure::from(format!("can't mend the end of {name}: {error}"));
        let (done, end) = Done::read_to_end(file, name, false)?;
        file.set_len(end.at).map_err(cant)?;
        if !end.newline {
            file.write_all(b"\n").map_err(cant)?;
        }
        Ok(done)
    }

    /// Reads what is done, and replaces the file by one without the items that failed. At each moment there is the old one
    /// or the new one. `lock` keeps other runs off the new one.
    pub(crate) fn without_failures(
        path: &Path,
        name: &str,
        old: &mut File,
        lock: impl FnOnce(&File) -> Result<(), Failure>,
    ) -> Result<(File, Done), Failure> {
        let cant = |error: io::Error| Failure::from(format!("can't rewrite {name}: {error}"));
        let path = fs::canonicalize(path).map_err(cant)?; // a link stays one
        let mut beside = path.clone().into_os_string();
        beside.push(".retry-failed");
        let done = Done::read(old, name, true)?;
        let _ = fs::remove_file(&beside); // of a run that was killed: no other one has the lock on the output
        let new = OpenOptions::new().read(true).write(true).create_new(true).open(&beside).map_err(cant)?;
        let copied = lock(&new).and_then(|()| copy_successes(old, name, &new));
        let renamed = copied.and_then(|()| fs::rename(&beside, &path).map_err(cant));
        renamed.inspect_err(|_| drop(fs::remove_file(&beside)))?;
        Ok((new, done))
    }

    fn read_to_end(file: &mut File, name: &str, retry_failed: bool) -> Result<(Done, End), Failure> {
        let mut done = Done { name: name.to_owned(), ..Done::default() };
        let end = read_lines(file, name, |seen, _| {
            if !(retry_failed && seen.error.is_some()) {
                done.mark(seen);
            }
            Ok(())
        })?;
        Ok((done, end))
    }

    fn mark(&mut self, seen: &Seen) {
        if self.marks.len() <= seen.index {
            self.marks.resize(seen.index + 1, UNDONE);
        }
        let mark = &mut self.marks[seen.index];
        self.count += usize::from(*mark == UNDONE);
        *mark = seen.crc32.map_or(UNKNOWN, mark_of);
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether an item is done; an error if its line isn't the one that was done.
    pub(crate) fn has(&self, item: &Item<'_>) -> Result<bool, String> {
        match self.marks.get(item.index).copied().unwrap_or(UNDONE) {
            UNDONE => Ok(false),
            mark if mark == UNKNOWN || mark == mark_of(item.crc32()) => Ok(true),
            _ => {
                let (line, name) = (item.line, &self.name);
                Err(format!(
                    "line {line} of the input has changed since {name} was written; put it back, or write to another output"
                ))
            }
        }
    }

    /// Whether the input, which has so many items, has all that were done.
    pub(crate) fn check_end(&self, items: usize) -> Result<(), String> {
        let end = self.marks.len();
        if end > items {
            let name = &self.name;
            return Err(format!("{name} has item {end}, and the input only {items}; is it the right input?"));
        }
        Ok(())
    }
}

fn copy_successes(old: &mut File, name: &str, new: &File) -> Result<(), Failure> {
    let cant = |error: io::Error| Failure::from(format!("can't rewrite {name}: {error}"));
    new.set_permissions(old.metadata().map_err(cant)?.permissions()).map_err(cant)?;
    let mut writer = BufWriter::new(new);
    read_lines(old, name, |seen, line| match seen.error {
        Some(_) => Ok(()),
        None => writer.write_all(line.trim_ascii_end()).and_then(|()| writer.write_all(b"\n")).map_err(cant),
    })?;
    writer.flush().and_then(|()| new.sync_all()).map_err(cant)
}

/// The mark of a line with this checksum. One line in 250 has the mark of another one, but not a whole input.
fn mark_of(crc32: u32) -> u8 {
    let first = u32::from(UNKNOWN) + 1;
    (first + crc32 % (u32::from(u8::MAX) + 1 - first)) as u8
}

/// Calls `each` with the lines of an output, but for a last one that was torn.
fn read_lines(
    file: &mut File,
    name: &str,
    mut each: impl FnMut(&Seen, &[u8]) -> Result<(), Failure>,
) -> Result<End, Failure> {
    let cant = |error: io::Error| Failure::from(format!("can't read {name}: {error}"));
    file.rewind().map_err(cant)?;
    let (mut lines, mut line, mut number) = (BufReader::with_capacity(64 * 1024, file), Vec::new(), 0);
    let mut end = End { at: 0, newline: true };
    while lines.read_until(b'\n', &mut line).map_err(cant)? > 0 {
        number += 1;
        let whole = line.ends_with(b"\n");
        // After a power cut a file may end in zeros that were never written over.
        line.truncate(line.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        match serde_json::from_slice::<Seen>(&line) {
            Ok(seen) if seen.index < MOST_ITEMS => each(&seen, &line)?,
            Err(_) if whole && line.trim_ascii().is_empty() => {}
            Err(error) if !whole && error.is_eof() => break,
            _ => {
                return Err(
                    format!("{name} line {number} is no line of an output; is it the right file?").into()
                );
            }
        }
        end = End { at: end.at + line.len() as u64, newline: whole };
        line.clear();
    }
    Ok(end)
}
