//! The output: whole lines, one for each finished item, in a file that only one run has at a time and the next goes on with.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use holysheep::{ChatResponse, Error, Usage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Failure;
use crate::input::Item;
use crate::job::Tag;
use crate::options::{Options, Place};

/// Items whose ids are remembered, to see whether the input is still the same.
const IDS_CHECKED: usize = 10_000;

/// The highest index that is believed: the marks of a billion items take 125 MB.
const MOST_ITEMS: usize = 1_000_000_000;

/// A line of the output.
#[derive(Serialize)]
pub(crate) struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Value>,
    index: usize,
    #[serde(flatten)]
    end: End<'a>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum End<'a> {
    Answered {
        answer: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        finish_reason: Option<&'a str>,
        model: &'a str,
        usage: Option<&'a Usage>,
        /// All of it, where it says more than the text: it was paid for.
        #[serde(skip_serializing_if = "Option::is_none")]
        response: Option<&'a ChatResponse>,
    },
    Failed {
        error: Told,
    },
}

#[derive(Serialize)]
struct Told {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    retryable: bool,
}

impl<'a> Line<'a> {
    pub(crate) fn new(tag: &'a Tag, result: &'a Result<ChatResponse, Error>) -> Line<'a> {
        let (end, attempts, seconds) = match (result, &tag.bad) {
            (_, Some(bad)) => {
                let error = Told { message: bad.clone(), status: None, retryable: false };
                (End::Failed { error }, 0, None)
            }
            (Ok(response), None) => {
                let meta = response.meta();
                let end = End::Answered {
                    answer: response.text(),
                    finish_reason: response.finish_reason(),
                    model: &response.model,
                    usage: response.usage.as_ref(),
                    response: Some(response).filter(|response| says_more(response)),
                };
                (end, meta.attempts, Some(meta.elapsed.as_secs_f64()))
            }
            (Err(error), None) => {
                let (status, retryable) = (error.status(), error.is_retryable());
                let told = Told { message: crate::chain(error), status, retryable };
                let seconds = error.elapsed().map(|elapsed| elapsed.as_secs_f64());
                (End::Failed { error: told }, error.attempts(), seconds)
            }
        };
        Line { id: tag.id.as_ref(), index: tag.index, end, attempts, seconds }
    }
}

/// Whether a response says more than one text.
fn says_more(response: &ChatResponse) -> bool {
    let [choice] = &response.choices[..] else { return true };
    let message = &choice.message;
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    message.refusal.is_some()
        || !message.tool_calls.is_empty()
        || message.function_call.is_some()
        || message.extra.iter().any(|(_, value)| says(value))
        || choice.logprobs.is_some()
        || message.text().is_empty()
}

/// Where the lines go.
pub(crate) struct Output {
    file: Box<dyn Write>,
    name: String,
    /// Held for as long as the run lasts.
    _locks: Vec<File>,
}

/// What an earlier run did.
#[derive(Default)]
pub(crate) struct Done {
    marks: Vec<u64>,
    count: usize,
    /// One more than the highest index.
    end: usize,
    /// The first ones, with the name of the output.
    ids: std::collections::HashMap<usize, Value>,
    name: String,
}

/// What is read of a line of an earlier run.
#[derive(Deserialize)]
struct Seen {
    index: usize,
    id: Option<Value>,
    #[serde(default)]
    error: Option<serde::de::IgnoredAny>,
    /// There in each line, so that another kind of file is noticed.
    #[serde(rename = "attempts")]
    _attempts: u32,
}

impl Output {
    /// Opens it, and finds out what an earlier run did.
    pub(crate) fn open(options: &Options) -> Result<(Output, Done), Failure> {
        let Place::File(path) = &options.output else {
            let file = Box::new(io::stdout());
            return Ok((
                Output { file, name: "standard output".to_owned(), _locks: Vec::new() },
                Done::default(),
            ));
        };
        let name = path.display().to_string();
        let cant = |what: &str, error: io::Error| Failure::from(format!("can't {what} {name}: {error}"));
        let open = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = open.map_err(|error| cant("write", error))?;
        if !file.metadata().map_err(|error| cant("read", error))?.is_file() {
            return Ok((Output { file: Box::new(file), name, _locks: Vec::new() }, Done::default()));
        }
        lock(&file, &name)?;
        let mut locks = vec![file.try_clone().map_err(|error| cant("read", error))?];
        let is_empty = file.metadata().map_err(|error| cant("read", error))?.len() == 0;
        if !is_empty && !options.resume {
            return Err(format!(
                "{name} holds something; add --resume to go on with it, or give another name"
            )
            .into());
        }
        mend_end(&mut file).map_err(|error| cant("mend the end of", error))?;
        if options.retry_failed {
            file = without_failures(path, &name, file)?;
            locks.push(file.try_clone().map_err(|error| cant("read", error))?);
        }
        let done = Done::read(&mut file, &name)?;
        Ok((Output { file: Box::new(file), name, _locks: locks }, done))
    }

    /// Adds a line, all at once.
    pub(crate) fn add(&mut self, line: &Line<'_>) -> Result<(), Failure> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let written = self.file.write_all(&bytes).and_then(|()| self.file.flush());
        let name = &self.name;
        written.map_err(|error| {
            format!("can't write {name}: {error}; mend that and run again with --resume").into()
        })
    }
}

/// Keeps other runs off.
fn lock(file: &File, name: &str) -> Result<(), Failure> {
    fs4::FileExt::try_lock(file).map_err(|error| match error {
        fs4::TryLockError::WouldBlock => {
            format!("{name} is being written by another run; wait for it, or stop it").into()
        }
        fs4::TryLockError::Error(error) => format!("can't lock {name}: {error}").into(),
    })
}

/// Cuts off a last line that was torn, or gives it the end that it lacks.
fn mend_end(file: &mut File) -> io::Result<()> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut start = length;
    let mut tail = Vec::new();
    // Backwards in steps, because the last line may be long and the file much longer.
    while start > 0 && !tail.contains(&b'\n') {
        let step = start.min(64 * 1024);
        start -= step;
        file.seek(SeekFrom::Start(start))?;
        let mut block = vec![0; step as usize];
        file.read_exact(&mut block)?;
        block.append(&mut tail);
        tail = block;
    }
    let begins = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let last = &tail[begins..];
    if last.is_empty() {
        return Ok(());
    }
    if serde_json::from_slice::<Seen>(last).is_ok() {
        return file.write_all(b"\n");
    }
    file.set_len(start + begins as u64)
}

/// Calls `each` with the lines of an output.
fn read_lines(
    file: &mut File,
    name: &str,
    mut each: impl FnMut(&Seen, &[u8]) -> io::Result<()>,
) -> Result<(), Failure> {
    let cant = |error: io::Error| Failure::from(format!("can't read {name}: {error}"));
    file.rewind().map_err(cant)?;
    let (mut lines, mut line, mut number) = (BufReader::with_capacity(64 * 1024, file), Vec::new(), 0);
    while lines.read_until(b'\n', &mut line).map_err(cant)? > 0 {
        number += 1;
        if !line.trim_ascii().is_empty() {
            let seen = serde_json::from_slice(&line).ok().filter(|seen: &Seen| seen.index < MOST_ITEMS);
            let what = || format!("{name} line {number} is no line of an output; is it the right file?");
            each(&seen.ok_or_else(what)?, &line).map_err(cant)?;
        }
        line.clear();
    }
    Ok(())
}

/// Replaces the file by one without the items that failed. At each moment there is the old one or the new one.
fn without_failures(path: &Path, name: &str, mut old: File) -> Result<File, Failure> {
    let cant = |error: io::Error| Failure::from(format!("can't rewrite {name}: {error}"));
    let path = fs::canonicalize(path).map_err(cant)?; // a link stays one
    let mut beside = path.clone().into_os_string();
    beside.push(".new");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&beside);
    let new = open.map_err(cant)?;
    lock(&new, name)?;
    let mut writer = io::BufWriter::new(&new);
    read_lines(
        &mut old,
        name,
        |seen, line| if seen.error.is_none() { writer.write_all(line) } else { Ok(()) },
    )?;
    writer.flush().map_err(cant)?;
    drop(writer);
    new.sync_all().map_err(cant)?;
    fs::rename(&beside, &path).map_err(cant)?;
    Ok(new)
}

impl Done {
    fn read(file: &mut File, name: &str) -> Result<Done, Failure> {
        let mut done = Done { name: name.to_owned(), ..Done::default() };
        read_lines(file, name, |seen, _| {
            done.mark(seen);
            Ok(())
        })?;
        file.seek(SeekFrom::End(0)).map_err(|error| format!("can't write {name}: {error}"))?;
        Ok(done)
    }

    fn mark(&mut self, seen: &Seen) {
        let (word, bit) = (seen.index / 64, 1 << (seen.index % 64));
        if self.marks.len() <= word {
            self.marks.resize(word + 1, 0);
        }
        self.count += usize::from(self.marks[word] & bit == 0);
        self.marks[word] |= bit;
        self.end = self.end.max(seen.index + 1);
        if self.ids.len() < IDS_CHECKED {
            self.ids.extend(seen.id.clone().map(|id| (seen.index, id)));
        }
    }

    pub(crate) fn has(&self, index: usize) -> bool {
        self.marks.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether an item that is done is still the one that it was.
    pub(crate) fn check_id(&mut self, item: &Item<'_>) -> Result<(), String> {
        match self.ids.remove(&item.index) {
            Some(id) if item.parse(Some("any")).id.as_ref() != Some(&id) => {
                let (line, name) = (item.line, &self.name);
                Err(format!(
                    "line {line} of the input has another id than {name} says; has the input changed?"
                ))
            }
            _ => Ok(()),
        }
    }

    /// Whether the input, which has so many items, has all that were done.
    pub(crate) fn check_end(&self, items: usize) -> Result<(), String> {
        if self.end > items {
            let (name, end) = (&self.name, self.end);
            return Err(format!("{name} has item {end}, and the input only {items}; is it the right input?"));
        }
        Ok(())
    }
}
