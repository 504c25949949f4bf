//! A service on a loopback port with a quota: a token bucket in calls a second, and a 429 without a body when it is empty.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::support::{Server, ok, status};

/// The duration of a refusal. An answer takes `ANSWER.0` to `ANSWER.1`, like a short answer of a fast model, so that 16
/// threads can make more than twice the 20 calls a second that the tests allow.
const REFUSAL: Duration = Duration::from_millis(20);
const ANSWER: (Duration, Duration) = (Duration::from_millis(150), Duration::from_millis(450));

pub(crate) struct Service {
    server: Server,
    state: Arc<Mutex<State>>,
}

/// The token bucket and the counts.
struct State {
    per_second: f64,
    burst: f64,
    /// The number of calls that would be accepted immediately, at the time `at`.
    level: f64,
    at: Instant,
    served: u32,
    counts: BTreeMap<String, Count>,
}

/// The calls of one program by their results.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
}

impl Service {
    /// Accepts `per_second` calls a second, and `burst` calls immediately after a pause. Refused calls use no quota.
    pub(crate) fn new(per_second: f64, burst: f64) -> Service {
        let counts = BTreeMap::new();
        let state = State { per_second, burst, level: burst, at: Instant::now(), served: 0, counts };
        let state = Arc::new(Mutex::new(state));
        let server = Server::respond({
            let state = Arc::clone(&state);
            move |request| {
                let program = request.header("user-agent").unwrap_or_default();
                let (accepted, takes) = state.lock().unwrap().serve(program);
                let reply = if accepted { ok("hi") } else { status(429) };
                reply.after(takes)
            }
        });
        Service { server, state }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// The counts by user agent.
    pub(crate) fn counts(&self) -> BTreeMap<String, Count> {
        self.state.lock().unwrap().counts.clone()
    }
}

impl State {
    /// Whether a call that arrives now is accepted, and the duration of its answer.
    fn serve(&mut self, program: &str) -> (bool, Duration) {
        let now = Instant::now();
        let refilled = self.level + (now - self.at).as_secs_f64() * self.per_second;
        (self.level, self.at) = (refilled.min(self.burst), now);
        let count = self.counts.entry(program.to_owned()).or_default();
        if self.level < 1.0 {
            count.refused += 1;
            return (false, REFUSAL);
        }
        self.level -= 1.0;
        count.accepted += 1;
        self.served += 1;
        // Steps of the golden ratio cover the range evenly without a random generator.
        let part = (f64::from(self.served) * 0.618_034).fract();
        (true, ANSWER.0 + (ANSWER.1 - ANSWER.0).mul_f64(part))
    }
}
