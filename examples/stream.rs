//! An answer printed as it comes; Ctrl-C stops it cleanly. With `HOLYSHEEP_API_KEY` set it asks the real service, without
//! it a small server inside this process.
//!
//!     cargo run --example stream
//!     cargo run --example stream -- "Tell me a story of three sentences."

use std::io::Write;
use std::time::Duration;

use holysheep::test_server::{self, Server};
use holysheep::{ChatRequest, Client, Config, Error};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    env_logger::init();
    let question = std::env::args().nth(1).unwrap_or_else(|| "Count to ten, in words.".to_owned());
    if std::env::var_os("HOLYSHEEP_API_KEY").is_some() {
        return tell(&Client::from_env()?, &question);
    }
    let words = "one two three four five six seven eight nine ten".split_inclusive(' ');
    let server = Server::always(test_server::stream(words).trickle(Duration::from_micros(500)));
    println!("HOLYSHEEP_API_KEY is not set: asking a server at {}", server.url());
    let config = Config::builder().api_key("sk-of-no-service").base_url(server.url()).build()?;
    tell(&Client::new(config)?, &question)
}

fn tell(client: &Client, question: &str) -> Result<(), Failure> {
    let interrupted = client.clone();
    ctrlc::set_handler(move || interrupted.shutdown())?; // ends the stream below, at once
    let mut stream = client.chat_stream(&ChatRequest::new("gpt-4.1").user(question))?;
    for chunk in stream.by_ref() {
        match chunk {
            Ok(chunk) => print!("{}", chunk.text()),
            Err(Error::Shutdown) => {
                println!("\n(stopped after {} bytes)", stream.partial().len());
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        std::io::stdout().flush()?;
    }
    let first = stream.meta().elapsed;
    let answer = stream.into_response()?;
    let tokens = answer.usage.as_ref().and_then(|usage| usage.total_tokens);
    println!(
        "\n(the first token after {first:.1?}, {tokens:?} tokens, ended with {:?})",
        answer.finish_reason()
    );
    Ok(())
}
