//! Reads the output of earlier runs: which items are done, which failed, and what was used. Repairs its end, and drops the
//! failed items where they are to be sent again.

mod seen;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::path::Path;

use holysheep::Price;

use crate::RunError;
use crate::budget::{Guess, Used};
use crate::input::Item;
use crate::judge::Flag;
use crate::options::{Format, Options};
use crate::output::line::settings;
use seen::Seen;

/// The highest index that is accepted: the marks of a billion items take 2 GB.
const MOST_ITEMS: usize = 1_000_000_000;

/// An item that isn't done has no mark. The other marks hold whether it failed, and the checksum of its line.
const UNDONE: u16 = 0;

/// What earlier runs did.
#[derive(Default)]
pub(crate) struct EarlierRun {
    marks: Vec<u16>,
    count: usize,
    failed: usize,
    /// Of the items that stay done.
    other_settings: usize,
    used: Used,
    /// Of the output.
    name: String,
}

/// How the output of earlier runs is read.
pub(crate) struct Reading<'a> {
    pub(crate) name: &'a str,
    format: Format,
    settings: u32,
    fail_on: &'a [Flag],
    price: Option<&'a Price>,
    /// Failed items aren't done.
    retry_failed: bool,
}

/// Where the complete lines of an output end.
struct End {
    at: u64,
    /// Whether the last one has its newline.
    newline: bool,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(options: &'a Options, name: &'a str) -> Reading<'a> {
        Reading {
            name,
            format: options.format,
            settings: settings(&options.defaults),
            fail_on: &options.fail_on,
            price: options.price.as_ref(),
            retry_failed: options.retry_failed,
        }
    }

    fn cant(&self, what: &str) -> impl Fn(io::Error) -> RunError + use<> {
        let text = format!("can't {what} {}", self.name);
        move |error| format!("{text}: {error}").into()
    }

    fn has_failed(&self, seen: &Seen) -> bool {
        seen.failed || seen.flags.iter().any(|flag| self.fail_on.contains(flag))
    }

    /// Calls `each` with the lines of an output, except for a last one that is torn.
    fn lines(
        &self,
        file: &mut File,
        mut each: impl FnMut(&Seen, &[u8]) -> Result<(), RunError>,
    ) -> Result<End, RunError> {
        let cant = self.cant("read");
        file.rewind().map_err(&cant)?;
        let (mut lines, mut line, mut number) = (BufReader::with_capacity(64 * 1024, file), Vec::new(), 0);
        let mut end = End { at: 0, newline: true };
        while lines.read_until(b'\n', &mut line).map_err(&cant)? > 0 {
            number += 1;
            let complete = line.ends_with(b"\n");
            // After a power failure a file may end in zeros that were never overwritten.
            line.truncate(line.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
            match Seen::read(&line) {
                Ok(seen) if seen.index < MOST_ITEMS && seen.format == self.format => each(&seen, &line)?,
                Ok(seen) if seen.index < MOST_ITEMS => return Err(self.other_format()),
                _ if complete && line.trim_ascii().is_empty() => {}
                Err(seen::Unreadable::Torn) if !complete => break,
                _ => {
                    return Err(format!(
                        "{} line {number} is no line of an output; is it the right file?",
                        self.name
                    )
                    .into());
                }
            }
            end = End { at: end.at + line.len() as u64, newline: complete };
            line.clear();
        }
        Ok(end)
    }

    fn other_format(&self) -> RunError {
        let name = match self.format {
            Format::Native => "openai",
            Format::OpenAi => "native",
        };
        format!("{} is in the format {name}; add --format {name}, or write to another output", self.name)
            .into()
    }

    /// Reads what is done, and changes nothing.
    pub(crate) fn look(&self, file: &mut File) -> Result<EarlierRun, RunError> {
        self.read(file).map(|(earlier, _)| earlier)
    }

    /// Reads what is done, and cuts off a torn last line.
    pub(crate) fn repair(&self, file: &mut File) -> Result<EarlierRun, RunError> {
        let cant = self.cant("repair the end of");
        let (earlier, end) = self.read(file)?;
        file.set_len(end.at).map_err(&cant)?;
        if !end.newline {
            file.write_all(b"\n").map_err(&cant)?;
        }
        Ok(earlier)
    }

    /// Reads what is done, and replaces the file by one without the failed items. At each moment the name stands for the
    /// old file or the complete new one. `lock` keeps other runs off the new one.
    pub(crate) fn drop_failures(
        &self,
        path: &Path,
        old: &mut File,
        lock: impl FnOnce(&File) -> Result<(), RunError>,
    ) -> Result<(File, EarlierRun), RunError> {
        let cant = self.cant("rewrite");
        let path = fs::canonicalize(path).map_err(&cant)?; // so that a symbolic link stays one
        let mut beside = path.clone().into_os_string();
        beside.push(".retry-failed");
        let earlier = self.look(old)?;
        let _ = fs::remove_file(&beside); // left by a run that was killed: this one has the lock on the output
        let new = OpenOptions::new().read(true).write(true).create_new(true).open(&beside).map_err(&cant)?;
        let copied = lock(&new).and_then(|()| self.copy_successes(old, &new));
        let renamed = copied.and_then(|()| fs::rename(&beside, &path).map_err(&cant));
        renamed.inspect_err(|_| drop(fs::remove_file(&beside)))?;
        Ok((new, earlier))
    }

    fn copy_successes(&self, old: &mut File, new: &File) -> Result<(), RunError> {
        let cant = self.cant("rewrite");
        new.set_permissions(old.metadata().map_err(&cant)?.permissions()).map_err(&cant)?;
        let mut writer = BufWriter::new(new);
        self.lines(old, |seen, line| {
            if self.has_failed(seen) {
                return Ok(());
            }
            writer.write_all(line.trim_ascii_end()).and_then(|()| writer.write_all(b"\n")).map_err(&cant)
        })?;
        writer.flush().and_then(|()| new.sync_all()).map_err(&cant)
    }

    fn read(&self, file: &mut File) -> Result<(EarlierRun, End), RunError> {
        let mut earlier = EarlierRun { name: self.name.to_owned(), ..EarlierRun::default() };
        let end = self.lines(file, |seen, _| {
            if seen.answered {
                earlier.used.add(seen.usage.as_ref(), Guess::default(), self.price);
            }
            let failed = self.has_failed(seen);
            if !(failed && self.retry_failed) {
                earlier.mark(seen, failed);
                earlier.other_settings +=
                    usize::from(seen.settings.is_some_and(|other| other != self.settings));
            }
            Ok(())
        })?;
        Ok((earlier, end))
    }
}

impl EarlierRun {
    fn mark(&mut self, seen: &Seen, failed: bool) {
        if self.marks.len() <= seen.index {
            self.marks.resize(seen.index + 1, UNDONE);
        }
        let mark = &mut self.marks[seen.index];
        self.count += usize::from(*mark == UNDONE);
        self.failed += usize::from(failed);
        *mark = mark_of(seen.crc32, failed);
    }

    /// Items that are done, failed ones included.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Items that failed and aren't sent again.
    pub(crate) fn failed(&self) -> usize {
        self.failed
    }

    /// Items that stay done and were sent with other settings than those of this run.
    pub(crate) fn other_settings(&self) -> usize {
        self.other_settings
    }

    /// What all answers in the output used.
    pub(crate) fn used(&self) -> Used {
        self.used
    }

    /// Whether an item is done; an error if its line isn't the one of before.
    pub(crate) fn has(&self, item: &Item<'_>) -> Result<bool, String> {
        let mark = self.marks.get(item.index).copied().unwrap_or(UNDONE);
        if mark == UNDONE {
            return Ok(false);
        }
        let failed = mark & FAILED != 0;
        if mark == mark_of(None, failed) || mark == mark_of(Some(item.crc32()), failed) {
            return Ok(true);
        }
        let (line, name) = (item.line, &self.name);
        Err(if failed {
            format!(
                "line {line} of the input has changed, and it had failed; add --retry-failed to send it and the other failed \
                 items again"
            )
        } else {
            format!(
                "line {line} of the input has changed since {name} was written; undo that, or write to another output"
            )
        })
    }

    /// Checks that the input, which has so many items, has all that are done.
    pub(crate) fn check_end(&self, items: usize) -> Result<(), String> {
        let end = self.marks.len();
        if end > items {
            let name = &self.name;
            return Err(format!("{name} has item {end}, and the input only {items}; is it the right input?"));
        }
        Ok(())
    }
}

/// The bit of a mark that says that the item failed.
const FAILED: u16 = 1 << 15;

/// The mark of an item with this checksum, or with one that isn't known. A changed line has the mark of before once in
/// 32,766 times.
fn mark_of(crc32: Option<u32>, failed: bool) -> u16 {
    let unknown = u32::from(UNDONE) + 1;
    let checksum = crc32.map_or(unknown, |crc32| unknown + 1 + crc32 % (u32::from(FAILED) - unknown - 1));
    checksum as u16 | if failed { FAILED } else { 0 }
}
