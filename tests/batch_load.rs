//! Batches under load, against a server on real sockets: use of a quota, and speed.
//!
//! They take from seconds to minutes of real time, so they are ignored by `cargo test`; `.ci/run` runs them with `--release`:
//!
//! ```sh
//! cargo test --release --test batch_load -- --ignored --nocapture --test-threads 1
//! ```
//!
//! `LOAD=10` makes them ten times as long.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/quota.rs"]
mod quota;
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use faulty::Service;
use holysheep::{ChatRequest, Client, Config};

/// The length of the tests, as a multiple of their length in `.ci/run`.
fn load() -> usize {
    env::var("LOAD").ok().map_or(1, |load| load.parse().unwrap())
}

/// Runs a batch against a quota of 600 calls a minute; returns the used share of the quota and the share of refused calls.
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
#[ignore = "takes a minute of real time; .ci/run runs it"]
fn a_quota_is_used_up_with_any_number_of_threads() {
    let length = Duration::from_secs(60 * load() as u64);
    let runs = [8, 64, 256].map(|threads| thread::spawn(move || (threads, efficiency(threads, length))));
    for run in runs {
        let (threads, (used, refused)) = run.join().unwrap();
        println!("{threads} threads, {length:?}: {used:.3} of the quota, {:.2} % refused", 100.0 * refused);
        assert!(refused <= 0.03 && used >= 0.97, "{threads} threads");
    }
}

#[test]
#[ignore = "takes seconds of real time; .ci/run runs it"]
fn a_batch_is_as_fast_as_a_hand_written_loop() {
    for threads in [8, 64] {
        let calls = 250 * threads * load(); // more than a second
        // Each ratio compares two runs that follow each other, because the load of the machine changes.
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
        let median = |_| {
            let mut ratios = [0; 7].map(pair);
            ratios.sort_by(f64::total_cmp);
            println!("ratios {ratios:.3?}");
            ratios[3]
        };
        // With more threads than processors other work disturbs one side for seconds, so a series is repeated at most twice.
        assert!((0..3).map(median).any(|ratio| ratio >= 0.95), "slower in three series");
    }
}

/// The duration of a batch in seconds.
fn by_batch(url: &str, threads: usize, calls: usize) -> f64 {
    let config = Config::builder().api_key("sk-test-0123456789abcdef").base_url(url);
    let client = Client::new(config.build().unwrap()).unwrap();
    let requests = (0..calls).map(|_| ChatRequest::new("m").user("hi"));
    let started = Instant::now();
    let items = client.batch(requests).concurrency(threads).run();
    assert_eq!(items.filter(|item| item.result.is_ok()).count(), calls);
    started.elapsed().as_secs_f64()
}

/// The duration in seconds of the same calls by threads that use ureq and serde_json directly.
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
