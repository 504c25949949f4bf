//! The command line, checked before anything is read or sent.

use std::path::PathBuf;
use std::time::Duration;

use holysheep::Price;
use lexopt::prelude::*;
use serde_json::{Map, Value as Json};

use crate::RunError;
use crate::endpoint::Kind;
use crate::help::HELP;
use crate::input::template::Template;
use crate::judge::{Flag, JsonExpected};

mod values;

/// What `--version` prints.
const VERSION: &str = concat!("batch ", env!("CARGO_PKG_VERSION"));

/// The lowest rate, in requests a minute.
const LOWEST_RATE: f64 = 1.0 / 60.0;

/// A file, or a standard stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Standard,
    File(PathBuf),
}

impl Place {
    fn new(name: std::ffi::OsString) -> Place {
        if name == "-" { Place::Standard } else { Place::File(name.into()) }
    }

    /// Whether both are the same file, under whatever name.
    fn is(&self, other: &Place) -> bool {
        let (Place::File(one), Place::File(other)) = (self, other) else { return false };
        match (one.canonicalize(), other.canonicalize()) {
            (Ok(one), Ok(other)) => one == other,
            _ => one == other,
        }
    }
}

/// The form of the lines of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Native,
    OpenAi,
}

/// What all requests share. A line's own value wins over each.
#[derive(Debug, Default)]
pub(crate) struct Defaults {
    pub(crate) model: Option<String>,
    pub(crate) system: Option<String>,
    pub(crate) parameters: Map<String, Json>,
    pub(crate) template: Option<Template>,
}

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) input: Place,
    pub(crate) output: Place,
    pub(crate) defaults: Defaults,
    pub(crate) shard: Shard,
    pub(crate) limit: usize,
    pub(crate) dry_run: bool,
    pub(crate) concurrency: usize,
    /// Of this shard.
    pub(crate) requests_per_minute: Option<f64>,
    /// Of this shard.
    pub(crate) tokens_per_minute: Option<f64>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) fail_on: Vec<Flag>,
    pub(crate) json_expected: JsonExpected,
    pub(crate) resume: bool,
    pub(crate) retry_failed: bool,
    pub(crate) lock: bool,
    pub(crate) fail_fast: bool,
    pub(crate) stop_after: usize,
    pub(crate) first_answer: Duration,
    pub(crate) max_tokens: Option<u64>,
    pub(crate) max_cost: Option<f64>,
    pub(crate) format: Format,
    pub(crate) in_order: bool,
    pub(crate) price: Option<Price>,
    pub(crate) summary: Option<Place>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            input: Place::Standard,
            output: Place::Standard,
            defaults: Defaults::default(),
            shard: Shard { number: 0, of: 1 },
            limit: usize::MAX,
            dry_run: false,
            concurrency: 8,
            requests_per_minute: None,
            tokens_per_minute: None,
            timeout: None,
            deadline: None,
            fail_on: vec![Flag::Empty, Flag::Filter],
            json_expected: JsonExpected::Nowhere,
            resume: false,
            retry_failed: false,
            lock: true,
            fail_fast: false,
            stop_after: 100,
            first_answer: Duration::from_secs(600),
            max_tokens: None,
            max_cost: None,
            format: Format::Native,
            in_order: false,
            price: None,
            summary: None,
        }
    }
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

/// What the command line asks for.
#[expect(clippy::large_enum_variant, reason = "there is one, at the start")]
pub(crate) enum Parsed {
    Run(Options),
    /// Help or version.
    Print(&'static str),
}

impl Options {
    /// Reads the command line.
    pub(crate) fn parse(mut arguments: lexopt::Parser) -> Result<Parsed, RunError> {
        let (mut options, mut inputs, mut output) = (Options::default(), Vec::new(), None);
        while let Some(argument) = arguments.next()? {
            match argument {
                Value(input) => inputs.push(input),
                Short('o') | Long("output") => output = Some(arguments.value()?),
                Short('h') | Long("help") => return Ok(Parsed::Print(HELP)),
                Short('V') | Long("version") => return Ok(Parsed::Print(VERSION)),
                Long(name) => {
                    let name = name.to_owned();
                    match options.set(&name, &mut arguments) {
                        Ok(true) => {}
                        Ok(false) => return Err(Long(&name).unexpected().into()),
                        Err(lexopt::Error::ParsingFailed { value, error }) => {
                            return Err(format!("--{name} {value}: {error}").into());
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                Short(_) => return Err(argument.unexpected().into()),
            }
        }
        let Ok([input]) = <[_; 1]>::try_from(inputs) else {
            return Err("name one input, or - for standard input; see --help".into());
        };
        options.input = Place::new(input);
        match output {
            Some(output) => options.output = Place::new(output),
            None if options.dry_run => {}
            None => return Err("name the output with -o FILE, or -o - for standard output".into()),
        }
        for limit in [&mut options.requests_per_minute, &mut options.tokens_per_minute].into_iter().flatten()
        {
            *limit /= options.shard.of as f64;
        }
        if options.json_expected != JsonExpected::Nowhere {
            options.fail_on.push(Flag::NotJson);
        }
        options.check()?;
        Ok(Parsed::Run(options))
    }

    /// Sets one option; `false` if there is none of this name.
    pub(crate) fn set(&mut self, name: &str, from: &mut lexopt::Parser) -> Result<bool, lexopt::Error> {
        match name {
            "model" => self.defaults.model = Some(from.value()?.string()?),
            "system" => self.defaults.system = Some(from.value()?.string()?),
            "set" => {
                let (name, value) = from.value()?.parse_with(values::parameter)?;
                self.defaults.parameters.insert(name, value);
            }
            "template" => self.defaults.template = Some(from.value()?.parse_with(Template::parse)?),
            "shard" => self.shard = from.value()?.parse_with(values::shard)?,
            "limit" => self.limit = from.value()?.parse_with(values::at_least_one)?,
            "dry-run" => self.dry_run = true,
            "concurrency" => self.concurrency = from.value()?.parse_with(values::at_least_one)?,
            "rpm" => self.requests_per_minute = Some(from.value()?.parse_with(values::positive)?),
            "tpm" => self.tokens_per_minute = Some(from.value()?.parse_with(values::positive)?),
            "timeout" => self.timeout = Some(from.value()?.parse_with(values::seconds)?),
            "deadline" => self.deadline = Some(from.value()?.parse_with(values::seconds)?),
            "fail-on" => self.fail_on = from.value()?.parse_with(values::flags)?,
            "expect-json" => {
                self.json_expected = from
                    .optional_value()
                    .map_or(Ok(JsonExpected::WhereAsked), |value| value.parse_with(values::json_expected))?;
            }
            "resume" => self.resume = true,
            "retry-failed" => self.retry_failed = true,
            "no-lock" => self.lock = false,
            "fail-fast" => self.fail_fast = true,
            "stop-after" => self.stop_after = from.value()?.parse_with(values::at_least_one)?,
            "first-answer" => self.first_answer = from.value()?.parse_with(values::seconds)?,
            "max-tokens" => self.max_tokens = Some(from.value()?.parse_with(values::at_least_one)? as u64),
            "max-cost" => self.max_cost = Some(from.value()?.parse_with(values::positive)?),
            "format" => self.format = from.value()?.parse_with(values::format)?,
            "in-order" => self.in_order = true,
            "price" => self.price = Some(from.value()?.parse_with(values::price)?),
            "summary" => self.summary = Some(Place::new(from.value()?)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses options that mean nothing for the endpoint that the input is for.
    pub(crate) fn check_kind(&self, kind: Kind) -> Result<(), RunError> {
        let given = [
            ("--system", self.defaults.system.is_some()),
            ("--template", self.defaults.template.is_some()),
            ("--expect-json", self.json_expected != JsonExpected::Nowhere),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given && kind == Kind::Embeddings) {
            Some((name, _)) => {
                Err(format!("{name} is for chats, and the input is for embeddings; leave it out").into())
            }
            None => Ok(()),
        }
    }

    /// Refuses options that contradict each other.
    fn check(&self) -> Result<(), RunError> {
        let refuse = |why: &str| Err(why.into());
        if self.retry_failed && !self.resume {
            return refuse("--retry-failed is about an earlier run; add --resume");
        }
        if self.retry_failed && self.in_order {
            return refuse(
                "--in-order can't put retried items between the lines that are there; leave one of the two out",
            );
        }
        if self.resume && self.output == Place::Standard && !self.dry_run {
            return refuse("--resume has to read the earlier output; give a file with -o");
        }
        if self.input.is(&self.output) {
            return refuse("the output is the input; give it another name");
        }
        if self.summary.as_ref().is_some_and(|file| file.is(&self.input) || file.is(&self.output)) {
            return refuse("the summary is the input or the output; give it another name");
        }
        if self.summary == Some(Place::Standard) && self.output == Place::Standard && !self.dry_run {
            return refuse("standard output can't have both the output and the summary; name a file for one");
        }
        if self.requests_per_minute.is_some_and(|rate| rate < LOWEST_RATE) {
            return refuse("--rpm leaves this shard less than one request an hour; raise it");
        }
        if self.max_cost.is_some() && self.price.is_none() {
            return refuse("--max-cost needs the price of a token; add --price IN,OUT");
        }
        Ok(())
    }
}
