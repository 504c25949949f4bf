//! Calls a chat API for each line of a file, through rate limits and outages, and goes on where it was stopped.
//!
//!     batch prompts.jsonl -o answers.jsonl --model gpt-4.1 --concurrency 64
//!
//! `cargo install --path . --example batch` installs it, `batch --help` says the rest.

mod input;
mod job;
mod options;
mod output;
mod report;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use holysheep::{AdaptiveConfig, BatchItem, Client, Config, Error, Usage};
use input::{Feed, Reader};
use job::{Job, Stop};
use options::{HELP, Options};
use output::{Line, Output};
use report::{Progress, Tally};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Bad lines that a check of the input shows.
const BAD_SHOWN: usize = 10;

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
        eprintln!("batch: {}", chain(&*error));
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
    let client = client(options)?;
    let reader = Reader::open(&options.input)?;
    let (mut output, done) = Output::open(options)?;
    let job = Arc::new(Job::new(options.tokens_per_minute, Tally::new(options.price)?));
    if done.count() > 0 {
        eprintln!("{} items were done before", done.count());
    }
    stop_on_ctrl_c(&job, &client)?;
    let total = input::count(&options.input).map(|items| options.shard.share(items));
    let total = total.map(|items| items.min(options.limit.saturating_add(done.count())));
    let feed = Feed::new(options, reader, done, Arc::clone(&job));
    let progress = Progress::start(&job, &client, total);
    let batch = client.batch(feed).concurrency(options.concurrency).in_order(options.in_order);
    let written = batch.run().try_for_each(|item| take(item, options, &job, &mut output));
    progress.finish();
    let stop = job.stopped();
    eprint!("{}", job.tally(|tally| tally.summary(stop.as_ref())));
    written?;
    Ok(match stop {
        Some(Stop::Interrupted) => ExitCode::from(INTERRUPTED),
        Some(Stop::Hopeless(_) | Stop::Broken(_)) => ExitCode::from(2),
        Some(Stop::Failed) => ExitCode::FAILURE,
        None if job.tally(|tally| tally.failed()) > 0 => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    })
}

fn client(options: &Options) -> Result<Client, Failure> {
    let key = std::env::var("HOLYSHEEP_API_KEY").map_err(
        |_| "HOLYSHEEP_API_KEY is not set; get a key at https://www.holysheep.ai/register and export it",
    )?;
    let mut config = Config::builder().api_key(key).deadline(options.deadline);
    if let Ok(url) = std::env::var("HOLYSHEEP_BASE_URL") {
        config = config.base_url(url);
    }
    if let Some(timeout) = options.timeout {
        config = config.timeout(timeout);
    }
    if let Some(rate) = options.calls_per_minute {
        let adaptive = AdaptiveConfig::default();
        config = config.adaptive(adaptive.max_rate(rate).min_rate(rate.min(1.0)));
    }
    Ok(Client::new(config.build()?)?)
}

/// The first one lets the calls in flight finish, the second one ends them.
fn stop_on_ctrl_c(job: &Arc<Job>, client: &Client) -> Result<(), Failure> {
    let (job, client) = (Arc::clone(job), client.clone());
    Ok(ctrlc::set_handler(move || {
        if job.is_stopping() {
            client.shutdown();
        } else {
            job.stop(Stop::Interrupted);
            eprintln!("\nthe calls in flight may finish; once more ends them");
        }
    })?)
}

/// Writes a finished item.
fn take(item: BatchItem, options: &Options, job: &Job, output: &mut Output) -> Result<(), Failure> {
    let result = item.result;
    let tokens = result.as_ref().ok().and_then(|answer| answer.usage.as_ref()).and_then(tokens);
    let Some(tag) = job.back(item.index, tokens) else { return Ok(()) };
    match &result {
        Err(Error::Shutdown) => return Ok(()), // it isn't done
        Err(error) if is_hopeless(error) => {
            job.stop(Stop::Hopeless(chain(error)));
            return Ok(());
        }
        _ => {}
    }
    output.add(&Line::new(&tag, &result))?;
    job.tally(|tally| tally.add(&tag, &result));
    if options.fail_fast && (result.is_err() || tag.bad.is_some()) {
        job.stop(Stop::Failed);
    }
    Ok(())
}

fn tokens(usage: &Usage) -> Option<u64> {
    let parts = || Some(usage.prompt_tokens? + usage.completion_tokens.unwrap_or_default());
    usage.total_tokens.or_else(parts)
}

/// Whether it is about the key or the account, so that the next call would fail in the same way.
fn is_hopeless(error: &Error) -> bool {
    matches!(error.status(), Some(401 | 402)) || (error.is_rate_limited() && !error.is_retryable())
}

/// Reads all of the input, and says what a run would do.
fn dry_run(options: &Options) -> Result<ExitCode, Failure> {
    let mut reader = Reader::open(&options.input)?;
    let (mut items, mut tokens, mut bad) = (0_usize, 0, 0);
    while let Some(item) = reader.next()? {
        if items >= options.limit || !options.shard.has(item.index) {
            continue;
        }
        items += 1;
        match item.parse(options.model.as_deref()).request {
            Ok(_) => tokens += item.tokens(),
            Err(why) => {
                bad += 1;
                if bad <= BAD_SHOWN {
                    println!("line {} {why}", item.line);
                }
            }
        }
    }
    let mut line = format!("{items} items, {bad} of them bad, some {tokens} tokens to send");
    if let Some(price) = &options.price {
        let cost = tokens as f64 * price.input_per_mtok / 1e6;
        line += &format!(" for ${cost:.2}; the answers come on top");
    }
    println!("{line}");
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
