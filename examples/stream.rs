//! Prints an answer as it arrives; Ctrl-C cancels it. With `HOLYSHEEP_API_KEY` set the call goes to the real service; without
//! the key, to a slow server inside this process.
//!
//!     cargo run --example stream
//!     cargo run --example stream -- "Tell me a story of three sentences."

use std::io::{self, Write};
use std::time::Duration;

use holysheep::test_server::{self, Server};
use holysheep::{Cancel, ChatRequest, Client, Config, Error};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    env_logger::init();
    let question = std::env::args().nth(1).unwrap_or_else(|| "Count to ten, in words.".to_owned());
    let words = "one two three four five six seven eight nine ten".split_inclusive(' ');
    let server = Server::always(test_server::stream(words).trickle(Duration::from_micros(500)));
    let client = match std::env::var_os("HOLYSHEEP_API_KEY") {
        Some(_) => Client::from_env()?,
        None => Client::new(Config::builder().api_key("sk-of-no-service").base_url(server.url()).build()?)?,
    };
    let cancel = Cancel::new();
    let client = client.with_cancel(&cancel);
    ctrlc::set_handler(move || cancel.cancel())?;

    let mut stream = client.chat_stream(&ChatRequest::new("gpt-4.1").user(question))?;
    let first = stream.meta().elapsed;
    for chunk in stream.by_ref() {
        match chunk {
            Ok(chunk) => print!("{}", chunk.text()),
            Err(Error::Cancelled) => {
                println!("\n(cancelled after {} bytes)", stream.partial().len());
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        io::stdout().flush()?;
    }
    let answer = stream.into_response()?;
    let tokens = answer.usage.as_ref().and_then(|usage| usage.total_tokens).unwrap_or_default();
    println!("\n(first token after {first:.1?}, {tokens} tokens, ended by {:?})", answer.finish_reason());
    Ok(())
}
