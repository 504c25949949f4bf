//! The requests that a batch can send, and how each becomes a call.
#![allow(
    private_interfaces,
    reason = "the trait is sealed: it can't be named or implemented outside of the crate"
)]

use crate::api::{ChatRequest, ChatResponse, EmbeddingRequest, EmbeddingResponse, Usage};
use crate::client::Client;
use crate::client::call::Call;
use crate::error::Result;
use crate::http::request::HttpRequest;
use crate::meta::{Attempt, Meta};

/// A request of a batch.
pub trait Sendable {
    type Answer;

    fn begin(&self, client: &Client) -> Result<Call<'static>>;
    /// Makes one attempt.
    fn send(&self, client: &Client, sent: &HttpRequest<'_>) -> Attempt<Box<Self::Answer>>;
    fn usage(answer: &Self::Answer) -> Option<&Usage>;
    fn with_meta(answer: Self::Answer, meta: Meta) -> Self::Answer;
}

impl Sendable for ChatRequest {
    type Answer = ChatResponse;

    fn begin(&self, client: &Client) -> Result<Call<'static>> {
        client.begin_chat(self).map(Call::into_owned)
    }

    fn send(&self, client: &Client, sent: &HttpRequest<'_>) -> Attempt<Box<ChatResponse>> {
        client.send_chat(self, sent)
    }

    fn usage(answer: &ChatResponse) -> Option<&Usage> {
        answer.usage.as_ref()
    }

    fn with_meta(answer: ChatResponse, meta: Meta) -> ChatResponse {
        answer.with_meta(meta)
    }
}

impl Sendable for EmbeddingRequest {
    type Answer = EmbeddingResponse;

    fn begin(&self, client: &Client) -> Result<Call<'static>> {
        client.begin_embeddings(self).map(Call::into_owned)
    }

    fn send(&self, client: &Client, sent: &HttpRequest<'_>) -> Attempt<Box<EmbeddingResponse>> {
        client.send_embeddings(self, sent)
    }

    fn usage(answer: &EmbeddingResponse) -> Option<&Usage> {
        answer.usage.as_ref()
    }

    fn with_meta(answer: EmbeddingResponse, meta: Meta) -> EmbeddingResponse {
        EmbeddingResponse { meta, ..answer }
    }
}
