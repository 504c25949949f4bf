//! The latencies of a handler's recent calls.

use std::time::Duration;

/// A ring buffer that is allocated once.
#[derive(Debug)]
pub(super) struct Latencies {
    ring: Vec<Duration>,
    size: usize,
    next: usize,
}

impl Latencies {
    pub(super) fn new(size: usize) -> Latencies {
        Latencies { ring: Vec::with_capacity(size), size, next: 0 }
    }

    pub(super) fn add(&mut self, latency: Duration) {
        match self.ring.get_mut(self.next) {
            Some(oldest) => *oldest = latency,
            None => self.ring.push(latency),
        }
        self.next = (self.next + 1) % self.size;
    }

    pub(super) fn longest(&self) -> Duration {
        self.ring.iter().copied().max().unwrap_or_default()
    }

    pub(super) fn quantiles<const N: usize>(&self, fractions: [f64; N]) -> [Option<Duration>; N] {
        let mut sorted = self.ring.clone();
        sorted.sort_unstable();
        fractions.map(|fraction| {
            sorted.get((sorted.len().saturating_sub(1) as f64 * fraction).round() as usize).copied()
        })
    }
}
