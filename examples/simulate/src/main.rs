//! Simulates many clients of one service during an outage, with three retry policies; prints a table and draws a chart.
//!
//! cargo run --release -p holysheep-simulate -- --clients 20 --svg simulation.svg
//!
//! The threads of a client start a new call after one was given up, because otherwise a policy that loses many calls would
//! seem to cause little load. All randomness is seeded: the same arguments give the same figures.

mod picture;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use holysheep::{AdaptiveConfig, Jitter, RetryConfig};
use lexopt::prelude::*;
use world::{Policy, Report, Scenario, Trouble};

const HELP: &str = "\
Many clients of one service, through an outage, in virtual time.

  --clients N     processes that share the quota without knowing of each other [20]
  --threads N     threads of each process; each starts a call when its last one has ended [8]
  --quota X       calls a second that the service lets through [50]
  --burst X       calls that it lets through at once after a pause [50]
  --outage A-B    seconds in which it answers 503 [60-120]
  --seconds N     length of the simulation [300]
  --seed N        the same seed gives the same results [1]
  --svg FILE      the file for a chart of the load over time [no chart]";

struct Options {
    scenario: Scenario,
    svg: Option<String>,
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n\n{HELP}");
            return ExitCode::FAILURE;
        }
    };
    let backoff = |name, jitter| {
        let retry = RetryConfig::default().jitter(jitter);
        Policy { name, handler: AdaptiveConfig::off(), retry }
    };
    let policies = [
        backoff("backoff without jitter", Jitter::None),
        backoff("backoff with full jitter", Jitter::Full),
        Policy {
            name: "adaptive handler",
            handler: AdaptiveConfig::default(),
            retry: RetryConfig::default(),
        },
    ];
    let results = policies.map(|policy| (policy.name, world::run(&options.scenario, &policy)));
    print_table(&options.scenario, &results);
    if let Some(path) = options.svg {
        if let Err(error) = picture::draw(&path, &options.scenario, &results) {
            eprintln!("can't draw {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn options() -> Result<Option<Options>, lexopt::Error> {
    let mut scenario = Scenario {
        clients: 20,
        threads: 8,
        quota: 50.0,
        burst: 50.0,
        trouble: Some(Trouble { from: Duration::from_secs(60), to: Duration::from_secs(120), asks: None }),
        length: Duration::from_secs(300),
        late: Duration::from_millis(1),
        seed: 1,
    };
    let mut svg = None;
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("clients") => scenario.clients = arguments.value()?.parse_with(at_least_one)?,
            Long("threads") => scenario.threads = arguments.value()?.parse_with(at_least_one)?,
            Long("quota") => scenario.quota = arguments.value()?.parse_with(positive)?,
            Long("burst") => scenario.burst = arguments.value()?.parse_with(positive)?,
            Long("outage") => scenario.trouble = Some(arguments.value()?.parse_with(outage)?),
            Long("seconds") => {
                let seconds = arguments.value()?.parse_with(at_least_one)?;
                scenario.length = Duration::from_secs(seconds as u64);
            }
            Long("seed") => scenario.seed = arguments.value()?.parse()?,
            Long("svg") => svg = Some(arguments.value()?.string()?),
            Short('h') | Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(Options { scenario, svg }))
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number > 0.0)
        .ok_or("not above 0".to_owned())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| (1..=1_000_000).contains(number)).ok_or("not 1 to 1,000,000".to_owned())
}

fn outage(text: &str) -> Result<Trouble, String> {
    let seconds = |text: &str| text.parse().ok().map(Duration::from_secs);
    let (from, to) = text.split_once('-').ok_or("not two seconds such as 60-120")?;
    match (seconds(from), seconds(to)) {
        (Some(from), Some(to)) if from < to => Ok(Trouble { from, to, asks: None }),
        _ => Err("not two seconds such as 60-120".to_owned()),
    }
}

fn print_table(scenario: &Scenario, results: &[(&str, Report)]) {
    println!(
        "{:<26}{:>8}{:>8}{:>10}{:>10}{:>9}{:>10}{:>10}{:>10}",
        "", "success", "lost", "requests", "refused", "failed", "busiest", "median", "99 %"
    );
    println!(
        "{:<26}{:>8}{:>8}{:>10}{:>10}{:>9}{:>10}{:>10}{:>10}",
        "", "calls", "%", "/success", "%", "%", "after", "s", "s"
    );
    for (name, report) in results {
        let (done, requests) = (report.successes() as f64, report.requests() as f64);
        let lost = 100.0 * report.lost as f64 / (done + report.lost as f64);
        let part = |count: u64| 100.0 * count as f64 / requests;
        println!(
            "{name:<26}{done:>8}{lost:>8.2}{:>10.2}{:>10.1}{:>9.1}{:>10}{:>10.2}{:>10.1}",
            requests / done,
            part(report.refused),
            part(report.failed),
            busiest_after(scenario, report),
            report.time(0.5).as_secs_f64(),
            report.time(0.99).as_secs_f64(),
        );
    }
}

/// The requests of the busiest second after the outage.
fn busiest_after(scenario: &Scenario, report: &Report) -> u32 {
    let end = scenario.trouble.map_or(0, |trouble| trouble.to.as_secs() as usize);
    report.sent.iter().skip(end).copied().max().unwrap_or(0)
}
