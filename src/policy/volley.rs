//! Distinguishes random refusals from those of a limit, by a volley of calls right after a refusal.
//!
//! A limiter that has just refused a call can't grant a whole volley a moment later; a server that refuses at random can,
//! and slowing down for it would only waste its capacity. So when refusals don't depend on the rate as those of a limit
//! do, a few calls are sent at once, on top of the rate. If nearly all are granted, the next refusals are forgiven.

use std::time::{Duration, Instant};

/// The calls of a volley. With three, ten clients that share a quota take each other for chance (5.2 % refused, not
/// 3.6 %); six don't fit into the burst that small quotas allow.
const SIZE: u32 = 4;

/// A call that isn't sent within this time isn't part of the volley: no thread is waiting to send it.
const WINDOW: Duration = Duration::from_millis(50);

/// Calls of the volley that weren't refused within so many times the duration of a refusal, and at least this time, were
/// granted: refusals are fast, answers may take a minute.
const ROUND_TRIPS: u32 = 4;
const AT_LEAST: Duration = Duration::from_millis(500);

/// A refusal that takes longer than this says nothing about the next one.
const SLOW: Duration = Duration::from_secs(5);

/// A rate that has grown by more than this explains a refusal.
const GROWN: f64 = 0.02;

/// Refusals at a rate that hasn't grown, one after the other, that raise doubt: a cut can be too shallow twice.
const DOUBTFUL: u32 = 3;

/// Refusals that are forgiven at most between two volleys.
const MAX_TRUST: u32 = 8;

/// Volleys in a row without a failure that prove chance. One is often wrong where twenty fast clients share a quota that
/// refills within the jitter of the network: with two, 5.3 % of their calls are refused, not 3 %.
const CONVINCING: u32 = 3;

/// After a volley that failed so many times as many doubtful refusals go by before the next one as after the last one,
/// up to a most. A failed volley costs four refusals: by a factor of 2 up to 32, 0.2 % more of the calls of families.
const RARER: u32 = 3;
const MAX_SKIPPED: u32 = 81;

/// The same for bare 503s, which may turn from a limiter's to an outage's within a minute.
const MAX_BARE_SKIPPED: u32 = 2;

/// A bare 503 or 529 is likelier to be chance: so many are forgiven for each granted call, and so many at most, until a
/// volley shows that a limiter sends them.
const SPARE_EARNED: f64 = 0.2;
const MAX_SPARE: f64 = 10.0;

/// What a volley showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Verdict {
    /// The server refuses at random. The rate may return to where the refusals began.
    Chance { rate: f64 },
    /// A limit was exceeded, and asked all calls to wait.
    Limit { hold: Duration, bare: bool },
    /// Neither, or too few calls to tell.
    Unknown,
}

#[derive(Debug)]
struct Volley {
    /// Calls still to be sent; those after `first` up to `last` were.
    left: u32,
    first: u64,
    last: u64,
    refused: u32,
    granted: u32,
    began: Instant,
    hold: Duration,
    bare: bool,
    /// The refused call has been refused before.
    is_doubted: bool,
}

/// The running volley, and what the earlier ones showed.
#[derive(Debug)]
pub(crate) struct VolleyTest {
    running: Option<Volley>,
    /// Refusals at a rate that hadn't grown, and the rate at the first of them.
    doubtful: u32,
    began_at: f64,
    /// Whether a limit was ever seen, and whether it answers with bare 503s.
    limited: bool,
    bare_limited: bool,
    /// Consecutive volleys that showed chance, and refusals that may be forgiven until the next one.
    passed: u32,
    trust: u32,
    spare: f64,
    /// Doubtful refusals to skip before the next volley, and after the next failure.
    skip: u32,
    interval: u32,
}

impl VolleyTest {
    pub(crate) fn new() -> VolleyTest {
        VolleyTest {
            running: None,
            doubtful: 0,
            began_at: f64::INFINITY,
            limited: false,
            bare_limited: false,
            passed: 0,
            trust: 0,
            spare: MAX_SPARE,
            skip: 0,
            interval: 1,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether the next call is part of the volley, which may go at once.
    pub(crate) fn takes(&mut self, call: u64) -> bool {
        match &mut self.running {
            Some(volley) if volley.left > 0 => {
                volley.left -= 1;
                volley.last = call;
                true
            }
            _ => false,
        }
    }

    /// A call was granted.
    pub(crate) fn granted(&mut self, call: u64) {
        if let Some(volley) = self.running.as_mut().filter(|volley| volley.contains(call)) {
            volley.granted += 1;
        }
        if !self.bare_limited {
            self.spare = (self.spare + SPARE_EARNED).min(MAX_SPARE);
        }
    }

    /// A call was refused while a volley is running.
    pub(crate) fn refused(&mut self, call: u64, hold: Duration) {
        if let Some(volley) = self.running.as_mut().filter(|volley| volley.contains(call)) {
            volley.refused += 1;
            volley.hold = volley.hold.max(hold);
        }
    }

    /// Whether a refusal is taken for chance without a test.
    pub(crate) fn forgives(&mut self, bare: bool) -> bool {
        if bare && self.spare >= 1.0 {
            self.spare -= 1.0;
            return true;
        }
        let forgiven = self.trust > 0;
        self.trust = self.trust.saturating_sub(1);
        forgiven
    }

    /// Whether a refusal at this rate, which has grown by so much since the last cut, calls for a volley.
    pub(crate) fn doubts(&mut self, rate: f64, growth: f64, bare: bool) -> bool {
        if self.passed > 0 {
            return true;
        }
        if growth >= GROWN && !bare {
            self.limited = true;
            self.doubtful = 0;
            return false;
        }
        if self.doubtful == 0 {
            self.began_at = rate;
        }
        self.doubtful += 1;
        if self.doubtful < DOUBTFUL && !bare {
            return false;
        }
        let skip = if bare { self.skip.min(MAX_BARE_SKIPPED) } else { self.skip };
        self.skip = skip.saturating_sub(1);
        skip == 0
    }

    /// Starts a volley of the calls after `newest`.
    pub(crate) fn start(&mut self, now: Instant, newest: u64, hold: Duration, bare: bool) {
        let (first, last, began) = (newest, newest, now);
        let (left, refused, granted, is_doubted) = (SIZE, 0, 0, false);
        self.running = Some(Volley { left, first, last, refused, granted, began, hold, bare, is_doubted });
    }

    /// What the running volley shows, if it is over.
    pub(crate) fn verdict(&mut self, now: Instant, round_trip: Duration) -> Option<Verdict> {
        let volley = self.running.as_mut()?;
        let is_limit = volley.is_limit(now, round_trip)?;
        let (sent, hold, bare) = (volley.sent(), volley.hold, volley.bare);
        self.running = None;
        if is_limit {
            self.limited = true;
            self.bare_limited |= bare;
            self.spare = if self.bare_limited { 0.0 } else { self.spare };
            (self.passed, self.trust, self.skip) = (0, 0, self.interval);
            self.interval = (RARER * self.interval).min(MAX_SKIPPED);
            return Some(Verdict::Limit { hold, bare });
        }
        if bare {
            (self.spare, self.bare_limited) = (MAX_SPARE, false);
        }
        if sent < 2 {
            self.skip = self.interval;
            return Some(Verdict::Unknown);
        }
        (self.passed, self.skip, self.interval) = (self.passed + 1, 0, 1);
        if self.passed >= CONVINCING {
            self.trust = (SIZE * (self.passed - CONVINCING + 1)).min(MAX_TRUST);
        } else if !bare {
            return Some(Verdict::Unknown);
        }
        let rate = match self.doubtful {
            0 => 0.0,
            _ if self.limited => self.began_at,
            _ => f64::INFINITY,
        };
        self.doubtful = 0;
        Some(Verdict::Chance { rate })
    }

    /// Ends the volley without a verdict.
    pub(crate) fn cancel(&mut self) {
        self.running = None;
    }

    /// Ends all trust: the same call was refused again and again, which isn't chance.
    pub(crate) fn distrust(&mut self) {
        if let Some(volley) = &mut self.running {
            volley.is_doubted = true;
        }
        (self.passed, self.trust) = (0, 0);
    }
}

impl Volley {
    fn contains(&self, call: u64) -> bool {
        call > self.first && call <= self.last
    }

    fn sent(&self) -> u32 {
        (self.last - self.first) as u32
    }

    /// Whether it exceeded a limit, once that is known: more than one call in four was refused, or, of bare 503s, which
    /// half of all calls may get at random, more than two.
    fn is_limit(&mut self, now: Instant, round_trip: Duration) -> Option<bool> {
        let age = now.saturating_duration_since(self.began);
        if age > WINDOW {
            self.left = 0;
        }
        let sent = self.sent();
        let most = if self.bare { sent / 2 } else { sent / 4 };
        let exceeded = self.refused > most && (self.left == 0 || self.refused >= 2 && !self.bare);
        let latest = AT_LEAST.max(round_trip.min(SLOW) * ROUND_TRIPS);
        let is_over = self.left == 0 && (self.refused + self.granted >= sent || age > latest);
        (exceeded || is_over).then_some(exceeded || self.is_doubted)
    }
}
