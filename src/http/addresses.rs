//! The addresses of a service's paths.

use std::sync::Mutex;

use ureq::http;
use ureq::http::uri::{PathAndQuery, Uri};

use crate::runtime::sync::lock;
use crate::wire::base_url::with_query;

/// Appends paths to a base address.
pub(super) struct Addresses {
    base: Uri,
    /// The query that every request has, with placeholders for its values.
    query: String,
    /// The last path and its address: most clients request the same path again and again.
    last: Mutex<Option<(String, Uri)>>,
}

impl Addresses {
    pub(super) fn new(base: Uri, query: String) -> Addresses {
        Addresses { base, query, last: Mutex::default() }
    }

    /// The address of a path.
    pub(super) fn of(&self, path: &str) -> Result<Uri, http::Error> {
        let mut last = lock(&self.last);
        match &*last {
            Some((known, address)) if known == path => return Ok(address.clone()),
            _ => {}
        }
        let mut parts = self.base.clone().into_parts();
        let base = parts.path_and_query.as_ref().map_or("", |base| base.path().trim_end_matches('/'));
        let target = match self.query.as_str() {
            "" => [base, path].concat(),
            query => [base, &with_query(path, query)].concat(),
        };
        parts.path_and_query = Some(PathAndQuery::try_from(target)?);
        let address = Uri::from_parts(parts)?;
        *last = Some((path.to_owned(), address.clone()));
        Ok(address)
    }
}
