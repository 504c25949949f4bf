//! The lines of the input as requests, one at a time, with what has to be remembered of each until its answer comes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use holysheep::ChatRequest;
use serde_json::{Map, Value};

use crate::Failure;
use crate::done::Done;
use crate::job::{Job, Tag};
use crate::options::{Options, Place, Shard};

/// The longest line: an image or a book fits, a file that has no lines at all is noticed.
const LONGEST_LINE: u64 = 64 * 1024 * 1024;

/// What some editors put before the first line.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// The model of a line that is none; nothing is ever sent for it.
const NO_MODEL: &str = "";

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
    text: &'a [u8],
}

/// What a line asks for; the error says what is wrong with the line, and nothing of what it says.
pub(crate) struct Asked {
    pub(crate) id: Option<Value>,
    pub(crate) request: Result<ChatRequest, String>,
}

impl Reader {
    pub(crate) fn open(place: &Place) -> Result<Reader, Failure> {
        let (name, lines): (_, Box<dyn BufRead + Send>) = match place {
            Place::Standard => ("standard input".to_owned(), Box::new(BufReader::new(io::stdin()))),
            Place::File(path) => {
                let name = path.display().to_string();
                let cant = |why: &dyn std::fmt::Display| format!("can't read {name}: {why}");
                let file = File::open(path).map_err(|error| cant(&error))?;
                if path.is_dir() {
                    return Err(cant(&"is a folder; name a file in it").into());
                }
                (name, Box::new(BufReader::with_capacity(64 * 1024, file)))
            }
        };
        Ok(Reader { lines, name, line: 0, index: 0, buffer: Vec::new() })
    }

    /// The next item; none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Item<'_>>, String> {
        loop {
            self.buffer.clear();
            self.line += 1;
            let (name, line) = (&self.name, self.line);
            let read = (&mut self.lines).take(LONGEST_LINE + 1).read_until(b'\n', &mut self.buffer);
            let length = read.map_err(|error| format!("can't read {name} at line {line}: {error}"))?;
            if length == 0 {
                return Ok(None);
            }
            if line == 1 && self.buffer.starts_with(BOM) {
                self.buffer.drain(..BOM.len());
            }
            if length as u64 > LONGEST_LINE {
                return Err(format!("{name} line {line} is longer than 64 MiB; is it JSON Lines?"));
            }
            if !self.buffer.trim_ascii().is_empty() {
                let index = self.index;
                self.index += 1;
                return Ok(Some(Item { index, line, text: &self.buffer }));
            }
        }
    }
}

/// How many items a file has; none for what can be read only once.
pub(crate) fn count(place: &Place) -> Option<usize> {
    let Place::File(path) = place else { return None };
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut reader = Reader::open(place).ok()?;
    while reader.next().ok()?.is_some() {}
    Some(reader.index)
}

impl Item<'_> {
    /// A first guess of its tokens, before any answer has told: four characters each.
    pub(crate) fn tokens(&self) -> u64 {
        self.text.len() as u64 / 4
    }

    pub(crate) fn crc32(&self) -> u32 {
        crc32fast::hash(self.text.trim_ascii())
    }

    /// Makes of the line what it asks for.
    pub(crate) fn parse(&self, model: Option<&str>) -> Asked {
        let mut fields = match serde_json::from_slice(self.text.trim_ascii()) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Asked::bad(None, "isn't a JSON object"),
            Err(error) => return Asked::bad(None, &format!("isn't JSON (column {})", error.column())),
        };
        let id = fields.remove("id");
        let mut request = match fields.remove("request") {
            Some(Value::Object(request)) => request,
            Some(_) => return Asked::bad(id, "has a request that isn't an object"),
            None => match fields.remove("prompt") {
                Some(_) if fields.contains_key("messages") => {
                    return Asked::bad(id, "has both a prompt and messages; keep one of them");
                }
                Some(Value::String(prompt)) => {
                    fields.insert("messages".to_owned(), user_says(prompt));
                    fields
                }
                Some(_) => return Asked::bad(id, "has a prompt that isn't text"),
                None if fields.contains_key("messages") => fields,
                None => return Asked::bad(id, "has neither request nor messages nor prompt"),
            },
        };
        if !request.contains_key("model") {
            let Some(model) = model else { return Asked::bad(id, "names no model; add --model NAME") };
            request.insert("model".to_owned(), model.into());
        }
        match serde_json::from_value(Value::Object(request)) {
            Ok(request) => Asked { id, request: Ok(request) },
            Err(_) => Asked::bad(id, "isn't a request for a chat"),
        }
    }
}

fn user_says(prompt: String) -> Value {
    let message = Map::from_iter([("role".to_owned(), "user".into()), ("content".to_owned(), prompt.into())]);
    Value::Array(vec![Value::Object(message)])
}

impl Asked {
    fn bad(id: Option<Value>, why: &str) -> Asked {
        Asked { id, request: Err(why.to_owned()) }
    }
}

/// The requests that are still to be made. Pulled by the threads of the batch.
pub(crate) struct Feed {
    reader: Reader,
    done: Done,
    job: Arc<Job>,
    model: Option<String>,
    shard: Shard,
    /// Items that may still be given.
    left: usize,
    given: usize,
}

impl Feed {
    pub(crate) fn new(options: &Options, reader: Reader, done: Done, job: Arc<Job>) -> Feed {
        let (model, shard, left) = (options.model.clone(), options.shard, options.limit);
        Feed { reader, done, job, model, shard, left, given: 0 }
    }

    /// The next request that is to be made.
    fn pull(&mut self) -> Result<Option<ChatRequest>, String> {
        while self.left > 0 {
            let Some(item) = self.reader.next()? else {
                return self.done.check_end(self.reader.index).map(|()| None);
            };
            if !self.shard.has(item.index) {
                continue;
            }
            if self.done.has(&item)? {
                self.job.skip();
                continue;
            }
            let (index, line, crc32) = (item.index, item.line, item.crc32());
            let tokens = 2 * item.tokens(); // as many again for the answer
            let Asked { id, request } = item.parse(self.model.as_deref());
            let (request, bad, tokens) = match request {
                Ok(request) => (request, None, tokens),
                // It goes the way of all others, in its turn, and fails before anything is sent.
                Err(why) => (ChatRequest::new(NO_MODEL), Some(format!("line {line} {why}")), 0),
            };
            let tag = Tag { index, crc32, id, bad, tokens };
            if !self.job.admit(self.given, request.model(), tag) {
                return Ok(None);
            }
            self.given += 1;
            self.left -= 1;
            return Ok(Some(request));
        }
        Ok(None)
    }
}

impl Iterator for Feed {
    type Item = ChatRequest;

    fn next(&mut self) -> Option<ChatRequest> {
        if self.job.is_stopping() {
            return None;
        }
        self.pull().unwrap_or_else(|why| {
            self.job.stop(crate::job::Stop::Broken(why));
            None
        })
    }
}
