//! Creates a client from its configuration, over any transport.

use std::sync::Arc;

use crate::client::Client;
use crate::client::call::CallOptions;
use crate::client::config::Config;
use crate::client::core::Core;
use crate::client::decode::ResponseDecoder;
use crate::client::key_provider::KeyProvider;
use crate::error::Result;
use crate::http::options::{Endpoint, HttpOptions};
use crate::http::transport::Transport;
use crate::runtime::cancel::Cancel;
use crate::runtime::clock::Clock;

impl Client {
    /// [`new`](Client::new) with the transport that `open` makes.
    pub(super) fn with_transport(
        config: Config,
        open: impl FnOnce(&HttpOptions, Endpoint, Clock, Cancel) -> Result<Transport>,
    ) -> Result<Client> {
        let Config { settings, endpoint } = config;
        let is_own = endpoint.base.holysheep && !settings.api_key.is_empty();
        let key_length = is_own.then(|| settings.api_key.chars().count());
        let secrets = || Arc::clone(&endpoint.headers.secrets);
        let function = settings.key_function.clone();
        let keys = function.map(|function| Arc::new(KeyProvider::new(function, secrets())));
        let options = Arc::new(CallOptions {
            retry: settings.retry.clone(),
            deadline: settings.deadline,
            timeout: settings.http.timeout,
            headers: endpoint.headers.clone(),
            decoder: ResponseDecoder::new(&endpoint, keys.clone()),
            keys,
            background: false,
            cancellation: None,
        });
        Ok(Client { core: Arc::new(Core::new(&settings, endpoint, open)?), options, key_length })
    }
}
