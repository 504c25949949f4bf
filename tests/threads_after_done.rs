//! A stream that has ended leaves neither threads nor sockets, whatever the server does after its end.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on shall say so loudly")]

#[path = "support/hostile.rs"]
mod hostile;
mod support;

use std::time::{Duration, Instant};
use std::{env, thread};

use hostile::{RawServer, STREAM_HEAD, build, child, chunk, config, each, sockets, streamed, threads, whole};

/// Streams of a child, and the threads that read them.
const STREAMS: usize = 96;
const CALLERS: usize = 8;

/// Threads that may read streams to their end in the background: few.
const FEW: usize = 8;

/// How long that may take, with some time for the system.
const LONGEST: Duration = Duration::from_millis(2000 + 1500);

#[test]
#[ignore = "run by another test, in a process of its own"]
fn child_that_reads_many_streams() {
    let before = threads();
    let client = build(config(env::var("TEST_URL").unwrap()));
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                for _ in 0..STREAMS / CALLERS {
                    assert_eq!(streamed(&client).unwrap().text(), "Hello");
                }
            });
        }
    });
    let took = started.elapsed();
    let (left, open) = (threads() - before, sockets());
    let ended = Instant::now();
    while (threads() > before || sockets() > 0) && ended.elapsed() < LONGEST {
        thread::sleep(Duration::from_millis(10)); // real time, because real sockets have to be closed in it
    }
    println!("left {left} {open} {} {} {}", threads() - before, sockets(), took.as_millis());
}

/// What a server does with a connection once the stream has ended.
type Then = fn(&mut hostile::Connection);

/// What a child says after a word, as numbers.
fn numbers(test: &str, url: &str, word: &str) -> Vec<usize> {
    let output = child(test, &[("TEST_URL", url)]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.split(word).nth(1).and_then(|rest| rest.lines().next());
    let line = line.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    line.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

#[test]
fn pings_after_the_end_hold_few_threads_and_those_not_for_long() {
    let silent = |connection: &mut hostile::Connection| connection.hold();
    let pinging = |connection: &mut hostile::Connection| {
        while connection.send(chunk(": ping\n\n")) && connection.pause(Duration::from_millis(50)) {}
    };
    let behaviours: [(&str, Then); 2] = [("silence", silent), ("pings", pinging)];
    each(behaviours, |(what, then)| {
        let server = RawServer::new(move |connection| {
            if connection.request().is_some() {
                connection.send([STREAM_HEAD, &chunk(&whole())].concat());
                then(connection);
            }
        });
        let figures = numbers("child_that_reads_many_streams", &server.url(), "left ");
        let [threads, sockets, threads_later, sockets_later, millis] = figures[..] else { panic!() };
        println!(
            "{what}: {threads} threads and {sockets} sockets at the end, {threads_later} and {sockets_later} later; \
             {millis} ms"
        );
        assert!(threads <= FEW && sockets <= FEW, "{what}: {threads} threads, {sockets} sockets");
        assert_eq!((threads_later, sockets_later), (0, 0), "{what}: later");
        assert!(millis < 2000, "{what}: callers waited {millis} ms");
    });
}

/// The number of threads that this process has started so far, this one included.
fn started() -> usize {
    let id = thread::spawn(|| format!("{:?}", thread::current().id())).join().unwrap();
    id.trim_start_matches("ThreadId(").trim_end_matches(')').parse().unwrap()
}

#[test]
#[ignore = "run by another test, in a process of its own"]
fn child_that_counts_started_threads() {
    let client = build(config(env::var("TEST_URL").unwrap()));
    streamed(&client).unwrap(); // connecting takes threads
    let before = started();
    for _ in 0..50 {
        assert_eq!(streamed(&client).unwrap().text(), "Hello");
    }
    println!("started {}", started() - before - 1);
}

#[test]
fn no_thread_is_started_where_the_end_lies_in_the_buffer() {
    let chunked = [STREAM_HEAD, &chunk(&whole()), "0\r\n\r\n"].concat();
    let sized = hostile::events(&whole()).bytes();
    each([("chunked", chunked.into_bytes()), ("sized", sized)], |(what, bytes)| {
        let server = RawServer::new(
            move |connection| {
                while connection.request().is_some() && connection.send(&bytes) {}
            },
        );
        let figures = numbers("child_that_counts_started_threads", &server.url(), "started ");
        assert_eq!(figures, [0], "{what}");
        assert_eq!(server.connections(), 1, "{what}");
    });
}

#[test]
fn an_end_that_comes_a_moment_later_keeps_the_connection() {
    let server = RawServer::new(|connection| {
        while connection.request().is_some() {
            connection.send([STREAM_HEAD, &chunk(&whole())].concat());
            connection.pause(Duration::from_millis(30));
            connection.send("0\r\n\r\n");
        }
    });
    let client = build(config(server.url()));
    for _ in 0..4 {
        assert_eq!(streamed(&client).unwrap().text(), "Hello");
        thread::sleep(Duration::from_millis(100)); // real time, in which the end comes
    }
    assert_eq!(server.connections(), 1);
}
