//! Derives Prometheus metrics from events, without another dependency. The calls go to a faulty server inside this process.
//!
//!     cargo run --example metrics

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use holysheep::test_server::{Server, ok, reset, status};
use holysheep::{ChatRequest, Client, Clock, Config, Event};

/// Counter values by name and labels. Clones share the values.
#[derive(Clone, Default)]
struct Metrics(Arc<Mutex<BTreeMap<String, f64>>>);

impl Metrics {
    fn observe(&self, event: &Event) {
        let model = event.model().replace('\\', "\\\\").replace('"', "\\\"");
        let add = |name: &str, label: &str, value: f64| {
            let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *counters.entry(format!("llm_{name}{{model=\"{model}\"{label}}}")).or_default() += value;
        };
        match event {
            Event::Answer { status, .. } => {
                let status = status.map_or("none".to_owned(), |status| status.to_string());
                add("requests_total", &format!(",status=\"{status}\""), 1.0);
            }
            Event::Retry { status, error, .. } => {
                let reason = status.map_or((*error).to_owned(), |status| status.to_string());
                add("retries_total", &format!(",reason=\"{reason}\""), 1.0);
            }
            Event::End { elapsed, waited, error, usage, .. } => {
                add("calls_total", &format!(",outcome=\"{}\"", error.unwrap_or("success")), 1.0);
                add("call_seconds_sum", "", elapsed.as_secs_f64());
                add("call_seconds_count", "", 1.0);
                add("waited_seconds_total", "", waited.as_secs_f64());
                let usage = usage.clone().unwrap_or_default();
                add("tokens_total", ",kind=\"input\"", usage.prompt_tokens.unwrap_or(0) as f64);
                add("tokens_total", ",kind=\"output\"", usage.completion_tokens.unwrap_or(0) as f64);
            }
            _ => {}
        }
    }
}

impl fmt::Display for Metrics {
    /// Prometheus' text format.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counters.iter().try_for_each(|(name, value)| writeln!(f, "{name} {value}"))
    }
}

fn main() -> holysheep::Result<()> {
    let server = Server::script([
        ok("hi"),
        status(503),
        reset(),
        ok("hi"),
        status(429).retry_after(2),
        ok("hi"),
        status(401),
    ]);
    let metrics = Metrics::default();
    let observer = metrics.clone();
    let config = Config::builder().api_key("sk-of-no-service").base_url(server.url());
    let config = config.clock(Clock::fake()).on_event(move |event| observer.observe(event));
    let client = Client::new(config.build()?)?;
    for _ in 0..4 {
        let _ = client.chat(&ChatRequest::new("gpt-4.1").user("Say hello."));
    }
    print!("{metrics}");
    Ok(())
}
