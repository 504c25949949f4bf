//! What the headers of answers allow: the calls that are left, spread over the time that is left.

use std::time::{Duration, Instant};

use crate::limits::Limit;
use crate::policy::rate_limiter::FAR;
use crate::policy::{later, seconds};

/// Nobody is slowed while more than this part of the limit is left: far from the limit the headers are no reason to.
/// With a tenth, the slowest calls on a full bucket wait four times as long.
const LAST: f64 = 0.2;

/// Fewer calls than this are few, however small the limit.
const FEW: f64 = 2.0;

/// Clients that wait for the same reset come back spread over this many seconds.
const SPREAD: f64 = 1.0;

/// How much the newest answer weighs in the mean price of a call: ten answers set it, one large prompt doesn't.
const NEWEST: f64 = 0.1;

/// One limit, as the answer to the newest call told it.
#[derive(Debug)]
pub(crate) struct HeaderLimit {
    /// What a call takes from the limit; unknown until two answers show it.
    price: Option<f64>,
    /// Whether that differs from call to call.
    priced: bool,
    told: Option<Told>,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    call: u64,
    limit: f64,
    left: f64,
    reset: Instant,
    spread: Duration,
}

impl HeaderLimit {
    /// A limit on requests, of which each call takes one.
    pub(crate) fn requests() -> HeaderLimit {
        HeaderLimit { price: Some(1.0), priced: false, told: None }
    }

    /// A limit on tokens, of which a call takes what the service charges: a moving mean of how much less was left.
    pub(crate) fn tokens() -> HeaderLimit {
        HeaderLimit { price: None, priced: true, told: None }
    }

    /// Takes in what came with the answer to `call`, unless it is older than what is known or makes no sense.
    pub(crate) fn read(&mut self, limit: Limit, call: u64, sent: Instant, chance: f64) {
        let newest = self.told.is_none_or(|told| call > told.call);
        if !newest || limit.limit == 0 || limit.reset > FAR {
            return;
        }
        let left = limit.remaining as f64;
        if let (true, Some(told)) = (self.priced, self.told) {
            let taken = (told.left - left) / (call - told.call) as f64;
            // Where more is left than before, the limit was refilled and the price can't be seen.
            if taken > 0.0 {
                self.price = Some(self.price.map_or(taken, |price| price + NEWEST * (taken - price)));
            }
        }
        let (reset, spread) = (later(sent, limit.reset), seconds(chance * SPREAD));
        self.told = Some(Told { call, limit: limit.limit as f64, left, reset, spread });
    }

    /// When the call after `newest` may go, the last one having gone at `last`; none where nothing holds it.
    ///
    /// One is added to the calls that are left, so that the last of them goes before the reset. Where the reset is the
    /// time until a bucket is full, this settles at the rate at which it is filled, without knowing that.
    pub(crate) fn next_permitted_at(
        &self,
        now: Instant,
        newest: u64,
        last: Option<Instant>,
    ) -> Option<Instant> {
        let (told, price) = (self.told?, self.price?);
        let left = told.left / price - newest.saturating_sub(told.call) as f64;
        let away = told.reset.saturating_duration_since(now);
        // A reset that is far away by now, or a last call after it, means that the clock was set back.
        if away.is_zero() || away > FAR || left >= FEW.max(LAST * told.limit / price) {
            return None;
        }
        if left < 1.0 {
            return Some(later(told.reset, told.spread));
        }
        let last = last.filter(|last| *last <= now)?;
        Some(later(last, told.reset.saturating_duration_since(last).div_f64(left + 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn limit(limit: u64, remaining: u64, reset: f64) -> Limit {
        Limit { limit, remaining, reset: secs(reset) }
    }

    #[test]
    fn far_from_the_limit_nobody_is_held() {
        let (mut quota, now) = (HeaderLimit::requests(), Instant::now());
        assert_eq!(quota.next_permitted_at(now, 0, None), None);
        quota.read(limit(60, 12, 30.0), 1, now, 0.0);
        assert_eq!(quota.next_permitted_at(now, 1, Some(now)), None, "a fifth is left");
        assert!(quota.next_permitted_at(now, 2, Some(now)).is_some(), "a call was sent since");
    }

    #[test]
    fn the_last_calls_are_spread_over_the_time_that_is_left() {
        let (mut quota, now) = (HeaderLimit::requests(), Instant::now());
        quota.read(limit(60, 9, 30.0), 7, now, 0.5);
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
    fn what_is_older_or_makes_no_sense_changes_nothing() {
        let (mut quota, now) = (HeaderLimit::requests(), Instant::now());
        quota.read(limit(60, 0, 30.0), 5, now, 0.0);
        let held = quota.next_permitted_at(now, 5, None);
        assert_eq!(held, Some(now + secs(30.0)));
        for (call, odd) in [
            (4, limit(60, 60, 30.0)),
            (5, limit(60, 60, 30.0)),
            (6, limit(0, 0, 30.0)),
            (6, limit(60, 60, 120.1)),
            (6, Limit { limit: u64::MAX, remaining: 0, reset: Duration::MAX }),
        ] {
            quota.read(odd, call, now, 0.9);
            assert_eq!(quota.next_permitted_at(now, 5, None), held, "{odd:?}");
        }
        quota.read(limit(u64::MAX, u64::MAX, 120.0), 7, now, 0.0);
        assert_eq!(quota.next_permitted_at(now, 8, None), None);
    }

    #[test]
    fn tokens_hold_calls_by_what_a_call_takes() {
        let (mut quota, now) = (HeaderLimit::tokens(), Instant::now());
        quota.read(limit(100_000, 9_000, 60.0), 1, now, 0.0);
        assert_eq!(quota.next_permitted_at(now, 1, Some(now)), None, "the price isn't known yet");
        quota.read(limit(100_000, 5_000, 60.0), 5, now, 0.0);
        assert_eq!(
            quota.next_permitted_at(now, 5, Some(now)),
            Some(now + secs(10.0)),
            "1000 a call, five are left"
        );
        quota.read(limit(100_000, 90_000, 60.0), 6, now, 0.0);
        quota.read(limit(100_000, 5_000, 60.0), 7, now, 0.0);
        let held = quota.next_permitted_at(now, 7, Some(now));
        assert_eq!(held, Some(now + secs(60.0)), "85,000 for one call: the mean is 9400");
    }

    #[test]
    fn a_clock_that_was_set_back_frees_the_calls() {
        let (mut quota, now) = (HeaderLimit::requests(), Instant::now());
        quota.read(limit(60, 0, 120.0), 1, now + secs(1.0), 0.0);
        assert_eq!(quota.next_permitted_at(now, 1, None), None);
    }
}
