//! Sends each line of a file to a chat API, through rate limits and outages, and resumes where it was stopped.
//!
//!     batch prompts.jsonl -o answers.jsonl --model gpt-4.1 --concurrency 64
//!
//! `cargo install --path examples/batch` installs it; `batch --help` lists the options.

mod budget;
mod dry_run;
mod endpoint;
mod help;
mod input;
mod job;
mod judge;
mod open_files;
mod options;
mod output;
mod report;
mod resume;
mod run;
mod signals;
mod streak;
mod tokens;
mod writer;

use std::io::Write as _;
use std::process::ExitCode;

use options::{Options, Parsed};

pub(crate) type RunError = Box<dyn std::error::Error + Send + Sync>;

/// The exit status of a program that couldn't continue.
const BROKEN: u8 = 2;

fn main() -> ExitCode {
    env_logger::init();
    let ended = match Options::parse(lexopt::Parser::from_env()) {
        Ok(Parsed::Run(options)) if options.dry_run => dry_run::check(&options),
        Ok(Parsed::Run(options)) => run::run(options),
        Ok(Parsed::Print(text)) => writeln!(std::io::stdout(), "{text}").map(|()| 0).map_err(RunError::from),
        Err(error) => Err(error),
    };
    ExitCode::from(ended.unwrap_or_else(|error| {
        report::tell(&format!("batch: {}", chain(&*error)));
        BROKEN
    }))
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
