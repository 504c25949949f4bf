//! Calls a chat API for each line of a file, through rate limits and outages, and goes on where it was stopped.
//!
//!     batch prompts.jsonl -o answers.jsonl --model gpt-4.1 --concurrency 64
//!
//! `cargo install --path examples/batch` installs it; `batch --help` lists the options.

mod done;
mod input;
mod job;
mod options;
mod output;
mod report;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use holysheep::{
    AdaptiveConfig, AdaptiveHandler, BatchItem, Client, ConfigBuilder, Error, Event, RetryConfig,
};
use input::{Feed, Reader};
use job::{Job, Stop};
use options::{HELP, Options};
use output::{Line, Output};
use report::{Held, Progress, Tally};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Bad lines that a check of the input shows.
const BAD_SHOWN: usize = 10;

/// Failures from the first on that, if they are all of one kind, are a mistake in all of them, such as the model's name.
const ALL_ALIKE: usize = 100;

/// The longest wait that a server may ask for: quotas by the day are the longest there are.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The status of a program that was interrupted, as shells know it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    env_logger::init();
    let ended = match Options::read(lexopt::Parser::from_env()) {
        Ok(Some(options)) if options.dry_run => dry_run(&options),
        Ok(Some(options)) => run(&options),
        Ok(None) => writeln!(std::io::stdout(), "{HELP}").map(|()| ExitCode::SUCCESS).map_err(Failure::from),
        Err(error) => Err(error),
    };
    ended.unwrap_or_else(|error| {
        report::tell(&format!("batch: {}", chain(&*error)));
        ExitCode::from(2)
    })
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let (mut text, mut error) = (error.to_string(), error);
    while let Some(cause) = error.source() {
        text += &format!(": {cause}");
        error = cause;
    }
    text
}

fn run(options: &Options) -> Result<ExitCode, Failure> {
    let held = Held::default();
    let client = client(options, &held)?;
    let reader = Reader::open(&options.input)?;
    let items = input::count(&options.input);
    let (mut output, done) = Output::open(options)?;
    if let Some(items) = items {
        done.check_end(items)?;
    }
    if done.count() > 0 {
        report::tell(&format!("{} items were done before", done.count()));
    }
    let left = options.limit.saturating_add(done.count());
    let total = items.map(|items| options.shard.share(items).min(left));
    let job = Arc::new(Job::new(client.clone(), options.tokens_per_minute, Tally::new(options.price)?));
    stop_on_signals(&job, &client)?;
    let feed = Feed::new(options, reader, done, Arc::clone(&job));
    let progress = Progress::start(&job, held, total);
    let batch = client.batch(feed).concurrency(options.concurrency).in_order(options.in_order);
    let written = batch.run().try_for_each(|item| take(item, options, &job, &mut output));
    progress.finish();
    let stop = job.stopped();
    report::tell(&job.tally(|tally| tally.summary(stop.as_ref())));
    written?;
    Ok(match stop {
        Some(Stop::Interrupted) => ExitCode::from(INTERRUPTED),
        Some(Stop::Hopeless(_) | Stop::Broken(_)) => ExitCode::from(2),
        Some(Stop::Failed) => ExitCode::FAILURE,
        None if job.tally(|tally| tally.failed()) > 0 => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    })
}

fn client(options: &Options, held: &Held) -> Result<Client, Failure> {
    // Who has a night has the time that a server asks for.
    let patient = [429, 503, 529];
    let retry =
        patient.into_iter().fold(RetryConfig::default(), |retry, status| retry.status_max_delay(status, DAY));
    let held = held.clone();
    let mut config =
        ConfigBuilder::from_env()?.retry(retry).deadline(options.deadline).on_event(move |event| {
            if let Event::Retry { wait, .. } = event {
                held.until(*wait);
            }
        });
    if let Some(timeout) = options.timeout {
        config = config.timeout(timeout);
    }
    if let Some(rate) = options.calls_per_minute {
        // One for all models, as the bound is.
        let adaptive = AdaptiveConfig::default().max_rate(rate).min_rate(rate.min(1.0));
        config = config.handler(AdaptiveHandler::new(adaptive));
    }
    Ok(Client::new(config.build()?)?)
}

/// The first signal to end lets the calls on the wire finish, the second one ends them, and the third one doesn't even wait
/// for an output that takes nothing.
fn stop_on_signals(job: &Arc<Job>, client: &Client) -> Result<(), Failure> {
    let (job, client, mut signals) = (Arc::clone(job), client.clone(), 0);
    Ok(ctrlc::set_handler(move || {
        signals += 1;
        match signals {
            1 => {
                job.stop(Stop::Interrupted);
                report::tell_without_bar(report::STOPPING);
            }
            2 => client.shutdown(),
            _ => std::process::exit(INTERRUPTED.into()),
        }
    })?)
}

/// Writes a finished item.
fn take(item: BatchItem, options: &Options, job: &Job, output: &mut Output) -> Result<(), Failure> {
    let result = item.result;
    let Some(tag) = job.back(item.index, &result) else { return Ok(()) };
    match &result {
        Err(Error::Shutdown) => return Ok(()), // it isn't done
        Err(error) if is_hopeless(error) => {
            job.stop(Stop::Hopeless(chain(error)));
            return Ok(());
        }
        _ => {}
    }
    output.add(&Line::new(&tag, &result))?;
    let all_alike = job.tally(|tally| {
        tally.add(&tag, &result);
        tally.failed() == ALL_ALIKE && tally.are_all_alike()
    });
    match &result {
        Err(error) if all_alike && !error.is_retryable() => {
            let why = tag.bad.unwrap_or_else(|| chain(error));
            job.stop(Stop::Hopeless(format!("the first {ALL_ALIKE} failed alike: {why}")));
        }
        Err(_) if options.fail_fast => job.stop(Stop::Failed),
        _ => {}
    }
    Ok(())
}

/// Whether it is about the key or the account, so that the next call would fail in the same way.
fn is_hopeless(error: &Error) -> bool {
    match error {
        Error::GaveUp { last, .. } => is_hopeless(last),
        Error::Api { status: 401 | 402, .. } => true,
        Error::Api { status: 429, should_retry, .. } => !error.is_retryable() && *should_retry != Some(false),
        _ => false,
    }
}

/// Reads all of the input, and says what a run would do.
fn dry_run(options: &Options) -> Result<ExitCode, Failure> {
    let mut reader = Reader::open(&options.input)?;
    let done = output::look(options)?;
    let (mut items, mut tokens, mut bad, mut out) = (0_usize, 0, 0, std::io::stdout().lock());
    while let Some(item) = reader.next()? {
        if items >= options.limit || !options.shard.has(item.index) || done.has(&item)? {
            continue;
        }
        items += 1;
        match item.parse(options.model.as_deref()).request {
            Ok(_) => tokens += item.tokens(),
            Err(why) => {
                bad += 1;
                if bad <= BAD_SHOWN {
                    writeln!(out, "line {} {why}", item.line)?;
                }
            }
        }
    }
    let mut line = format!("{items} items, {bad} of them bad, some {tokens} tokens to send");
    if let Some(price) = &options.price {
        let cost = tokens as f64 * price.input_per_mtok / 1e6;
        line += &format!(" for ${cost:.2}; the answers come on top");
    }
    writeln!(out, "{line}")?;
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
