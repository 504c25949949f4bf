//! Simulates clients of a service in three kinds of trouble, with plain backoff and with the adaptive handler; prints
//! tables and draws a chart.
//!
//! cargo run --release -p holysheep-simulate -- --clients 20 --svg simulation.svg
//!
//! The threads of a client start a new call after one was given up, because otherwise a policy that loses many calls would
//! seem to cause little load. All randomness is seeded: the same arguments give the same figures.

mod picture;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use holysheep::{AdaptiveConfig, RetryConfig};
use lexopt::prelude::*;
use world::{Policy, Report, Scenario, Trouble};

const HELP: &str = "\
Clients of a service in three kinds of trouble, in virtual time.

All of them:
  --seconds N     length of each simulation [300]
  --seed N        the same seed gives the same results [1]
  --svg FILE      the file for a chart of the load over time [no chart]
A quota and an outage:
  --clients N     processes that share the quota without knowing of each other [20]
  --threads N     threads of each process; each starts a call when its last one has ended [8]
  --quota X       calls a second that the service lets through [50]
  --burst X       calls that it lets through at once after a pause [50]
  --outage A-B    seconds in which it answers 503 [60-120]
A limit on calls in flight, with one process of 32 threads:
  --slots N       calls that the service answers at the same time [8]
Refusals at random, with one process of 8 threads:
  --chance X      per cent of the calls that the service refuses [5]";

struct Options {
    quota: Scenario,
    slots: Scenario,
    chance: Scenario,
    svg: Option<String>,
}

/// A scenario with its title, and the report of each policy by the policy's name.
struct Simulated {
    title: String,
    scenario: Scenario,
    reports: [(&'static str, Report); 2],
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
    let Options { quota, slots, chance, svg } = options;
    let titles = [
        format!("{} calls a second and an outage; {}", quota.quota, who(&quota)),
        format!("{} calls at the same time; {}", slots.slots, who(&slots)),
        format!("{} % of the calls refused at random; {}", chance.chance * 100.0, who(&chance)),
    ];
    let simulated =
        titles.into_iter().zip([quota, slots, chance]).map(|(title, scenario)| simulate(title, scenario));
    let simulated: Vec<Simulated> = simulated.collect();
    simulated.iter().for_each(print_table);
    if let Some(path) = svg {
        if let Err(error) = picture::draw(&path, &simulated) {
            eprintln!("can't draw {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn who(Scenario { clients, threads, .. }: &Scenario) -> String {
    match clients {
        1 => format!("1 client with {threads} threads"),
        _ => format!("{clients} clients with {threads} threads each"),
    }
}

fn simulate(title: String, scenario: Scenario) -> Simulated {
    let retry = RetryConfig::default();
    let policies = [
        Policy { name: "backoff with full jitter", handler: AdaptiveConfig::off(), retry: retry.clone() },
        Policy { name: "adaptive handler", handler: AdaptiveConfig::default(), retry },
    ];
    let reports = policies.map(|policy| (policy.name, world::run(&scenario, &policy)));
    Simulated { title, scenario, reports }
}

fn options() -> Result<Option<Options>, lexopt::Error> {
    // A quota that no client reaches.
    let unlimited = Scenario {
        clients: 1,
        threads: 8,
        quota: 1e9,
        burst: 1e9,
        slots: usize::MAX,
        chance: 0.0,
        trouble: None,
        length: Duration::from_secs(300),
        late: Duration::from_millis(1),
        seed: 1,
    };
    let mut quota = Scenario {
        clients: 20,
        quota: 50.0,
        burst: 50.0,
        trouble: Some(Trouble { from: Duration::from_secs(60), to: Duration::from_secs(120), asks: None }),
        ..unlimited.clone()
    };
    let mut slots = Scenario { threads: 32, slots: 8, ..unlimited.clone() };
    let mut chance = Scenario { chance: 0.05, ..unlimited };
    let mut svg = None;
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("clients") => quota.clients = arguments.value()?.parse_with(at_least_one)?,
            Long("threads") => quota.threads = arguments.value()?.parse_with(at_least_one)?,
            Long("quota") => quota.quota = arguments.value()?.parse_with(positive)?,
            Long("burst") => quota.burst = arguments.value()?.parse_with(positive)?,
            Long("outage") => quota.trouble = Some(arguments.value()?.parse_with(outage)?),
            Long("slots") => slots.slots = arguments.value()?.parse_with(at_least_one)?,
            Long("chance") => chance.chance = arguments.value()?.parse_with(per_cent)?,
            Long("seconds") => {
                let seconds = arguments.value()?.parse_with(at_least_one)?;
                let length = Duration::from_secs(seconds as u64);
                for scenario in [&mut quota, &mut slots, &mut chance] {
                    scenario.length = length;
                }
            }
            Long("seed") => {
                let seed = arguments.value()?.parse()?;
                for scenario in [&mut quota, &mut slots, &mut chance] {
                    scenario.seed = seed;
                }
            }
            Long("svg") => svg = Some(arguments.value()?.string()?),
            Short('h') | Long("help") => return Ok(None),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Some(Options { quota, slots, chance, svg }))
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite() && *number > 0.0)
        .ok_or("not above 0".to_owned())
}

fn per_cent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| (0.0..=90.0).contains(number));
    number.map(|number| number / 100.0).ok_or("not 0 to 90".to_owned())
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

fn print_table(simulated: &Simulated) {
    println!("{}", simulated.title);
    println!(
        "{:<26}{:>8}{:>8}{:>10}{:>10}{:>9}{:>10}{:>10}{:>10}",
        "", "success", "lost", "requests", "refused", "failed", "busiest", "median", "99 %"
    );
    println!(
        "{:<26}{:>8}{:>8}{:>10}{:>10}{:>9}{:>10}{:>10}{:>10}",
        "", "calls", "%", "/success", "%", "%", "after", "s", "s"
    );
    for (name, report) in &simulated.reports {
        let (done, requests) = (report.successes() as f64, report.requests() as f64);
        let lost = 100.0 * report.lost as f64 / (done + report.lost as f64);
        let part = |count: u64| 100.0 * count as f64 / requests;
        println!(
            "{name:<26}{done:>8}{lost:>8.2}{:>10.2}{:>10.1}{:>9.1}{:>10}{:>10.2}{:>10.1}",
            requests / done,
            part(report.refused),
            part(report.failed),
            busiest_after(&simulated.scenario, report),
            report.time(0.5).as_secs_f64(),
            report.time(0.99).as_secs_f64(),
        );
    }
    println!();
}

/// The requests of the busiest second after the outage.
fn busiest_after(scenario: &Scenario, report: &Report) -> u32 {
    let end = scenario.trouble.map_or(0, |trouble| trouble.to.as_secs() as usize);
    report.sent.iter().skip(end).copied().max().unwrap_or(0)
}
