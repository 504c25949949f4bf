//! What the client asks of an answer, whatever its type.

use std::time::Duration;

use crate::adaptive::StreamPlace;
use crate::api::{ChatResponse, EmbeddingResponse, Usage};

/// The answer to a call.
pub(crate) trait Answer {
    /// The usage, where it is known already.
    fn usage(&self) -> Option<&Usage>;

    /// The inactivity timeout of an answer that is still arriving: it keeps its place among the calls in flight, but not
    /// longer than this without being read.
    fn inactivity_timeout(&self) -> Option<Duration> {
        None
    }

    /// Takes the place of its call among the calls in flight, to return it at the end of the answer.
    fn hold(&mut self, _place: StreamPlace) {}
}

impl Answer for ChatResponse {
    fn usage(&self) -> Option<&Usage> {
        self.usage.as_ref()
    }
}

impl Answer for EmbeddingResponse {
    fn usage(&self) -> Option<&Usage> {
        self.usage.as_ref()
    }
}

impl<T: Answer> Answer for Box<T> {
    fn usage(&self) -> Option<&Usage> {
        (**self).usage()
    }
}

/// An answer of any type, of which nothing else is known.
pub(crate) struct Other<T>(pub(crate) T);

impl<T> Answer for Other<T> {
    fn usage(&self) -> Option<&Usage> {
        None
    }
}
