//! A finished stream leaves no threads or sockets behind, even if the server holds the connection open.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

#[path = "support/hostile.rs"]
mod hostile;
mod support;

use std::time::{Duration, Instant};
use std::{env, thread};

use hostile::{RawServer, STREAM_HEAD, build, child, chunk, config, each, sockets, streamed, threads, whole};

/// The number of streams in a child process, and of the threads that read them.
const STREAMS: usize = 96;
const CALLERS: usize = 8;

/// The most threads that may read finished streams to their end in the background.
const MOST_THREADS: usize = 8;

/// The longest time until they end: 2 s, and a tolerance for a busy machine.
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
        thread::sleep(Duration::from_millis(10)); // real time, in which the sockets are closed
    }
    println!("left {left} {open} {} {} {}", threads() - before, sockets(), took.as_millis());
}

/// What a server does with a connection after the end of the stream.
type Then = fn(&mut hostile::Connection);

/// Runs a child process, and returns the numbers that it prints after `word`.
fn numbers(test: &str, url: &str, word: &str) -> Vec<usize> {
    let output = child(test, &[("TEST_URL", url)]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.split(word).nth(1).and_then(|rest| rest.lines().next());
    let line = line.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    line.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

#[test]
fn finished_streams_that_the_server_holds_open_occupy_few_threads_briefly() {
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
        assert!(
            threads <= MOST_THREADS && sockets <= MOST_THREADS,
            "{what}: {threads} threads, {sockets} sockets"
        );
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
    streamed(&client).unwrap(); // connecting starts threads
    let before = started();
    for _ in 0..50 {
        assert_eq!(streamed(&client).unwrap().text(), "Hello");
    }
    println!("started {}", started() - before - 1);
}

#[test]
fn no_thread_is_started_if_the_end_of_the_body_is_buffered() {
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
fn a_connection_is_kept_if_the_body_ends_shortly_after_done() {
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
        thread::sleep(Duration::from_millis(100)); // real time, in which the end of the body arrives
    }
    assert_eq!(server.connections(), 1);
}
