//! What an outcome changed in the handler, for the log and for events.

use std::fmt;

use crate::adaptive::controller::RefusalCause;
use crate::policy::circuit_breaker::BreakerState;

/// What an outcome changed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Change {
    /// The new rate in calls a minute, if it changed.
    pub(crate) rate_per_minute: Option<f64>,
    /// The breaker's new state, if it changed.
    pub(crate) breaker: Option<BreakerState>,
    /// What the handler has learned, if more than the rate changed.
    pub(crate) learned: Option<Learned>,
}

/// What a handler has learned about the service.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Learned {
    pub(crate) refused_for: Option<RefusalCause>,
    pub(crate) rate_per_minute: Option<f64>,
    pub(crate) max_in_flight: Option<u32>,
    pub(crate) headers_believed: bool,
}

impl Default for Learned {
    fn default() -> Learned {
        Learned { refused_for: None, rate_per_minute: None, max_in_flight: None, headers_believed: true }
    }
}

impl fmt::Display for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.refused_for {
            Some(RefusalCause::Outage) => f.write_str("the service seems to be down")?,
            Some(RefusalCause::Chance) => f.write_str("calls were probably refused at random")?,
            Some(cause) => write!(f, "calls were probably refused because of {cause}")?,
            // The other reason for a cap.
            None if self.max_in_flight.is_some() => f.write_str("calls timed out")?,
            None => f.write_str("no call was refused yet")?,
        }
        match self.rate_per_minute {
            Some(rate) => write!(f, "; at most {rate:.1} calls a minute")?,
            None => f.write_str("; no limit on the rate")?,
        }
        match self.max_in_flight {
            Some(cap) => write!(f, "; at most {cap} calls in flight")?,
            None => f.write_str("; no limit on calls in flight")?,
        }
        f.write_str(if self.headers_believed { "" } else { "; the rate limit headers are ignored" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_shown_in_one_line() {
        let nothing = Learned::default();
        let (rate_per_minute, max_in_flight) = (Some(58.25), Some(4));
        for (learned, text) in [
            (nothing, "no call was refused yet; no limit on the rate; no limit on calls in flight"),
            (
                Learned { max_in_flight, ..nothing },
                "calls timed out; no limit on the rate; at most 4 calls in flight",
            ),
            (
                Learned { refused_for: Some(RefusalCause::Outage), ..nothing },
                "the service seems to be down; no limit on the rate; no limit on calls in flight",
            ),
            (
                Learned { refused_for: Some(RefusalCause::Rate), rate_per_minute, ..nothing },
                "calls were probably refused because of a rate limit; at most 58.2 calls a minute; no limit on calls in flight",
            ),
            (
                Learned { refused_for: Some(RefusalCause::Concurrency), max_in_flight, ..nothing },
                "calls were probably refused because of a limit on calls in flight; no limit on the rate; at most 4 calls in flight",
            ),
            (
                Learned { refused_for: Some(RefusalCause::Chance), headers_believed: false, ..nothing },
                "calls were probably refused at random; no limit on the rate; no limit on calls in flight; \
                 the rate limit headers are ignored",
            ),
        ] {
            assert_eq!(learned.to_string(), text);
        }
    }
}
