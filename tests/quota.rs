//! The client against a service with a real quota: sockets, threads, processes, and the system clock.
//!
//! These tests run in real time, because the time constants of the handler are absolute: a gap of a second counts as idle, a
//! rate doubles after 150 s, a pause lasts a minute at most. In the simulator, a minute at 20 calls a second compressed into
//! six seconds at 200 uses only 38 % of the quota: the first estimate, made within a second, is too low and has no time to
//! grow. `cargo test` ignores these tests; `.ci/run` runs them with `--release`, in parallel to its other steps:
//!
//! ```sh
//! cargo test --release --test quota -- --ignored --nocapture
//! ```
//!
//! `QUOTA_SECONDS=600` sets their length. The same in virtual time, and with many seeds, is in
//! `examples/simulate/tests/simulation.rs`.
#![allow(clippy::unwrap_used, reason = "a test that can't continue must fail")]

#[path = "support/quota.rs"]
mod quota;
mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use holysheep::{ChatRequest, Client, Config};
use quota::{Count, Service};

/// Calls a second that the service accepts, and the burst after a pause.
const PER_SECOND: f64 = 20.0;
const BURST: f64 = 20.0;

const THREADS: usize = 16;

/// The environment variable with the URL of the service. It is set only in the child processes of the second test.
const SERVICE: &str = "QUOTA_SERVICE";

/// In runs of at least this length, each of two processes must get three tenths of the quota. In shorter runs one of them may
/// be further ahead, because it increased its rate while the other one was pausing.
const LONG: Duration = Duration::from_secs(600);

fn length() -> Duration {
    let seconds = env::var("QUOTA_SECONDS").ok().map(|seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// Makes calls from all threads with one client for `length()`; returns the numbers of answered and failed calls.
fn work(url: &str, program: &str) -> (u64, u64) {
    let config = Config::builder().api_key("sk-test-0123456789abcdef").base_url(url).user_agent(program);
    let client = Client::new(config.build().unwrap()).unwrap();
    let end = Instant::now() + length();
    let work = || {
        let (mut answered, mut lost) = (0, 0);
        while Instant::now() < end {
            match client.chat(&ChatRequest::new("gpt-4.1").user("Hello?")) {
                Ok(_) => answered += 1,
                Err(error) => {
                    eprintln!("{program}: {error}");
                    lost += 1;
                }
            }
        }
        (answered, lost)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let ends = threads.into_iter().map(|thread| thread.join().unwrap());
        ends.fold((0, 0), |sum, end| (sum.0 + end.0, sum.1 + end.1))
    })
}

/// Prints the service's counts, and returns their sum and the used share of the quota.
fn report(service: &Service) -> (Count, f64) {
    let mut sum = Count::default();
    for (program, count) in service.counts() {
        println!("{program}: {} accepted, {} refused", count.accepted, count.refused);
        sum.accepted += count.accepted;
        sum.refused += count.refused;
    }
    let used = sum.accepted as f64 / (BURST + PER_SECOND * length().as_secs_f64());
    let refused = 100.0 * sum.refused as f64 / sum.accepted as f64;
    println!("refused {refused:.2} % of accepted; {:.1} % of the quota used", 100.0 * used);
    (sum, used)
}

#[test]
#[ignore = "takes a minute of real time; .ci/run runs it"]
fn a_quota_is_used_with_few_refusals_and_no_lost_call() {
    let service = Service::new(PER_SECOND, BURST);
    let (answered, lost) = work(&service.url(), "one process");
    let (sum, used) = report(&service);
    assert_eq!((answered, lost), (sum.accepted, 0));
    assert!(sum.refused as f64 <= 0.03 * sum.accepted as f64, "{sum:?}");
    assert!(used >= 0.9, "{used}");
}

#[test]
#[ignore = "takes a minute of real time; .ci/run runs it"]
fn of_two_processes_on_one_quota_neither_starves() {
    if let Ok(url) = env::var(SERVICE) {
        let (_, lost) = work(&url, &format!("process {}", std::process::id()));
        assert_eq!(lost, 0);
        return;
    }
    let service = Service::new(PER_SECOND, BURST);
    let start = || {
        let mut again = Command::new(env::current_exe().unwrap());
        again.args(["--exact", "of_two_processes_on_one_quota_neither_starves", "--ignored"]);
        again.env(SERVICE, service.url()).stdout(Stdio::null()).spawn().unwrap()
    };
    let processes = [start(), start()];
    for mut process in processes {
        assert!(process.wait().unwrap().success(), "a process lost calls");
    }
    let (sum, _) = report(&service);
    let counts = service.counts();
    assert_eq!(counts.len(), 2);
    let least = counts.values().map(|count| count.accepted).min().unwrap_or_default();
    let share = least as f64 / sum.accepted as f64;
    println!("the lesser share after {} s: {:.1} %", length().as_secs(), 100.0 * share);
    let fair = if length() >= LONG { 0.3 } else { 0.2 };
    assert!(share >= fair, "{share}");
    assert!(sum.refused as f64 <= 0.05 * sum.accepted as f64, "{sum:?}");
}
