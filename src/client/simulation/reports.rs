//! What a simulated client reported by its events: the attempts of each call, and the retries of each model.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::client::event::Event;
use crate::http::simulation::Network;

/// The retry budget of a model, and the most retries after errors without an answer in between.
const BUDGET: u32 = 20;

/// The events of one call.
#[derive(Default)]
pub(super) struct Report {
    /// The call or batch that was being made when it began.
    pub(super) current: usize,
    /// The number of calls before it. The client's own numbers are unique in the process.
    number: usize,
    pub(super) attempts: u32,
    pub(super) ends: u32,
    /// When its last attempt ended, and when its next one may begin.
    answered: Option<Instant>,
    not_before: Option<Instant>,
}

/// The events of a client.
#[derive(Default)]
pub(super) struct Reports {
    /// By the client's number of the call.
    calls: BTreeMap<u64, Report>,
    /// The numbers of the batches: the retries of their calls aren't limited by the budget.
    pub(super) batches: BTreeSet<usize>,
    count: usize,
    /// The least that can remain of the retry budget of each model.
    budgets: BTreeMap<String, u32>,
}

impl Reports {
    /// Takes the reports of the calls that were begun by this call or batch.
    pub(super) fn take(&mut self, current: usize) -> Vec<Report> {
        let own = self.calls.iter().filter(|(_, report)| report.current == current);
        let own: Vec<u64> = own.map(|(call, _)| *call).collect();
        own.iter().filter_map(|call| self.calls.remove(call)).collect()
    }

    /// Records an event. An attempt must not begin once the call or the client has ended, and single calls must not exceed
    /// the retry budget, if there is one.
    pub(super) fn add(&mut self, network: &Network, event: &Event, has_budget: bool) {
        let (current, halted) = {
            let state = network.state();
            (state.current.call, state.halted())
        };
        let now = network.now();
        let is_batch = self.batches.contains(&current);
        let count = &mut self.count;
        let report = self.calls.entry(event.call()).or_insert_with(|| {
            *count += 1;
            Report { current, number: *count, ..Report::default() }
        });
        let call = report.number;
        match event {
            Event::Attempt { attempt, .. } => {
                report.attempts += 1;
                if report.not_before.is_some_and(|at| now < at) {
                    network
                        .violated(format_args!("{call}: attempt {attempt} began before its wait was over"));
                }
                network.note(format_args!("  {call}: attempt {attempt}"));
                if let Some(why) = halted {
                    network.violated(format_args!("attempt {attempt} began after {why}"));
                }
            }
            Event::Answer { model, status, elapsed, .. } => {
                network.note(format_args!("    {call} ended: {status:?} after {elapsed:?}"));
                report.answered = Some(now);
                if status.is_some_and(|status| status < 500) {
                    let budget = self.budgets.entry(model.clone()).or_insert(BUDGET);
                    *budget = (*budget + 1).min(BUDGET);
                }
            }
            Event::Retry { model, status, error, wait, why, .. } => {
                network.note(format_args!("    {call}: retrying in {wait:?}: {why}"));
                report.not_before = report.answered.map(|answered| answered + *wait);
                // A 503 may be a refusal, a timeout may have been one of connecting, and what is sent again without a wait is
                // no retry by the policy.
                let was_sent = matches!(status, Some(500 | 502 | 504 | 520)) || *error == "transport";
                let is_charged = was_sent && !wait.is_zero() && has_budget;
                if is_charged {
                    let budget = self.budgets.entry(model.clone()).or_insert(BUDGET);
                    if *budget == 0 && !is_batch {
                        network.violated(format_args!("{model} exceeds its retry budget"));
                    }
                    *budget = budget.saturating_sub(1);
                }
            }
            Event::Waiting { wait, cause, .. } => {
                network.note(format_args!("    {call}: waits {wait:?} because of {cause}"));
            }
            Event::Paced { waited, .. } => network.note(format_args!("    {call}: paced for {waited:?}")),
            Event::Breaker { state, .. } => network.note(format_args!("    {call}: the breaker is {state}")),
            Event::End { attempts, elapsed, waited, error, .. } => {
                report.ends += 1;
                if waited > elapsed {
                    network.violated(format_args!("{call}: waited {waited:?} of {elapsed:?}"));
                }
                network
                    .note(format_args!("  {call}: end after {attempts} attempts and {elapsed:?}: {error:?}"));
            }
            _ => {}
        }
    }
}
