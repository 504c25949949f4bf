//! One question, one answer. With `HOLYSHEEP_API_KEY` set it asks the real service; without it, a small faulty server
//! inside this process, to show line by line how the call rides through.
//!
//!     cargo run --example chat
//!     cargo run --example chat -- --model gpt-4.1 --deadline 30 "What is a token bucket?"

use std::time::Duration;

use holysheep::test_server::{Server, ok, reset, status};
use holysheep::{ChatRequest, Client, Config, Event};
use lexopt::prelude::*;

const HELP: &str = "usage: chat [--model NAME] [--deadline SECONDS] [QUESTION]

Asks QUESTION, of https://api.holysheep.ai/v1 or HOLYSHEEP_BASE_URL if HOLYSHEEP_API_KEY is set,
otherwise of a faulty server in this process. RUST_LOG=holysheep=trace shows what the library logs.";

type Failure = Box<dyn std::error::Error>;

struct Options {
    model: String,
    deadline: Option<Duration>,
    question: String,
}

fn main() -> Result<(), Failure> {
    env_logger::init();
    let Some(options) = options()? else {
        println!("{HELP}");
        return Ok(());
    };
    match std::env::var("HOLYSHEEP_API_KEY") {
        Ok(_) => ask(&Client::from_env()?, &options),
        Err(_) => ride_through(&options),
    }
}

fn options() -> Result<Option<Options>, Failure> {
    let question = "Explain exponential backoff with jitter in one sentence.";
    let mut options = Options { model: "gpt-4.1".to_owned(), deadline: None, question: question.to_owned() };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("model") => options.model = arguments.value()?.string()?,
            Long("deadline") => options.deadline = Some(Duration::from_secs(arguments.value()?.parse()?)),
            Short('h') | Long("help") => return Ok(None),
            Value(question) => options.question = question.string()?,
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(options))
}

fn ask(client: &Client, options: &Options) -> Result<(), Failure> {
    let request = ChatRequest::new(&options.model)
        .system("You are a helpful assistant.")
        .user(&options.question)
        .temperature(0.7);
    match client.with_deadline(options.deadline).chat(&request) {
        Ok(answer) => {
            let meta = answer.meta();
            println!("{}", answer.text());
            println!(
                "({} attempts, {:.1} s, {:.1} s of it waiting)",
                meta.attempts,
                meta.elapsed.as_secs_f64(),
                meta.waited.as_secs_f64()
            );
            Ok(())
        }
        Err(error) => {
            // `Display` is one line for its level; the causes say the rest.
            eprintln!("{error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                eprintln!("  because {error}");
                cause = error.source();
            }
            std::process::exit(1)
        }
    }
}

/// Asks a server that has a bad day.
fn ride_through(options: &Options) -> Result<(), Failure> {
    let answer = "Wait after each failure, twice as long each time but never the same as everybody else.";
    let busy = r#"{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}"#;
    let server = Server::script([
        status(429).retry_after(1).body(busy),
        status(503).body("<html><title>503 Service Unavailable</title></html>"),
        reset(),
        ok(answer),
    ]);
    println!("HOLYSHEEP_API_KEY is not set: asking a faulty server at {}", server.url());
    let config =
        Config::builder().api_key("sk-of-no-service").base_url(server.url()).on_event(show).build()?;
    ask(&Client::new(config)?, options)
}

fn show(event: &Event) {
    match event {
        Event::Attempt { attempt, .. } => println!("attempt {attempt} goes out"),
        Event::Answer { attempt, status, elapsed, .. } => {
            let status = status.map_or("no answer".to_owned(), |status| format!("status {status}"));
            println!("attempt {attempt} ends: {status} after {elapsed:.1?}");
        }
        Event::Retry { wait: Duration::ZERO, why, .. } => println!("  {why}; trying again at once"),
        Event::Retry { wait, why, .. } => println!("  {why}; trying again in {wait:.1?}"),
        _ => {}
    }
}
