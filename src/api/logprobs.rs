//! Log probabilities of the tokens of an answer.

use serde_json::{Map, Value};

use crate::json::budget::fields_cost;
use crate::json::extra::Extra;
use crate::json::lenient::{Lenient, List, exact, float, list, text};
use crate::json::object::json_object;

/// Log probabilities of the tokens of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Logprobs {
    /// The tokens of the text.
    pub content: Vec<TokenLogprob>,
    /// The tokens of a refusal.
    pub refusal: Vec<TokenLogprob>,
    /// All other fields, for example the lists of the legacy completions API.
    pub extra: Extra,
}

/// The log probability of a token, and those of its alternatives.
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct TokenLogprob {
    /// The token.
    pub token: String,
    /// The natural logarithm of its probability; `None` if the service sends no number.
    pub logprob: Option<f64>,
    /// The bytes of the token, which may be only a part of a character.
    pub bytes: Option<Vec<u8>>,
    /// The most likely tokens at this position.
    pub top_logprobs: Vec<TokenLogprob>,
    /// All other fields.
    pub extra: Extra,
}

json_object!(Logprobs {
    optional content: "content" => list::<TokenLogprob>,
    optional refusal: "refusal" => list::<TokenLogprob>,
});

json_object!(TokenLogprob {
    always token: "token" => text,
    always logprob: "logprob" => float,
    optional bytes: "bytes" => exact::<Vec<u8>>,
    optional top_logprobs: "top_logprobs" => alternatives,
});

impl Logprobs {
    /// The memory they take in bytes.
    pub(crate) fn cost(&self) -> usize {
        let tokens = self.content.iter().chain(&self.refusal).map(TokenLogprob::cost).sum::<usize>();
        tokens + extra_cost(&self.extra)
    }

    /// Appends the log probabilities of the next chunk.
    pub(crate) fn append(&mut self, next: &Logprobs) {
        self.content.extend_from_slice(&next.content);
        self.refusal.extend_from_slice(&next.refusal);
        append_lists(&mut self.extra, &next.extra);
    }
}

impl TokenLogprob {
    fn cost(&self) -> usize {
        let texts = self.token.len() + self.bytes.as_ref().map_or(0, Vec::len);
        let alternatives = self.top_logprobs.iter().map(TokenLogprob::cost).sum::<usize>();
        2 * size_of::<TokenLogprob>() + texts + alternatives + extra_cost(&self.extra)
    }
}

fn extra_cost(extra: &Extra) -> usize {
    if extra.is_unset() { 0 } else { fields_cost(extra) }
}

/// Merges the unknown fields of the next chunk: lists are concatenated, other fields keep their first value.
fn append_lists(fields: &mut Extra, next: &Extra) {
    if next.is_unset() {
        return;
    }
    let mut merged = Map::from(std::mem::take(fields));
    for (name, value) in next {
        match (merged.get_mut(name), value) {
            (Some(Value::Array(list)), Value::Array(next)) => list.extend_from_slice(next),
            (Some(_), _) => {}
            (None, value) => drop(merged.insert(name.clone(), value.clone())),
        }
    }
    *fields = merged.into();
}

/// Reads the alternatives of a token. To bound the depth, their own `top_logprobs` stay in `extra`.
fn alternatives(value: List<Map<String, Value>>) -> Lenient<Vec<TokenLogprob>> {
    let alternative = |mut fields: Map<String, Value>| {
        let deeper = fields.remove("top_logprobs");
        let mut token: TokenLogprob = serde_json::from_value(fields.into()).ok()?;
        deeper.into_iter().for_each(|deeper| token.extra.insert("top_logprobs", deeper));
        Some(token)
    };
    Ok(list(value)?.map(|items| items.into_iter().filter_map(alternative).collect()))
}

debug_without_content!(TokenLogprob, token => logprob: token.logprob);
