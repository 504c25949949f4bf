//! The endpoints that the tool calls: what their requests are made of, and what their answers tell.

use holysheep::{BatchRequest, ChatResponse, EmbeddingResponse, Meta, Usage};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::input::line::Fields;
use crate::options::Defaults;

/// Which endpoint a request is for. All requests of a run are for one, as in OpenAI's Batch API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Embeddings,
}

/// The requests of one endpoint.
pub(crate) trait Endpoint: BatchRequest + DeserializeOwned {
    const KIND: Kind;

    /// Takes the parameters out of a line that has them beside its prompt or input. What stays are columns.
    ///
    /// # Errors
    /// What is wrong with the line.
    fn take_parameters(fields: &mut Fields, defaults: &Defaults) -> Result<Map<String, Value>, String>;

    /// Completes a request by what only this endpoint knows, and refuses what no service would answer.
    ///
    /// # Errors
    /// What is wrong with the request.
    fn complete(request: &mut Map<String, Value>, defaults: &Defaults) -> Result<(), String>;

    fn check(&self) -> holysheep::Result<()>;

    fn model(&self) -> &str;

    /// A request that the client refuses before anything is sent: it has no model.
    fn unsendable() -> Self;

    fn answer(response: Self::Response) -> Answer;
}

/// An answer of either endpoint.
#[derive(Debug)]
pub(crate) enum Answer {
    Chat(ChatResponse),
    Embeddings(EmbeddingResponse),
}

impl Kind {
    /// The endpoint of a URL, absolute or not.
    pub(crate) fn of_url(url: &str) -> Option<Kind> {
        [Kind::Chat, Kind::Embeddings].into_iter().find(|kind| url.ends_with(kind.path()))
    }

    /// The endpoint that a field belongs to, as the one that a request can't do without.
    pub(crate) fn of_fields(has: impl Fn(&str) -> bool) -> Option<Kind> {
        if has("messages") || has("prompt") {
            Some(Kind::Chat)
        } else {
            has("input").then_some(Kind::Embeddings)
        }
    }

    /// The end of its URLs.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Kind::Chat => "/chat/completions",
            Kind::Embeddings => "/embeddings",
        }
    }

    /// What its requests ask for.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Chat => "chats",
            Kind::Embeddings => "embeddings",
        }
    }

    /// Whether a service charges for what it answers.
    pub(crate) fn has_output_tokens(self) -> bool {
        self == Kind::Chat
    }
}

impl Answer {
    pub(crate) fn chat(&self) -> Option<&ChatResponse> {
        match self {
            Answer::Chat(response) => Some(response),
            Answer::Embeddings(_) => None,
        }
    }

    /// One vector for each text.
    pub(crate) fn embeddings(&self) -> Option<Vec<&[f32]>> {
        match self {
            Answer::Chat(_) => None,
            Answer::Embeddings(response) => Some(response.vectors().collect()),
        }
    }

    pub(crate) fn model(&self) -> &str {
        match self {
            Answer::Chat(response) => &response.model,
            Answer::Embeddings(response) => &response.model,
        }
    }

    pub(crate) fn usage(&self) -> Option<&Usage> {
        match self {
            Answer::Chat(response) => response.usage.as_ref(),
            Answer::Embeddings(response) => response.usage.as_ref(),
        }
    }

    pub(crate) fn meta(&self) -> &Meta {
        match self {
            Answer::Chat(response) => response.meta(),
            Answer::Embeddings(response) => response.meta(),
        }
    }
}
