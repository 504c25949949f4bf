//! The concurrency limiter: a learned cap on the calls in flight, for servers that limit how many they serve at once.
//!
//! If a call is refused while more others are in flight than with nearly all granted calls, they are the cause, not the
//! rate. Their number becomes the cap, and the rate stays as it is.

use std::time::{Duration, Instant};

use crate::policy::outcome::Admitted;

/// The granted calls that are remembered, each with the number of other calls in flight at its end.
const MEMORY: usize = 64;

/// The minimum number of granted calls before a cap is set: the first burst of a program looks like a limit.
const MIN_GRANTED: usize = 16;

/// A refusal is attributed to the calls in flight if at most one granted call in this many had as many others in
/// flight.
const RARE: usize = 48;

/// The cap is raised by one after this many granted calls at the cap, plus one for each call that the cap allows. With
/// fewer, failed trials cost more than 2 to 4 % of the calls.
const RAISE_AFTER: u32 = 50;

/// A refusal reverts a raised cap unless this many calls were granted at it.
const PROVEN: u32 = 3;

/// The factor by which a timeout reduces the calls in flight. One half reacts no better and takes longer to recover.
const AFTER_TIMEOUT: f64 = 0.7;

/// The longest wait at the cap. After it one call is presumed lost, so that a thread that makes a call while it holds
/// an unread stream doesn't wait for itself.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The calls in flight, their cap, and the history from which it is learned.
#[derive(Debug)]
pub(crate) struct Concurrency {
    in_flight: u32,
    cap: Option<u32>,
    /// The newest call when the cap last changed, and when it last changed after a timeout.
    changed: u64,
    timed_out: u64,
    /// Calls granted at the cap, and those granted at a raised cap; `None` if the last change wasn't a raise.
    at_cap: u32,
    proven: Option<u32>,
    granted: [u32; MEMORY],
    count: usize,
    /// When a call was last admitted or ended.
    moved: Option<Instant>,
}

impl Concurrency {
    pub(crate) fn new() -> Concurrency {
        Concurrency {
            in_flight: 0,
            cap: None,
            changed: 0,
            timed_out: 0,
            at_cap: 0,
            proven: None,
            granted: [0; MEMORY],
            count: 0,
            moved: None,
        }
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The cap on calls in flight, if there is one.
    pub(crate) fn cap(&self) -> Option<u32> {
        self.cap
    }

    /// The longest wait at the cap, or `None` if a call may be admitted now.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.cap.filter(|cap| self.in_flight >= *cap)?;
        // If the clock was set back, the wait starts again.
        self.moved = self.moved.min(Some(now));
        let waited = self.moved.map_or(Duration::ZERO, |moved| now.saturating_duration_since(moved));
        Some(MAX_WAIT.saturating_sub(waited)).filter(|left| !left.is_zero())
    }

    pub(crate) fn admitted(&mut self, now: Instant) {
        // At the cap, the call replaces one that is presumed lost.
        self.in_flight += u32::from(self.cap.is_none_or(|cap| self.in_flight < cap));
        self.moved = Some(now);
    }

    /// Records that a call ended, whatever its outcome. Returns how many others are in flight.
    pub(crate) fn ended(&mut self, now: Instant) -> u32 {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.moved = Some(now);
        self.in_flight
    }

    /// Records that `call` was granted, with this many others in flight at its end.
    pub(crate) fn granted(&mut self, call: &Admitted, newest: u64, others: u32) {
        self.granted[self.count % MEMORY] = others;
        self.count += 1;
        let Some(cap) = self.cap else { return };
        if call.number > self.changed && call.others + 1 >= cap {
            self.proven = self.proven.map(|proven| proven + 1);
        }
        if others + 1 >= cap {
            self.at_cap += 1;
            if self.at_cap >= RAISE_AFTER + cap {
                self.set(cap + 1, newest);
                self.proven = Some(0);
            }
        }
    }

    /// Whether a refusal of `call` is due to the calls in flight; if so, sets the cap.
    pub(crate) fn refused(&mut self, call: &Admitted, newest: u64, others: u32) -> bool {
        let Some(cap) = self.cap else {
            let filled = self.count.min(MEMORY);
            let as_many = self.granted[..filled].iter().filter(|granted| **granted >= others).count();
            let is_full = others > 0 && filled >= MIN_GRANTED && as_many * RARE <= filled;
            if is_full {
                self.set(others, newest);
            }
            return is_full;
        };
        if call.number <= self.changed {
            // Sent before the cap changed. Unless it was raised then, even fewer calls fit.
            if self.proven.is_none() {
                self.cap = Some(cap.min(others).max(1));
            }
            return true;
        }
        let failed_trial = self.proven.is_some_and(|proven| proven < PROVEN) && call.others + 1 >= cap;
        if failed_trial {
            self.set((cap - 1).max(1), newest);
        } else {
            self.cap = None;
        }
        failed_trial
    }

    /// Records that `call` timed out: if others were in flight, there are more than the server can serve in time.
    pub(crate) fn timed_out(&mut self, call: &Admitted, newest: u64, others: u32) {
        if call.number > self.timed_out && others > 0 {
            let fewer = (AFTER_TIMEOUT * f64::from(others + 1)).max(1.0) as u32;
            self.set(self.cap.unwrap_or(u32::MAX).min(fewer), newest);
            self.timed_out = newest;
        }
    }

    fn set(&mut self, cap: u32, newest: u64) {
        (self.cap, self.changed, self.at_cap, self.proven) = (Some(cap), newest, 0, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates a server that serves `slots` calls at once and refuses others, and `callers` that each make a call
    /// whenever one is admitted. Returns the learned cap, and the fraction of calls refused in the second half.
    fn run(slots: u32, callers: u32) -> (Option<u32>, f64) {
        let (mut limiter, now) = (Concurrency::new(), Instant::now());
        let (mut serving, mut newest, mut refused, mut granted) =
            (std::collections::VecDeque::new(), 0, 0, 0);
        for round in 0..20_000 {
            while limiter.in_flight() < callers && limiter.wait(now).is_none() {
                newest += 1;
                let call = Admitted { number: newest, at: now, others: limiter.in_flight() };
                limiter.admitted(now);
                if serving.len() < slots as usize {
                    serving.push_back(call);
                } else {
                    let others = limiter.ended(now);
                    limiter.refused(&call, newest, others);
                    refused += i32::from(round > 10_000);
                    break;
                }
            }
            if let Some(call) = serving.pop_front() {
                let others = limiter.ended(now);
                limiter.granted(&call, newest, others);
                granted += i32::from(round > 10_000);
            }
        }
        (limiter.cap(), f64::from(refused) / f64::from(granted))
    }

    #[test]
    fn the_cap_settles_at_the_slots_of_the_server() {
        for slots in [1, 4, 16, 64] {
            let (cap, refused) = run(slots, 2 * slots + 4);
            let cap = cap.unwrap();
            assert!((slots..=slots + 1).contains(&cap) && refused < 0.04, "{slots}: {cap}, {refused:.3}");
        }
    }

    #[test]
    fn there_is_no_cap_if_all_callers_fit() {
        assert_eq!(run(16, 16), (None, 0.0));
    }

    #[test]
    fn a_refusal_reverts_a_raised_cap_until_three_calls_were_granted_at_it() {
        let now = Instant::now();
        for (proofs, expected) in [(0, (true, Some(2))), (2, (true, Some(2))), (3, (false, None))] {
            let call = |number, others| Admitted { number, at: now, others };
            let mut limiter = Concurrency::new();
            limiter.timed_out(&call(1, 2), 1, 2);
            assert_eq!(limiter.cap(), Some(2));
            for number in 2..54 {
                assert_eq!(limiter.cap(), Some(2), "before call {number}");
                limiter.granted(&call(number, 1), number, 1);
            }
            assert_eq!(limiter.cap(), Some(3), "raised after 52 calls at the cap");
            limiter.granted(&call(53, 2), 54, 1); // sent before the raise
            limiter.granted(&call(54, 1), 54, 1); // sent below the cap
            (0..proofs).for_each(|proof| limiter.granted(&call(55 + proof, 2), 55 + proof, 2));
            let reverted = limiter.refused(&call(60, 2), 60, 2);
            assert_eq!((reverted, limiter.cap()), expected, "{proofs} calls granted at the raised cap");
        }
    }

    #[test]
    fn the_wait_at_the_cap_ends_after_half_a_minute() {
        let (mut limiter, now) = (Concurrency::new(), Instant::now());
        let call = |number| Admitted { number, at: now, others: 1 };
        limiter.admitted(now);
        limiter.admitted(now);
        let others = limiter.ended(now);
        limiter.timed_out(&call(2), 2, others);
        assert_eq!((limiter.cap(), limiter.wait(now)), (Some(1), Some(MAX_WAIT)));
        assert_eq!(limiter.wait(now + MAX_WAIT), None, "one call is presumed lost");
        limiter.admitted(now + MAX_WAIT);
        assert_eq!(limiter.wait(now + MAX_WAIT), Some(MAX_WAIT));
    }

    #[test]
    fn a_timeout_caps_the_calls_at_seven_tenths_once_a_round_trip_unless_it_was_alone() {
        let (mut limiter, now) = (Concurrency::new(), Instant::now());
        let call = |number| Admitted { number, at: now, others: 1 };
        limiter.timed_out(&call(1), 10, 0);
        assert_eq!(limiter.cap(), None);
        (1..=10).for_each(|number| limiter.timed_out(&call(number), 10, 9));
        assert_eq!(limiter.cap(), Some(7));
        limiter.timed_out(&call(11), 12, 6);
        assert_eq!(limiter.cap(), Some(4));
    }
}
