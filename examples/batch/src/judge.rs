//! Decides what an item's result counts as: an answer, an answer with flags, or a failure of some kind.

use holysheep::{ChatResponse, Choice, Error};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::endpoint::Answer;
use crate::job::Pending;
use crate::options::Options;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Flag {
    /// It was cut by the token limit.
    Length,
    /// It has neither text nor tool calls.
    Empty,
    /// The service's content filter cut or withheld it.
    Filter,
    /// The model refused to answer.
    Refusal,
    /// It isn't JSON where JSON was expected.
    NotJson,
}

/// Where an answer has to be JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonExpected {
    Nowhere,
    /// Where `response_format` asks for it.
    WhereAsked,
    Everywhere,
}

/// What a result counts as.
pub(crate) struct Verdict {
    pub(crate) flags: Vec<Flag>,
    pub(crate) failure: Option<ItemFailure>,
}

/// Why an item counts as failed.
pub(crate) struct ItemFailure {
    /// In a few words, so that failures can be counted.
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) status: Option<u16>,
    pub(crate) retryable: bool,
    pub(crate) scope: Scope,
}

/// What a failure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The item: others may well be answered.
    Item,
    /// The key, the model or the service: others probably fail in the same way.
    Service,
    /// The key or the account: every other item fails in the same way.
    Account,
}

pub(crate) fn judge(pending: &Pending, result: &Result<Answer, Error>, options: &Options) -> Verdict {
    let (flags, failure) = match (&pending.bad, result) {
        (Some(bad), _) => (Vec::new(), Some(ItemFailure::of_item("bad line", bad.clone()))),
        (None, Ok(Answer::Embeddings(_))) => (Vec::new(), None), // the client has checked them
        (None, Ok(Answer::Chat(response))) => {
            let everywhere = options.json_expected == JsonExpected::Everywhere;
            let flags = flags(response, everywhere || pending.wants_json);
            let failure = flags.iter().find(|flag| options.fail_on.contains(flag));
            let message = |flag: &Flag| match flag {
                Flag::Empty if flags.contains(&Flag::Length) => {
                    format!("{}; {}", Flag::Empty.message(), Flag::Length.message())
                }
                flag => flag.message().to_owned(),
            };
            let failure = failure.map(|flag| ItemFailure::of_item(flag.name(), message(flag)));
            (flags, failure)
        }
        (None, Err(error)) => (Vec::new(), Some(ItemFailure::of_error(error))),
    };
    Verdict { flags, failure }
}

/// What is wrong with an answer, the most telling flag first.
fn flags(response: &ChatResponse, wants_json: bool) -> Vec<Flag> {
    let any = |test: &dyn Fn(&Choice) -> bool| response.choices.iter().any(test);
    let ended = |words: &'static [&'static str]| {
        move |choice: &Choice| {
            let reason = choice.finish_reason.as_deref().unwrap_or_default();
            words.iter().any(|word| reason.eq_ignore_ascii_case(word))
        }
    };
    let mut flags = Vec::new();
    let mut add = |flag, is_so: bool| flags.extend(is_so.then_some(flag));
    add(Flag::Filter, any(&ended(&FILTERED)));
    add(Flag::Refusal, any(&|choice| choice.message.refusal.is_some() || ended(&["refusal"])(choice)));
    add(Flag::Empty, any(&is_empty));
    add(Flag::Length, any(&ended(&["length", "max_tokens", "model_length"])));
    let is_json = || response.json::<IgnoredAny>().is_ok() || !response.tool_calls().is_empty();
    add(Flag::NotJson, wants_json && !is_json());
    flags
}

/// Finish reasons of content filters: OpenAI's, Gemini's and Zhipu's.
const FILTERED: [&str; 7] =
    ["content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii", "sensitive"];

fn is_empty(choice: &Choice) -> bool {
    let message = &choice.message;
    let other = ["audio", "images"].into_iter().any(|name| message.extra.get(name).is_some());
    message.text().trim().is_empty()
        && message.tool_calls.is_empty()
        && message.function_call.is_none()
        && message.refusal.as_deref().is_none_or(str::is_empty)
        && !other
}

impl Flag {
    /// As in the output.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Flag::Length => "length",
            Flag::Empty => "empty",
            Flag::Filter => "filter",
            Flag::Refusal => "refusal",
            Flag::NotJson => "not_json",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Flag::Length => "the answer was cut by the token limit; raise max_tokens",
            Flag::Empty => "the answer is empty",
            Flag::Filter => "the service's content filter cut or withheld the answer",
            Flag::Refusal => "the model refused to answer",
            Flag::NotJson => "the answer isn't JSON",
        }
    }
}

impl ItemFailure {
    fn of_item(kind: &str, message: String) -> ItemFailure {
        ItemFailure { kind: kind.to_owned(), message, status: None, retryable: false, scope: Scope::Item }
    }

    fn of_error(error: &Error) -> ItemFailure {
        ItemFailure {
            kind: kind(error),
            message: crate::chain(error),
            status: error.status(),
            retryable: error.is_retryable(),
            scope: scope(error),
        }
    }
}

fn kind(error: &Error) -> String {
    match error {
        Error::GaveUp { last, .. } => kind(last),
        Error::Api { status, .. } => format!("status {status}"),
        Error::Connect { .. } => "no connection".to_owned(),
        Error::Timeout { phase, .. } => format!("timeout while {phase}"),
        Error::Transport { .. } => "connection broken".to_owned(),
        Error::Decode { .. } => "unreadable answer".to_owned(),
        Error::TooLarge { .. } => "answer too large".to_owned(),
        Error::Deadline { .. } => "deadline".to_owned(),
        Error::Config { setting, .. } => format!("wrong {setting}"),
        _ => "other".to_owned(),
    }
}

fn scope(error: &Error) -> Scope {
    match error {
        Error::GaveUp { last, .. } => scope(last),
        Error::Api { status: 401, .. } => Scope::Account,
        _ if error.is_billing() => Scope::Account,
        // A 429 that isn't retryable otherwise refuses a request larger than the limit.
        Error::Api { status: 400 | 413 | 422 | 429, .. }
        | Error::TooLarge { .. }
        | Error::Deadline { .. } => Scope::Item,
        _ if error.is_retryable() => Scope::Item,
        _ => Scope::Service,
    }
}
