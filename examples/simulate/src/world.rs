//! Simulates clients and a service in virtual time, with the crate's real handler and backoff.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use fastrand::Rng;
use holysheep::{AdaptiveConfig, AdaptiveHandler, Admission, Outcome, Permit, RetryConfig, Tries};

/// The longest answer and the longest refusal in seconds, and the part of that which the shortest takes.
const LONGEST_ANSWER: f64 = 1.2;
const LONGEST_REFUSAL: f64 = 0.1;
const SHORTEST: f64 = 0.3;

/// The parameters of a simulation.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// Processes that share the quota without knowing of each other.
    pub(crate) clients: usize,
    /// Threads of each client. Each starts a call as soon as its last one has succeeded or was given up.
    pub(crate) threads: usize,
    /// Calls a second that the service accepts, and how many at once after a pause.
    pub(crate) quota: f64,
    pub(crate) burst: f64,
    /// Calls that the service answers at the same time.
    pub(crate) slots: usize,
    /// The part of the calls that it refuses at random.
    pub(crate) chance: f64,
    pub(crate) trouble: Option<Trouble>,
    pub(crate) length: Duration,
    /// The longest delay with which a sleeping thread wakes.
    pub(crate) late: Duration,
    pub(crate) seed: u64,
}

/// A time in which the service answers no call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trouble {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    /// The Retry-After of the 429s that the service sends. `None`: it sends 503s instead.
    pub(crate) asks: Option<Duration>,
}

/// The retry behaviour of the clients.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) name: &'static str,
    pub(crate) handler: AdaptiveConfig,
    pub(crate) retry: RetryConfig,
}

/// The results of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    /// For each second: requests that reached the service, and successful answers.
    pub(crate) sent: Vec<u32>,
    pub(crate) done: Vec<u32>,
    /// Calls that were given up.
    pub(crate) lost: u64,
    /// Requests that were answered with 429, and with 503.
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    /// The time from the start of each successful call to its end, sorted.
    pub(crate) times: Vec<Duration>,
    /// Successes by client.
    pub(crate) shares: Vec<u64>,
}

impl Scenario {
    /// The calls a second that are possible while there is no trouble.
    pub(crate) fn capacity(&self) -> f64 {
        let answer = LONGEST_ANSWER * (1.0 + SHORTEST) / 2.0;
        let refusal = LONGEST_REFUSAL * (1.0 + SHORTEST) / 2.0;
        let by_threads = (self.clients * self.threads) as f64;
        let refusals = self.chance / (1.0 - self.chance);
        let by_clients = by_threads / (answer + refusals * refusal);
        by_clients.min(self.slots as f64 / answer).min(self.quota)
    }
}

impl Report {
    pub(crate) fn requests(&self) -> u64 {
        self.sent.iter().map(|count| u64::from(*count)).sum()
    }

    pub(crate) fn successes(&self) -> u64 {
        self.shares.iter().sum()
    }

    /// A percentile of the times of successful calls; `part` is from 0 to 1.
    pub(crate) fn time(&self, part: f64) -> Duration {
        let index = (self.times.len().saturating_sub(1) as f64 * part) as usize;
        self.times.get(index).copied().unwrap_or_default()
    }
}

struct Client {
    handler: AdaptiveHandler,
    queue: VecDeque<Call>,
    /// The next time it checks its queue.
    wakes: Option<Duration>,
}

struct Call {
    born: Duration,
    tries: Tries,
}

enum Event {
    Begin,
    Again(Call),
    Look,
    Answer(Call, Permit, Answer),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    Success,
    /// A 429 with its Retry-After.
    Refusal(Option<Duration>),
    Failure,
}

/// A scheduled event of a client: time, sequence number, client, event. The sequence number makes the order unique.
struct Due(Duration, u64, usize, Event);

struct World<'a> {
    scenario: &'a Scenario,
    retry: &'a RetryConfig,
    start: Instant,
    now: Duration,
    random: Rng,
    clients: Vec<Client>,
    due: BinaryHeap<Reverse<Due>>,
    scheduled: u64,
    /// The service's token bucket: its level, and the time of that level.
    bucket: (f64, Duration),
    /// Calls that the service is answering.
    serving: usize,
    report: Report,
}

/// Runs a scenario with one policy. The same arguments give the same report.
pub(crate) fn run(scenario: &Scenario, policy: &Policy) -> Report {
    let client = |nth| Client {
        handler: AdaptiveHandler::new(policy.handler.clone().seed(scenario.seed.wrapping_add(nth as u64))),
        queue: VecDeque::new(),
        wakes: None,
    };
    let seconds = scenario.length.as_secs() as usize + 1;
    let mut world = World {
        scenario,
        retry: &policy.retry,
        start: Instant::now(),
        now: Duration::ZERO,
        random: Rng::with_seed(scenario.seed),
        clients: (0..scenario.clients).map(client).collect(),
        due: BinaryHeap::new(),
        scheduled: 0,
        bucket: (scenario.burst, Duration::ZERO),
        serving: 0,
        report: Report {
            sent: vec![0; seconds],
            done: vec![0; seconds],
            shares: vec![0; scenario.clients],
            ..Report::default()
        },
    };
    for client in 0..scenario.clients {
        for _ in 0..scenario.threads {
            let stagger = Duration::from_secs(1).mul_f64(world.random.f64());
            world.schedule(stagger, client, Event::Begin);
        }
    }
    while let Some(Reverse(Due(at, _, client, event))) = world.due.pop() {
        if at >= scenario.length {
            break;
        }
        world.now = at;
        world.happen(client, event);
    }
    world.report.times.sort_unstable();
    world.report
}

impl World<'_> {
    fn happen(&mut self, client: usize, event: Event) {
        match event {
            Event::Begin => {
                self.clients[client].queue.push_back(Call { born: self.now, tries: Tries::default() });
            }
            Event::Again(call) => self.clients[client].queue.push_front(call),
            Event::Look => self.clients[client].wakes = None,
            Event::Answer(call, permit, answer) => self.learn(client, call, permit, answer),
        }
        self.look(client);
    }

    /// Sends the queued calls that the handler admits, and schedules the next check for the others.
    fn look(&mut self, client: usize) {
        while !self.clients[client].queue.is_empty() {
            let wait = match self.clients[client].handler.admit(self.start + self.now) {
                Admission::Go(permit) => {
                    if let Some(call) = self.clients[client].queue.pop_front() {
                        self.send(client, call, permit);
                    }
                    continue;
                }
                Admission::Wait(wait) | Admission::Open { retry_in: wait } => wait,
            };
            let at = self.now + wait;
            if self.clients[client].wakes.is_none_or(|wakes| at < wakes) {
                self.clients[client].wakes = Some(at);
                let late = self.scenario.late.mul_f64(self.random.f64());
                self.schedule(wait + late, client, Event::Look);
            }
            break;
        }
    }

    fn send(&mut self, client: usize, call: Call, permit: Permit) {
        self.report.sent[self.now.as_secs() as usize] += 1;
        let answer = self.serve();
        // A success takes as long as a short answer of a model; refusals and failures are quick.
        let longest = if answer == Answer::Success { LONGEST_ANSWER } else { LONGEST_REFUSAL };
        let takes = Duration::from_secs_f64(longest * (SHORTEST + (1.0 - SHORTEST) * self.random.f64()));
        self.schedule(takes, client, Event::Answer(call, permit, answer));
    }

    /// The service: a time of trouble, refusals at random, a number of slots, and a token bucket.
    fn serve(&mut self) -> Answer {
        if let Some(trouble) = self.scenario.trouble {
            if (trouble.from..trouble.to).contains(&self.now) {
                return trouble.asks.map_or(Answer::Failure, |asked| Answer::Refusal(Some(asked)));
            }
        }
        let is_random = self.scenario.chance > 0.0 && self.random.f64() < self.scenario.chance;
        if is_random || self.serving >= self.scenario.slots {
            return Answer::Refusal(None);
        }
        let (level, at) = self.bucket;
        let refilled = level + (self.now - at).as_secs_f64() * self.scenario.quota;
        let level = refilled.min(self.scenario.burst);
        let granted = level >= 1.0;
        self.bucket = (if granted { level - 1.0 } else { level }, self.now);
        self.serving += usize::from(granted);
        if granted { Answer::Success } else { Answer::Refusal(None) }
    }

    fn learn(&mut self, client: usize, mut call: Call, permit: Permit, answer: Answer) {
        let outcome = match answer {
            Answer::Success => {
                self.serving -= 1;
                self.report.done[self.now.as_secs() as usize] += 1;
                self.report.shares[client] += 1;
                self.report.times.push(self.now - call.born);
                Outcome::success()
            }
            Answer::Refusal(asked) => {
                self.report.refused += 1;
                let outcome = Outcome::throttled().status(429);
                asked.map_or(outcome, |asked| outcome.retry_after(asked))
            }
            Answer::Failure => {
                self.report.failed += 1;
                Outcome::failed().status(503)
            }
        };
        let handler = &self.clients[client].handler;
        handler.record(self.start + self.now, permit, outcome);
        match handler.retry_delay(self.retry, &mut call.tries, &outcome) {
            Some(delay) => {
                let late = self.scenario.late.mul_f64(self.random.f64());
                self.schedule(delay + late, client, Event::Again(call));
            }
            None => {
                self.report.lost += u64::from(answer != Answer::Success);
                self.schedule(Duration::ZERO, client, Event::Begin);
            }
        }
    }

    fn schedule(&mut self, wait: Duration, client: usize, event: Event) {
        self.scheduled += 1;
        self.due.push(Reverse(Due(self.now + wait, self.scheduled, client, event)));
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}
