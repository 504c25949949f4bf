//! Rate limit headers: spreads the remaining calls over the time until the reset.

use std::time::{Duration, Instant};

use crate::limits::Limit;
use crate::policy::rate_limiter::MAX_HOLD;
use crate::policy::{later, seconds};

/// Calls are not delayed while more than this part of the limit remains. With a tenth, the slowest calls on a full bucket
/// wait four times as long.
const LAST: f64 = 0.2;

/// Calls are delayed if fewer than this many remain, however small the limit.
const FEW: f64 = 2.0;

/// Clients that wait for the same reset resume at random within this many seconds after it.
const SPREAD: f64 = 1.0;

/// The weight of the newest answer in the mean price of a call: ten answers determine it, one large prompt does not.
const NEWEST: f64 = 0.1;

/// One limit, as the answer to the newest call stated it.
#[derive(Debug)]
pub(crate) struct HeaderLimit {
    /// What a call takes from the limit; unknown until two answers show it.
    price: Option<f64>,
    /// Whether the price differs from call to call.
    priced: bool,
    latest: Option<Reading>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    call: u64,
    limit: f64,
    left: f64,
    reset: Instant,
    spread: Duration,
}

impl HeaderLimit {
    /// A limit on requests, of which each call takes one.
    pub(crate) fn requests() -> HeaderLimit {
        HeaderLimit { price: Some(1.0), priced: false, latest: None }
    }

    /// A limit on tokens, of which a call takes what the service charges: a moving mean of how much less was left.
    pub(crate) fn tokens() -> HeaderLimit {
        HeaderLimit { price: None, priced: true, latest: None }
    }

    /// Reads the limit in the answer to `call`, unless it is older than the known one or implausible.
    pub(crate) fn update(&mut self, limit: Limit, call: u64, sent: Instant, chance: f64) {
        let newest = self.latest.is_none_or(|latest| call > latest.call);
        if !newest || limit.limit == 0 || limit.reset > MAX_HOLD {
            return;
        }
        let left = limit.remaining as f64;
        if let (true, Some(latest)) = (self.priced, self.latest) {
            let taken = (latest.left - left) / (call - latest.call) as f64;
            // If more remains than before, the limit was refilled and the price is not visible.
            if taken > 0.0 {
                self.price = Some(self.price.map_or(taken, |price| price + NEWEST * (taken - price)));
            }
        }
        let (reset, spread) = (later(sent, limit.reset), seconds(chance * SPREAD));
        self.latest = Some(Reading { call, limit: limit.limit as f64, left, reset, spread });
    }

    /// When the call after `newest` may go, if the last one went at `last`; `None` if this limit does not delay it.
    ///
    /// One is added to the remaining calls, so that the last of them goes before the reset. If the reset is the time
    /// until a bucket is full, this converges to the bucket's refill rate.
    pub(crate) fn next_permitted_at(
        &self,
        now: Instant,
        newest: u64,
        last: Option<Instant>,
    ) -> Option<Instant> {
        let (latest, price) = (self.latest?, self.price?);
        let left = latest.left / price - newest.saturating_sub(latest.call) as f64;
        let away = latest.reset.saturating_duration_since(now);
        // A reset that is far away, or a last call after it, means that the clock was set back.
        if away.is_zero() || away > MAX_HOLD || left >= FEW.max(LAST * latest.limit / price) {
            return None;
        }
        if left < 1.0 {
            return Some(later(latest.reset, latest.spread));
        }
        let last = last.filter(|last| *last <= now)?;
        Some(later(last, latest.reset.saturating_duration_since(last).div_f64(left + 1.0)))
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
    fn a_token_limit_delays_calls_by_their_price() {
        let (mut quota, now) = (HeaderLimit::tokens(), Instant::now());
        quota.update(limit(100_000, 9_000, 60.0), 1, now, 0.0);
        assert_eq!(quota.next_permitted_at(now, 1, Some(now)), None, "the price isn't known yet");
        quota.update(limit(100_000, 5_000, 60.0), 5, now, 0.0);
        assert_eq!(
            quota.next_permitted_at(now, 5, Some(now)),
            Some(now + secs(10.0)),
            "1000 a call, five are left"
        );
        quota.update(limit(100_000, 90_000, 60.0), 6, now, 0.0);
        quota.update(limit(100_000, 5_000, 60.0), 7, now, 0.0);
        let held = quota.next_permitted_at(now, 7, Some(now));
        assert_eq!(held, Some(now + secs(60.0)), "85,000 for one call: the mean is 9400");
    }

    #[test]
    fn a_clock_that_was_set_back_releases_the_calls() {
        let (mut quota, now) = (HeaderLimit::requests(), Instant::now());
        quota.update(limit(60, 0, 120.0), 1, now + secs(1.0), 0.0);
        assert_eq!(quota.next_permitted_at(now, 1, None), None);
    }
}
