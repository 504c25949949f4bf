//! What is counted of a run, and how it is shown: a bar on a terminal, a line now and then elsewhere, a summary at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use holysheep::{BreakerState, ChatResponse, Error, Price, Usage};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::job::{Job, Stop, Tag};

/// How often the bar is drawn, and how often there is a line where there is no terminal.
const REDRAW: Duration = Duration::from_millis(250);
const NOW_AND_THEN: Duration = Duration::from_secs(30);

/// Waits longer than any back-off are the server's own wish.
const WORTH_TELLING: Duration = Duration::from_secs(60);

/// Kinds of errors that are told in the summary.
const KINDS_TOLD: usize = 5;

/// The longest time of a call that the percentiles know, in milliseconds: a day.
const LONGEST_CALL: u64 = 24 * 60 * 60 * 1000;

/// The counts of a run.
pub(crate) struct Tally {
    started: Instant,
    price: Option<Price>,
    pub(crate) skipped: usize,
    answered: usize,
    failed: usize,
    attempts: u64,
    retries: u64,
    tokens_in: u64,
    tokens_out: u64,
    cost: f64,
    /// Answers that didn't say what they used.
    untold: usize,
    milliseconds: Histogram<u64>,
    kinds: BTreeMap<String, usize>,
}

impl Tally {
    pub(crate) fn new(price: Option<Price>) -> Result<Tally, crate::Failure> {
        Ok(Tally {
            started: Instant::now(),
            price,
            skipped: 0,
            answered: 0,
            failed: 0,
            attempts: 0,
            retries: 0,
            tokens_in: 0,
            tokens_out: 0,
            cost: 0.0,
            untold: 0,
            milliseconds: Histogram::new_with_max(LONGEST_CALL, 3)?,
            kinds: BTreeMap::new(),
        })
    }

    pub(crate) fn add(&mut self, tag: &Tag, result: &Result<ChatResponse, Error>) {
        match result {
            _ if tag.bad.is_some() => self.fail("bad line"),
            Ok(response) => {
                self.answered += 1;
                self.count_attempts(response.meta().attempts);
                let time = response.meta().elapsed.as_millis().try_into().unwrap_or(u64::MAX);
                self.milliseconds.saturating_record(time);
                match &response.usage {
                    Some(usage) => self.use_tokens(usage),
                    None => self.untold += 1,
                }
            }
            Err(error) => {
                self.count_attempts(error.attempts());
                self.fail(&kind(error));
            }
        }
    }

    fn count_attempts(&mut self, attempts: u32) {
        self.attempts += u64::from(attempts);
        self.retries += u64::from(attempts.saturating_sub(1));
    }

    fn fail(&mut self, kind: &str) {
        self.failed += 1;
        *self.kinds.entry(kind.to_owned()).or_default() += 1;
    }

    fn use_tokens(&mut self, usage: &Usage) {
        self.tokens_in = self.tokens_in.saturating_add(usage.prompt_tokens.unwrap_or_default());
        self.tokens_out = self.tokens_out.saturating_add(usage.completion_tokens.unwrap_or_default());
        self.cost += self.price.as_ref().map_or(0.0, |price| usage.cost(price));
    }

    pub(crate) fn failed(&self) -> usize {
        self.failed
    }

    /// Whether no item succeeded and all failed in the same way.
    pub(crate) fn are_all_alike(&self) -> bool {
        self.answered == 0 && self.kinds.len() == 1
    }

    fn finished(&self) -> usize {
        self.answered + self.failed
    }

    fn per_minute(&self) -> f64 {
        self.finished() as f64 * 60.0 / self.started.elapsed().as_secs_f64().max(0.001)
    }

    /// The time that the rest of so many items takes if it goes on like this.
    fn time_left(&self, total: usize) -> Option<Duration> {
        let left = total.saturating_sub(self.finished() + self.skipped);
        Duration::try_from_secs_f64(left as f64 * 60.0 / self.per_minute()).ok()
    }

    /// Tokens and cost, as far as they are known.
    fn used(&self) -> String {
        let mut text = format!("{} + {} tokens", self.tokens_in, self.tokens_out);
        if self.price.is_some() {
            let _ = write!(text, ", ${:.2}", self.cost);
        }
        if self.untold > 0 {
            let _ = write!(text, " ({} answers didn't tell)", self.untold);
        }
        text
    }

    /// How it went, in a few lines.
    pub(crate) fn summary(&self, stop: Option<&Stop>) -> String {
        let mut text = format!(
            "{} answered, {} failed, {} done before; {:.1} s, {:.0} a minute; {} attempts, {} of them again\n",
            self.answered,
            self.failed,
            self.skipped,
            self.started.elapsed().as_secs_f64(),
            self.per_minute(),
            self.attempts,
            self.retries,
        );
        if self.answered > 0 {
            let at = |part| self.milliseconds.value_at_quantile(part) as f64 / 1000.0;
            let (half, most, nearly, all) =
                (at(0.5), at(0.9), at(0.99), self.milliseconds.max() as f64 / 1000.0);
            let _ = writeln!(
                text,
                "seconds each, waits included: half {half:.2}, 90 % {most:.2}, 99 % {nearly:.2}, all {all:.2}"
            );
            let _ = writeln!(text, "{}", self.used());
        }
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (kind, count) in kinds.into_iter().take(KINDS_TOLD) {
            let _ = writeln!(text, "{count} failed: {kind}");
        }
        match stop {
            Some(Stop::Hopeless(why)) => {
                let _ = writeln!(text, "stopped, because every further call would fail too: {why}");
            }
            Some(Stop::Broken(why)) => {
                let _ = writeln!(text, "stopped: {why}");
            }
            Some(Stop::Failed) => text.push_str("stopped at the first failure\n"),
            Some(Stop::Interrupted) => text.push_str("interrupted\n"),
            None => {}
        }
        if self.failed > 0 {
            text.push_str("run it again with --resume --retry-failed to try what failed again\n");
        } else if stop.is_some() {
            text.push_str("run it again with --resume to go on\n");
        }
        text
    }
}

/// What kind of failure it was: few words, so that they can be counted.
fn kind(error: &Error) -> String {
    match error {
        Error::GaveUp { last, .. } => kind(last),
        Error::Api { status, .. } => format!("status {status}"),
        Error::Connect { .. } => "no connection".to_owned(),
        Error::Timeout { phase, .. } => format!("silence while {phase}"),
        Error::Transport { .. } => "the connection broke".to_owned(),
        Error::Decode { .. } => "an answer that can't be read".to_owned(),
        Error::TooLarge { .. } => "an answer that is too large".to_owned(),
        Error::Deadline { .. } => "the deadline".to_owned(),
        Error::Config { setting, .. } => format!("{setting} can't work"),
        _ => "something else".to_owned(),
    }
}

/// What is said when it is to end.
pub(crate) const STOPPING: &str = "stopping: the calls on the wire may finish, once more ends them";

/// Says something, even if nobody listens any more: the answers are what counts.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}

/// Says something that the bar says where there is one.
pub(crate) fn tell_without_bar(text: &str) {
    if !std::io::stderr().is_terminal() {
        tell(text);
    }
}

/// Until when the service has asked to be left alone.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Mutex<Option<Instant>>>);

impl Held {
    pub(crate) fn until(&self, wait: Duration) {
        if wait > WORTH_TELLING {
            let mut until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *until = (*until).max(Instant::now().checked_add(wait));
        }
    }

    fn left(&self) -> Option<Duration> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until?.checked_duration_since(Instant::now())
    }
}

/// Shows how it goes, from a thread of its own.
pub(crate) struct Progress {
    end: mpsc::Sender<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Progress {
    /// `total` is how many items there are in all, if that is known.
    pub(crate) fn start(job: &Arc<Job>, held: Held, total: Option<usize>) -> Progress {
        let (end, ended) = mpsc::channel();
        let job = Arc::clone(job);
        let show = move || {
            let bar = std::io::stderr().is_terminal().then(|| bar(total));
            let tick = if bar.is_some() { REDRAW } else { NOW_AND_THEN };
            while ended.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                let (finished, line) = job.tally(|tally| {
                    let mut line = format!(
                        "{} failed, {:.0} a minute, {}",
                        tally.failed,
                        tally.per_minute(),
                        tally.used()
                    );
                    if let Some(left) = total.and_then(|total| tally.time_left(total)) {
                        let _ = write!(line, ", {} left", HumanDuration(left));
                    }
                    (tally.finished() + tally.skipped, line)
                });
                let line = [line, waiting(&job, &held)].concat();
                match &bar {
                    Some(bar) => {
                        bar.set_message(line);
                        bar.set_position(finished as u64);
                    }
                    None => match total {
                        Some(total) => tell(&format!("{finished} of {total} done, {line}")),
                        None => tell(&format!("{finished} done, {line}")),
                    },
                }
            }
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        };
        Progress { end, thread: thread::Builder::new().spawn(show).ok() }
    }

    /// Leaves the screen to others.
    pub(crate) fn finish(mut self) {
        let _ = self.end.send(());
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

fn bar(total: Option<usize>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total as u64), "{wide_bar} {pos}/{len}\n{msg}"),
        None => (ProgressBar::new_spinner(), "{spinner} {pos} done in {elapsed}\n{msg}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar, // its own style does too
    }
}

/// What calls wait for, if they do.
fn waiting(job: &Job, held: &Held) -> String {
    if job.is_stopping() {
        return format!("; {STOPPING}");
    }
    if let Some(left) = held.left() {
        return format!("; the service asks to wait for {} more", HumanDuration(left));
    }
    let now = job.handler();
    let waiting = now.waiting;
    match (now.breaker, now.rate_per_minute) {
        (BreakerState::Open | BreakerState::HalfOpen, _) => {
            format!("; {waiting} wait because the service is down")
        }
        (BreakerState::Closed, Some(rate)) if waiting > 0 => {
            format!("; {waiting} wait for their turn at {rate:.0} a minute")
        }
        _ if job.lacks_tokens() => "; waiting for tokens".to_owned(),
        _ => String::new(),
    }
}
