//! Writes the results of items, and stops the run when further requests would be useless.

use holysheep::{BatchItem, Error};

use crate::RunError;
use crate::endpoint::Endpoint;
use crate::job::{Job, Stop};
use crate::judge::{ItemFailure, JsonExpected, Scope, judge};
use crate::options::Options;
use crate::output::Output;
use crate::output::line::{Line, settings};
use crate::report::tell;
use crate::streak::Streak;

pub(crate) struct Writer<'a> {
    options: &'a Options,
    job: &'a Job,
    output: Output,
    streak: Streak,
    settings: u32,
    /// Whether any item asked for JSON.
    json_wanted: bool,
    /// Whether any item was ever answered, in earlier runs too.
    ever_answered: bool,
    /// Failures in a row have stopped the run. None of them is done, and neither are the ones that follow.
    is_hopeless: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(options: &'a Options, job: &'a Job, output: Output, ever_answered: bool) -> Writer<'a> {
        let settings = settings(&options.defaults);
        // In order, an answer can't be written before a failure that came earlier.
        let streak = Streak::new(options.stop_after, if options.in_order { 1 } else { options.concurrency });
        Writer {
            options,
            job,
            output,
            streak,
            settings,
            json_wanted: false,
            ever_answered,
            is_hopeless: false,
        }
    }

    pub(crate) fn take<R: Endpoint>(&mut self, item: BatchItem<R>) -> Result<(), RunError> {
        let result = item.result.map(R::answer);
        let Some(pending) = self.job.finish(item.index, &result) else { return Ok(()) };
        if matches!(result, Err(Error::Shutdown)) {
            return Ok(()); // it isn't done
        }
        self.json_wanted |= pending.wants_json;
        let verdict = judge(&pending, &result, self.options);
        match &verdict.failure {
            Some(failure) if failure.scope == Scope::Account => {
                self.job.stop(Stop::Hopeless(failure.message.clone()));
                return Ok(());
            }
            Some(_) if self.is_hopeless && result.is_err() => return Ok(()),
            _ => {}
        }
        self.job.tally(|tally| tally.add(&result, &verdict));
        let line = Line { pending: &pending, result: &result, verdict: &verdict, settings: self.settings };
        let line = line.to_bytes(self.options.format)?;
        match &verdict.failure {
            None => {
                self.ever_answered = true;
                let ended = self.streak.add_answer();
                self.append_all(&ended)?;
                self.output.append(&line)
            }
            Some(failure) => self.fail(failure, line, result.is_ok()),
        }
    }

    /// Writes a failure, or holds it back if it may be the first of many. An answer that counts as one was paid for, so it is
    /// written.
    fn fail(&mut self, failure: &ItemFailure, line: Vec<u8>, is_answer: bool) -> Result<(), RunError> {
        if failure.retryable {
            let held = self.streak.end();
            self.append_all(&held)?;
            self.output.append(&line)?;
        } else {
            let ended = self.streak.add_failure(failure);
            self.append_all(&ended)?;
            if is_answer || !self.streak.may_be_hopeless(self.ever_answered) {
                self.output.append(&line)?;
            } else {
                self.streak.hold(line);
            }
        }
        if self.options.fail_fast {
            self.job.stop(Stop::FirstFailure);
        } else if self.streak.is_hopeless(self.ever_answered) {
            let ItemFailure { kind, message, .. } = failure;
            let limit = self.options.stop_after;
            let held = self.streak.end().len();
            self.job.tally(|tally| tally.forget(held, kind));
            self.is_hopeless = true;
            self.job.stop(Stop::Hopeless(format!("{limit} in a row failed alike ({kind}): {message}")));
        }
        Ok(())
    }

    /// Writes what is held back at the end of a run.
    pub(crate) fn finish(&mut self) -> Result<(), RunError> {
        if self.options.json_expected == JsonExpected::WhereAsked && !self.json_wanted && self.ever_answered {
            tell(
                "warning: --expect-json checked no answer, because no response_format asked for JSON; --expect-json=all checks \
                 all",
            );
        }
        let held = self.streak.end();
        self.append_all(&held)
    }

    fn append_all(&mut self, lines: &[Vec<u8>]) -> Result<(), RunError> {
        lines.iter().try_for_each(|line| self.output.append(line))
    }
}
