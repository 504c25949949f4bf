//! Pacing by rate limit headers: spreads the remaining calls over the time until the reset, unless granted calls
//! contradict the headers.

use std::time::Instant;

use crate::limits::Limit;
use crate::policy::rate_limiter::MAX_HOLD;
use crate::policy::{later, seconds};

/// Calls are not delayed while this fraction of the limit remains. With a tenth, the slowest calls on a full bucket
/// wait four times as long.
const PACED_FRACTION: f64 = 0.2;

/// Calls are delayed if fewer than this many remain, even of a small limit.
const MIN_REMAINING: f64 = 2.0;

/// Clients that wait for the same reset resume at random within this many seconds after it.
const SPREAD: f64 = 1.0;

/// The weight of the newest response in the moving average of a call's cost: about ten responses determine it, not one
/// large prompt.
const NEWEST_WEIGHT: f64 = 0.1;

/// The headers are ignored from this many contradictions on: calls granted although the headers left none. A refusal
/// halves their number.
const CONTRADICTED: u32 = 3;

/// The maximum count, so that a few refusals restore trust in the headers.
const MAX_CONTRADICTIONS: u32 = 8;

/// The decay time, in seconds, of the observed recovery of the limit before its reset.
const RECOVERY_DECAY: f64 = 20.0;

/// The minimum time between two responses that are compared, in seconds.
const MIN_COMPARISON_GAP: f64 = 4.0;

/// The minimum time between two calls, in seconds, when the limit recovers before its reset. Without it the first of
/// several processes takes all that recovers (Jain's index 0.36, not 1.00, for eight on a bucket).
const MIN_SLOT: f64 = 5.0;

/// One limit, as reported in the response to the newest call.
#[derive(Debug)]
pub(crate) struct HeaderLimit {
    /// The cost of a call in units of the limit; unknown before the first response.
    cost: Option<f64>,
    latest: Option<Reading>,
    /// The limit's recovery before its reset in calls, and the seconds in which it was observed. Both decay.
    regained: f64,
    observed: f64,
    contradictions: u32,
    /// An older reading, and a score of how often the reset moved like that of a sliding log since.
    anchor: Option<Reading>,
    sliding: u32,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    call: u64,
    sent: Instant,
    limit: f64,
    left: f64,
    reset: Instant,
    /// Between 0 and 1: how late this client resumes after the reset.
    random: f64,
}

impl HeaderLimit {
    fn new(cost: Option<f64>) -> HeaderLimit {
        HeaderLimit {
            cost,
            latest: None,
            regained: 0.0,
            observed: 0.0,
            contradictions: 0,
            anchor: None,
            sliding: 0,
        }
    }

    /// A limit on requests, of which each call costs one.
    pub(crate) fn requests() -> HeaderLimit {
        HeaderLimit::new(Some(1.0))
    }

    /// A limit on tokens. A call costs the average usage that the responses report.
    pub(crate) fn tokens() -> HeaderLimit {
        HeaderLimit::new(None)
    }

    /// Whether the headers are trusted.
    pub(crate) fn is_believed(&self) -> bool {
        self.contradictions < CONTRADICTED
    }

    /// Adds the tokens that a granted call used to the average.
    pub(crate) fn used(&mut self, tokens: u64) {
        let used = tokens.max(1) as f64;
        self.cost = Some(self.cost.map_or(used, |cost| cost + NEWEST_WEIGHT * (used - cost)));
    }

    /// Updates the limit from the response to `call`, unless it is older than the known one or implausible.
    pub(crate) fn update(&mut self, limit: Limit, call: u64, sent: Instant, random: f64) {
        let newest = self.latest.is_none_or(|latest| call > latest.call);
        if !newest || limit.limit == 0 || limit.reset > MAX_HOLD {
            return;
        }
        let left = limit.remaining as f64;
        if let (Some(latest), Some(cost)) = (self.latest, self.cost) {
            if sent < latest.reset && latest.limit == limit.limit as f64 {
                let passed = sent.saturating_duration_since(latest.sent).as_secs_f64();
                let fading = RECOVERY_DECAY / (RECOVERY_DECAY + passed);
                let regained = (left - latest.left) / cost + (call - latest.call) as f64;
                self.regained = self.regained * fading + regained.max(0.0);
                self.observed = self.observed * fading + passed;
            }
        }
        let reset = later(sent, limit.reset);
        let reading = Reading { call, sent, limit: limit.limit as f64, left, reset, random };
        self.detect_sliding_log(&reading);
        self.latest = Some(reading);
    }

    /// Detects a sliding log by how the reset moved since an older response: it stays equally far away, while that of a
    /// window comes nearer and that of a bucket depends on what is left.
    fn detect_sliding_log(&mut self, new: &Reading) {
        let Some(old) = self.anchor.filter(|old| new.sent < old.reset) else {
            self.anchor = Some(*new);
            return;
        };
        if (old.left - new.left).abs() < MIN_REMAINING.max(0.03 * new.limit) {
            return;
        }
        let passed = new.sent.saturating_duration_since(old.sent).as_secs_f64();
        if passed < MIN_COMPARISON_GAP {
            return;
        }
        let away = |reading: Reading| reading.reset.saturating_duration_since(reading.sent).as_secs_f64();
        let moved = away(*new) - away(old);
        let used = (new.limit - new.left) / (old.limit - old.left).max(0.5);
        let as_bucket = (away(old) * (used - 1.0) - moved).abs();
        let is_sliding = moved.abs() < (moved + passed).abs() && moved.abs() < as_bucket;
        self.sliding = if is_sliding { (self.sliding + 1).min(4) } else { self.sliding.saturating_sub(2) };
        self.anchor = Some(*new);
    }

    /// Records that a call was granted whose response reported this limit: a contradiction if nothing was left for it.
    pub(crate) fn granted(&mut self, limit: Limit) {
        let cost = self.cost.unwrap_or(1.0);
        if (limit.remaining as f64) < cost {
            self.contradictions = (self.contradictions + 1).min(MAX_CONTRADICTIONS);
        } else if limit.remaining as f64 >= PACED_FRACTION * limit.limit as f64 {
            self.contradictions = 0;
        }
    }

    /// Records a refusal, which confirms the headers.
    pub(crate) fn refused(&mut self) {
        self.contradictions /= 2;
    }

    /// When the call after `newest` may be sent, if that one was sent at `last`; `None` if this limit does not delay
    /// it.
    ///
    /// One is added to the remaining calls, so that the last of them is sent before the reset. If the reset is the time
    /// until a bucket is full, this converges to the bucket's refill rate.
    pub(crate) fn next_permitted_at(
        &self,
        now: Instant,
        newest: u64,
        last: Option<Instant>,
    ) -> Option<Instant> {
        let (latest, cost) = (self.latest.filter(|_| self.is_believed())?, self.cost?);
        let left = latest.left - newest.saturating_sub(latest.call) as f64 * cost;
        if left >= (MIN_REMAINING * cost).max(PACED_FRACTION * latest.limit) {
            return None; // nearly always, so that nothing else is computed
        }
        let left = left / cost;
        let away = latest.reset.saturating_duration_since(now);
        // A reset beyond the maximum or a last call in the future means that the clock was set back.
        if away.is_zero() || away > MAX_HOLD {
            return None;
        }
        let last = last.filter(|last| *last <= now);
        if self.sliding >= 2 {
            // The used part recovers evenly over the window: keep a few calls in reserve.
            let window = latest.reset.saturating_duration_since(latest.sent).as_secs_f64();
            let limit = latest.limit / cost;
            let returning = (limit - left).max(1.0) / window;
            let left = left + returning * now.saturating_duration_since(latest.sent).as_secs_f64();
            let reserve = 3.0_f64.max(0.02 * limit);
            if left >= reserve {
                return None;
            }
            let slot = seconds(reserve / (returning * (left + 1.0).max(0.3)));
            return Some(later(last?, slot).min(latest.reset));
        }
        let plain = if left < 1.0 {
            later(latest.reset, seconds(latest.random * SPREAD))
        } else {
            later(last?, latest.reset.saturating_duration_since(last?).div_f64(left + 1.0))
        };
        let Some(last) = last.filter(|_| self.regained > 0.0 && self.observed > SPREAD) else {
            return Some(plain);
        };
        let slot = (self.observed / self.regained).max(MIN_SLOT);
        Some(plain.min(later(last, seconds(slot))))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn limit(limit: u64, remaining: u64, reset: f64) -> Limit {
        Limit { limit, remaining, reset: secs(reset) }
    }

    #[test]
    fn far_from_the_limit_no_call_is_delayed() {
        let (mut quota, now) = (HeaderLimit::requests(), Instant::now());
        assert_eq!(quota.next_permitted_at(now, 0, None), None);
        quota.update(limit(60, 12, 30.0), 1, now, 0.0);
        assert_eq!(quota.next_permitted_at(now, 1, Some(now)), None, "a fifth is left");
        assert!(quota.next_permitted_at(now, 2, Some(now)).is_some(), "a call was sent since");
    }

    #[test]
    fn the_remaining_calls_are_spread_over_the_time_until_the_reset() {
        let (mut quota, now) = (HeaderLimit::requests(), Instant::now());
        quota.update(limit(60, 9, 30.0), 7, now, 0.5);
        assert_eq!(quota.next_permitted_at(now, 7, Some(now)), Some(now + secs(3.0)));
        let later = now + secs(3.0);
        assert_eq!(quota.next_permitted_at(later, 8, Some(later)), Some(now + secs(6.0)));
        assert_eq!(
            quota.next_permitted_at(now, 16, Some(now)),
            Some(now + secs(30.5)),
            "none is left: the reset, spread"
        );
        assert_eq!(quota.next_permitted_at(now + secs(30.0), 16, Some(now)), None, "the reset has passed");
    }

    #[test]
    fn older_or_implausible_limits_are_ignored() {
        let (mut quota, now) = (HeaderLimit::requests(), Instant::now());
        quota.update(limit(60, 0, 30.0), 5, now, 0.0);
        let held = quota.next_permitted_at(now, 5, None);
        assert_eq!(held, Some(now + secs(30.0)));
        for (call, odd) in [
            (4, limit(60, 60, 30.0)),
            (5, limit(60, 60, 30.0)),
            (6, limit(0, 0, 30.0)),
            (6, limit(60, 60, 120.1)),
            (6, Limit { limit: u64::MAX, remaining: 0, reset: Duration::MAX }),
        ] {
            quota.update(odd, call, now, 0.9);
            assert_eq!(quota.next_permitted_at(now, 5, None), held, "{odd:?}");
        }
        quota.update(limit(u64::MAX, u64::MAX, 120.0), 7, now, 0.0);
        assert_eq!(quota.next_permitted_at(now, 8, None), None);
    }

    #[test]
    fn a_token_limit_delays_calls_by_their_mean_usage() {
        let (mut quota, now) = (HeaderLimit::tokens(), Instant::now());
        quota.update(limit(100_000, 5_000, 60.0), 5, now, 0.0);
        assert_eq!(quota.next_permitted_at(now, 5, Some(now)), None, "the cost isn't known yet");
        quota.used(1_000);
        assert_eq!(quota.next_permitted_at(now, 5, Some(now)), Some(now + secs(10.0)), "five calls are left");
        quota.used(85_000);
        assert_eq!(quota.next_permitted_at(now, 5, Some(now)), Some(now + secs(60.0)), "the mean is 9400");
    }

    #[test]
    fn headers_that_grants_contradict_are_ignored_until_a_refusal_confirms_them() {
        let (mut quota, now) = (HeaderLimit::requests(), Instant::now());
        let none_left = limit(60, 0, 60.0);
        for call in 1..=3 {
            quota.update(none_left, call, now, 0.0);
            assert!(quota.next_permitted_at(now, call, Some(now)).is_some());
            quota.granted(none_left);
        }
        assert!(!quota.is_believed() && quota.next_permitted_at(now, 3, Some(now)).is_none());
        quota.refused();
        assert!(quota.is_believed());
    }

    #[test]
    fn plenty_left_ends_the_contradictions_and_little_left_does_not() {
        for (left, ends) in [(11, false), (12, true)] {
            let mut quota = HeaderLimit::requests();
            quota.granted(limit(60, 0, 60.0));
            quota.granted(limit(60, left, 60.0));
            assert_eq!(quota.contradictions == 0, ends, "{left} of 60 left");
        }
    }

    #[test]
    fn recovery_before_the_reset_shortens_the_wait_to_five_seconds() {
        let (mut quota, now) = (HeaderLimit::requests(), Instant::now());
        for call in 1..=10_u32 {
            quota.update(limit(60, 0, 60.0), call.into(), now + secs(1.0) * call, 0.0);
        }
        let last = now + secs(10.0);
        assert_eq!(quota.next_permitted_at(last, 10, Some(last)), Some(last + secs(5.0)));
    }

    #[test]
    fn a_sliding_log_is_detected_by_a_reset_that_stays_away() {
        for (is_log, resets) in [(true, [60.0; 6]), (false, [60.0, 55.0, 50.0, 45.0, 40.0, 35.0])] {
            let (mut quota, now) = (HeaderLimit::requests(), Instant::now());
            for (nth, reset) in resets.into_iter().enumerate() {
                let left = 55 - 10 * nth as u64;
                quota.update(limit(60, left, reset), nth as u64 + 1, now + secs(5.0) * nth as u32, 0.0);
            }
            assert_eq!(quota.sliding >= 2, is_log, "{resets:?}");
        }
    }

    /// Two readings of a limit of 100, each `(left, reset)`; the seconds between them; and what they say. `None`: nothing yet.
    #[test]
    fn two_readings_tell_a_sliding_log_from_a_window_and_a_bucket() {
        let log = [(50, 60.0), (40, 60.0)];
        for (readings, passed, says) in [
            (log, 10.0, Some(true)),
            ([(50, 60.0), (40, 50.0)], 10.0, Some(false)), // a window: the reset comes nearer
            ([(50, 30.0), (40, 36.0)], 10.0, Some(false)), // a bucket: it takes as much longer as more is used
            ([(50, 60.0), (48, 60.0)], 10.0, None),
            ([(50, 60.0), (47, 60.0)], 10.0, Some(true)),
            (log, 3.9, None),
            (log, 4.0, Some(true)),
            (log, 60.0, Some(false)), // the first one is over
        ] {
            let (mut quota, now) = (HeaderLimit::requests(), Instant::now());
            let [old, new] = readings.map(|(left, reset)| limit(100, left, reset));
            quota.update(old, 1, now, 0.0);
            quota.update(new, 2, now + secs(passed), 0.0);
            let said = quota.anchor.filter(|anchor| anchor.call == 2).map(|_| quota.sliding > 0);
            assert_eq!(said, says, "{readings:?} after {passed} s");
        }
    }

    #[test]
    fn calls_of_a_sliding_log_are_delayed_when_fewer_than_three_are_left() {
        let (mut quota, start) = (HeaderLimit::requests(), Instant::now());
        for nth in 0..6_u32 {
            let left = u64::from(55 - 10 * nth);
            quota.update(limit(60, left, 60.0), u64::from(nth) + 1, start + secs(5.0) * nth, 0.0);
        }
        let now = start + secs(25.0); // five are left, and one a second returns
        let wait = |newest, after: f64| {
            let last = now + secs(after);
            Some((quota.next_permitted_at(last, newest, Some(last))? - last).as_secs_f64())
        };
        assert_eq!((wait(6, 0.0), wait(8, 0.0)), (None, None));
        for (newest, after, expected) in
            [(9, 0.0, 1.034), (11, 0.0, 3.0), (12, 0.0, 9.836), (9, 1.0, 0.782), (11, 1.0, 1.5)]
        {
            let waited = wait(newest, after).unwrap();
            assert!((waited - expected).abs() < 0.001, "{newest}, {after}: {waited}");
        }
        assert_eq!(wait(9, 2.0), None, "enough have returned");
    }

    #[test]
    fn a_clock_that_was_set_back_releases_the_calls() {
        let (mut quota, now) = (HeaderLimit::requests(), Instant::now());
        quota.update(limit(60, 0, 120.0), 1, now + secs(1.0), 0.0);
        assert_eq!(quota.next_permitted_at(now, 1, None), None);
    }
}
