//! Many calls to a server with ten kinds of faults: every call gets its own answer, memory stays flat, and no permit, thread
//! or socket is left over.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

#[path = "support/hostile.rs"]
mod hostile;
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use holysheep::{AdaptiveConfig, BreakerState, ChatRequest, Clock, RetryConfig};
use hostile::{
    Connection, DONE, FINISH, RawServer, STREAM_HEAD, build, child, chunk, config, delta, kind, sockets,
    threads,
};
use support::{ok, status};

const CALLS: usize = 100_000;
const CALLERS: usize = 64;

/// The number of calls after which memory may grow only by what the allocator wastes.
const WARM: usize = CALLS / 5;
const MAX_GROWTH: u64 = 4 << 20;

/// The share of faults, and their kinds.
const FAULTS: f64 = 0.3;
const KINDS: usize = 10;

/// The memory of this process in RAM, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.split("VmRSS:").nth(1).unwrap().split_whitespace().next().unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

/// Makes all calls, half of them as streams, and prints their outcomes and the remaining threads and sockets.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn child_that_makes_many_calls() {
    let before = threads();
    let clock = Clock::fake();
    let client = build(
        config(env::var("TEST_URL").unwrap())
            .clock(clock)
            .timeout(Duration::from_millis(500))
            .retry(RetryConfig::default().max_retries(20))
            .adaptive(AdaptiveConfig::default().wait_when_open(true)),
    );
    let warm = AtomicU64::new(0);
    let (next, ends) = (AtomicUsize::new(0), std::sync::Mutex::new(BTreeMap::<String, usize>::new()));
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= CALLS {
                        return;
                    }
                    if number == WARM {
                        warm.store(resident(), Ordering::Relaxed);
                    }
                    let request = ChatRequest::new("m").user(format!("prompt {number}"));
                    let answer = match number % 2 {
                        0 => client.chat(&request),
                        _ => client.chat_stream(&request).and_then(|stream| stream.into_response()),
                    };
                    let end = match &answer {
                        Ok(answer) if answer.text() == format!("prompt {number}") => "right".to_owned(),
                        Ok(answer) => format!("wrong: {:?}", answer.text()),
                        Err(error) => kind(error),
                    };
                    *ends.lock().unwrap().entry(end).or_default() += 1;
                }
            });
        }
    });
    println!("ends {:?}", ends.lock().unwrap());
    let snapshot = client.handler("m").snapshot();
    let is_half_open = snapshot.breaker == BreakerState::HalfOpen;
    println!("handler {} {} {is_half_open}", snapshot.in_flight, snapshot.waiting);
    println!("grown {}", resident().saturating_sub(warm.into_inner()));
    drop(client);
    let ended = Instant::now();
    while (threads() > before || sockets() > 0) && ended.elapsed() < Duration::from_secs(4) {
        thread::sleep(Duration::from_millis(10)); // real time, in which the sockets are closed
    }
    println!("left {} {}", threads() - before, sockets());
}

/// Fails in one of ten ways; returns whether the connection stays open.
fn fail(connection: &mut Connection, fault: usize) -> bool {
    let many: String = (0..150).map(|number| format!("x-{number}: y\r\n")).collect();
    match fault {
        0 => connection.send(status(429).header("retry-after-ms", "1").bytes()),
        1 => connection.send(status(500).body("<html><title>Oh no</title></html>").bytes()),
        2 => {
            connection.reset();
            false
        }
        3 => false,
        4 => {
            let bytes = ok("prompt").bytes();
            connection.send(&bytes[..bytes.len() - 20]);
            false
        }
        5 => connection.send(status(200).bytes()),
        6 => connection.send(status(200).body(r#"{"error":{"code":503,"message":"busy"}}"#).bytes()),
        7 => connection.send(status(200).body(r#"{"choices":[]}"#).bytes()),
        8 => connection.send(format!("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n{many}\r\n")),
        _ => {
            connection.send([STREAM_HEAD, &chunk(&delta("prom"))].concat());
            false
        }
    }
}

/// Answers with the prompt, as JSON or as a stream; returns whether it could be sent.
fn answer(connection: &mut Connection, body: &str) -> bool {
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let prompt = body["messages"][0]["content"].as_str().unwrap();
    if body["stream"] != true {
        return connection.send(ok(prompt).bytes());
    }
    let (first, rest) = prompt.split_at(3);
    let pieces = [&delta(first), &delta(rest), FINISH, DONE].map(chunk).concat();
    connection.send([STREAM_HEAD, &pieces, "0\r\n\r\n"].concat())
}

#[test]
#[ignore = "takes about a minute"]
fn a_hundred_thousand_calls_with_faults_of_ten_kinds_leave_nothing() {
    let server = RawServer::new(|connection| {
        while let Some((_, length)) = connection.head() {
            let mut body = vec![0; length];
            if std::io::Read::read_exact(&mut connection.transport, &mut body).is_err() {
                return;
            }
            let stays_open = if fastrand::f64() < FAULTS {
                fail(connection, fastrand::usize(..KINDS))
            } else {
                answer(connection, std::str::from_utf8(&body).unwrap())
            };
            if !stays_open {
                return;
            }
        }
    });
    let started = Instant::now();
    let output = child("child_that_makes_many_calls", &[("TEST_URL", &server.url())]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{:.1?}, {} connections\n{said}", started.elapsed(), server.connections());
    let line = |word: &str| said.split(word).nth(1).and_then(|rest| rest.lines().next()).unwrap_or_default();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(line("ends "), format!("{{\"right\": {CALLS}}}"), "every call has its own answer");
    assert_eq!(
        (line("handler "), line("left ")),
        ("0 0 false", "0 0"),
        "calls in flight, waiting calls, half open; threads, sockets"
    );
    let grown: u64 = line("grown ").parse().unwrap();
    assert!(grown <= MAX_GROWTH, "memory grew by {grown} bytes");
}
