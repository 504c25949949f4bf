//! Detects random refusals: a service that grants most calls, yet still refuses some at an eighth of the rate, refuses
//! independently of the rate.
//!
//! Some 429s have nothing to do with how fast this client calls: the model is overloaded, or a single request is larger
//! than the quota. Slowing down for each of them reduces the rate to a crawl: after a quarter of an hour with 1 % of them the rate limiter
//! alone makes 170 calls a minute, with 6 % six, of a service that could take 5,600.
//!
//! A quota looks different. Above it part of the calls is refused, in proportion; below it none is. So on the way down
//! only the octave of rates in which the quota lies can have both 429s and most of its calls granted. Three such consecutive
//! octaves are no quota, and from then on a part of the 429s is forgiven. If there are more than that, the rate does
//! matter, and all begins anew.

/// How often the rate must have been halved. With two, ten clients that share a quota take each other for chance: of
/// their calls 3.3 % are refused, not 2.3 %, and they share it less evenly (Jain's index 0.83, not 0.90).
const OCTAVES: u32 = 3;

/// The part of an octave's slots in which calls must have been granted; a time in which all calls were refused counts
/// too. In the octave above a quota it is about a half. With 60 %, some clients that share a quota are taken in (Jain's
/// index over random services 0.91, not 0.92).
const MOST: f64 = 0.75;

/// Calls of an octave that must have been granted: a few may be luck, or a burst that the quota allows.
const ENOUGH: f64 = 16.0;

/// A rate that has grown above where an octave began by more than this begins the way down anew.
const GROWN: f64 = 1.25;

/// How many refusals a success makes up for: it takes more than one refusal in five for the rate to matter again.
const EARNED: f64 = 0.25;

/// Refusals that are forgiven at most before a success makes up for them, so that a few in a row change nothing.
const SAVED: f64 = 20.0;

/// What the way down has shown.
#[derive(Debug, Default)]
pub(crate) struct RandomRefusals {
    /// The rate at which the present octave began.
    top: f64,
    /// Consecutive octaves in which most calls were granted.
    octaves: u32,
    /// In the present octave.
    granted: f64,
    slots: f64,
    /// Refusals that may be forgiven; none as long as it seems to help to slow down.
    credit: Option<f64>,
}

/// The time from one cut of the rate to the next, and the later one of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateCut {
    /// The rate before and after, in calls a second; before the first cut it is infinite.
    pub(crate) from: f64,
    pub(crate) to: f64,
    /// Calls granted since the last cut, and how long that took.
    pub(crate) granted: f64,
    pub(crate) seconds: f64,
}

impl RandomRefusals {
    pub(crate) fn succeeded(&mut self) {
        self.credit = self.credit.map(|credit| (credit + EARNED).min(SAVED));
    }

    /// Forgives a refusal, so that it has no effect on the rate, if it may.
    pub(crate) fn forgive(&mut self) -> bool {
        match &mut self.credit {
            Some(credit) if *credit >= 1.0 => {
                *credit -= 1.0;
                return true;
            }
            Some(_) => *self = RandomRefusals::default(),
            None => {}
        }
        false
    }

    /// The rate was cut for a refusal that wasn't forgiven.
    pub(crate) fn cut(&mut self, cut: RateCut) {
        let RateCut { from, to, granted, seconds } = cut;
        if from > GROWN * self.top {
            *self =
                RandomRefusals { top: if from.is_finite() { from } else { to }, ..RandomRefusals::default() };
        }
        if from.is_finite() {
            self.granted += granted;
            self.slots += seconds * from;
        }
        if 2.0 * to < self.top {
            let mild = self.granted >= ENOUGH && self.granted > MOST * self.slots;
            let octaves = if mild { self.octaves + 1 } else { 0 };
            let credit = (octaves == OCTAVES).then_some(SAVED);
            *self = RandomRefusals { top: to, octaves, credit, ..RandomRefusals::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was learned on the way down from a rate of 64, where each cut took a tenth and the service granted such a part
    /// of the calls at each rate. Where it grants all, there are no more cuts.
    fn down(granted: impl Fn(f64) -> f64) -> RandomRefusals {
        let (mut random_refusals, mut from) = (RandomRefusals::default(), 64.0);
        random_refusals.cut(RateCut { from: f64::INFINITY, to: from, granted: 50.0, seconds: 1.0 });
        while from > 1.0 && granted(from) < 1.0 && random_refusals.credit.is_none() {
            let to = 0.9 * from;
            random_refusals.cut(RateCut { from, to, granted: granted(from) * 20.0, seconds: 20.0 / from });
            from = to;
        }
        random_refusals
    }

    #[test]
    fn refusals_that_are_as_many_at_each_rate_are_chance() {
        let mut random_refusals = down(|_| 0.9);
        assert!(
            random_refusals.top < 8.0 && random_refusals.top > 6.0,
            "after three octaves: {}",
            random_refusals.top
        );
        assert_eq!((0..100).take_while(|_| random_refusals.forgive()).count(), 20);
        assert!(random_refusals.credit.is_none() && !random_refusals.forgive(), "it does matter");
    }

    #[test]
    fn refusals_that_a_quota_explains_are_not() {
        for quota in [0.5, 2.0, 5.0, 20.0, 50.0] {
            assert!(down(|rate| quota / rate).credit.is_none(), "{quota}");
        }
        assert!(down(|_| 0.7).credit.is_none(), "too many");
        let mut few = RandomRefusals::default();
        for octave in 0..10 {
            let from = 64.0 * 0.4_f64.powi(octave);
            few.cut(RateCut { from, to: 0.4 * from, granted: 15.0, seconds: 15.0 / from });
        }
        assert!(few.credit.is_none(), "too few to tell");
    }

    #[test]
    fn a_rate_that_grew_in_between_begins_anew() {
        let (mut random_refusals, mut from) = (RandomRefusals::default(), 64.0);
        for _ in 0..100 {
            for to in [0.45 * from, 0.2 * from] {
                random_refusals.cut(RateCut { from, to, granted: 100.0, seconds: 100.0 / from });
                from = to;
            }
            from *= 4.9;
        }
        assert!(random_refusals.credit.is_none());
    }

    #[test]
    fn one_refusal_in_five_is_forgiven_for_ever_and_one_in_four_is_not() {
        let lasts = |successes: u32| {
            let mut random_refusals = down(|_| 0.9);
            (0..1000).all(|_| {
                (0..successes).for_each(|_| random_refusals.succeeded());
                random_refusals.forgive()
            })
        };
        assert!(lasts(4) && !lasts(3));
    }
}
