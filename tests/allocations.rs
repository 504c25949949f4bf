//! The handler allocates memory when it is created and not afterwards.
#![allow(clippy::panic, reason = "a test that can't continue must fail")]

use std::time::{Duration, Instant};

use holysheep::{AdaptiveConfig, AdaptiveHandler, Admission, Limit, Outcome, RateLimits, RetryConfig, Tries};

#[test]
fn a_call_allocates_nothing() {
    let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(1));
    let retry = RetryConfig::default();
    let limit = Some(Limit { limit: 1000, remaining: 900, reset: Duration::from_secs(1) });
    let limits = RateLimits { requests: limit, tokens: limit };
    let mut now = Instant::now();
    let mut gone = 0;
    let counted = allocation_counter::measure(|| {
        for nth in 0..10_000 {
            now += Duration::from_secs(1);
            let Admission::Go(permit) = handler.admit(now) else { continue };
            let outcome = match nth % 50 {
                0 => Outcome::throttled(),
                1..=12 => Outcome::failed(),
                _ => Outcome::success().limits(limits),
            };
            handler.record(now, permit, outcome);
            let _ = handler.retry_delay(&retry, &mut Tries::default(), &outcome);
            gone += 1;
        }
    });
    assert!(gone > 1000, "{gone} calls were admitted");
    assert_eq!(counted.count_total, 0, "allocations in {gone} calls");
}
