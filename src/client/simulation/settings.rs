//! The settings of a simulated client, drawn by seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;

use crate::adaptive::AdaptiveConfig;
use crate::client::Client;
use crate::client::config::{Config, ConfigBuilder};
use crate::client::event::Event;
use crate::http::simulation::Network;
use crate::policy::backoff::RetryConfig;
use crate::runtime::clock::Clock;

/// The settings that the invariants depend on.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) max_retries: Option<u32>,
    pub(super) throttle_retries: Option<u32>,
    pub(super) timeout: Duration,
    pub(super) deadline: Option<Duration>,
    pub(super) handler: HandlerKind,
    pub(super) sends_idempotency_keys: bool,
    /// A function returns the keys, and a different one after each so many requests for one.
    pub(super) key_lifetime: Option<u64>,
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HandlerKind {
    Adaptive,
    /// Adaptive, and calls wait while the breaker is open.
    Patient,
    AsPublished,
    Off,
}

impl Settings {
    pub(super) fn draw(random: &mut Rng) -> Settings {
        let seconds = |seconds: u64| Duration::from_secs(seconds);
        let mut count = |most| random.bool().then(|| random.u32(0..=most));
        let (max_retries, throttle_retries) = (count(6), count(12));
        Settings {
            max_retries,
            throttle_retries,
            timeout: seconds(*random.choice(&[5, 60, 60, 600]).unwrap_or(&60)),
            deadline: random.bool().then(|| seconds(random.u64(2..600))),
            handler: match random.u8(0..8) {
                0 => HandlerKind::Off,
                1 => HandlerKind::AsPublished,
                2 | 3 => HandlerKind::Patient,
                _ => HandlerKind::Adaptive,
            },
            sends_idempotency_keys: random.u8(0..5) > 0,
            key_lifetime: (random.u8(0..6) == 0).then(|| random.u64(1..5)),
            seed: random.u64(..),
        }
    }

    /// A client with these settings on this network.
    pub(super) fn client(
        &self,
        network: &Network,
        clock: &Clock,
        observer: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Client {
        let config = Config::builder()
            .base_url("http://127.0.0.1:1/v1")
            .clock(clock.clone())
            .retry(self.retry())
            .adaptive(self.adaptive())
            .timeout(self.timeout)
            .deadline(self.deadline)
            .idempotency_key(self.sends_idempotency_keys)
            .on_event(observer);
        let config = self.with_keys(config).build().unwrap();
        Client::with_transport(config, |options, endpoint, clock, cancel| {
            network.open(options, endpoint, clock, cancel)
        })
        .unwrap()
    }

    /// Whether the retries of single calls are limited by a budget of their model.
    pub(super) fn has_budget(&self) -> bool {
        self.handler == HandlerKind::Adaptive
    }

    /// The most attempts that a call with these settings may make.
    pub(super) fn max_attempts(&self, is_stream: bool, is_background: bool) -> u32 {
        let retries = match (self.max_retries, self.throttle_retries) {
            (Some(max), None) => max,
            (max, throttles) => max.unwrap_or(5) + throttles.unwrap_or(10),
        };
        let fallback = u32::from(is_stream);
        let new_key = u32::from(self.key_lifetime.is_some());
        let free_probes = if is_background { 30 } else { 0 };
        1 + retries + fallback + new_key + free_probes
    }

    fn retry(&self) -> RetryConfig {
        let mut retry = RetryConfig::default();
        if let Some(retries) = self.max_retries {
            retry = retry.max_retries(retries);
        }
        if let Some(retries) = self.throttle_retries {
            retry = retry.throttle_retries(retries);
        }
        retry
    }

    fn adaptive(&self) -> AdaptiveConfig {
        let config = match self.handler {
            HandlerKind::Adaptive => AdaptiveConfig::default(),
            HandlerKind::Patient => AdaptiveConfig::default().wait_when_open(true),
            HandlerKind::AsPublished => AdaptiveConfig::as_published(),
            HandlerKind::Off => AdaptiveConfig::off(),
        };
        config.seed(self.seed)
    }

    fn with_keys(&self, config: ConfigBuilder) -> ConfigBuilder {
        let Some(lifetime) = self.key_lifetime else { return config.api_key("sk-0123456789abcdef") };
        let asked = Arc::new(AtomicU64::new(0));
        config.api_key_from(move || {
            Ok(format!("sk-0123456789abcdef{}", asked.fetch_add(1, Ordering::Relaxed) / lifetime))
        })
    }
}
