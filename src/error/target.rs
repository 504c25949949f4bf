//! Which service and model a failed call was for.

use super::Error;

/// The service and the model that a call was for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Target {
    /// The host and port of the service.
    pub host: String,
    /// The model; empty for calls without one.
    pub model: String,
}

impl Error {
    /// The host and port of the service, if the error ended a call or no connection could be opened.
    pub fn host(&self) -> Option<&str> {
        match self {
            Error::GaveUp { host, .. } | Error::Connect { host, .. } => Some(host),
            _ => self.target().map(|target| target.host.as_str()),
        }
    }

    /// The model of the call that ended with this error; `None` for calls without one.
    pub fn model(&self) -> Option<&str> {
        let model = match self {
            Error::GaveUp { model, .. } => model,
            _ => &self.target()?.model,
        };
        Some(model.as_str()).filter(|model| !model.is_empty())
    }

    pub(super) fn target(&self) -> Option<&Target> {
        match self {
            Error::Api { target, .. }
            | Error::Connect { target, .. }
            | Error::Timeout { target, .. }
            | Error::Transport { target, .. }
            | Error::Decode { target, .. }
            | Error::NoAnswer { target, .. }
            | Error::StreamTruncated { target, .. }
            | Error::TooLarge { target, .. }
            | Error::CircuitOpen { target, .. }
            | Error::Deadline { target, .. } => target.as_deref(),
            _ => None,
        }
    }

    /// The error, which ended a call to this host.
    pub(crate) fn of_call(mut self, host: &str, model: &str) -> Error {
        if let Error::Api { target, .. }
        | Error::Connect { target, .. }
        | Error::Timeout { target, .. }
        | Error::Transport { target, .. }
        | Error::Decode { target, .. }
        | Error::NoAnswer { target, .. }
        | Error::StreamTruncated { target, .. }
        | Error::TooLarge { target, .. }
        | Error::CircuitOpen { target, .. }
        | Error::Deadline { target, .. } = &mut self
        {
            *target = Some(Box::new(Target { host: host.to_owned(), model: model.to_owned() }));
        }
        self
    }
}
