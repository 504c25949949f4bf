//! One chat call. With `HOLYSHEEP_API_KEY` set it goes to the real service; without the key, to a server inside this process
//! that fails three times first.
//!
//!     cargo run --example chat
//!     cargo run --example chat -- "What is a token bucket?"

use std::process::ExitCode;
use std::time::Duration;

use holysheep::test_server::{Server, ok, reset, status};
use holysheep::{ChatRequest, Client, Config, ConfigBuilder, Event, Result};

fn main() -> ExitCode {
    env_logger::init();
    let question = std::env::args().nth(1).unwrap_or_else(|| "Explain full jitter in a sentence.".to_owned());
    let server = Server::script([
        status(429).retry_after(1),
        status(503).body("<html><title>503 Service Unavailable</title></html>"),
        reset(),
        ok("Wait after each failure, up to twice as long each time, and never as long as everybody else."),
    ]);
    match settings(&server).and_then(|settings| ask(settings, &question)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn settings(server: &Server) -> Result<ConfigBuilder> {
    if std::env::var_os("HOLYSHEEP_API_KEY").is_some() {
        return ConfigBuilder::from_env();
    }
    println!("HOLYSHEEP_API_KEY is not set: using a faulty server at {}", server.url());
    Ok(Config::builder().api_key("sk-of-no-service").base_url(server.url()))
}

fn ask(settings: ConfigBuilder, question: &str) -> Result<()> {
    let client = Client::new(settings.deadline(Some(Duration::from_secs(120))).on_event(show).build()?)?;
    let answer = client.chat(&ChatRequest::new("gpt-4.1").user(question))?;
    let meta = answer.meta();
    println!("{}", answer.text());
    println!("({} attempts in {:.1?}, {:.1?} of it waiting)", meta.attempts, meta.elapsed, meta.waited);
    Ok(())
}

/// Prints the progress of the call.
fn show(event: &Event) {
    match event {
        Event::Attempt { attempt, .. } => println!("attempt {attempt}"),
        Event::Waiting { wait: Some(wait), cause, .. } => println!("  waiting {wait:.1?} because of {cause}"),
        Event::Paced { waited, .. } => println!("  waited {waited:.1?} for its turn"),
        Event::Retry { wait: Duration::ZERO, why, .. } => println!("  {why}: retrying without backoff"),
        Event::Retry { wait, why, .. } => println!("  {why}: retrying in {wait:.1?}"),
        _ => {}
    }
}
