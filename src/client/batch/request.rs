//! The requests that a batch can send, and how each becomes a call.
#![allow(
    private_interfaces,
    reason = "the trait is sealed: it can't be named or implemented outside of the crate"
)]

use crate::adaptive::Acquired;
use crate::api::{ChatRequest, ChatResponse, EmbeddingRequest, EmbeddingResponse};
use crate::client::Client;
use crate::client::call::{Call, Progressed};
use crate::error::Result;
use crate::meta::Meta;

/// A request of a batch.
pub trait Sendable {
    type Answer;

    fn begin(&self, client: &Client) -> Result<Call<'static>>;
    /// Makes one attempt.
    fn attempt(
        &self,
        client: &Client,
        call: &mut Call<'static>,
        acquired: Acquired,
    ) -> Progressed<Box<Self::Answer>>;
    fn with_meta(answer: Self::Answer, meta: Meta) -> Self::Answer;
}

impl Sendable for ChatRequest {
    type Answer = ChatResponse;

    fn begin(&self, client: &Client) -> Result<Call<'static>> {
        client.begin_chat(self).map(Call::into_owned)
    }

    fn attempt(
        &self,
        client: &Client,
        call: &mut Call<'static>,
        acquired: Acquired,
    ) -> Progressed<Box<ChatResponse>> {
        client.core.attempt(call, acquired, |sent| client.send_chat(self, sent))
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

    fn attempt(
        &self,
        client: &Client,
        call: &mut Call<'static>,
        acquired: Acquired,
    ) -> Progressed<Box<EmbeddingResponse>> {
        client.core.attempt(call, acquired, |sent| client.send_embeddings(self, sent))
    }

    fn with_meta(answer: EmbeddingResponse, meta: Meta) -> EmbeddingResponse {
        EmbeddingResponse { meta, ..answer }
    }
}
