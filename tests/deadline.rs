//! The deadline holds in every phase of a call and for every fault of the server. The cases run in parallel, in real time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use holysheep::{ChatRequest, Client, Config, Jitter, RetryConfig};
use support::{Reply, Server, ok, raw, silence, status};

/// The tolerance, early and late.
const SLACK: Duration = Duration::from_millis(50);

#[test]
fn a_deadline_of_two_seconds_is_kept() {
    check(Duration::from_secs(2));
}

/// The kernel rounds such a timeout of a socket up by more than a second.
#[test]
#[ignore = "takes 30 s"]
fn a_deadline_of_thirty_seconds_is_kept() {
    check(Duration::from_secs(30));
}

fn check(deadline: Duration) {
    let second = Duration::from_secs(1);
    let reply = ok(&"hi ".repeat(1000));
    let fails_late = status(503).after(Duration::from_millis(1500));
    let cases: Vec<(&str, Vec<Reply>)> = vec![
        ("stalls before the header", vec![silence()]),
        ("stalls in the header", vec![raw("HTTP/1.1 200 OK\r\ncontent-").stall_after(25)]),
        ("stalls after the header", vec![reply.clone().stall_after(0)]),
        ("stalls in the body", vec![reply.clone().stall_after(10)]),
        ("trickles from the start", vec![reply.clone().trickle(second)]),
        ("trickles quickly", vec![reply.clone().trickle(Duration::from_millis(20))]),
        ("stalls in an error's body", vec![status(400).body("x".repeat(100)).stall_after(10)]),
        ("fails first, then stalls", vec![status(503), silence()]),
        ("fails late, then stalls", vec![fails_late, silence()]),
    ];
    let threads =
        cases.into_iter().map(|(name, replies)| thread::spawn(move || (name, time_taken(replies, deadline))));
    for thread in threads.collect::<Vec<_>>() {
        let (name, taken) = thread.join().unwrap();
        println!("{name}: {taken:?}");
        assert!(taken > deadline - SLACK && taken < deadline + SLACK, "{name}: {taken:?}");
    }
}

fn time_taken(replies: Vec<Reply>, deadline: Duration) -> Duration {
    let server = Server::script(replies);
    let retry = RetryConfig::default().base_delay(Duration::from_millis(100)).jitter(Jitter::None);
    let config =
        Config::builder().api_key("sk-test").base_url(server.url()).deadline(Some(deadline)).retry(retry);
    let client = Client::new(config.build().unwrap()).unwrap();
    let start = Instant::now();
    let error = client.chat(&ChatRequest::new("gpt-4.1").user("hi")).unwrap_err();
    let taken = start.elapsed();
    assert!(error.is_timeout() || error.status() == Some(400), "{error:?}");
    taken
}
