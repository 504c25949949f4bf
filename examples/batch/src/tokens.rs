//! A limit on tokens a minute, for requests whose size is known only when their answers are there.

use std::time::{Duration, Instant};

/// A token bucket that holds the tokens of a second and may be overdrawn.
pub(crate) struct TokenBucket {
    per_second: f64,
    level: f64,
    at: Instant,
    /// What the answers so far used.
    used: u64,
    answers: u64,
}

impl TokenBucket {
    pub(crate) fn new(per_minute: f64, now: Instant) -> TokenBucket {
        let per_second = per_minute / 60.0;
        TokenBucket { per_second, level: per_second, at: now, used: 0, answers: 0 }
    }

    /// The time until a request may be sent; `None` if one may.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        let filled = self.level + now.duration_since(self.at).as_secs_f64() * self.per_second;
        (self.level, self.at) = (filled.min(self.per_second), now);
        (self.level <= 0.0)
            .then(|| Duration::from_secs_f64((-self.level / self.per_second).clamp(0.001, 60.0)))
    }

    /// Takes what a request will probably use, and returns that: the mean of the answers so far, or the guess before there
    /// are any. It is 0 where nothing is sent.
    pub(crate) fn take(&mut self, guess: u64) -> u64 {
        let expected = if guess == 0 { 0 } else { self.used.checked_div(self.answers).unwrap_or(guess) };
        self.level -= expected as f64;
        expected
    }

    /// Corrects what was taken, now that it is known.
    pub(crate) fn settle(&mut self, taken: u64, used: u64) {
        self.level += taken as f64 - used as f64;
        self.used = self.used.saturating_add(used);
        self.answers += 1;
    }

    /// Returns what was taken for a request that failed.
    pub(crate) fn give_back(&mut self, taken: u64) {
        self.level += taken as f64;
    }
}
