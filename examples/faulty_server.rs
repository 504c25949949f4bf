//! A chat server for trying out clients, with an optional quota, latency and faults.
//!
//!     cargo run --release --example faulty_server -- --rate 10 --burst 10 --ms 200
//!     cargo run --release --example faulty_server -- --faults 5

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use holysheep::test_server::{Reply, Server, cut_after, ok, reset, status};
use lexopt::prelude::*;

const HELP: &str = "usage: faulty_server [--rate N] [--burst N] [--ms N] [--faults PERCENT]

Answers chats after --ms milliseconds [0]. More than --rate calls a second [unlimited] on average, after --burst [1],
are refused with a 429 without Retry-After. --faults percent of the requests [0] get a 500, a reset or a cut answer.";

#[derive(Default)]
struct Counts {
    answered: u64,
    refused: u64,
    faults: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut rate, mut burst, mut latency, mut faults) = (f64::INFINITY, 1.0_f64, Duration::ZERO, 0.0);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("rate") => rate = arguments.value()?.parse()?,
            Long("burst") => burst = arguments.value()?.parse()?,
            Long("ms") => latency = Duration::from_millis(arguments.value()?.parse()?),
            Long("faults") => faults = arguments.value()?.parse()?,
            _ => {
                println!("{HELP}");
                return Ok(());
            }
        }
    }
    let bucket = Mutex::new((burst, Instant::now(), Counts::default()));
    let server = Server::respond(move |request| {
        let Ok(mut bucket) = bucket.lock() else { return status(500) };
        let (tokens, last, counts) = &mut *bucket;
        *tokens = burst.min(*tokens + last.elapsed().as_secs_f64() * rate.min(1e9));
        *last = Instant::now();
        let reply = respond(&request.json()["messages"][0]["content"].to_string(), tokens, faults, counts);
        let total = counts.answered + counts.refused + counts.faults;
        if total % 100 == 0 {
            let Counts { answered, refused, faults } = counts;
            println!("{total} requests: {answered} answered, {refused} refused, {faults} failed");
        }
        reply.after(latency)
    });
    println!("export HOLYSHEEP_BASE_URL={} HOLYSHEEP_API_KEY=sk-test", server.url());
    loop {
        thread::park(); // until Ctrl-C
    }
}

/// The reply to a chat: a refusal if the bucket is empty, a random fault, or an answer.
fn respond(prompt: &str, tokens: &mut f64, faults: f64, counts: &mut Counts) -> Reply {
    if *tokens < 1.0 {
        counts.refused += 1;
        return status(429);
    }
    *tokens -= 1.0;
    if fastrand::f64() * 100.0 < faults {
        counts.faults += 1;
        return match fastrand::u8(0..3) {
            0 => status(500),
            1 => reset(),
            _ => cut_after(100),
        };
    }
    counts.answered += 1;
    ok(&format!("You wrote: {prompt}"))
}
