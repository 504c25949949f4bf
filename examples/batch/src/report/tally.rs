//! The counts of a run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use holysheep::Error;

use crate::endpoint::Answer;
use crate::judge::{Flag, Verdict};

/// The longest time of an item that the percentiles know, in milliseconds: a day.
const LONGEST_ITEM: u64 = 24 * 60 * 60 * 1000;

pub(crate) struct Tally {
    started: Instant,
    pub(crate) skipped: usize,
    pub(crate) answered: usize,
    pub(crate) failed: usize,
    pub(crate) milliseconds: Histogram<u64>,
    /// Failures by kind.
    pub(crate) kinds: BTreeMap<String, usize>,
    /// Answers by flag, whether they count as failures or not.
    pub(crate) flags: BTreeMap<Flag, usize>,
}

impl Tally {
    pub(crate) fn new() -> Result<Tally, crate::RunError> {
        Ok(Tally {
            started: Instant::now(),
            skipped: 0,
            answered: 0,
            failed: 0,
            milliseconds: Histogram::new_with_max(LONGEST_ITEM, 3)?,
            kinds: BTreeMap::new(),
            flags: BTreeMap::new(),
        })
    }

    /// Counts an item that is done.
    pub(crate) fn skip(&mut self) {
        self.skipped += 1;
    }

    /// Counts a result.
    pub(crate) fn add(&mut self, result: &Result<Answer, Error>, verdict: &Verdict) {
        match &verdict.failure {
            Some(failure) => {
                self.failed += 1;
                *self.kinds.entry(failure.kind.clone()).or_default() += 1;
            }
            None => self.answered += 1,
        }
        for flag in &verdict.flags {
            *self.flags.entry(*flag).or_default() += 1;
        }
        if let Ok(answer) = result {
            let time = answer.meta().elapsed.as_millis().try_into().unwrap_or(u64::MAX);
            self.milliseconds.saturating_record(time);
        }
    }

    /// Takes back failures that aren't written.
    pub(crate) fn forget(&mut self, failures: usize, kind: &str) {
        self.failed -= failures;
        if let Some(count) = self.kinds.get_mut(kind) {
            *count -= failures;
        }
        self.kinds.retain(|_, count| *count > 0);
    }

    pub(crate) fn finished(&self) -> usize {
        self.answered + self.failed
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn per_minute(&self) -> f64 {
        self.finished() as f64 * 60.0 / self.elapsed().as_secs_f64().max(0.001)
    }

    /// Items of a total that are still to be done.
    pub(crate) fn left(&self, total: usize) -> usize {
        total.saturating_sub(self.finished() + self.skipped)
    }

    /// The time that this many items take at the rate so far.
    pub(crate) fn time_for(&self, items: usize) -> Option<Duration> {
        Duration::try_from_secs_f64(items as f64 * 60.0 / self.per_minute()).ok()
    }
}
