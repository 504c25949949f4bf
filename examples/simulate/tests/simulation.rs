//! Bounds for the adaptive handler's results in the simulation of `examples/simulate`.
#![allow(clippy::panic, reason = "a test that can't continue must fail")]

#[path = "../src/world.rs"]
mod world;

use std::time::Duration;

use holysheep::{AdaptiveConfig, RetryConfig};
use world::{Report, Scenario, Trouble};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn simulate(scenario: &Scenario) -> Report {
    let policy =
        world::Policy { name: "", handler: AdaptiveConfig::default(), retry: RetryConfig::default() };
    assert!(policy.name.is_empty());
    world::run(scenario, &policy)
}

/// One client with eight threads, and a quota of one call a second.
fn saturated(seed: u64) -> Scenario {
    Scenario {
        clients: 1,
        threads: 8,
        quota: 1.0,
        burst: 10.0,
        slots: usize::MAX,
        chance: 0.0,
        trouble: None,
        length: secs(1800),
        late: Duration::ZERO,
        seed,
    }
}

fn part(count: u64, whole: u64) -> f64 {
    count as f64 / whole as f64
}

#[test]
fn a_saturated_quota_is_used_with_few_refusals_and_no_lost_call() {
    for (seed, threads, quota, refusals) in [(1, 8, 1.0, 0.025), (2, 32, 8.0, 0.015), (3, 16, 20.0, 0.03)] {
        let scenario = Scenario { threads, quota, burst: 20.0, ..saturated(seed) };
        let report = simulate(&scenario);
        let used = report.successes() as f64 / (1800.0 * quota + 20.0);
        let refused = part(report.refused, report.successes());
        assert!(used >= 0.97 && refused <= refusals && report.lost == 0, "{used:.3} {refused:.3}");
        assert!(report.failed == 0 && report.requests() >= report.successes());
    }
}

#[test]
fn wake_ups_ten_milliseconds_late_barely_matter() {
    let done = |late| simulate(&Scenario { late, ..saturated(4) }).successes() as f64;
    let (exact, late) = (done(Duration::ZERO), done(Duration::from_millis(10)));
    assert!((exact - late).abs() / exact < 0.005, "{exact} and {late} calls");
}

#[test]
fn of_two_processes_on_one_quota_neither_starves() {
    for seed in 0..20 {
        let scenario =
            Scenario { clients: 2, quota: 20.0, burst: 20.0, length: secs(600), ..saturated(seed) };
        let scenario = Scenario { threads: 16, ..scenario };
        let report = simulate(&scenario);
        // Jain's fairness index of the two shares.
        let squares: f64 = report.shares.iter().map(|share| part(*share, report.successes()).powi(2)).sum();
        assert!(1.0 / (2.0 * squares) >= 0.8, "seed {seed}: {:?}", report.shares);
        assert!(part(report.refused, report.successes()) <= 0.03 && report.lost == 0);
    }
}

/// One client with eight threads, and no quota that they reach.
fn unlimited() -> Scenario {
    Scenario { quota: 1e9, burst: 1e9, ..saturated(1) }
}

/// The part of what is possible that succeeds, on average over several seeds, without a lost call.
fn efficiency(scenario: &Scenario, most_refused: f64) -> f64 {
    let seeds = 1..=8;
    let efficiencies = seeds.clone().map(|seed| {
        let report = simulate(&Scenario { seed, length: secs(600), ..scenario.clone() });
        let refused = part(report.refused, report.requests());
        assert!(report.lost == 0 && refused <= most_refused, "seed {seed}: {refused:.3}");
        report.successes() as f64 / (600.0 * scenario.capacity())
    });
    efficiencies.sum::<f64>() / seeds.count() as f64
}

#[test]
fn a_limit_on_calls_in_flight_is_used_and_rarely_exceeded() {
    let used = efficiency(&Scenario { threads: 32, slots: 8, ..unlimited() }, 0.05);
    assert!(used >= 0.9, "{used:.3}");
}

#[test]
fn refusals_at_random_barely_slow_the_calls_down() {
    let used = efficiency(&Scenario { chance: 0.05, ..unlimited() }, 0.065);
    assert!(used >= 0.9, "{used:.3}");
}

/// A single thread can't send several calls at once, so its retries show that the refusals are random.
#[test]
fn refusals_at_random_do_not_make_a_single_thread_crawl() {
    for (chance, most) in [(0.05, 0.85), (0.15, 0.6)] {
        let used = efficiency(&Scenario { threads: 1, chance, ..unlimited() }, 1.2 * chance + 0.01);
        assert!(used >= most, "{chance}: {used:.3}");
    }
}

#[test]
fn an_outage_gets_little_load_and_no_thundering_herd_follows() {
    let trouble = Trouble { from: secs(300), to: secs(420), asks: None };
    let scenario = Scenario {
        clients: 100,
        threads: 4,
        quota: 1e9,
        burst: 1e9,
        trouble: Some(trouble),
        length: secs(600),
        ..saturated(5)
    };
    let report = simulate(&scenario);
    let mean = |from: usize, to: usize| {
        report.sent[from..to].iter().map(|count| f64::from(*count)).sum::<f64>() / (to - from) as f64
    };
    let before = mean(200, 300);
    let peak = report.sent[420..].iter().copied().max().map_or(0.0, f64::from);
    assert!(mean(300, 420) <= 0.1 * before, "{} of {before}", mean(300, 420));
    assert!(mean(450, 460) >= 0.9 * before, "back within 30 s: {} of {before}", mean(450, 460));
    assert!(peak <= 1.3 * before, "{peak} of {before}");
    assert!(part(report.lost, report.successes()) <= 0.002);
    assert!(report.time(0.5) < secs(1) && report.done[100] > 0);
}

#[test]
fn a_thousand_clients_with_the_same_retry_after_return_spread_out() {
    let trouble = Trouble { from: Duration::ZERO, to: secs(2), asks: Some(secs(10)) };
    for threads in [1, 4] {
        let scenario = Scenario {
            clients: 1000,
            threads,
            quota: 1e9,
            burst: 1e9,
            trouble: Some(trouble),
            length: secs(73),
            ..saturated(6)
        };
        let report = simulate(&scenario);
        assert!(report.sent[3..10].iter().all(|count| *count == 0), "earlier than the Retry-After");
        let after = &report.sent[12..72];
        let mean = after.iter().map(|count| f64::from(*count)).sum::<f64>() / after.len() as f64;
        let busiest = after.iter().copied().max().map_or(0.0, f64::from);
        assert!(busiest <= 1.6 * mean, "{busiest} in the busiest second, {mean:.0} on average");
    }
}
