//! `AdaptiveHandler` without a client: in virtual time, on a fake clock, and with many threads.

use std::sync::Barrier;
use std::time::{Duration, Instant};
use std::{iter, thread};

use holysheep::{
    AdaptiveConfig, AdaptiveHandler, Admission, BreakerState, CallError, Client, Clock, Config, Error,
    Jitter, Limit, Outcome, Permit, RateLimits, RefusalCause, RetryConfig, Tries,
};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[track_caller]
fn go(handler: &AdaptiveHandler, now: Instant) -> Permit {
    match handler.admit(now) {
        Admission::Go(permit) => permit,
        other => panic!("{other:?}"),
    }
}

/// Ten failures over three seconds from `start`.
fn fail(handler: &AdaptiveHandler, start: Instant) {
    for nth in 0..10 {
        let now = start + secs(3) * nth / 9;
        handler.record(now, go(handler, now), Outcome::failed());
    }
}

#[test]
fn paced_calls_sleep_one_slot_each() {
    let clock = Clock::fake();
    let handler = AdaptiveHandler::new(AdaptiveConfig::default().initial_rate(60.0).clock(clock.clone()));
    for _ in 0..4 {
        let permit = handler.acquire(None).unwrap();
        drop(permit);
    }
    let millis: Vec<u128> = clock.sleeps().iter().map(|sleep| sleep.as_millis()).collect();
    assert_eq!(millis.len(), 3);
    assert!(millis.iter().all(|sleep| (999..=1000).contains(sleep)), "{millis:?}");
}

#[test]
fn a_wait_beyond_the_deadline_fails_without_a_sleep() {
    let clock = Clock::fake();
    let handler = AdaptiveHandler::new(AdaptiveConfig::default().initial_rate(1.0).clock(clock.clone()));
    let start = Instant::now();
    let _first = go(&handler, start);
    let error = handler.acquire(Some(start + secs(40))).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }) && error.is_timeout(), "{error}");
    assert!(
        error.to_string().starts_with("not sent: the rate limit would admit the call in 60.0 s"),
        "{error}"
    );
    let turn_in = error.retry_after().unwrap();
    assert!(turn_in > secs(59) && turn_in < secs(61), "{turn_in:?}");
    assert!(clock.sleeps().is_empty());
    assert!(handler.acquire(Some(start + secs(70))).is_ok());
    assert_eq!(clock.sleeps().len(), 1);
    assert!(matches!(handler.acquire(Some(start)), Err(Error::Deadline { .. })), "the deadline has passed");
}

#[test]
fn an_open_breaker_is_an_error_or_a_wait() {
    for wait in [false, true] {
        let clock = Clock::fake();
        let config = AdaptiveConfig::default().seed(1).wait_when_open(wait).clock(clock.clone());
        let handler = AdaptiveHandler::new(config);
        // A fake clock stands still from its creation, so this is its current time.
        let now = Instant::now() - secs(3);
        fail(&handler, now);
        assert_eq!(handler.snapshot().breaker, BreakerState::Open);
        match handler.acquire(None) {
            Err(Error::CircuitOpen { retry_in, .. }) => {
                assert!(!wait && retry_in > secs(2) && retry_in < secs(6), "{retry_in:?}");
                assert!(clock.sleeps().is_empty());
            }
            Ok(_) => assert!(wait && clock.sleeps().len() == 1 && clock.sleeps()[0] < secs(6)),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn no_call_is_delayed_or_refused_before_the_first_failure() {
    let (handler, now) = (AdaptiveHandler::new(AdaptiveConfig::default()), Instant::now());
    for _ in 0..1000 {
        let (one, another) = (go(&handler, now), go(&handler, now));
        handler.record(now, one, Outcome::success());
        handler.record(now, another, Outcome::refused());
    }
    assert_eq!(handler.snapshot().rate_per_minute, None);
    assert_eq!(handler.snapshot().successes, 1000);
}

/// The number of calls that succeed in an hour of virtual time, made sequentially at 5 ms each. `refuses` gets the time in
/// seconds and returns whether the service refuses the call.
fn in_an_hour(mut refuses: impl FnMut(f64) -> bool) -> u64 {
    let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(3));
    let (start, mut passed) = (Instant::now(), Duration::ZERO);
    while passed < secs(3600) {
        match handler.admit(start + passed) {
            Admission::Go(permit) => {
                let refused = refuses(passed.as_secs_f64());
                passed += Duration::from_millis(5);
                let outcome = if refused { Outcome::throttled() } else { Outcome::success() };
                handler.record(start + passed, permit, outcome);
            }
            Admission::Wait(wait) => passed += wait,
            Admission::Open { .. } => panic!("a 429 must not open the breaker"),
        }
    }
    handler.snapshot().successes
}

#[test]
fn random_refusals_do_not_reduce_the_rate_to_a_crawl() {
    for percent in [1, 3, 6, 10] {
        let mut random = fastrand::Rng::with_seed(7);
        let done = in_an_hour(|_| random.u8(..100) < percent);
        println!("{percent} %: {done} of 720,000");
        assert!(done > 400_000, "{percent} %");
    }
}

#[test]
fn a_quotas_refusals_are_not_taken_for_random_ones() {
    // A token bucket: ten calls a second, burst 20.
    let (mut level, mut at, mut refused) = (20.0_f64, 0.0, 0);
    let done = in_an_hour(|now| {
        (level, at) = ((level + 10.0 * (now - at)).min(20.0), now);
        let empty = level < 1.0;
        level -= if empty { 0.0 } else { 1.0 };
        refused += u64::from(empty);
        empty
    });
    assert!(done > 35_900 && refused < done / 50, "{done} and {refused} refused");
}

/// Simulates `threads` callers in virtual time until `calls` calls have succeeded. `serve` gets the time in seconds and the
/// number of calls in flight, and returns the milliseconds until the answer and its outcome. Returns the duration in seconds,
/// the number of requests and the number of lost calls.
fn simulate(
    threads: u32,
    calls: u32,
    mut serve: impl FnMut(f64, usize) -> (u64, Outcome),
) -> (f64, u32, u32) {
    let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(5).wait_when_open(true));
    let (start, mut now, retry) = (Instant::now(), Duration::ZERO, RetryConfig::default());
    let mut waiting: Vec<(Duration, Tries)> = vec![(Duration::ZERO, Tries::default()); threads as usize];
    let mut flight: Vec<(Duration, Tries, Permit, Outcome)> = Vec::new();
    let (mut done, mut sent, mut lost) = (0, 0, 0);
    while done < calls {
        // Retries come first, as in the wait queue.
        waiting.sort_by_key(|(from, tries)| (*from > now, *tries == Tries::default(), *from));
        let due = waiting.iter().position(|(from, _)| *from <= now);
        let mut wake = waiting.iter().map(|(from, _)| *from).filter(|from| *from > now).min();
        if let Some(first) = due {
            match handler.admit(start + now) {
                Admission::Go(permit) => {
                    let (_, tries) = waiting.remove(first);
                    let (millis, outcome) = serve(now.as_secs_f64(), flight.len());
                    sent += 1;
                    flight.push((now + Duration::from_millis(millis), tries, permit, outcome));
                    continue;
                }
                Admission::Wait(wait) | Admission::Open { retry_in: wait } => {
                    wake = Some(wake.map_or(now + wait, |wake| wake.min(now + wait)));
                }
            }
        }
        let ends = flight.iter().map(|call| call.0).min();
        now = ends.into_iter().chain(wake).min().unwrap();
        while let Some(index) = flight.iter().position(|call| call.0 <= now) {
            let (_, mut tries, permit, outcome) = flight.swap_remove(index);
            handler.record(start + now, permit, outcome);
            let delay = handler.retry_delay(&retry, &mut tries, &outcome);
            let is_success = matches!(outcome, success if success == Outcome::success());
            done += u32::from(is_success);
            lost += u32::from(!is_success && delay.is_none());
            let tries = if delay.is_some() { tries } else { Tries::default() };
            waiting.push((now + delay.unwrap_or_default(), tries));
        }
    }
    (now.as_secs_f64(), sent, lost)
}

#[test]
fn a_limiter_that_answers_a_bare_503_loses_no_call() {
    // Ten calls a second without a burst, as nginx limits them by default.
    let mut next = 0.0_f64;
    let (seconds, sent, lost) = simulate(16, 1000, |now, _| {
        if now < next {
            return (5, Outcome::failed().status(503));
        }
        next = next.max(now - 0.1) + 0.1;
        (50, Outcome::success())
    });
    assert_eq!(lost, 0);
    assert!(seconds < 150.0 && sent < 1250, "{seconds:.0} s, {sent} requests");
}

#[test]
fn an_outage_of_bare_503s_costs_few_requests_and_no_call() {
    let mut in_outage = 0;
    let (seconds, _, lost) = simulate(16, 3000, |now, _| {
        if (20.0..30.0).contains(&now) {
            in_outage += 1;
            return (50, Outcome::failed().status(503));
        }
        (200, Outcome::success())
    });
    assert!(in_outage <= 100 && lost == 0, "{in_outage} requests, {lost} lost");
    assert!(seconds < 80.0, "{seconds:.0} s, the minimum is 38 and the 10 s of the outage");
}

#[test]
fn a_limit_on_calls_in_flight_is_found() {
    let (seconds, sent, lost) = simulate(128, 1280, |_, in_flight| {
        if in_flight < 64 { (1500, Outcome::success()) } else { (200, Outcome::throttled()) }
    });
    assert!(lost == 0 && seconds < 1.5 * 30.0, "{seconds:.0} s, the minimum is 30; {lost} lost");
    assert!(sent < 1500, "{sent} requests");
}

#[test]
fn random_refusals_cost_little() {
    // A Retry-After of a second delays 5 % of 4000 calls by a second each; divided by 16 threads, that is about 13 s in total.
    for (outcome, percent, possible) in [
        (Outcome::throttled(), 1, 50.0),
        (Outcome::throttled(), 5, 50.0),
        (Outcome::failed().status(503), 5, 50.0),
        (Outcome::throttled().status(529), 15, 50.0),
        (Outcome::throttled().status(503).retry_after(secs(1)), 5, 65.0),
    ] {
        let mut random = fastrand::Rng::with_seed(3);
        let (seconds, _, lost) = simulate(16, 4000, |_, _| {
            if random.u8(..100) < percent { (50, outcome) } else { (200, Outcome::success()) }
        });
        assert!(
            lost == 0 && seconds < 1.5 * possible,
            "{outcome:?}: {seconds:.0} s, the minimum is {possible}; {lost} lost"
        );
    }
}

#[test]
fn a_call_is_made_again_until_it_succeeds() {
    let clock = Clock::fake();
    let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(1).clock(clock.clone()));
    let retry = RetryConfig::default().jitter(Jitter::None);
    let outcome = |result: &Result<u32, &str>| match result {
        Ok(_) => Outcome::success(),
        Err("busy") => Outcome::throttled().retry_after(secs(3)),
        Err(_) => Outcome::failed(),
    };
    let mut script = vec![Ok(7), Err("down"), Err("busy")];
    assert_eq!(handler.call(&retry, || script.pop().unwrap(), outcome).unwrap(), 7);
    assert!(clock.sleeps().contains(&secs(3)) && clock.sleeps().contains(&secs(1)), "{:?}", clock.sleeps());
    let error = handler.call(&retry, || Err::<u32, _>("down"), outcome).unwrap_err();
    assert_eq!(error.to_string(), "failed after 6 attempts: down");
    let now = Instant::now() + secs(3600);
    (0..20).for_each(|nth| {
        if let Admission::Go(permit) = handler.admit(now + secs(nth)) {
            handler.record(now + secs(nth), permit, Outcome::failed());
        }
    });
    let error = handler.call(&retry, || Ok(7), outcome).unwrap_err();
    assert!(matches!(error, CallError::NotAdmitted { attempts: 0, error: None, .. }), "{error}");
}

#[test]
fn invalid_retry_settings_of_a_call_become_the_nearest_valid_ones() {
    let clock = Clock::fake();
    let handler = AdaptiveHandler::new(AdaptiveConfig::off().clock(clock));
    let endless = RetryConfig::default().max_retries(3000);
    let mut attempts = 0;
    let fail = || {
        attempts += 1;
        Err::<(), _>("down")
    };
    assert!(handler.call(&endless, fail, |_| Outcome::failed()).is_err());
    assert_eq!(attempts, 1001);
    let patient = RetryConfig::default().status_max_delay(429, Duration::MAX);
    let asked = Outcome::throttled().retry_after(Duration::MAX);
    assert_eq!(handler.retry_delay(&patient, &mut Tries::default(), &asked), None, "more than a day");
}

/// Failures that are refusals in other respects, such as a 529, open the breaker too.
#[test]
fn the_consecutive_errors_of_a_snapshot_are_those_that_open_the_breaker() {
    let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(1));
    let start = Instant::now();
    for nth in 0..200 {
        let now = start + secs(nth);
        if let Admission::Go(permit) = handler.admit(now) {
            handler.record(now, permit, Outcome::throttled().status(529));
        }
        let snapshot = handler.snapshot();
        if snapshot.breaker == BreakerState::Open {
            assert!(snapshot.consecutive_errors >= 5, "{snapshot:?}");
            return;
        }
    }
    panic!("the breaker is closed: {:?}", handler.snapshot());
}

#[test]
fn the_handlers_of_a_client_use_its_clock() {
    let clock = Clock::fake();
    let config = Config::builder().api_key("sk-test-0123456789").base_url("http://127.0.0.1:1/v1");
    let adaptive = AdaptiveConfig::default().initial_rate(1.0);
    let client = Client::new(config.adaptive(adaptive).clock(clock.clone()).build().unwrap()).unwrap();
    let handler = client.handler("m");
    drop(handler.acquire(None).unwrap());
    drop(handler.acquire(None).unwrap());
    assert_eq!(clock.sleeps().iter().sum::<Duration>(), secs(60));
}

#[test]
fn sixty_four_threads_are_all_admitted() {
    const THREADS: usize = 64;
    const TURNS: usize = 50;
    let clock = Clock::fake();
    let config = AdaptiveConfig::default().initial_rate(600.0).seed(1).clock(clock.clone());
    let handler = AdaptiveHandler::new(config);
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (handler, clock, barrier) = (handler.clone(), clock.clone(), &barrier);
            scope.spawn(move || {
                barrier.wait();
                for turn in 0..TURNS {
                    let again = (thread + turn) % 3 == 0;
                    let permit = if again { handler.acquire_again(None) } else { handler.acquire(None) };
                    let outcome = match (thread * TURNS + turn) % 100 {
                        0 => Outcome::throttled(),
                        1..=5 => Outcome::failed(),
                        _ => Outcome::success(),
                    };
                    if turn % 7 == 0 {
                        clock.advance(Duration::from_millis(1));
                    }
                    handler.record(Instant::now(), permit.unwrap(), outcome);
                }
            });
        }
    });
    let snapshot = handler.snapshot();
    let answers = snapshot.successes + snapshot.failures + snapshot.throttles;
    assert_eq!((answers, snapshot.waiting), ((THREADS * TURNS) as u64, 0));
}

#[test]
fn a_snapshot_summarises_the_latencies_of_the_last_answers() {
    let (handler, start) = (AdaptiveHandler::new(AdaptiveConfig::default()), Instant::now());
    assert_eq!(handler.snapshot().median_latency, None);
    for seconds in 0..200 {
        handler.record(start + secs(seconds), go(&handler, start), Outcome::success());
    }
    let snapshot = handler.snapshot();
    assert_eq!(snapshot.median_latency, Some(secs(150)), "of 100 to 199");
    assert_eq!(snapshot.p99_latency, Some(secs(198)));
}

#[test]
fn the_retry_budget_limits_retries_after_errors_and_successes_refill_it() {
    let (handler, now) = (AdaptiveHandler::new(AdaptiveConfig::default().seed(1)), Instant::now());
    let retry = RetryConfig::default();
    let again = || handler.retry_delay(&retry, &mut Tries::default(), &Outcome::failed()).is_some();
    assert_eq!((0..30).filter(|_| again()).count(), 20);
    assert_eq!(handler.snapshot().budget, 0);
    for _ in 0..3 {
        handler.record(now, go(&handler, now), Outcome::success());
    }
    assert_eq!((0..30).filter(|_| again()).count(), 3);
    assert_eq!(
        handler.retry_delay(&retry, &mut Tries::default(), &Outcome::throttled()),
        Some(Duration::ZERO)
    );
}

#[test]
fn a_handler_that_is_off_only_counts() {
    let (handler, now) = (AdaptiveHandler::new(AdaptiveConfig::off()), Instant::now());
    let retry = RetryConfig::default().jitter(Jitter::None);
    let limit = Some(Limit { limit: 60, remaining: 0, reset: secs(60) });
    let throttled =
        Outcome::throttled().retry_after(secs(7)).limits(RateLimits { requests: limit, tokens: limit });
    for nth in 0..100 {
        handler.record(now + secs(nth), go(&handler, now), throttled);
        handler.record(now + secs(nth), go(&handler, now), Outcome::failed());
    }
    let snapshot = handler.snapshot();
    assert_eq!((snapshot.throttles, snapshot.failures, snapshot.openings), (100, 100, 0));
    assert_eq!((snapshot.rate_per_minute, snapshot.breaker), (None, BreakerState::Closed));
    let mut tries = Tries::default();
    let delays: Vec<_> =
        std::iter::from_fn(|| handler.retry_delay(&retry, &mut tries, &Outcome::throttled())).collect();
    assert_eq!(delays, [1, 2, 4, 8, 16].map(secs), "backoff, because there is no rate limiter");
    assert_eq!(handler.retry_delay(&retry, &mut Tries::default(), &throttled), Some(secs(7)));
}

#[test]
fn as_published_reproduces_the_articles_numbers() {
    let (handler, mut now) = (AdaptiveHandler::new(AdaptiveConfig::as_published()), Instant::now());
    let rate = || handler.snapshot().rate_per_minute.unwrap().round();
    let mut record = |outcome| {
        now += secs(10);
        handler.record(now, go(&handler, now), outcome);
    };
    let mut rates = vec![rate()];
    for outcome in [Outcome::throttled(), Outcome::failed(), Outcome::failed()] {
        record(outcome);
        rates.push(rate());
    }
    (0..100).for_each(|_| record(Outcome::success()));
    rates.push(rate());
    (0..20).for_each(|_| record(Outcome::throttled()));
    rates.push(rate());
    (0..5000).for_each(|_| record(Outcome::success()));
    rates.push(rate());
    assert_eq!(rates, [60.0, 30.0, 23.0, 17.0, 19.0, 10.0, 120.0]);
    let again =
        |outcome| handler.retry_delay(&RetryConfig::default(), &mut Tries::default(), &outcome).is_some();
    (0..9).for_each(|_| record(Outcome::failed()));
    assert!(again(Outcome::failed()));
    record(Outcome::throttled());
    assert!(!again(Outcome::failed()), "ten consecutive failures");
    assert_eq!(handler.snapshot().breaker, BreakerState::Closed);
}

#[test]
fn a_permit_of_another_handler_is_dropped() {
    let now = Instant::now();
    let (one, other) =
        (AdaptiveHandler::new(AdaptiveConfig::default()), AdaptiveHandler::new(AdaptiveConfig::default()));
    fail(&one, now);
    let probe = go(&one, now + secs(40));
    other.record(now, probe, Outcome::throttled());
    assert_eq!((other.snapshot().throttles, other.snapshot().rate_per_minute), (0, None));
    assert!(matches!(one.admit(now + secs(40)), Admission::Go(_)), "another call may become the probe");
}

#[test]
fn the_later_of_two_header_limits_applies() {
    for (requests_reset, tokens_reset, held) in [(20, 60, 60), (90, 60, 90)] {
        let (handler, now) = (AdaptiveHandler::new(AdaptiveConfig::default().seed(1)), Instant::now());
        let permits = [go(&handler, now), go(&handler, now)];
        for (permit, tokens_left) in permits.into_iter().zip([50_000, 20_000]) {
            let requests = Some(Limit { limit: 60, remaining: 0, reset: secs(requests_reset) });
            let tokens = Some(Limit { limit: 150_000, remaining: tokens_left, reset: secs(tokens_reset) });
            handler.record(
                now,
                permit,
                Outcome::success().tokens(30_000).limits(RateLimits { requests, tokens }),
            );
        }
        let Admission::Wait(wait) = handler.admit(now) else { panic!("nothing remains") };
        assert!((held..=held + 1).contains(&wait.as_secs()), "{wait:?}");
    }
}

/// A failure without a status is a timeout if it took about as long as the slowest call; a connection may fail after seconds, too.
#[test]
fn only_failures_as_slow_as_the_slowest_calls_cap_the_calls_in_flight() {
    for (slowest, cap) in [(10, None), (6, Some(1))] {
        let (handler, start) = (AdaptiveHandler::new(AdaptiveConfig::default()), Instant::now());
        let answered = go(&handler, start);
        handler.record(start + secs(slowest), answered, Outcome::success());
        let sent = start + secs(20);
        let (failing, _other) = (go(&handler, sent), go(&handler, sent));
        handler.record(sent + secs(6), failing, Outcome::failed());
        assert_eq!(handler.snapshot().max_in_flight, cap, "{slowest} s");
    }
}

/// A request that is too large is refused again and again, also where other refusals are random.
#[test]
fn a_call_that_is_refused_four_times_ends_the_trust_in_chance() {
    let refusal = Outcome::throttled().status(429);
    for (refusals, cause) in [(3, RefusalCause::Chance), (4, RefusalCause::Rate)] {
        let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(1));
        let mut now = Instant::now();
        let mut grant_then_refuse = || {
            for outcome in [Outcome::success(), refusal] {
                let permit = loop {
                    match handler.admit(now) {
                        Admission::Go(permit) => break permit,
                        Admission::Wait(wait) | Admission::Open { retry_in: wait } => now += wait,
                    }
                };
                now += Duration::from_millis(50);
                handler.record(now, permit, outcome);
            }
            let at_once = iter::from_fn(|| match handler.admit(now) {
                Admission::Go(permit) => Some(permit),
                _ => None,
            });
            let volley: Vec<Permit> = at_once.take(4).collect();
            volley.into_iter().for_each(|permit| handler.record(now, permit, Outcome::success()));
        };
        (0..20).for_each(|_| grant_then_refuse());
        assert_eq!(handler.snapshot().refused_for, Some(RefusalCause::Chance));
        let (retry, mut tries) = (RetryConfig::default(), Tries::default());
        for _ in 0..refusals {
            assert!(handler.retry_delay(&retry, &mut tries, &refusal).is_some());
        }
        grant_then_refuse();
        assert_eq!(handler.snapshot().refused_for, Some(cause), "after {refusals} refusals of one call");
    }
}
