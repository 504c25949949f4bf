//! Reports the progress and the end of calls to the log and as events.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::adaptive::{Change, Expected, Learned, Wait};
use crate::api::Usage;
use crate::client::core::Core;
use crate::client::event::{Event, error_class};
use crate::error::Error;
use crate::json::extra::Extra;
use crate::meta::Meta;
use crate::retry::{CallState, Progress};

/// Calls are numbered per process, not per client: one observer may serve several clients.
static CALLS: AtomicU64 = AtomicU64::new(0);

/// The number of the next call, from 1.
pub(super) fn next_number() -> u64 {
    CALLS.fetch_add(1, Ordering::Relaxed) + 1
}

/// The number and model of a call, as events and log lines show them.
#[derive(Clone, Copy)]
pub(super) struct CallName<'a> {
    pub(super) number: u64,
    pub(super) model: &'a str,
}

impl fmt::Display for CallName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.model {
            "" => write!(f, "call {}", self.number),
            model => write!(f, "call {} ({model})", self.number),
        }
    }
}

impl Core {
    /// Passes an event with the call's number and model to the observer, if there is one.
    pub(super) fn emit(&self, name: CallName<'_>, event: impl FnOnce(u64, String) -> Event) {
        if let Some(observer) = &self.observer {
            observer(&event(name.number, name.model.to_owned()));
        }
    }

    /// Reports what happens between attempts.
    pub(super) fn report(&self, name: CallName<'_>, state: &CallState, progress: &Progress<'_, Error>) {
        let attempt = state.attempts;
        match *progress {
            Progress::Waiting(Expected { time: wait, cause }) => {
                let attempt = attempt + 1;
                match wait {
                    Some(wait) => log::debug!("{name}: attempt {attempt} waits {wait:?} because of {cause}"),
                    None => log::debug!("{name}: attempt {attempt} waits because of {cause}"),
                }
                self.emit(name, |call, model| Event::Waiting { call, model, attempt, wait, cause });
            }
            Progress::Paced(Wait { time: waited, cause }) => {
                log::debug!("{name}: attempt {attempt} waited {waited:?} because of {cause}");
                self.emit(name, |call, model| Event::Paced { call, model, attempt, waited, cause });
            }
            Progress::Learned(Change { rate_per_minute, breaker, learned }) => {
                if let Some(per_minute) = rate_per_minute {
                    log::debug!("{name}: the rate is limited to {per_minute:.1} calls a minute");
                    self.emit(name, |call, model| Event::Rate { call, model, per_minute });
                }
                // The handler logs it itself, because programs without this client need the line too.
                if let Some(learned) = learned {
                    let Learned { refused_for, rate_per_minute, max_in_flight, headers_believed } = learned;
                    self.emit(name, |call, model| Event::Learned {
                        call,
                        model,
                        refused_for,
                        rate_per_minute,
                        max_in_flight,
                        headers_believed,
                    });
                }
                if let Some(state) = breaker {
                    log::warn!("{name}: the circuit breaker is {state}");
                    self.emit(name, |call, model| Event::Breaker { call, model, state });
                }
            }
            Progress::Retrying { error, wait } => {
                let why = error.outline();
                log::warn!("{name}: attempt {attempt} failed ({why}); retrying {}", In(wait));
                let status = error.status();
                let error = error_class(error);
                self.emit(name, |call, model| Event::Retry {
                    call,
                    model,
                    attempt,
                    status,
                    error,
                    wait,
                    why,
                });
            }
        }
    }

    /// Reports the end of a call with its metadata, and its usage or error.
    pub(super) fn report_end(&self, name: CallName<'_>, meta: &Meta, result: Result<Option<&Usage>, &Error>) {
        if self.observer.is_none() && !log::log_enabled!(log::Level::Debug) {
            return;
        }
        let usage = result.ok().flatten();
        match result {
            Ok(_) => log_end(name, meta, format_args!("ended with status {}", meta.status)),
            Err(error) => log_end(name, meta, format_args!("failed ({})", error.outline())),
        }
        self.emit_end(name, meta, result.err().and_then(Error::status), result.err().map(error_class), usage);
    }

    fn emit_end(
        &self,
        name: CallName<'_>,
        meta: &Meta,
        status: Option<u16>,
        error: Option<&'static str>,
        usage: Option<&Usage>,
    ) {
        let Meta { attempts, elapsed, waited, .. } = *meta;
        let status = status.or(Some(meta.status).filter(|status| *status != 0));
        self.emit(name, |call, model| {
            // Unknown fields of the usage may contain anything.
            let usage = usage.map(|usage| Usage { extra: Extra::default(), ..usage.clone() });
            Event::End { call, model, attempts, elapsed, waited, status, error, usage }
        });
    }
}

fn log_end(name: CallName<'_>, Meta { attempts, elapsed, .. }: &Meta, how: fmt::Arguments<'_>) {
    let s = if *attempts == 1 { "" } else { "s" };
    log::debug!("{name}: {how} after {attempts} attempt{s} in {elapsed:?}");
}

/// Formats a wait: "at once" or "in 2s".
struct In(Duration);

impl fmt::Display for In {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Duration::ZERO => f.write_str("at once"),
            wait => write!(f, "in {wait:?}"),
        }
    }
}

/// Reports the end of a streamed call once: when the stream ends, or when this is dropped.
pub(super) struct StreamReport {
    core: Arc<Core>,
    number: u64,
    model: String,
    started: Instant,
    /// The metadata of the call up to the first chunk.
    meta: Meta,
    /// The whole answer has arrived.
    has_finished: bool,
    is_reported: bool,
}

impl StreamReport {
    pub(super) fn new(core: &Arc<Core>, name: CallName<'_>, started: Instant) -> StreamReport {
        StreamReport {
            core: Arc::clone(core),
            number: name.number,
            model: name.model.to_owned(),
            started,
            meta: Meta::default(),
            has_finished: false,
            is_reported: false,
        }
    }

    pub(super) fn model(&self) -> &str {
        &self.model
    }

    /// Records that the stream was opened, and whether it has finished already, or that the call ended with this error.
    pub(super) fn opened(&mut self, meta: &Meta, result: Result<bool, &Error>) {
        let Meta { attempts, waited, status, .. } = *meta;
        self.meta = Meta { attempts, waited, status, ..Meta::default() };
        match result {
            Ok(has_finished) => self.has_finished = has_finished,
            Err(error) => self.report_end(Err(error)),
        }
    }

    /// Records that the whole answer has arrived, even if it hasn't been read.
    pub(super) fn finished(&mut self) {
        self.has_finished = true;
    }

    /// Reports that the call ended, with its whole answer or with this error.
    pub(super) fn end(mut self, usage: Option<&Usage>, error: Option<&Error>) {
        self.report_end(error.map_or(Ok(usage), Err));
    }

    fn report_end(&mut self, result: Result<Option<&Usage>, &Error>) {
        self.report(|core, name, meta| core.report_end(name, meta, result));
    }

    fn report(&mut self, report: impl FnOnce(&Core, CallName<'_>, &Meta)) {
        if !std::mem::replace(&mut self.is_reported, true) {
            self.meta.elapsed = self.core.clock.now().saturating_duration_since(self.started);
            report(&self.core, CallName { number: self.number, model: &self.model }, &self.meta);
        }
    }
}

impl Drop for StreamReport {
    fn drop(&mut self) {
        let error = (!self.has_finished).then_some("dropped");
        self.report(|core, name, meta| {
            let how = if error.is_some() { "dropped before its end" } else { "ended" };
            log_end(name, meta, format_args!("{how}"));
            core.emit_end(name, meta, None, error, None);
        });
    }
}
