//! The summary at the end of a run, as text and as JSON.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::RunError;
use crate::budget::Budget;
use crate::job::{Job, Stop};
use crate::options::Place;
use crate::report::tally::Tally;

/// Kinds of failures that the text lists.
const KINDS_LISTED: usize = 5;

/// The facts of the summary.
pub(crate) struct Summary<'a> {
    pub(crate) job: &'a Job,
    pub(crate) stop: Option<&'a Stop>,
    /// Failures of earlier runs that are still in the output.
    pub(crate) failed_before: usize,
    pub(crate) exit_status: u8,
}

/// Tokens and cost, as far as they are known.
pub(crate) fn used(budget: &Budget) -> String {
    let now = budget.now();
    let mut text = format!("{} + {} tokens", now.input, now.output);
    if let Some(cost) = budget.cost() {
        let _ = write!(text, ", ${cost:.2}");
    }
    if now.unknown > 0 {
        let _ = write!(text, " ({} answers without usage)", now.unknown);
    }
    text
}

impl Summary<'_> {
    /// A few lines.
    pub(crate) fn text(&self) -> String {
        let (used, attempts) = (self.job.budget(used), self.job.service.attempts());
        let mut text = self.job.tally(|tally| counts(tally, &used, attempts));
        if let Some(stop) = self.stop {
            let _ = writeln!(text, "{}", stopped(stop));
        }
        if self.failed_before > 0 {
            let _ =
                writeln!(text, "{} items failed in earlier runs and were not sent again", self.failed_before);
        }
        if self.failed_before > 0 || self.job.tally(|tally| tally.failed) > 0 {
            text.push_str("to send the failed items again, run the same with --resume --retry-failed\n");
        }
        if self.stop.is_some() {
            text.push_str("to continue, run the same with --resume\n");
        }
        text
    }

    /// Writes it as JSON.
    pub(crate) fn write(&self, place: &Place) -> Result<(), RunError> {
        let text = format!("{:#}\n", self.json());
        match place {
            Place::Standard => write!(std::io::stdout(), "{text}"),
            Place::File(path) => fs::write(path, text),
        }
        .map_err(|error| format!("can't write the summary: {error}").into())
    }

    fn json(&self) -> Value {
        let (attempts, retries) = self.job.service.attempts();
        let used = self.job.budget(|budget| *budget.now());
        let cost = self.job.budget(Budget::cost);
        self.job.tally(|tally| {
            let [half, most, nearly, all] = seconds(tally);
            let flags: serde_json::Map<_, _> =
                tally.flags.iter().map(|(flag, count)| (flag.name().to_owned(), json!(count))).collect();
            json!({
                "answered": tally.answered,
                "failed": tally.failed,
                "already_done": tally.skipped,
                "failed_before": self.failed_before,
                "requests": attempts,
                "retries": retries,
                "seconds": tally.elapsed().as_secs_f64(),
                "per_minute": tally.per_minute(),
                "item_seconds": {"median": half, "p90": most, "p99": nearly, "max": all},
                "tokens": {"input": used.input, "cached_input": used.cached, "output": used.output},
                "answers_without_usage": used.unknown,
                "cost": cost,
                "failures": tally.kinds,
                "flags": flags,
                "stopped": self.stop.map(stopped),
                "exit_status": self.exit_status,
            })
        })
    }
}

/// What was counted, in lines.
fn counts(tally: &Tally, used: &str, (attempts, retries): (u64, u64)) -> String {
    let mut text = format!(
        "{} answered, {} failed, {} already done; {:.1} s, {:.0} a minute; {attempts} requests, {retries} of them retries\n",
        tally.answered,
        tally.failed,
        tally.skipped,
        tally.elapsed().as_secs_f64(),
        tally.per_minute(),
    );
    if !tally.milliseconds.is_empty() {
        let [half, most, nearly, all] = seconds(tally);
        let _ = writeln!(
            text,
            "seconds an item, waits included: median {half:.2}, 90 % {most:.2}, 99 % {nearly:.2}, maximum {all:.2}"
        );
        let _ = writeln!(text, "{used}");
    }
    let mut kinds: Vec<_> = tally.kinds.iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (kind, count) in kinds.into_iter().take(KINDS_LISTED) {
        let _ = writeln!(text, "{count} failed: {kind}");
    }
    for (flag, count) in &tally.flags {
        let _ = writeln!(text, "{count} answers flagged: {}", flag.name());
    }
    text
}

/// Median, 90 %, 99 % and maximum of the time that an item took.
fn seconds(tally: &Tally) -> [f64; 4] {
    [0.5, 0.9, 0.99, 1.0].map(|part| tally.milliseconds.value_at_quantile(part) as f64 / 1000.0)
}

fn stopped(stop: &Stop) -> String {
    match stop {
        Stop::Hopeless(why) => format!("stopped, because every further request would fail too: {why}"),
        Stop::Input(why) | Stop::Budget(why) => format!("stopped: {why}"),
        Stop::FirstFailure => "stopped at the first failure".to_owned(),
        Stop::Interrupted => "interrupted".to_owned(),
    }
}
