//! The batch tool under load, against a server on real sockets: no item is lost or paid for twice, memory use is constant, and
//! shards share a quota.
//!
//! These tests take from seconds to minutes of real time, so they are ignored by `cargo test`; `.ci/run` runs them with `--release`:
//!
//! ```sh
//! cargo test --release -p holysheep-batch --test load -- --ignored --nocapture --test-threads 1
//! ```
//!
//! `LOAD=10` makes them ten times as long.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod tool;

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use serde_json::Value;
use tool::faulty::Service;
use tool::quota;
use tool::{Folder, batch, lines};

/// The interval at which the memory of a child is measured.
const LOOK: Duration = Duration::from_millis(20);

/// The length of the tests, as a multiple of their length in `.ci/run`.
fn load() -> usize {
    env::var("LOAD").ok().map_or(1, |load| load.parse().unwrap())
}

/// Waits for a program; returns whether it succeeded, and its peak memory in KiB.
fn peak(mut child: Child) -> (bool, u64) {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let now = fs::read_to_string(&status).unwrap_or_default();
        let line = now.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.map_or(peak, |line| line.trim().trim_end_matches(" kB").parse().unwrap());
        if let Some(ended) = child.try_wait().unwrap() {
            return (ended.success(), peak);
        }
        thread::sleep(LOOK);
    }
}

/// Asserts that there is exactly one line for each of `items` items.
#[track_caller]
fn assert_once(lines: &[Value], items: usize) {
    let indexes: BTreeSet<_> = lines.iter().map(|line| line["index"].as_u64().unwrap()).collect();
    assert_eq!((lines.len(), indexes.len()), (items, items));
}

fn quiet(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
#[ignore = "takes seconds of real time; .ci/run runs it"]
fn no_request_to_a_faulty_service_is_lost_or_repeated_once_answered() {
    let items = 2000 * load();
    let folder = Folder::new("bad");
    let (input, output) = (folder.prompts(items), folder.file("out.jsonl"));
    let service = Service::new(0.3, Duration::from_millis(20));
    let started = Instant::now();
    let mut command = batch(&service.url(), &input, &output);
    command.args(["--concurrency", "64", "--timeout", "1"]);
    let ended = command.output().unwrap();
    let (counts, lines) = (service.counts(), lines(&output));
    let answered: usize = counts.answered.values().sum();
    let successes = lines.iter().filter(|line| line.get("answer").is_some()).count();
    println!(
        "{items} items in {:.0?}: {successes} succeeded, {answered} answers, {:?}",
        started.elapsed(),
        counts.failures
    );
    println!("{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(lines.len(), items);
    assert_eq!(answered, successes, "each answer was paid for once");
    assert!(counts.answered.values().all(|answers| *answers == 1));
    // All attempts of an item have one idempotency key, so a service that honours keys answers none twice.
    assert!(counts.keys.len() == items && counts.keys.values().all(|keys| keys.len() == 1));
    assert_once(&lines, items);
    // Apart from 429s, an attempt fails with a probability of 24 %, so all six attempts of an item fail once in 5,000 items.
    assert!(successes + items / 500 >= items);
}

#[test]
#[ignore = "takes seconds of real time; .ci/run runs it"]
fn memory_is_flat() {
    let peak_of = |items: usize, concurrency: &str| {
        let folder = Folder::new("memory");
        let (input, output) = (folder.prompts(items), folder.file("out.jsonl"));
        let service = Service::new(0.0, Duration::ZERO);
        let started = Instant::now();
        let (ended, kib) =
            peak(quiet(batch(&service.url(), &input, &output).args(["--concurrency", concurrency])));
        assert!(ended);
        println!("{items} items, {concurrency} at a time: {kib} KiB, {:.1?}", started.elapsed());
        kib as f64
    };
    let (few, many) = (peak_of(10_000, "64"), peak_of(100_000 * load(), "64"));
    println!("ratio {:.3}", many / few);
    assert!(many <= 1.3 * few, "{many} and {few} KiB");
}

#[test]
#[ignore = "takes seconds of real time; .ci/run runs it"]
fn five_hundred_requests_in_flight_need_little_memory() {
    const THREADS: usize = 512;
    let folder = Folder::new("threads");
    let (input, output) = (folder.prompts(8 * THREADS), folder.file("out.jsonl"));
    let service = Service::new(0.0, Duration::from_millis(1000));
    let child = quiet(batch(&service.url(), &input, &output).args(["--concurrency", "512"]));
    let (ended, kib) = peak(child);
    println!("{THREADS} in flight: {kib} KiB, most at a time {}", service.counts().most_in_flight);
    assert!(ended && service.counts().most_in_flight == THREADS);
    assert!(kib <= 45 * 1024, "{kib} KiB");
}

/// Runs four processes that share an input and a quota of 600 a minute; returns the duration of each in seconds, sorted, and
/// the used part of the quota.
fn four_shards(name: &str, arguments: &[&str]) -> ([f64; 4], f64) {
    let items = 600 * load();
    let folder = Folder::new(name);
    let (input, service) = (folder.prompts(items), quota::Service::new(10.0, 10.0));
    let started = Instant::now();
    let shards = [1, 2, 3, 4].map(|shard| {
        let output = folder.file(&format!("{shard}.jsonl"));
        let mut command = batch(&service.url(), &input, &output);
        command.args(["--concurrency", "16", "--shard", &format!("{shard}/4")]).args(arguments);
        let mut child = quiet(&mut command);
        thread::spawn(move || {
            assert!(child.wait().unwrap().success());
            (started.elapsed().as_secs_f64(), output)
        })
    });
    let ends = shards.map(|shard| shard.join().unwrap());
    let lines: Vec<_> = ends.iter().flat_map(|(_, output)| lines(output)).collect();
    assert_once(&lines, items);
    assert!(lines.iter().all(|line| line["answer"] == "hi"));
    let mut seconds = ends.map(|(seconds, _)| seconds);
    seconds.sort_by(f64::total_cmp);
    let used = (items as f64 - 10.0) / (10.0 * seconds[3]);
    println!(
        "{name}: {items} items in {seconds:.1?} s, slowest {:.2} times the fastest, {used:.3} of the quota, {:?}",
        seconds[3] / seconds[0],
        service.counts()
    );
    (seconds, used)
}

#[test]
#[ignore = "takes a minute of real time; .ci/run runs it"]
fn four_processes_that_know_the_quota_end_together() {
    let (seconds, used) = four_shards("told", &["--rpm", "600"]);
    assert!(seconds[3] <= 1.3 * seconds[0] && used >= 0.95);
}

#[test]
#[ignore = "takes two minutes of real time; .ci/run runs it"]
fn four_processes_that_do_not_know_the_quota_complete_the_input() {
    // There is no bound for fairness: it depends on the number of 429s that each process gets, and in a minute these are few.
    four_shards("untold", &[]);
}
