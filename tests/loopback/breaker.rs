//! The circuit breaker opens when a server breaks every connection, and any answer to a probe closes it.

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::hostile::{RawServer, adaptive, ask, build, config, each, request, streamed};
use crate::support::{Reply, Server, full_message, hang_up, ok, raw, reset, status};
use holysheep::{
    AdaptiveConfig, AdaptiveHandler, Admission, BreakerState, Client, Clock, Error, Event, Jitter, Outcome,
    Permit, RetryConfig,
};

/// The ways in which a server breaks a connection after the request.
fn broken() -> [(&'static str, Reply); 4] {
    let in_head = raw("HTTP/1.1 200 OK\r\nc").then_close();
    let in_body = ok("hi").cut_after(3);
    [("reset", reset()), ("closed", hang_up()), ("cut head", in_head), ("cut body", in_body)]
}

#[test]
fn a_call_gives_up_within_half_a_minute_if_a_service_answers_only_bare_503s() {
    for (seed, before) in (1..=10).flat_map(|seed| [(seed, 0), (seed, 20)]) {
        let mut script = vec![ok("hi"); before];
        script.extend(vec![status(503); 30]);
        let (server, clock) = (Server::script(script), Clock::fake());
        let client =
            build(config(server.url()).clock(clock.clone()).adaptive(AdaptiveConfig::default().seed(seed)));
        for _ in 0..before {
            ask(&client).unwrap();
            clock.advance(Duration::from_millis(500));
        }
        let error = ask(&client).unwrap_err();
        let elapsed = error.elapsed().unwrap();
        assert!((6..=11).contains(&error.attempts()), "{seed}: {error}");
        assert!(elapsed > Duration::from_secs(5) && elapsed < Duration::from_secs(30), "{seed}: {error}");
    }
}

/// Makes calls a quarter of a second apart until the breaker is open; returns the number of requests that this took.
#[track_caller]
fn requests_until_open(client: &Client, clock: &Clock, server: &Server, what: &str) -> usize {
    let before = server.requests().len();
    for _ in 0..200 {
        if matches!(ask(client), Err(Error::CircuitOpen { .. })) {
            return server.requests().len() - before;
        }
        clock.advance(Duration::from_millis(250));
    }
    panic!("{what}: never open in {} requests", server.requests().len() - before);
}

#[test]
fn a_server_that_breaks_every_connection_opens_the_breaker_without_retries() {
    each(broken(), |(what, reply)| {
        let server = Server::always(reply);
        let (client, clock) = adaptive(server.url());
        let client = client.with_retry(RetryConfig::default().max_retries(0));
        let requests = requests_until_open(&client, &clock, &server, what);
        assert!((10..=12).contains(&requests), "{what}: {requests} requests");
        assert_eq!(client.handler("gpt-4.1").snapshot().openings, 1, "{what}");
    });
}

#[test]
fn a_server_that_breaks_every_connection_opens_the_breaker_when_the_budget_is_spent() {
    each(broken(), |(what, reply)| {
        let server = Server::always(reply);
        let (client, clock) = adaptive(server.url());
        let quick = RetryConfig::default().jitter(Jitter::None).base_delay(Duration::from_micros(1));
        let client = client.with_retry(quick.max_delay(Duration::from_micros(1)));
        while client.handler("gpt-4.1").snapshot().budget > 0 {
            ask(&client).unwrap_err(); // all within 2 s, so that the breaker stays closed
        }
        assert_eq!(client.handler("gpt-4.1").snapshot().breaker, BreakerState::Closed, "{what}");
        let requests = requests_until_open(&client, &clock, &server, what);
        assert!(requests <= 12, "{what}: {requests} requests");
    });
}

#[test]
fn a_server_that_breaks_every_connection_opens_the_breaker_by_default() {
    each(broken(), |(what, reply)| {
        let server = Server::always(reply);
        let (client, clock) = adaptive(server.url());
        let requests = requests_until_open(&client, &clock, &server, what);
        assert!(requests <= 16, "{what}: {requests} requests");
    });
    let server = Server::always(reset());
    let (client, clock) = adaptive(server.url());
    let client = client.with_retry(RetryConfig::default().max_retries(0));
    for _ in 0..12 {
        assert!(streamed(&client).is_err());
        clock.advance(Duration::from_millis(250));
    }
    assert_eq!(client.handler("gpt-4.1").snapshot().breaker, BreakerState::Open, "by streams too");
}

#[test]
fn an_immediate_retry_of_a_stale_connection_is_not_a_failure() {
    let server = Server::script([ok("one"), reset(), ok("two"), hang_up(), ok("three")]);
    let (client, clock) = adaptive(server.url());
    for text in ["one", "two", "three"] {
        assert_eq!(ask(&client).unwrap().text(), text);
    }
    let snapshot = client.handler("gpt-4.1").snapshot();
    assert_eq!((snapshot.failures, snapshot.successes, clock.sleeps().len()), (0, 3, 0));
}

/// A handler whose breaker is open, and a time at which it admits a probe.
fn opened() -> (AdaptiveHandler, Instant) {
    let handler = AdaptiveHandler::new(AdaptiveConfig::default().seed(1));
    let mut now = Instant::now();
    for _ in 0..12 {
        if let Admission::Go(permit) = handler.admit(now) {
            handler.record(now, permit, Outcome::failed());
        }
        now += Duration::from_millis(250);
    }
    assert_eq!(handler.snapshot().breaker, BreakerState::Open);
    (handler, now + Duration::from_secs(30))
}

#[track_caller]
fn admitted(handler: &AdaptiveHandler, now: Instant) -> Permit {
    match handler.admit(now) {
        Admission::Go(permit) => permit,
        other => panic!("{other:?}"),
    }
}

/// The next time within 15 minutes at which a call is admitted, in steps of a second.
fn next_probe(handler: &AdaptiveHandler, from: Instant) -> Option<(Permit, Instant)> {
    (1..900).map(|second| from + Duration::from_secs(second)).find_map(|now| match handler.admit(now) {
        Admission::Go(permit) => Some((permit, now)),
        _ => None,
    })
}

#[test]
fn a_late_success_of_a_replaced_probe_closes_the_breaker() {
    let (handler, now) = opened();
    let first = admitted(&handler, now);
    let (second, later) = next_probe(&handler, now).unwrap();
    handler.record(later + Duration::from_secs(1), first, Outcome::success());
    assert_eq!(handler.snapshot().breaker, BreakerState::Closed);
    handler.record(later + Duration::from_secs(2), second, Outcome::failed());
    assert_eq!(handler.snapshot().breaker, BreakerState::Closed, "one failure doesn't open it");
}

#[test]
fn a_refusal_of_a_replaced_probe_closes_the_breaker_too() {
    for answer in [Outcome::refused(), Outcome::throttled()] {
        let (handler, now) = opened();
        let first = admitted(&handler, now);
        let (_second, later) = next_probe(&handler, now).unwrap();
        handler.record(later + Duration::from_secs(1), first, answer);
        assert_eq!(handler.snapshot().breaker, BreakerState::Closed, "{answer:?}: the service answered");
    }
}

#[test]
fn a_success_of_a_call_sent_before_the_breaker_opened_does_not_close_it() {
    let (handler, mut now) = (AdaptiveHandler::new(AdaptiveConfig::default().seed(1)), Instant::now());
    let early = admitted(&handler, now);
    while handler.snapshot().breaker == BreakerState::Closed {
        let permit = admitted(&handler, now);
        handler.record(now, permit, Outcome::failed());
        now += Duration::from_millis(250);
    }
    handler.record(now, early, Outcome::success());
    assert_eq!(handler.snapshot().breaker, BreakerState::Open);
}

/// Makes calls to a failing server until the breaker opens, and advances the clock until a probe is allowed.
fn break_down(client: &Client, clock: &Clock) {
    let once = client.with_retry(RetryConfig::default().max_retries(0));
    while client.handler("gpt-4.1").snapshot().breaker == BreakerState::Closed {
        ask(&once).unwrap_err();
        clock.advance(Duration::from_millis(250));
    }
    clock.advance(Duration::from_secs(30));
}

#[test]
fn slow_answers_close_the_breaker_of_a_batch() {
    let server = Server::script(vec![status(503); 10]);
    server.add(vec![ok("hi").after(Duration::from_millis(10)); 200]);
    let clock = Clock::fake();
    let log = Arc::new(Mutex::new((0, Vec::new())));
    let client = build(config(server.url()).clock(clock.clone()).on_event({
        let log = Arc::clone(&log);
        move |event| {
            let mut log = log.lock().unwrap();
            match event {
                Event::Answer { status: Some(200), .. } => log.0 += 1,
                Event::Breaker { state: BreakerState::Closed, .. } => {
                    let answers = log.0;
                    log.1.push(answers);
                }
                _ => {}
            }
        }
    }));
    break_down(&client, &clock);
    let items: Vec<_> = client.batch((0..160).map(|_| request())).concurrency(8).run().collect();
    assert!(items.iter().all(|item| item.result.is_ok()));
    let log = log.lock().unwrap();
    assert!(matches!(log.1[..], [0..=8, ..]), "closed after {:?} of {} answers", log.1, log.0);
}

#[test]
fn each_state_of_the_breaker_has_an_event() {
    let server = Server::script(vec![status(503); 10]);
    server.add(vec![ok("hi")]);
    let (clock, states) = (Clock::fake(), Arc::new(Mutex::new(Vec::new())));
    let client = build(config(server.url()).clock(clock.clone()).on_event({
        let states = Arc::clone(&states);
        move |event| {
            if let Event::Breaker { state, .. } = event {
                states.lock().unwrap().push(*state);
            }
        }
    }));
    break_down(&client, &clock);
    ask(&client).unwrap();
    assert_eq!(*states.lock().unwrap(), [BreakerState::Open, BreakerState::HalfOpen, BreakerState::Closed]);
}

/// A server that fails ten requests and holds the next one until the flag is set and notified.
fn holding() -> (RawServer, Arc<(Mutex<bool>, Condvar)>) {
    let released = Arc::new((Mutex::new(false), Condvar::new()));
    let gate = Arc::clone(&released);
    let server = RawServer::new(move |connection| {
        while let Some(number) = connection.request() {
            if number == 10 {
                let (lock, condvar) = &*gate;
                drop(condvar.wait_while(lock.lock().unwrap(), |released| !*released).unwrap());
            }
            let reply = if number < 10 { status(503) } else { ok("hi") };
            if !connection.send(reply.bytes()) {
                return;
            }
        }
    });
    (server, released)
}

#[test]
fn a_probe_is_not_replaced_before_its_call_times_out() {
    let (server, released) = holding();
    let clock = Clock::fake();
    let long = config(server.url()).clock(clock.clone()).timeout(Duration::from_secs(600));
    let client = build(long);
    break_down(&client, &clock);
    let asked = server.requests().len();
    let probe = thread::spawn({
        let client = client.clone();
        move || ask(&client)
    });
    while server.requests().len() == asked {
        thread::yield_now();
    }
    clock.advance(Duration::from_secs(90)); // a slow model
    let second = ask(&client);
    let sent = server.requests().len() - asked;
    *released.0.lock().unwrap() = true;
    released.1.notify_all();
    assert_eq!(probe.join().unwrap().map_err(|error| full_message(&error)).unwrap().text(), "hi");
    assert!(matches!(second, Err(Error::CircuitOpen { .. })), "{second:?}");
    assert_eq!(sent, 1, "requests while half open");
    assert_eq!(client.handler("gpt-4.1").snapshot().breaker, BreakerState::Closed);
}
