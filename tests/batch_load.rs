//! Batches under load, each against a service on real sockets: what is lost or paid twice, how much memory it takes, how
//! much of a quota it uses, how fast it is.
//!
//! They take from seconds to minutes of real time, so they are ignored by `cargo test`; the gate runs them in release:
//!
//! ```sh
//! cargo test --release --test batch_load -- --ignored --nocapture --test-threads 1
//! ```
//!
//! `LOAD=10` makes them ten times as long.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on shall say so loudly")]

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/quota.rs"]
mod quota;
mod support;
#[path = "support/tool.rs"]
mod tool;

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use faulty::Service;
use holysheep::{ChatRequest, Client, Config};
use serde_json::Value;
use tool::{Folder, batch, lines, tool};

/// How often a child is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How many times as long as in the gate.
fn load() -> usize {
    env::var("LOAD").ok().map_or(1, |load| load.parse().unwrap())
}

/// Waits for a program, and tells the most memory that it had, in KiB.
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

/// Asserts that there is one line for each of so many items.
#[track_caller]
fn assert_once(lines: &[Value], items: usize) {
    let indexes: BTreeSet<_> = lines.iter().map(|line| line["index"].as_u64().unwrap()).collect();
    assert_eq!((lines.len(), indexes.len()), (items, items));
}

fn quiet(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
#[ignore = "takes seconds of real time; the gate runs it"]
fn of_many_calls_to_a_bad_service_none_is_lost_and_none_is_asked_again_once_answered() {
    let items = 2000 * load();
    let folder = Folder::new("bad");
    let (input, output) = (folder.prompts(items), folder.file("out.jsonl"));
    let service = Service::new(0.3, Duration::from_millis(20));
    let started = Instant::now();
    let mut command = batch(&service.url(), &input, &output);
    command.args(["--concurrency", "64", "--timeout", "1"]);
    let ended = command.output().unwrap();
    let (books, lines) = (service.books(), lines(&output));
    let answered: usize = books.answered.values().sum();
    let successes = lines.iter().filter(|line| line.get("answer").is_some()).count();
    println!(
        "{items} items in {:.0?}: {successes} succeeded, {answered} answers, {:?}",
        started.elapsed(),
        books.failures
    );
    println!("{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(lines.len(), items);
    assert_eq!(answered, successes, "each answer was paid once");
    assert!(books.answered.values().all(|answers| *answers == 1));
    // An answer that was made and lost is known by the key of the call, if the service looks at that.
    assert!(books.keys.len() == items && books.keys.values().all(|keys| keys.len() == 1));
    assert_once(&lines, items);
    // Six attempts of which each fails with 24 %, 429s apart, are in vain for one item in 5,000.
    assert!(successes + items / 500 >= items);
}

#[test]
#[ignore = "takes seconds of real time; the gate runs it"]
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
#[ignore = "takes seconds of real time; the gate runs it"]
fn five_hundred_threads_in_flight_are_small() {
    const THREADS: usize = 512;
    let folder = Folder::new("threads");
    let (input, output) = (folder.prompts(8 * THREADS), folder.file("out.jsonl"));
    let service = Service::new(0.0, Duration::from_millis(1000));
    let child = quiet(batch(&service.url(), &input, &output).args(["--concurrency", "512"]));
    let (ended, kib) = peak(child);
    println!("{THREADS} in flight: {kib} KiB, most at a time {}", service.books().most);
    assert!(ended && service.books().most == THREADS);
    assert!(kib <= 45 * 1024, "{kib} KiB");
}

/// Calls as fast as a quota of 600 a minute lets it; the part of the quota that was used, and of the calls that were refused.
fn efficiency(threads: usize, length: Duration) -> (f64, f64) {
    let service = quota::Service::new(10.0, 10.0);
    let config = Config::builder().api_key("sk-test-0123456789abcdef").base_url(service.url());
    let client = Client::new(config.build().unwrap()).unwrap();
    let end = Instant::now() + length;
    let requests = std::iter::repeat_with(|| ChatRequest::new("m").user("hi"));
    let mut items = client.batch(requests).concurrency(threads).run();
    while Instant::now() < end {
        items.next().unwrap().result.unwrap();
    }
    let counts = service.counts();
    let count = counts.values().next().unwrap();
    let used = count.accepted as f64 / (10.0 + 10.0 * length.as_secs_f64());
    (used, count.refused as f64 / count.accepted as f64)
}

#[test]
#[ignore = "takes a minute of real time; the gate runs it"]
fn a_quota_is_used_up_with_any_number_of_threads() {
    let length = Duration::from_secs(60 * load() as u64);
    let runs = [8, 64, 256].map(|threads| thread::spawn(move || (threads, efficiency(threads, length))));
    for run in runs {
        let (threads, (used, refused)) = run.join().unwrap();
        println!("{threads} threads, {length:?}: {used:.3} of the quota, {:.2} % refused", 100.0 * refused);
        assert!(refused <= 0.03 && used >= 0.97, "{threads} threads");
    }
}

/// Four processes with a quarter of the input each at a quota of 600 a minute; the seconds that each took, and the part of
/// the quota that was used.
fn four_shards(name: &str, arguments: &[&str]) -> ([f64; 4], f64) {
    tool(); // built before the time counts
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
#[ignore = "takes a minute of real time; the gate runs it"]
fn four_processes_that_know_the_quota_end_together() {
    let (seconds, used) = four_shards("told", &["--rpm", "600"]);
    assert!(seconds[3] <= 1.3 * seconds[0] && used >= 0.95);
}

#[test]
#[ignore = "takes two minutes of real time; the gate runs it"]
fn four_processes_that_know_nothing_complete_the_input() {
    // How evenly they share depends on how many 429s each of them sees, which in a minute are few: no bound here.
    four_shards("untold", &[]);
}

#[test]
#[ignore = "takes seconds of real time; the gate runs it"]
fn it_is_as_fast_as_a_loop_written_by_hand() {
    for threads in [8, 64] {
        let calls = 250 * threads * load(); // more than a second
        // Pair by pair, because what else the computer does changes from one to the next.
        let pair = |_| {
            let service = Service::new(0.0, Duration::from_millis(5));
            let by_hand = by_hand(&service.url(), threads, calls);
            let service = Service::new(0.0, Duration::from_millis(5));
            let batch = by_batch(&service.url(), threads, calls);
            println!(
                "{threads} threads: {:.0} a second, by hand {:.0}",
                calls as f64 / batch,
                calls as f64 / by_hand
            );
            by_hand / batch
        };
        let mut ratios = [0; 7].map(pair);
        ratios.sort_by(f64::total_cmp);
        println!("ratios {ratios:.3?}");
        assert!(ratios[3] >= 0.95, "{ratios:?}");
    }
}

/// The seconds that a batch takes.
fn by_batch(url: &str, threads: usize, calls: usize) -> f64 {
    let config = Config::builder().api_key("sk-test-0123456789abcdef").base_url(url);
    let client = Client::new(config.build().unwrap()).unwrap();
    let requests = (0..calls).map(|_| ChatRequest::new("m").user("hi"));
    let started = Instant::now();
    let items = client.batch(requests).concurrency(threads).run();
    assert_eq!(items.filter(|item| item.result.is_ok()).count(), calls);
    started.elapsed().as_secs_f64()
}

/// The seconds that threads with ureq and serde_json take.
fn by_hand(url: &str, threads: usize, calls: usize) -> f64 {
    let url = format!("{url}/chat/completions");
    let pool =
        ureq::Agent::config_builder().max_idle_connections(threads).max_idle_connections_per_host(threads);
    let agent: ureq::Agent = pool.build().into();
    let left = AtomicUsize::new(calls);
    let started = Instant::now();
    let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    let work = || {
        while take() {
            let body = serde_json::to_vec(&ChatRequest::new("m").user("hi")).unwrap();
            let request =
                agent.post(&url).header("authorization", "Bearer x").content_type("application/json");
            let text = request.send(&body).unwrap().body_mut().read_to_vec().unwrap();
            let answer: holysheep::ChatResponse = serde_json::from_slice(&text).unwrap();
            assert_eq!(answer.text(), "hi");
        }
    };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    started.elapsed().as_secs_f64()
}
