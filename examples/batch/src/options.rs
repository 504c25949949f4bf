//! What the command line says, checked before anything is read or sent.

use std::path::PathBuf;
use std::time::Duration;

use holysheep::Price;
use lexopt::prelude::*;

use crate::Failure;

/// The slowest rate that there is, in calls a minute.
const SLOWEST: f64 = 1.0 / 60.0;

pub(crate) const HELP: &str = "\
Calls a chat API for each line of a file, through rate limits and outages, and goes on where it was stopped.

usage: batch IN.jsonl -o OUT.jsonl [options]        - for standard input or output

The key is in HOLYSHEEP_API_KEY, another address than https://api.holysheep.ai/v1 in HOLYSHEEP_BASE_URL.

A line of IN is a request for /chat/completions, or {\"id\": …, \"request\": {…}}, or {\"prompt\": \"…\"}.
A line of OUT has the id, the index of the item from 0, its answer or error, usage, attempts and seconds, and a checksum
of the line of IN, so that --resume sees whether that has changed.

What to call
      --model NAME        for lines that name none
      --shard I/N         only the Ith of N equal shares, I from 1: the same lines each time
      --limit N           only N items of those that are left
      --dry-run           only check the input and count what is left; nothing is sent or written, no key is needed

How fast
      --concurrency N     calls at the same time, at most [8]; each needs an open file, see ulimit -n
      --rpm N             calls a minute, at most; with --shard, of all shards together
      --tpm N             tokens a minute, about; with --shard, of all shards together
      --timeout SECONDS   silence of the server after which it is asked again [60]
      --deadline SECONDS  the time of one item, retries included, waiting for its turn not [none]

Going on
      --resume            skip what OUT has, and add to it
      --retry-failed      with --resume: call again what failed
      --fail-fast         stop at the first failure

What to see
      --in-order          write OUT in the order of IN; up to eight answers for each call wait for slower ones
      --price IN,OUT      dollars for a million tokens, to show the cost
  -h, --help

Ctrl-C or SIGTERM lets the calls on the wire finish, a second one doesn't. After either, or a crash, run it again with
--resume. If the first 100 calls all fail alike, it stops.
It ends with 0 if all items succeeded, 1 if some failed, 2 if it couldn't go on, 130 if it was interrupted.";

/// A file, or the standard stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Standard,
    File(PathBuf),
}

impl Place {
    /// Whether both are the same file, under whatever name.
    fn is(&self, other: &Place) -> bool {
        let (Place::File(one), Place::File(other)) = (self, other) else { return false };
        match (one.canonicalize(), other.canonicalize()) {
            (Ok(one), Ok(other)) => one == other,
            _ => one == other,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) input: Place,
    pub(crate) output: Place,
    pub(crate) model: Option<String>,
    pub(crate) shard: Shard,
    pub(crate) limit: usize,
    pub(crate) dry_run: bool,
    pub(crate) concurrency: usize,
    /// Of this shard.
    pub(crate) calls_per_minute: Option<f64>,
    /// Of this shard.
    pub(crate) tokens_per_minute: Option<f64>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) resume: bool,
    pub(crate) retry_failed: bool,
    pub(crate) fail_fast: bool,
    pub(crate) in_order: bool,
    pub(crate) price: Option<Price>,
}

/// One of several equal shares of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard {
    /// From 0.
    number: usize,
    of: usize,
}

impl Shard {
    /// Whether the item with this index belongs to it.
    pub(crate) fn has(self, index: usize) -> bool {
        index % self.of == self.number
    }

    /// How many of so many items belong to it.
    pub(crate) fn share(self, items: usize) -> usize {
        (items + self.of - 1 - self.number) / self.of
    }
}

impl Options {
    /// None where help was asked for.
    pub(crate) fn read(mut arguments: lexopt::Parser) -> Result<Option<Options>, Failure> {
        let (mut places, mut output) = (Vec::new(), None);
        let mut options = Options {
            input: Place::Standard,
            output: Place::Standard,
            model: None,
            shard: Shard { number: 0, of: 1 },
            limit: usize::MAX,
            dry_run: false,
            concurrency: 8,
            calls_per_minute: None,
            tokens_per_minute: None,
            timeout: None,
            deadline: None,
            resume: false,
            retry_failed: false,
            fail_fast: false,
            in_order: false,
            price: None,
        };
        while let Some(argument) = arguments.next()? {
            match argument {
                Value(place) => places.push(place),
                Short('o') | Long("output") => output = Some(arguments.value()?),
                Long("model") => options.model = Some(arguments.value()?.string()?),
                Long("shard") => options.shard = shard(&arguments.value()?.string()?)?,
                Long("limit") => options.limit = arguments.value()?.parse_with(at_least_one)?,
                Long("dry-run") => options.dry_run = true,
                Long("concurrency") => options.concurrency = arguments.value()?.parse_with(at_least_one)?,
                Long("rpm") => options.calls_per_minute = Some(arguments.value()?.parse_with(positive)?),
                Long("tpm") => options.tokens_per_minute = Some(arguments.value()?.parse_with(positive)?),
                Long("timeout") => options.timeout = Some(arguments.value()?.parse_with(seconds)?),
                Long("deadline") => options.deadline = Some(arguments.value()?.parse_with(seconds)?),
                Long("resume") => options.resume = true,
                Long("retry-failed") => options.retry_failed = true,
                Long("fail-fast") => options.fail_fast = true,
                Long("in-order") => options.in_order = true,
                Long("price") => options.price = Some(price(&arguments.value()?.string()?)?),
                Short('h') | Long("help") => return Ok(None),
                other => return Err(other.unexpected().into()),
            }
        }
        let Ok([input]) = <[_; 1]>::try_from(places) else {
            return Err("name one input, or - for standard input; --help says more".into());
        };
        options.input = place(input);
        match output {
            Some(output) => options.output = place(output),
            None if options.dry_run => {}
            None => return Err("name the output with -o FILE, or -o - for standard output".into()),
        }
        for bound in [&mut options.calls_per_minute, &mut options.tokens_per_minute].into_iter().flatten() {
            *bound /= options.shard.of as f64;
        }
        options.check()?;
        Ok(Some(options))
    }

    /// Refuses what contradicts itself.
    fn check(&self) -> Result<(), Failure> {
        if self.retry_failed && !self.resume {
            return Err("--retry-failed is about an earlier run; add --resume".into());
        }
        if self.retry_failed && self.in_order {
            return Err(
                "--in-order can't put what is tried again between the lines that are there; leave one out"
                    .into(),
            );
        }
        if self.resume && self.output == Place::Standard && !self.dry_run {
            return Err("--resume needs to read what there is; give a file with -o".into());
        }
        if self.input.is(&self.output) {
            return Err("the output is the input; give it another name".into());
        }
        if self.calls_per_minute.is_some_and(|rate| rate < SLOWEST) {
            return Err("--rpm leaves this shard less than one call an hour; raise it".into());
        }
        Ok(())
    }
}

fn place(name: std::ffi::OsString) -> Place {
    if name == "-" { Place::Standard } else { Place::File(name.into()) }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "give a whole number from 1".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.001);
    number.ok_or_else(|| "give a number from 0.001".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    Duration::try_from_secs_f64(positive(text)?).map_err(|error| error.to_string())
}

fn shard(text: &str) -> Result<Shard, Failure> {
    let parts = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
    match parts {
        Some((number @ 1.., of)) if number <= of => Ok(Shard { number: number - 1, of }),
        _ => {
            Err(format!("--shard {text}: give two numbers such as 1/4, the first from 1 to the second")
                .into())
        }
    }
}

fn price(text: &str) -> Result<Price, Failure> {
    let number =
        |text: &str| text.trim().parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0);
    let parts = text.split_once(',').and_then(|(input, output)| Some((number(input)?, number(output)?)));
    let (input_per_mtok, output_per_mtok) =
        parts.ok_or_else(|| format!("--price {text}: give two prices such as 2.50,10"))?;
    Ok(Price { input_per_mtok, output_per_mtok })
}
