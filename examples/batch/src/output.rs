//! The output: whole lines, one for each finished item, in a file that only one run has at a time and the next goes on with.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use holysheep::{ChatResponse, Error, Usage};
use serde::Serialize;
use serde_json::Value;

use crate::Failure;
use crate::done::Done;
use crate::job::Tag;
use crate::options::{Options, Place};

/// A line of the output.
#[derive(Serialize)]
pub(crate) struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Value>,
    index: usize,
    /// Of the line of the input, so that the next run sees whether that is still the same.
    crc32: u32,
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
        Line { id: tag.id.as_ref(), index: tag.index, crc32: tag.crc32, end, attempts, seconds }
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
    /// The file that this one took the place of: who opened that before must still find it locked.
    _old: Option<File>,
}

impl Output {
    /// Opens it, and finds out what an earlier run did.
    pub(crate) fn open(options: &Options) -> Result<(Output, Done), Failure> {
        let Place::File(path) = &options.output else {
            let file = Box::new(io::stdout());
            let output = Output { file, name: "standard output".to_owned(), _old: None };
            return Ok((output, Done::default()));
        };
        let name = path.display().to_string();
        let cant = |what: &str, error: io::Error| Failure::from(format!("can't {what} {name}: {error}"));
        let mut how = OpenOptions::new();
        how.append(true).create(true);
        // A pipe that this process could read from itself would never tell that its reader is gone.
        let is_file = !path.exists() || path.is_file();
        let mut file = how.read(is_file).open(path).map_err(|error| cant("write", error))?;
        if !is_file {
            return Ok((Output { file: Box::new(file), name, _old: None }, Done::default()));
        }
        lock(&file, &name)?;
        let is_empty = file.metadata().map_err(|error| cant("read", error))?.len() == 0;
        if !is_empty && !options.resume {
            return Err(format!(
                "{name} holds something; add --resume to go on with it, or give another name"
            )
            .into());
        }
        if options.retry_failed {
            let (new, done) = Done::without_failures(path, &name, &mut file, |new| lock(new, &name))?;
            return Ok((Output { file: Box::new(new), name, _old: Some(file) }, done));
        }
        let done = Done::mend(&mut file, &name)?;
        Ok((Output { file: Box::new(file), name, _old: None }, done))
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

/// What an earlier run did, without touching anything.
pub(crate) fn look(options: &Options) -> Result<Done, Failure> {
    let Place::File(path) = &options.output else { return Ok(Done::default()) };
    if !(options.resume && path.is_file()) {
        return Ok(Done::default());
    }
    let name = path.display().to_string();
    let mut file = File::open(path).map_err(|error| format!("can't read {name}: {error}"))?;
    Done::read(&mut file, &name, options.retry_failed)
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
