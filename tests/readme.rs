//! Checks the README and the guide against the code: defaults, breaker, printed errors, and the figures of the simulation.
#![allow(clippy::unwrap_used, reason = "a test that can't continue must fail")]

use std::time::{Duration, Instant};

use holysheep::test_server::{Reply, Server, status};
use holysheep::{
    AdaptiveConfig, AdaptiveHandler, Admission, BreakerState, ChatRequest, Client, Clock, Config, Outcome,
};
use serde_json::json;

const README: &str = include_str!("../README.md");
const GUIDE: &str = include_str!("../src/guide/adaptive_handler.md");
const PICTURE: &str = include_str!("../docs/simulation.svg");

#[track_caller]
fn lists(row: &str) {
    assert!(README.contains(row), "the README has no {row}");
}

/// The default of a setting, from the debug output of all settings.
fn setting(name: &str) -> String {
    let all = format!("{:?}", AdaptiveConfig::default());
    let value = all.split(&format!("{name}: ")).nth(1).unwrap();
    value.split([',', ' ']).next().unwrap().to_owned()
}

#[test]
fn the_handlers_defaults_are_as_documented() {
    let rate = |name: &str| match setting(name).parse::<f64>().unwrap() {
        f64::INFINITY => "none".to_owned(),
        rate => format!("{rate} a minute"),
    };
    lists(&format!("| `initial_rate` (before the first 429) | {} |", rate("initial_rate")));
    lists(&format!("| `min_rate`, `max_rate` | {}, {} |", rate("min_rate"), rate("max_rate")));
    lists(&format!("that open the breaker) | {} |", setting("error_threshold")));
    let waits: bool = setting("wait_when_open").parse().unwrap();
    lists(&format!("| `wait_when_open` | {} |", if waits { "on" } else { "off" }));
    lists(&format!("latencies of a snapshot) | {} |", setting("window_size")));
}

#[test]
fn the_breaker_and_the_budget_are_as_documented() {
    let (handler, start) = (AdaptiveHandler::new(AdaptiveConfig::default().seed(1)), Instant::now());
    let fail = |after: Duration| {
        let Admission::Go(permit) = handler.admit(start + after) else { return };
        handler.record(start + after, permit, Outcome::failed());
    };
    assert!(GUIDE.contains("ten consecutive failures over at least two seconds"));
    (0..9).for_each(|_| fail(Duration::ZERO));
    fail(Duration::from_millis(1999));
    assert_eq!(handler.snapshot().breaker, BreakerState::Closed);
    fail(Duration::from_secs(2));
    assert_eq!(handler.snapshot().breaker, BreakerState::Open);
    assert!(GUIDE.contains(&format!("begins with {} retries", handler.snapshot().budget)));
}

#[test]
fn the_figures_beside_the_picture_are_the_same_as_in_it() {
    let captions: Vec<&str> = PICTURE.lines().filter(|line| line.contains(" calls done, ")).collect();
    assert_eq!(captions.len(), 6, "two policies in three kinds of trouble");
    for caption in captions {
        let (name, figures) = caption.trim().split_once(": ").unwrap();
        let (done, figures) = figures.split_once(" calls done, ").unwrap();
        let (lost, wasted) = figures.split_once(" lost; ").unwrap();
        lists(&format!("| {name} | {done} | {lost} | {} |", wasted.trim_end_matches(" of requests wasted")));
    }
}

/// The error that the README's program prints if the service always sends this reply, and the time until then.
fn printed(reply: Reply, seed: u64) -> (String, Duration) {
    let server = Server::always(reply);
    let config = Config::builder()
        .api_key("sk-test")
        .base_url(server.url())
        .clock(Clock::fake())
        .adaptive(AdaptiveConfig::default().seed(seed));
    let request = ChatRequest::new("gpt-4.1").user("What is full jitter?");
    let error = Client::new(config.build().unwrap()).unwrap().chat(&request).unwrap_err();
    let elapsed = error.elapsed().unwrap_or_default();
    (error.to_string().replace(&server.address().to_string(), "api.holysheep.ai:443"), elapsed)
}

#[test]
fn errors_are_printed_as_the_readme_shows() {
    let refused = json!({"error": {"code": "invalid_api_key", "message": "Incorrect API key provided"}});
    let down = json!({"error": {"message": "The engine is currently overloaded"}});
    let shown = README.split("```text\n").nth(1).unwrap().split("\n```").next().unwrap();
    for seed in 0..20 {
        let (down, elapsed) = printed(status(503).json(&down), seed);
        assert!((5..30).contains(&elapsed.as_secs()), "seed {seed}: {elapsed:?}");
        let down = down.replace(&format!(" in {:.1} s: ", elapsed.as_secs_f64()), " in 18.0 s: ");
        assert_eq!(shown, [down, printed(status(401).json(&refused), seed).0].join("\n"));
    }
}
