//! Events and log lines: call numbers, models, actual waits, and one end for each call.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, Once};
use std::time::Duration;

use holysheep::{
    AdaptiveConfig, Cancel, ChatRequest, ChatStream, Client, Clock, Config, EmbeddingRequest, Error, Event,
    Jitter, Reason, RefusalCause, RetryConfig, WaitCause,
};
use support::{Reply, Server, ok, reset, status};

const MODEL: &str = "gpt-4.1";

/// The events of a client, each with the number of sleeps before it.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(Event, usize)>>>);

impl Seen {
    fn lock(&self) -> MutexGuard<'_, Vec<(Event, usize)>> {
        self.0.lock().unwrap()
    }

    fn events(&self) -> Vec<Event> {
        self.lock().iter().map(|(event, _)| event.clone()).collect()
    }

    /// A summary of each `End` event.
    fn ends(&self) -> Vec<String> {
        let words = |event: &Event| match event {
            Event::End { attempts, status, error, usage, .. } => {
                let tokens = usage.as_ref().and_then(|usage| usage.total_tokens);
                let status = status.map_or("no status".to_owned(), |status| status.to_string());
                Some(format!("{attempts} {status} {} {tokens:?}", error.unwrap_or("success")))
            }
            _ => None,
        };
        self.events().iter().filter_map(words).collect()
    }
}

fn client(server: &Server, adaptive: AdaptiveConfig) -> (Client, Clock, Seen) {
    let (clock, seen) = (Clock::fake(), Seen::default());
    let config = Config::builder().api_key("sk-test-0123456789").base_url(server.url()).clock(clock.clone());
    let config = config.retry(RetryConfig::default().jitter(Jitter::None)).adaptive(adaptive).on_event({
        let (clock, seen) = (clock.clone(), seen.clone());
        move |event| seen.lock().push((event.clone(), clock.sleeps().len()))
    });
    (Client::new(config.build().unwrap()).unwrap(), clock, seen)
}

fn unpaced(server: &Server) -> (Client, Clock, Seen) {
    client(server, AdaptiveConfig::off())
}

fn request() -> ChatRequest {
    ChatRequest::new(MODEL).user("hi")
}

fn open(client: &Client) -> ChatStream {
    client.chat_stream(&request()).unwrap()
}

/// A handler that paces calls at 600 a minute.
fn paced() -> AdaptiveConfig {
    AdaptiveConfig::default().seed(1).initial_rate(600.0).max_rate(600.0)
}

const HELLO: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello\"}}]}\n\n";
const FINISH: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn events(parts: &[&str]) -> Reply {
    status(200).header("content-type", "text/event-stream").body(parts.concat())
}

fn whole() -> Reply {
    events(&[HELLO, FINISH, USAGE, DONE])
}

/// The log lines of the crate with their levels, from all tests of this file.
static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with("holysheep") {
            LOGGED.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

fn keep_log() {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(log::LevelFilter::Debug);
    });
}

/// The first log line with this beginning.
#[track_caller]
fn logged(begin: &str) -> String {
    let lines = LOGGED.lock().unwrap().clone();
    let line = lines.iter().find(|line| line.starts_with(begin)).cloned();
    line.unwrap_or_else(|| panic!("nothing begins with {begin:?} in {lines:#?}"))
}

#[test]
fn a_retry_event_reports_the_actual_wait_before_it_begins() {
    keep_log();
    for (reply, adaptive) in [
        (status(429), paced()),
        (status(429).retry_after(7), AdaptiveConfig::default().seed(1)),
        (status(502), AdaptiveConfig::default().seed(1)),
        (status(429), AdaptiveConfig::off()),
    ] {
        let server = Server::script([reply, ok("hi")]);
        let (client, clock, seen) = client(&server, adaptive);
        let answer = client.chat(&request()).unwrap();
        let slept: Duration = clock.sleeps().iter().sum();
        assert!(!slept.is_zero());
        let announced = seen.lock().iter().find_map(|(event, sleeps)| match event {
            Event::Retry { call, wait, .. } => Some((*call, *wait, *sleeps)),
            _ => None,
        });
        let (call, wait, sleeps) = announced.unwrap();
        assert_eq!((wait, sleeps), (clock.sleeps()[0], 0), "before the first sleep");
        let paced = seen.events().iter().find_map(|event| match event {
            Event::Paced { waited, .. } => Some(*waited),
            _ => None,
        });
        assert_eq!(answer.meta().waited, slept);
        assert!(wait == slept || wait + paced.unwrap() == slept, "{wait:?} {paced:?} {slept:?}");
        let warning = logged(&format!("WARN call {call} ({MODEL}): attempt 1 failed ("));
        assert!(warning.ends_with(&format!("; retrying in {wait:?}")), "{warning}");
    }
}

#[test]
fn a_retry_without_a_wait_is_logged_as_immediate() {
    keep_log();
    let server = Server::script([ok("hi"), reset(), ok("hi")]);
    let (client, clock, seen) = client(&server, AdaptiveConfig::default().seed(1));
    client.chat(&request()).unwrap();
    client.chat(&request()).unwrap();
    assert!(clock.sleeps().is_empty());
    let waits: Vec<_> = seen.events().iter().filter_map(retry).map(|(_, _, wait)| wait).collect();
    assert_eq!(waits, [Duration::ZERO]);
    let call = seen.events().iter().find_map(retry).unwrap().0;
    let warning = logged(&format!("WARN call {call} ("));
    assert!(warning.ends_with("; retrying at once"), "{warning}");
}

fn retry(event: &Event) -> Option<(u64, u32, Duration)> {
    match event {
        Event::Retry { call, attempt, wait, .. } => Some((*call, *attempt, *wait)),
        _ => None,
    }
}

#[test]
fn a_retry_that_waits_behind_others_reports_its_wait() {
    let mut script = vec![status(429); 6];
    script.extend(vec![ok("hi"); 20]);
    let server = Server::script(script);
    let (client, _, seen) = client(&server, paced());
    let answers = client.batch((0..12).map(|_| request())).concurrency(4).run();
    assert!(answers.into_iter().all(|item| item.result.is_ok()));
    let all = seen.events();
    let turns: BTreeMap<_, _> = all
        .iter()
        .filter_map(|event| match event {
            Event::Paced { call, attempt, waited, .. } => Some(((*call, *attempt), *waited)),
            _ => None,
        })
        .collect();
    let retries: Vec<_> = all.iter().filter_map(retry).collect();
    assert_eq!(retries.len(), 6);
    assert!(retries.iter().any(|(_, _, wait)| !wait.is_zero()));
    for (call, attempt, wait) in retries {
        assert_eq!(wait, turns.get(&(call, attempt + 1)).copied().unwrap_or_default());
    }
}

#[test]
fn no_retry_is_reported_where_none_follows() {
    // The rate limiter wants to wait for longer than the deadline allows.
    let server = Server::script([ok("hi"), status(429)]);
    let slow = AdaptiveConfig::default().seed(1).initial_rate(1.0).max_rate(1.0);
    let (client, clock, seen) = client(&server, slow);
    client.chat(&request()).unwrap();
    clock.advance(Duration::from_secs(60));
    let error = client.with_deadline(Some(Duration::from_secs(20))).chat(&request()).unwrap_err();
    assert_eq!((error.attempts(), error.status()), (1, Some(429)));
    assert_eq!(seen.events().iter().filter_map(retry).count(), 0, "{:?}", seen.events());
    assert_eq!(seen.ends(), ["1 200 success Some(12)", "1 429 deadline None"]);

    // The same if the service asks for a shorter wait.
    let server = Server::script([ok("hi"), status(429).retry_after(2)]);
    let slow = AdaptiveConfig::default().seed(1).initial_rate(1.0).max_rate(1.0);
    let (client, clock, seen) = self::client(&server, slow);
    client.chat(&request()).unwrap();
    clock.advance(Duration::from_secs(60));
    let error = client.with_deadline(Some(Duration::from_secs(20))).chat(&request()).unwrap_err();
    assert!(matches!(error, Error::GaveUp { reason: Reason::Deadline, attempts: 1, .. }), "{error:?}");
    assert_eq!(seen.events().iter().filter_map(retry).count(), 0, "{:?}", seen.events());
    assert!(clock.sleeps().is_empty());
}

#[test]
fn every_event_names_the_call_and_the_model() {
    let server = Server::script([status(429), ok("hi"), reset(), ok("hi")]);
    let (client, _, seen) = client(&server, paced());
    client.chat(&request()).unwrap();
    client.chat(&ChatRequest::new("other").user("hi")).unwrap();
    let _ = client.models();
    let all = seen.events();
    let models: BTreeMap<u64, BTreeSet<&str>> = all.iter().fold(BTreeMap::new(), |mut models, event| {
        models.entry(event.call()).or_default().insert(event.model());
        models
    });
    let models: Vec<_> = models.values().collect();
    assert_eq!(models, [&BTreeSet::from([MODEL]), &BTreeSet::from(["other"]), &BTreeSet::from([""])]);
    let kinds = |call: u64| -> Vec<String> {
        let of_call = all.iter().filter(|event| event.call() == call);
        of_call.map(|event| format!("{event:?}").split(' ').next().unwrap().to_owned()).collect()
    };
    let first = all[0].call();
    let expected = ["Attempt", "Answer", "Rate", "Learned", "Retry", "Paced", "Attempt", "Answer", "End"];
    assert_eq!(kinds(first), expected);

    let (client, _, seen) = unpaced(&Server::script([]));
    client.chat(&request()).unwrap_err();
    assert!(
        all.iter().all(|event| event.call() != seen.events()[0].call()),
        "call numbers are unique among clients"
    );
}

#[test]
fn a_change_of_the_rate_alone_is_no_change_of_what_was_learned() {
    let server = Server::script([status(429), ok("hi"), status(429), ok("hi")]);
    let (client, _, seen) = client(&server, paced());
    (0..2).for_each(|_| drop(client.chat(&request()).unwrap()));
    let count = |is_kind: fn(&Event) -> bool| seen.events().iter().filter(|event| is_kind(event)).count();
    assert_eq!(count(|event| matches!(event, Event::Rate { .. })), 2);
    assert_eq!(count(|event| matches!(event, Event::Learned { .. })), 1);
}

#[test]
fn a_call_whose_retry_the_open_breaker_would_reject_ends_at_once() {
    let mut rejected = 0;
    for seed in 0..20 {
        let server = Server::script(vec![status(500); 6]);
        let adaptive = AdaptiveConfig::default().seed(seed).error_threshold(1);
        let (client, clock, seen) = client(&server, adaptive);
        let error = client.chat(&request()).unwrap_err();
        // The third failure opens the breaker for 2.5 to 5 s. The wait for the next attempt would be 4 s.
        if matches!(error, Error::GaveUp { reason: Reason::CircuitOpen, attempts: 3, .. }) {
            rejected += 1;
            assert_eq!(clock.sleeps(), [1, 2].map(Duration::from_secs));
            assert_eq!(seen.events().iter().filter_map(retry).count(), 2, "{:?}", seen.events());
        }
    }
    assert!((1..20).contains(&rejected), "{rejected}");
}

#[test]
fn refused_connections_spend_no_retry_budget() {
    let server = Server::script([]);
    let closed = server.url();
    drop(server);
    let clock = Clock::fake();
    let adaptive = AdaptiveConfig::default().seed(1).error_threshold(1000);
    let config =
        Config::builder().api_key("sk-test-0123456789").base_url(closed).clock(clock).adaptive(adaptive);
    let client = Client::new(config.build().unwrap()).unwrap();
    for _ in 0..5 {
        let error = client.chat(&request()).unwrap_err();
        assert!(
            matches!(error, Error::GaveUp { reason: Reason::RetriesSpent, attempts: 6, .. }),
            "{error:?}"
        );
    }
    assert_eq!(client.handler(MODEL).snapshot().budget, 20);
}

#[test]
fn a_wait_of_hours_does_not_delay_other_calls() {
    let server = Server::script([status(429).retry_after(7200), ok("hi")]);
    let (client, clock, _) = client(&server, AdaptiveConfig::default().seed(1));
    let error = client.chat(&request()).unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7200)));
    client.chat(&request()).unwrap();
    let slept: Duration = clock.sleeps().iter().sum();
    assert!(slept <= Duration::from_secs(2), "{slept:?}");
}

#[test]
fn a_wait_that_was_ended_counts_as_long_as_it_lasted() {
    let server = Server::always(status(503).retry_after(100));
    let (clock, cancel, ended) = (Clock::fake(), Cancel::new(), Arc::<Mutex<Vec<_>>>::default());
    let observe = {
        let (clock, cancel, ended) = (clock.clone(), cancel.clone(), Arc::clone(&ended));
        move |event: &Event| match event {
            Event::Retry { .. } => {
                clock.advance(Duration::from_secs(7));
                cancel.cancel();
            }
            Event::End { elapsed, waited, .. } => {
                ended.lock().unwrap().push((elapsed.as_secs(), waited.as_secs()));
            }
            _ => {}
        }
    };
    let config = Config::builder().api_key("sk-test-0123456789").base_url(server.url()).clock(clock);
    let config = config.adaptive(AdaptiveConfig::off()).on_event(observe);
    let client = Client::new(config.build().unwrap()).unwrap().with_cancel(&cancel);
    assert!(matches!(client.chat(&request()), Err(Error::Cancelled)));
    assert_eq!(*ended.lock().unwrap(), [(7, 7)]);
}

#[test]
fn a_rate_is_reported_only_when_it_changed() {
    let mut script = vec![ok("hi"); 5];
    script.extend(vec![status(429); 6]);
    script.extend(vec![ok("hi"); 30]);
    script.extend([status(429), ok("hi")]);
    let server = Server::script(script);
    let (client, clock, seen) = client(&server, AdaptiveConfig::default().seed(1));
    for _ in 0..36 {
        client.chat(&request()).unwrap();
        clock.advance(Duration::from_millis(10));
    }
    let rates: Vec<f64> = seen
        .events()
        .iter()
        .filter_map(|event| match event {
            Event::Rate { per_minute, .. } => Some(*per_minute),
            _ => None,
        })
        .collect();
    assert!(!rates.is_empty() && rates.len() <= 4, "{rates:?}");
    assert!(rates.windows(2).all(|pair| (pair[0] / pair[1] - 1.0).abs() > 0.001), "{rates:?}");
}

fn none_left(reply: Reply) -> Reply {
    let limit = [("limit", "60"), ("remaining", "0"), ("reset", "1s")];
    limit
        .iter()
        .fold(reply, |reply, (name, value)| reply.header(&format!("x-ratelimit-{name}-requests"), value))
}

/// The causes of waits for permits, without repetitions.
fn causes(seen: &Seen) -> Vec<WaitCause> {
    let mut causes: Vec<_> = seen
        .events()
        .iter()
        .filter_map(|event| match event {
            Event::Paced { cause, .. } => Some(*cause),
            _ => None,
        })
        .collect();
    causes.dedup();
    causes
}

#[test]
fn a_wait_for_a_permit_is_reported_before_it() {
    let server = Server::script([ok("hi"), ok("hi"), status(429), ok("hi")]);
    let (client, clock, seen) = client(&server, paced());
    (0..3).for_each(|_| drop(client.chat(&request()).unwrap()));
    let waits = |event: &(Event, usize)| match event {
        (Event::Waiting { attempt, wait, cause, .. }, sleeps) => {
            Some((*attempt, wait.unwrap(), *cause, *sleeps))
        }
        _ => None,
    };
    let waits: Vec<_> = seen.lock().iter().filter_map(waits).collect();
    let slept = clock.sleeps();
    let expected = [0, 1].map(|number| (1, slept[number], WaitCause::Rate, number));
    assert_eq!(waits, expected, "not for the retry, which announces its wait itself");
    assert_eq!(slept.len(), 3);
}

#[test]
fn a_wait_for_a_permit_has_its_cause() {
    let server = Server::script([ok("hi"), ok("hi")]);
    let (client, _, seen) = client(&server, paced());
    (0..2).for_each(|_| drop(client.chat(&request()).unwrap()));
    assert_eq!(causes(&seen), [WaitCause::Rate]);

    let server = Server::script([none_left(ok("hi")), ok("hi")]);
    let (client, _, seen) = self::client(&server, AdaptiveConfig::default().seed(1));
    (0..2).for_each(|_| drop(client.chat(&request()).unwrap()));
    assert_eq!(causes(&seen), [WaitCause::Headers]);

    let server = Server::script([status(500), status(500), status(500), ok("hi")]);
    let wait_when_open = AdaptiveConfig::default().seed(1).error_threshold(3).wait_when_open(true);
    let (client, _, seen) = self::client(&server, wait_when_open);
    client.with_deadline(Some(Duration::from_secs(4))).chat(&request()).unwrap_err();
    client.chat(&request()).unwrap();
    assert_eq!(causes(&seen), [WaitCause::CircuitOpen]);
}

#[test]
fn what_the_handler_learned_is_reported_when_it_changed_and_logged_in_one_line() {
    keep_log();
    let mut script = vec![status(429), status(429), ok("hi"), ok("hi")];
    script.extend([none_left(ok("hi")), none_left(ok("hi")), none_left(ok("hi"))]);
    let server = Server::script(script);
    let (client, _, seen) = client(&server, paced());
    for _ in 0..5 {
        client.chat(&ChatRequest::new("learner").user("hi")).unwrap();
    }
    let learned: Vec<_> = seen
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Learned {
                call, refused_for, rate_per_minute, max_in_flight, headers_believed, ..
            } => {
                let rate = rate_per_minute.unwrap();
                Some((call, refused_for, rate, max_in_flight, headers_believed))
            }
            _ => None,
        })
        .collect();
    let [refused, distrusted] = learned[..] else { panic!("{learned:?}") };
    assert_eq!((refused.1, refused.3, refused.4), (Some(RefusalCause::Rate), None, true));
    assert_eq!((distrusted.1, distrusted.3, distrusted.4), (Some(RefusalCause::Rate), None, false));
    assert!(distrusted.0 > refused.0, "the call from which it was learned");
    let text = |rate: f64| {
        format!(
            "INFO learner: calls were probably refused because of a rate limit; at most {rate:.1} calls a minute; no limit on calls in flight"
        )
    };
    let lines = LOGGED.lock().unwrap().clone();
    let lines: Vec<_> = lines.iter().filter(|line| line.starts_with("INFO learner: ")).collect();
    let distrust = text(distrusted.2) + "; the rate limit headers are ignored";
    assert_eq!(lines, [&text(refused.2), &distrust]);
}

#[test]
fn the_end_of_each_call_is_reported_once() {
    keep_log();
    let server = Server::script([
        status(503),
        ok("hi"),
        status(401),
        status(200).body("<html>"),
        status(200).json(&serde_json::json!({
            "data": [{"index": 0, "embedding": [1]}],
            "usage": {"prompt_tokens": 5, "total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}, "x": 1}
        })),
        status(200).json(&serde_json::json!({"data": []})),
    ]);
    let (client, _, seen) = unpaced(&server);
    client.chat(&request()).unwrap();
    client.chat(&request()).unwrap_err();
    client.with_retry(RetryConfig::default().max_retries(0)).get::<serde_json::Value>("/x").unwrap_err();
    client.embeddings(&EmbeddingRequest::new("m", "text")).unwrap();
    client.models().unwrap();
    let expected = [
        "2 200 success Some(12)",
        "1 401 api None",
        "1 200 decode None",
        "1 200 success Some(5)",
        "1 200 success None",
    ];
    assert_eq!(seen.ends(), expected);
    let ends: Vec<_> = seen.events().into_iter().filter(|event| matches!(event, Event::End { .. })).collect();
    let Event::End { call, elapsed, waited, .. } = ends[0] else { panic!() };
    assert_eq!((elapsed, waited), (Duration::from_secs(1), Duration::from_secs(1)));
    let Event::End { usage: Some(usage), .. } = &ends[3] else { panic!() };
    assert_eq!((usage.details.cached_tokens, usage.extra.len()), (Some(2), 0));

    let end = logged(&format!("DEBUG call {call} ({MODEL}): ended"));
    assert!(end.ends_with("ended with status 200 after 2 attempts in 1s"), "{end}");
    let end = logged(&format!("DEBUG call {} ({MODEL}): failed", ends[1].call()));
    assert!(end.contains("failed (status 401) after 1 attempt in "), "{end}");
    let end = logged(&format!("DEBUG call {}: ended", ends[4].call()));
    assert!(end.contains("ended with status 200 after 1 attempt in "), "{end}");
}

#[test]
fn calls_that_are_never_sent_have_an_end_event() {
    let server = Server::script([]);
    let (client, _, seen) = unpaced(&server);
    client.with_deadline(Some(Duration::ZERO)).chat(&request()).unwrap_err();
    let cancel = Cancel::new();
    cancel.cancel();
    client.with_cancel(&cancel).chat(&request()).unwrap_err();
    assert!(client.with_cancel(&cancel).chat_stream(&request()).is_err());
    client.drain();
    client.chat(&request()).unwrap_err();
    let ends = ["deadline", "cancelled", "cancelled", "shutdown"];
    assert_eq!(seen.ends(), ends.map(|error| format!("0 no status {error} None")));

    let server = Server::always(status(500));
    let (client, clock, seen) = self::client(&server, AdaptiveConfig::default().seed(1));
    while !seen.ends().iter().any(|end| end.starts_with('0')) {
        assert!(seen.ends().len() < 100, "the breaker opens");
        client.with_retry(RetryConfig::default().max_retries(0)).chat(&request()).unwrap_err();
        clock.advance(Duration::from_millis(500));
    }
    assert_eq!(seen.ends().last().unwrap(), "0 no status circuit_open None");
}

#[test]
fn a_stream_has_one_end_event_with_its_outcome() {
    let cut = || events(&[HELLO]);
    let end = |reply: Reply, read: fn(ChatStream)| {
        let server = Server::script([reply, whole()]);
        let (client, _, seen) = unpaced(&server);
        read(open(&client));
        seen.ends()
    };
    let read_all = |mut stream: ChatStream| {
        while stream.next().is_some() {}
        assert!(stream.next().is_none());
    };
    let drop_early = |mut stream: ChatStream| drop(stream.next());
    let stop_after_finish = |stream: ChatStream| drop(stream.take(2).collect::<Vec<_>>());
    let assemble = |stream: ChatStream| drop(stream.into_response());
    let read_then_assemble = |mut stream: ChatStream| {
        while stream.next().is_some() {}
        drop(stream.into_response());
    };
    assert_eq!(end(whole(), read_all), ["1 200 success Some(3)"]);
    assert_eq!(end(whole(), drop_early), ["1 200 dropped None"]);
    assert_eq!(end(whole(), drop), ["1 200 dropped None"]);
    assert_eq!(end(whole(), stop_after_finish), ["1 200 success None"]);
    assert_eq!(end(whole(), assemble), ["1 200 success Some(3)"]);
    assert_eq!(end(whole(), read_then_assemble), ["1 200 success Some(3)"]);
    assert_eq!(end(ok("hi"), read_all), ["1 200 success Some(12)"]);
    assert_eq!(end(cut(), read_all), ["1 200 truncated None"]);
    assert_eq!(end(cut(), read_then_assemble), ["1 200 truncated None"]);
    assert_eq!(end(cut(), assemble), ["2 200 success Some(3)"], "the retry belongs to the same call");
}

#[test]
fn a_stream_that_cannot_be_reopened_has_one_end_event() {
    let server = Server::script([events(&[HELLO]), status(400)]);
    let (client, _, seen) = unpaced(&server);
    open(&client).into_response().unwrap_err();
    assert!(client.chat_stream(&request()).is_err(), "the script has no further reply");
    assert_eq!(seen.ends(), ["2 400 api None", "1 418 api None"]);
}

#[test]
fn each_call_of_a_batch_has_one_end_event_even_after_a_drain() {
    let server = Server::script([status(503), ok("hi"), status(400)]);
    let (client, _, seen) = unpaced(&server);
    let items = client.batch((0..2).map(|_| request())).concurrency(1).run().count();
    assert_eq!((items, seen.ends().len()), (2, 2), "{:?}", seen.ends());

    let server = Server::always(status(429));
    let (client, _, seen) = self::client(&server, AdaptiveConfig::default().initial_rate(1.0).max_rate(1.0));
    let drained = client.clone();
    let requests = (0..50).inspect(move |nth| {
        if *nth == 20 {
            drained.drain();
        }
    });
    let items = client.batch(requests.map(|_| request())).concurrency(4).run().count();
    assert_eq!(seen.ends().len(), items, "{:?}", seen.ends());
    assert!(seen.ends().iter().any(|end| end.contains("shutdown")), "{:?}", seen.ends());
}
