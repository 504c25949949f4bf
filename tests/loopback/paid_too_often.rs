//! No unnecessary paid requests: retries after timeouts, the `stream_options` fallback, `x-should-retry` and idempotency keys.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::hostile::{
    DONE, FINISH, ROLE, RawServer, STREAM_HEAD, USAGE, WAYS, adaptive, ask, build, chunk, config, delta,
};
use crate::hostile::{each, events, exact, hasty, streamed, whole};
use crate::support::{Reply, Server, full_message, ok, silence, status};
use holysheep::{AdaptiveConfig, Error, Event, Jitter, Phase, Reason, RetryConfig};

/// The inactivity timeout of these tests. Slow models need longer.
const TIMEOUT: Duration = Duration::from_millis(60);

#[test]
fn an_answer_slower_than_the_timeout_is_received_by_a_retry() {
    each(WAYS, |(name, way)| {
        let server = Server::always(ok("hi").after(5 * TIMEOUT / 2)); // as 150 s are to 60 s
        let answer = way(&hasty(server.url(), TIMEOUT)).map_err(|error| full_message(&error));
        assert!(matches!(answer.map(|answer| answer.meta().attempts), Ok(2 | 3)), "{name}");
        assert!(server.requests().len() <= 3, "{name}: {} requests", server.requests().len());
    });
}

#[test]
fn a_hanging_server_costs_three_requests_with_doubled_timeouts() {
    let cases = [("nothing", silence()), ("half a body", ok("hi").stall_after(3))];
    each(cases, |(what, reply)| {
        let server = Server::always(reply);
        let times = Arc::new(Mutex::new(Vec::new()));
        let retry = RetryConfig::default().jitter(Jitter::None).base_delay(Duration::from_millis(1));
        let client = build(config(server.url()).timeout(TIMEOUT).retry(retry).on_event({
            let times = Arc::clone(&times);
            move |event| {
                if let Event::Answer { elapsed, .. } = event {
                    times.lock().unwrap().push(*elapsed);
                }
            }
        }));
        let error = ask(&client).unwrap_err();
        assert_eq!((error.attempts(), server.requests().len()), (3, 3), "{what}: {error:?}");
        let times = times.lock().unwrap().clone();
        for (time, expected) in times.iter().zip([1, 2, 4]) {
            let least = expected * TIMEOUT;
            assert!(*time >= least && *time < 2 * least, "{what}: {times:?}");
        }
        let Error::GaveUp { reason: Reason::TimeoutRetriesSpent, last, .. } = &error else {
            panic!("{error:?}")
        };
        assert!(matches!(**last, Error::Timeout { after, .. } if after == 4 * TIMEOUT), "{what}: {error:?}");
    });
}

#[test]
fn a_timeout_says_which_setting_to_raise() {
    let server = Server::always(silence());
    let once = hasty(server.url(), TIMEOUT).with_retry(RetryConfig::default().max_retries(0));
    for client in [hasty(server.url(), TIMEOUT), once] {
        let error = ask(&client).unwrap_err();
        let text = full_message(&error);
        let names = ["timeout(", "`timeout`", "with_timeout", "raise timeout", "timeout setting"];
        assert!(names.iter().any(|name| text.contains(name)), "{text}");
        assert!(error.is_timeout(), "{text}");
    }
}

#[test]
fn timeout_retries_are_limited_separately_from_other_retries() {
    let server = Server::script([silence(), status(503), silence(), status(503), ok("hi")]);
    assert_eq!(ask(&hasty(server.url(), TIMEOUT)).unwrap().meta().attempts, 5);
    let server = Server::script([status(503), silence(), silence(), status(503), silence(), ok("hi")]);
    let error = ask(&hasty(server.url(), TIMEOUT)).unwrap_err();
    assert_eq!((error.attempts(), server.requests().len()), (5, 5), "{error:?}");
    let server = Server::always(silence());
    let config = config(server.url()).timeout(TIMEOUT).retry(RetryConfig::default().retry_timeouts(false));
    assert_eq!(ask(&build(config)).unwrap_err().attempts(), 1);
}

#[test]
fn a_deadline_bounds_attempts_with_doubled_timeouts() {
    let server = Server::always(silence());
    let client = hasty(server.url(), TIMEOUT).with_deadline(Some(2 * TIMEOUT));
    let started = Instant::now();
    let error = ask(&client).unwrap_err();
    assert!(error.is_timeout() && started.elapsed() < 3 * TIMEOUT, "{error:?} in {:?}", started.elapsed());
}

/// A server that repeats this event every 10 ms for this time, and then sends the answer.
fn repeating(event: &'static str, time: Duration) -> RawServer {
    RawServer::new(move |connection| {
        if connection.request().is_none() || !connection.send(STREAM_HEAD) {
            return;
        }
        let started = Instant::now();
        while started.elapsed() < time {
            if !connection.send(chunk(event)) || !connection.pause(Duration::from_millis(10)) {
                return;
            }
        }
        connection.send([&chunk(&whole()), "0\r\n\r\n"].concat());
    })
}

/// Events without content.
const EMPTY_EVENTS: [&str; 6] = [
    ": ping\n\n",
    "data: {\"choices\":[]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"}}]}\n\n",
    "data: null\n\n",
    USAGE,
    ROLE,
];

#[test]
fn a_stream_without_content_before_its_first_delta_gets_a_doubled_timeout() {
    each(EMPTY_EVENTS, |event| {
        let server = repeating(event, 5 * TIMEOUT / 2);
        let answer = streamed(&hasty(server.url(), TIMEOUT)).map_err(|error| full_message(&error));
        let outcome = answer.map(|answer| (answer.text().to_owned(), answer.meta().attempts));
        assert!(matches!(&outcome, Ok((text, 2 | 3)) if text == "Hello"), "{event}: {outcome:?}");
    });
}

#[test]
fn a_stream_that_never_has_content_costs_three_requests() {
    each(EMPTY_EVENTS, |event| {
        let server = repeating(event, 30 * TIMEOUT);
        let Err(error) = streamed(&hasty(server.url(), TIMEOUT)) else { panic!("{event}: a success") };
        assert_eq!((error.attempts(), server.requests().len()), (3, 3), "{event}: {}", full_message(&error));
        assert!(error.is_timeout(), "{event}: {}", full_message(&error));
    });
}

#[test]
fn usage_chunks_alone_do_not_reset_the_inactivity_timeout() {
    let server = RawServer::new(|connection| {
        connection.request();
        connection.send([STREAM_HEAD, &chunk(&delta("Hel"))].concat());
        let started = Instant::now();
        while started.elapsed() < 20 * TIMEOUT && connection.send(chunk(USAGE)) {
            connection.pause(Duration::from_millis(10));
        }
    });
    let mut pieces = crate::hostile::stream(&hasty(server.url(), TIMEOUT)).unwrap();
    let started = Instant::now();
    let (text, error) = crate::hostile::read(&mut pieces);
    assert_eq!(text, "Hel");
    assert!(matches!(error, Some(Error::Timeout { phase: Phase::Reading, .. })), "{error:?}");
    assert!(started.elapsed() < 5 * TIMEOUT, "{:?}", started.elapsed());
}

fn refusals() -> [Reply; 5] {
    let body = |words: &str| format!(r#"{{"error":{{"message":"{words}","type":"invalid_request_error"}}}}"#);
    let extra = r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#;
    [
        status(400).body(body("Unrecognized request argument: stream_options")),
        status(422).body(extra),
        status(400).body(r#"{"error":{"message":"no such field","param":"stream_options.include_usage"}}"#),
        status(200).body(r#"{"error":{"message":"stream_options isn't supported","code":400}}"#),
        events(&format!("data: {{\"error\":{{\"message\":\"stream_options: no\",\"code\":400}}}}\n\n{DONE}")),
    ]
}

#[test]
fn a_refusal_of_the_usage_option_is_remembered() {
    each(refusals(), |refusal| {
        let server = Server::script([refusal, events(&whole()), events(&whole()), events(&whole())]);
        let (client, clock) = exact(server.url());
        for _ in 0..2 {
            assert_eq!(streamed(&client).unwrap().text(), "Hello");
        }
        assert_eq!(streamed(&client.clone()).unwrap().text(), "Hello", "a clone knows it too");
        let asked: Vec<bool> =
            server.requests().iter().map(|request| request.body.contains("stream_options")).collect();
        assert_eq!(asked, [true, false, false, false]);
        assert!(clock.sleeps().is_empty(), "no wait for it: {:?}", clock.sleeps());
    });
}

#[test]
fn the_fallback_without_stream_options_is_an_attempt_of_the_same_call() {
    let refusal = refusals()[0].clone();
    let server = Server::script([status(503), refusal.clone(), status(503), events(&whole())]);
    let (client, clock) = exact(server.url());
    assert_eq!(streamed(&client).unwrap().meta().attempts, 4);
    let sleeps: Vec<u64> = clock.sleeps().iter().map(Duration::as_secs).collect();
    assert!(matches!(sleeps[..], [1, next] if next >= 2), "the backoff continues: {sleeps:?}");
    assert!(!server.requests()[3].body.contains("stream_options"), "not sent again after another failure");

    let mut replies = vec![status(503), refusal];
    replies.extend(vec![status(503); 9]);
    let server = Server::script(replies);
    let (client, clock) = exact(server.url());
    let deadline = Duration::from_millis(2500);
    let error = streamed(&client.with_deadline(Some(deadline))).unwrap_err();
    assert!(matches!(error, Error::GaveUp { reason: Reason::Deadline, attempts: 3, .. }), "{error:?}");
    assert_eq!(clock.sleeps(), [Duration::from_secs(1)], "one deadline for both");
}

#[test]
fn other_refusals_do_not_disable_stream_options() {
    // Validation errors repeat the request.
    let echo = r#"{"detail":[{"type":"less_than_equal","loc":["body","temperature"],"msg":"too hot",
        "input":{"temperature":9,"stream_options":{"include_usage":true}}}]}"#;
    each([r#"{"error":"no such model"}"#, echo], |body| {
        let server = Server::script([status(400).body(body), events(&whole())]);
        let (client, _) = exact(server.url());
        assert_eq!(streamed(&client).unwrap_err().status(), Some(400));
        assert_eq!(streamed(&client).unwrap().text(), "Hello");
        assert!(server.requests().iter().all(|request| request.body.contains("stream_options")));
    });
    // The option may not have been the reason.
    let refusal = refusals()[0].clone();
    let server = Server::script([refusal.clone(), refusal, events(&whole())]);
    let (client, _) = exact(server.url());
    assert_eq!(streamed(&client).unwrap_err().status(), Some(400));
    assert_eq!(streamed(&client).unwrap().text(), "Hello");
    assert!(server.requests()[2].body.contains("stream_options"));
}

#[test]
fn usage_is_not_requested_if_the_caller_opts_out() {
    let server = Server::script([events(&[&delta("Hello"), FINISH, DONE].concat())]);
    let request = crate::hostile::request().extra("stream_options", serde_json::Value::Null);
    exact(server.url()).0.chat_stream(&request).unwrap().into_response().unwrap();
    assert!(!server.requests()[0].body.contains("include_usage"), "{}", server.requests()[0].body);
}

#[test]
fn refusals_retried_by_x_should_retry_are_charged_to_the_budget() {
    const CALLS: usize = 200;
    let spent = |reply: Reply| {
        let server = Server::always(reply);
        let (client, _) = adaptive(server.url());
        let mut reasons = BTreeSet::new();
        for _ in 0..CALLS {
            match ask(&client).unwrap_err() {
                Error::GaveUp { reason, .. } => drop(reasons.insert(format!("{reason:?}"))),
                error => drop(reasons.insert(crate::hostile::kind(&error))),
            }
        }
        (server.requests().len(), reasons)
    };
    each([400, 404, 422], |code| {
        let (requests, reasons) = spent(status(code).header("x-should-retry", "true"));
        assert!(reasons.contains("BudgetSpent"), "{code}: {requests} requests, {reasons:?}");
        assert!(requests < 2 * CALLS, "{code}: {requests} requests");
    });
}

#[test]
fn no_two_clients_use_the_same_idempotency_keys() {
    let server = Server::always(ok("hi"));
    for _ in 0..20 {
        let client = build(config(server.url()).adaptive(AdaptiveConfig::default().seed(1)));
        for _ in 0..3 {
            ask(&client).unwrap();
        }
        drop(client.batch((0..2).map(|_| crate::hostile::request())).run().collect::<Vec<_>>());
    }
    let requests = server.requests();
    let keys: BTreeSet<_> =
        requests.iter().map(|request| request.header("idempotency-key").unwrap()).collect();
    assert_eq!((keys.len(), requests.len()), (100, 100));
}

#[test]
fn a_gateways_429_is_an_exhausted_quota_only_by_its_machine_readable_code() {
    let refusal = |message: &str, kind: &str| {
        let error = serde_json::json!({"message": message, "type": kind, "param": null, "code": "429"});
        status(429).json(&serde_json::json!({ "error": error }))
    };
    let words = "You exceeded your current quota, please check your plan and billing details.";
    let quoted =
        format!("RateLimitError: Error code: 429 - {{'message': '{words}', 'code': 'insufficient_quota'}}");
    let cases =
        [(words, "insufficient_quota", 1), (&quoted, "throttling_error", 1), (words, "throttling_error", 2)];
    each(cases, |(message, kind, requests)| {
        let server = Server::script([refusal(message, kind), ok("hi")]);
        let answer = ask(&exact(server.url()).0);
        let outcome = answer.map(|answer| answer.meta().attempts).map_err(|error| full_message(&error));
        assert_eq!(server.requests().len(), requests, "{kind}: {message}: {outcome:?}");
    });
}
