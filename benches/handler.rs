//! Benchmark of the adaptive handler: the time of `admit` and `record` on one thread. Run with `cargo bench --bench handler`.

use std::time::{Duration, Instant};

use holysheep::{AdaptiveConfig, AdaptiveHandler, Admission, Limit, Outcome, RateLimits};

/// The number of calls in a round, and of rounds. The median of the rounds is printed.
const CALLS: u32 = 1_000_000;
const ROUNDS: usize = 9;

fn main() {
    let limits = Some(Limit { limit: 10_000, remaining: 9_000, reset: Duration::from_secs(60) });
    let headers = RateLimits { requests: limits, tokens: limits };
    let free = AdaptiveConfig::default();
    let paced = AdaptiveConfig::default().initial_rate(60.0e6);
    for (name, config, outcome) in [
        ("before the first 429", &free, Outcome::success()),
        ("with headers", &free, Outcome::success().limits(headers)),
        ("paced, with headers", &paced, Outcome::success().limits(headers)),
    ] {
        let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| nanoseconds_a_call(config, outcome)).collect();
        rounds.sort_by(f64::total_cmp);
        println!("{name:<22} {:>6.1} ns a call", rounds[ROUNDS / 2]);
    }
}

fn nanoseconds_a_call(config: &AdaptiveConfig, outcome: Outcome) -> f64 {
    let handler = AdaptiveHandler::new(config.clone().seed(1));
    let (start, mut now) = (Instant::now(), Instant::now());
    for _ in 0..CALLS {
        now += Duration::from_micros(2);
        if let Admission::Go(permit) = handler.admit(now) {
            handler.record(now, permit, outcome);
        }
    }
    assert_eq!(handler.snapshot().successes, u64::from(CALLS), "every call was admitted");
    start.elapsed().as_nanos() as f64 / f64::from(CALLS)
}
