//! The list of models that a service offers.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A model as the service lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Model {
    /// The name to put into a request.
    pub id: String,
    /// Whatever else the service says about it.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The list as it comes: `{"data": […]}` almost everywhere, the bare array at some gateways.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum ModelList {
    Wrapped { data: Vec<Model> },
    Bare(Vec<Model>),
}

impl ModelList {
    pub(crate) fn into_vec(self) -> Vec<Model> {
        match self {
            ModelList::Wrapped { data } | ModelList::Bare(data) => data,
        }
    }
}
