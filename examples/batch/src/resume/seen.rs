//! Reads what matters of a line of an output, and tells a torn line from one of another file.

use std::fmt;

use holysheep::Usage;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::judge::Flag;
use crate::options::Format;
use crate::output::line::{KEYS, read_openai_id};

/// A line of an output, in either format.
pub(super) struct Seen {
    pub(super) index: usize,
    pub(super) crc32: Option<u32>,
    pub(super) settings: Option<u32>,
    pub(super) format: Format,
    pub(super) failed: bool,
    pub(super) flags: Vec<Flag>,
    pub(super) usage: Option<Usage>,
    /// Whether there was an answer, which was paid for.
    pub(super) answered: bool,
}

/// Why a line can't be read.
pub(super) enum Unreadable {
    /// It is the beginning of a line of an output.
    Torn,
    Foreign,
}

#[derive(Deserialize)]
struct Native {
    index: usize,
    crc32: Option<u32>,
    settings: Option<u32>,
    error: Option<IgnoredAny>,
    #[serde(default)]
    flags: Vec<Flag>,
    usage: Option<Usage>,
    answer: Option<IgnoredAny>,
    embeddings: Option<IgnoredAny>,
    /// In each line, so that another kind of file is noticed.
    #[serde(rename = "attempts")]
    _attempts: u32,
}

#[derive(Deserialize)]
struct OpenAi {
    id: String,
    #[serde(rename = "custom_id")]
    _custom_id: IgnoredAny,
    response: Option<Response>,
    error: Option<IgnoredAny>,
    #[serde(default)]
    flags: Vec<Flag>,
}

#[derive(Deserialize)]
struct Response {
    status_code: u16,
    body: Body,
}

#[derive(Deserialize)]
struct Body {
    usage: Option<Usage>,
}

impl Seen {
    pub(super) fn read(line: &[u8]) -> Result<Seen, Unreadable> {
        let error = match serde_json::from_slice::<Native>(line) {
            Ok(native) => return Ok(native.into()),
            Err(error) => error,
        };
        if let Some(seen) = serde_json::from_slice::<OpenAi>(line).ok().and_then(OpenAi::into_seen) {
            return Ok(seen);
        }
        // A number that is torn after a point, an exponent or a sign is a syntax error at the last byte.
        let ends_early = error.is_eof() || error.is_syntax() && error.column() >= line.len();
        Err(if ends_early && has_our_keys(line) { Unreadable::Torn } else { Unreadable::Foreign })
    }
}

impl From<Native> for Seen {
    fn from(native: Native) -> Seen {
        Seen {
            index: native.index,
            crc32: native.crc32,
            settings: native.settings,
            format: Format::Native,
            failed: native.error.is_some(),
            flags: native.flags,
            usage: native.usage,
            answered: native.answer.or(native.embeddings).is_some(),
        }
    }
}

impl OpenAi {
    fn into_seen(self) -> Option<Seen> {
        let (index, crc32, settings) = read_openai_id(&self.id)?;
        let answer = self.response.filter(|response| response.status_code == 200);
        Some(Seen {
            index,
            crc32: Some(crc32),
            settings: Some(settings),
            format: Format::OpenAi,
            failed: self.error.is_some() || answer.is_none(),
            flags: self.flags,
            answered: answer.is_some(),
            usage: answer.and_then(|response| response.body.usage),
        })
    }
}

/// Whether the beginning of a line is one of an output: it begins alike, and has no other keys.
fn has_our_keys(line: &[u8]) -> bool {
    let begins = |start: &[u8]| line.starts_with(start) || start.starts_with(line);
    let mut keys = Vec::new();
    // It ends early, with the keys so far.
    let _ = serde_json::Deserializer::from_slice(line).deserialize_map(KeyVisitor(&mut keys));
    (begins(b"{\"id\":") || begins(b"{\"index\":")) && keys.iter().all(|key| KEYS.contains(&&**key))
}

/// Collects the keys of an object.
struct KeyVisitor<'a>(&'a mut Vec<String>);

impl<'de> Visitor<'de> for KeyVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key()? {
            self.0.push(key);
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}
