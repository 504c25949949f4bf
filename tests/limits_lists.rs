//! The memory of an answer's lists, such as choices and tool calls, is bounded while they are parsed.
//!
//! Each call runs in a process of its own, and the test measures the peak of its resident memory. Counting allocations would
//! count a list twice while it is reallocated.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

#[path = "support/hostile.rs"]
mod hostile;
mod support;

use std::{env, fs};

use hostile::{DONE, FINISH, ask, build, child, config, each, events, kind, streamed};
use support::{Reply, Server, status};

const MIB: u64 = 1024 * 1024;

/// The memory limit of an answer: `FACTOR` times the size of its body, plus `ALLOWANCE`.
const FACTOR: u64 = 8;
const ALLOWANCE: u64 = 32 * MIB;

/// The memory of the test program itself.
const PROGRAM: u64 = 16 * MIB;

/// The size of the lists. Entries that cost hundreds of bytes each would exceed the allowance.
const SIZE: usize = 1_500_000;

/// A list of about `bytes` bytes that repeats this entry.
fn list(entry: &str, bytes: usize) -> String {
    let entries = vec![entry; bytes / (entry.len() + 1)];
    format!("[{}]", entries.join(","))
}

#[test]
#[ignore = "run by other tests, in a process of its own"]
fn child_that_makes_one_call() {
    let client = build(config(env::var("TEST_URL").unwrap()).timeout(std::time::Duration::from_secs(600)));
    let answer = if env::var("TEST_STREAM").is_ok() { streamed(&client) } else { ask(&client) };
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    println!("peak {} {}", kib * 1024, answer.map_or_else(|error| kind(&error), |_| "an answer".to_owned()));
}

/// The peak memory in bytes of a process that receives this reply, and the outcome of its call.
fn peak(reply: Reply, stream: bool) -> (u64, String) {
    let server = Server::always(reply);
    let url = server.url();
    let mut variables = vec![("TEST_URL", url.as_str())];
    variables.extend(stream.then_some(("TEST_STREAM", "1")));
    let output = child("child_that_makes_one_call", &variables);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.split("peak ").nth(1).unwrap_or_else(|| panic!("{said}")).lines().next().unwrap();
    let (bytes, result) = line.split_once(' ').unwrap();
    (bytes.parse().unwrap(), result.to_owned())
}

/// The same answer as an event of a complete stream.
fn as_event(body: &str) -> String {
    format!("data: {}\n\n{FINISH}{DONE}", body.replace("\"message\":", "\"delta\":"))
}

#[track_caller]
fn is_bounded(what: &str, body: &str) {
    let bytes = body.len() as u64;
    let ways = [
        ("chat", status(200).body(body), false),
        ("one piece for a stream", status(200).body(body), true),
        ("a chunk of a stream", events(&as_event(body)), true),
        ("a chunk for chat", events(&as_event(body)), false),
    ];
    each(ways, |(way, reply, stream)| {
        let (peak, result) = peak(reply, stream);
        println!("{way}, {what}: {} MB of {} MB, {result}", peak / 1_000_000, bytes / 1_000_000);
        let bound = FACTOR * bytes + ALLOWANCE + PROGRAM;
        assert!(peak <= bound, "{way}, {what}: {} MB for {} MB", peak / 1_000_000, bytes / 1_000_000);
    });
}

/// Bodies with a list of about `size` bytes.
fn bodies(size: usize) -> Vec<(&'static str, String)> {
    let message = |field: &str, entry: &str| {
        let list = list(entry, size);
        format!(r#"{{"choices":[{{"message":{{"content":"hi","{field}":{list}}},"finish_reason":"stop"}}]}}"#)
    };
    let parts = list("{}", size);
    vec![
        ("choices", format!(r#"{{"choices":{}}}"#, list("{}", size))),
        ("null choices", format!(r#"{{"choices":{}}}"#, list("null", size))),
        ("choices with a message", format!(r#"{{"choices":{}}}"#, list(r#"{"message":{}}"#, size))),
        ("tool_calls", message("tool_calls", "{}")),
        ("tool_calls with a function", message("tool_calls", r#"{"function":{}}"#)),
        ("null tool_calls", message("tool_calls", "null")),
        ("content parts", format!(r#"{{"choices":[{{"message":{{"content":{parts}}}}}]}}"#)),
        ("log-probabilities", format!(r#"{{"choices":[{{"logprobs":{{"content":{parts}}}}}]}}"#)),
    ]
}

#[test]
#[ignore = "takes 80 s of CPU time if it isn't optimised; .ci/run runs it with --release"]
fn lists_of_an_answer_are_bounded() {
    each(bodies(SIZE), |(what, body)| is_bounded(what, &body));
}

#[test]
#[ignore = "would take up to 5 GB and a minute without the limits; --nocapture shows the figures"]
fn four_large_inputs() {
    let size = 12_000_000;
    let large = bodies(size).into_iter().filter(|(what, _)| ["choices", "tool_calls"].contains(what));
    let unknown = format!(
        r#"{{"choices":[{{"message":{{"content":"hi"}},"finish_reason":"stop"}}],"x":{}}}"#,
        list("0", 250_000_000)
    );
    each(large.chain([("unknown", unknown)]), |(what, body)| is_bounded(what, &body));
}
