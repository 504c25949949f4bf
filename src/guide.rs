//! Guides: what the crate does and how to use it, by topic.
//!
//! | guide | what it covers |
//! |---|---|
//! | [`retrying`] | how a call proceeds, what is retried, how long it waits; `retry` for any fallible call |
//! | [`adaptive_handler`] | rate limiter, concurrency limit, circuit breaker, retry budget; their limits |
//! | [`streams`] | reading, cancelling, and truncated streams |
//! | [`batches`] | many requests from one iterator |
//! | [`errors_by_symptom`] | cause and fix for each kind of error |
//! | [`testing`] | testing a program against a faulty server, without waiting |
//! | [`recipes`] | other services, proxies, certificates, static binaries, cron, Ctrl-C, metrics |

#[doc = include_str!("guide/retrying.md")]
pub mod retrying {}

#[doc = include_str!("guide/adaptive_handler.md")]
///
/// <style>#simulation svg { max-width: 100%; height: auto; }</style>
/// <div id="simulation">
///
#[doc = include_str!("../docs/simulation.svg")]
///
/// </div>
pub mod adaptive_handler {}

#[doc = include_str!("guide/streams.md")]
pub mod streams {}

#[doc = include_str!("guide/batches.md")]
pub mod batches {}

#[doc = include_str!("guide/errors_by_symptom.md")]
pub mod errors_by_symptom {}

#[doc = include_str!("guide/testing.md")]
pub mod testing {}

#[doc = include_str!("guide/recipes.md")]
pub mod recipes {}

// The README's examples are compiled, too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
