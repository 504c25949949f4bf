//! The concurrency limiter: a learned cap on the calls in flight, for servers that limit how many they serve at once.
//!
//! If a call is refused while more others are in flight than during nearly every granted call, the refusal is attributed to
//! their number, not to the rate. It becomes the cap, and the rate stays as it is.
//!
//! A call is in flight until its answer has arrived. A stream may also be abandoned, or be held by the thread that waits
//! for a place, so it keeps its place only while it is read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::policy::later;
use crate::policy::outcome::Admitted;

/// The granted calls that are remembered, each with the number of other calls in flight at its end.
const MEMORY: usize = 64;

/// The minimum number of granted calls before a cap is set: the first burst of a program looks like a limit.
const MIN_GRANTED: usize = 16;

/// A refusal is attributed to the calls in flight if at most one granted call in this many had as many others in
/// flight.
const RARE: usize = 48;

/// The cap is raised by one after this many granted calls at the cap, plus one for each call that the cap allows. With 50,
/// failed trials cost 2.4 to 7.5 % of the calls, not 2.1 to 6.9 %; with more, a raised limit takes longer to find.
const RAISE_AFTER: u32 = 75;

/// The factor by which a timeout reduces the calls in flight. One half reacts no better and takes longer to recover.
const AFTER_TIMEOUT: f64 = 0.7;

/// Each granted call lets this many timeouts be ignored, up to the maximum: a few calls hang on any server, and cuts for them
/// would outpace the raises. If one call in a hundred hangs, 64 threads would use a tenth of the capacity.
const SPARE_EARNED: f64 = 0.2;
const MAX_SPARE: f64 = 5.0;

/// But only a timeout that took this many times as long as granted calls do: under overload those are slow, too.
const MIN_HANG: f64 = 4.0;

/// The weight of the newest granted call in their mean duration.
const NEWEST_WEIGHT: f64 = 1.0 / 16.0;

/// If no call begins or ends at the cap for this long, and for twice the duration of the longest recent call, one is
/// presumed lost, because a program may leak a permit, or wait for a permit while it holds another one.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// The maximum of that: a client's calls time out after ten minutes at the latest, unless its own timeout is longer.
const MAX_LOST_AFTER: Duration = Duration::from_secs(10 * 60);

/// A call's duration counts for the longest recent one until about this many shorter calls have ended.
const LONG_MEMORY: u32 = 64;

/// The thread that reads a stream, and how long the stream keeps its place without being read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader {
    pub(crate) thread: u64,
    pub(crate) timeout: Duration,
}

/// The place of a stream, which is released at the time `until` unless the stream is read before.
#[derive(Debug)]
struct StreamPlace {
    thread: u64,
    until: Instant,
}

/// The calls in flight, their cap, and the history from which it is learned.
#[derive(Debug)]
pub(crate) struct Concurrency {
    in_flight: u32,
    /// Those that are streams whose success is known, by the number of the call.
    streams: BTreeMap<u64, StreamPlace>,
    cap: Option<u32>,
    /// The newest call when the cap last changed, and when it last changed after a timeout.
    changed_at: u64,
    timed_out_at: u64,
    /// The timeouts that may be ignored.
    spare: f64,
    /// The mean duration of recent granted calls, in seconds.
    mean: f64,
    /// Calls granted at the cap, and whether its last change was a raise.
    at_cap: u32,
    raised: bool,
    granted: [u32; MEMORY],
    count: usize,
    /// When a call was last admitted or ended.
    moved: Option<Instant>,
    /// The duration of the longest recent call.
    longest: Duration,
}

impl Concurrency {
    pub(crate) fn new() -> Concurrency {
        Concurrency {
            in_flight: 0,
            streams: BTreeMap::new(),
            cap: None,
            changed_at: 0,
            timed_out_at: 0,
            spare: 0.0,
            mean: 0.0,
            at_cap: 0,
            raised: false,
            granted: [0; MEMORY],
            count: 0,
            moved: None,
            longest: Duration::ZERO,
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
        let cap = self.cap.filter(|cap| self.in_flight >= *cap)?;
        self.release_unread(now);
        if self.in_flight < cap {
            return None;
        }
        // If the clock was set back, the wait starts again.
        self.moved = self.moved.min(Some(now));
        let waited = self.moved.map_or(Duration::ZERO, |moved| now.saturating_duration_since(moved));
        let lost_after = LOST_AFTER.max(2 * self.longest).min(MAX_LOST_AFTER);
        let left = Some(lost_after.saturating_sub(waited)).filter(|left| !left.is_zero())?;
        let released = self.streams.values().map(|place| place.until.saturating_duration_since(now)).min();
        Some(released.map_or(left, |released| released.min(left)))
    }

    pub(crate) fn admitted(&mut self, now: Instant) {
        // At the cap, the call replaces one that is presumed lost. A stream that is read isn't.
        let none_is_lost = self.in_flight as usize <= self.streams.len();
        self.in_flight += u32::from(self.cap.is_none_or(|cap| self.in_flight < cap || none_is_lost));
        self.moved = Some(now);
    }

    /// Records that a call ended, whatever its outcome. Returns how many others are in flight.
    pub(crate) fn ended(&mut self, now: Instant, call: &Admitted) -> u32 {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.moved = Some(now);
        let took = now.saturating_duration_since(call.at).min(MAX_LOST_AFTER);
        self.longest = took.max(self.longest - self.longest / LONG_MEMORY);
        self.in_flight
    }

    /// Records that a call was dropped without an outcome.
    pub(crate) fn dropped(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Records that the answer to `call` began to arrive. Returns how many others are in flight.
    pub(crate) fn began_stream(&mut self, now: Instant, call: u64, reader: Reader) -> u32 {
        self.release_unread(now); // also without a cap, so that streams that are never dropped don't accumulate
        self.streams.insert(call, StreamPlace::of(now, reader));
        self.in_flight.saturating_sub(1)
    }

    /// Records that a stream is read. It takes its place again if that was released.
    pub(crate) fn read_stream(&mut self, now: Instant, call: u64, reader: Reader) {
        let released = self.streams.insert(call, StreamPlace::of(now, reader)).is_none();
        self.in_flight += u32::from(released);
    }

    /// Records that a stream ended or was dropped.
    pub(crate) fn ended_stream(&mut self, call: u64) {
        let held = self.streams.remove(&call).is_some();
        self.in_flight = self.in_flight.saturating_sub(u32::from(held));
    }

    /// Releases the places of the streams of a thread that begins to wait, and so can't read them. Returns whether another
    /// call may go because of that.
    pub(crate) fn release_of_thread(&mut self, thread: u64) -> bool {
        self.cap.is_some() && self.retain_streams(|place| place.thread != thread)
    }

    /// Releases the places of streams that weren't read for too long.
    pub(crate) fn release_unread(&mut self, now: Instant) {
        self.retain_streams(|place| now < place.until);
    }

    fn retain_streams(&mut self, keep: impl Fn(&StreamPlace) -> bool) -> bool {
        let before = self.streams.len();
        self.streams.retain(|_, place| keep(place));
        let released = before - self.streams.len();
        self.in_flight = self.in_flight.saturating_sub(released as u32);
        released > 0
    }

    /// Records that `call` was granted, with this many others in flight at its end.
    pub(crate) fn granted(&mut self, newest: u64, others: u32, took: Duration) {
        self.granted[self.count % MEMORY] = others;
        self.count += 1;
        self.spare = (self.spare + SPARE_EARNED).min(MAX_SPARE);
        self.mean += NEWEST_WEIGHT * (took.as_secs_f64() - self.mean);
        let Some(cap) = self.cap else { return };
        if others + 1 >= cap {
            self.at_cap += 1;
            if self.at_cap >= RAISE_AFTER + cap {
                self.set(cap + 1, newest);
                self.raised = true;
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
        if call.number <= self.changed_at {
            // Sent before the cap changed. Unless it was raised then, even fewer calls fit.
            if !self.raised {
                self.cap = Some(cap.min(others).max(1));
            }
            return true;
        }
        if call.others >= cap {
            return true; // the call was one more than the cap allows
        }
        let failed_trial = self.raised && call.others + 1 >= cap;
        if failed_trial {
            self.set((cap - 1).max(1), newest);
        } else {
            self.cap = None;
        }
        failed_trial
    }

    /// Records that `call` timed out: if others were in flight, there are more than the server can serve in time.
    pub(crate) fn timed_out(&mut self, now: Instant, call: &Admitted, newest: u64, others: u32) {
        let took = now.saturating_duration_since(call.at).as_secs_f64();
        if self.spare >= 1.0 && took >= MIN_HANG * self.mean {
            self.spare -= 1.0;
            return;
        }
        if call.number > self.timed_out_at && others > 0 {
            let fewer = (AFTER_TIMEOUT * f64::from(others + 1)).max(1.0) as u32;
            self.set(self.cap.unwrap_or(u32::MAX).min(fewer), newest);
            self.timed_out_at = newest;
        }
    }

    fn set(&mut self, cap: u32, newest: u64) {
        (self.cap, self.changed_at, self.at_cap, self.raised) = (Some(cap), newest, 0, false);
    }
}

impl StreamPlace {
    fn of(now: Instant, Reader { thread, timeout }: Reader) -> StreamPlace {
        StreamPlace { thread, until: later(now, timeout) }
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
                    let others = limiter.ended(now, &call);
                    limiter.refused(&call, newest, others);
                    refused += i32::from(round > 10_000);
                    break;
                }
            }
            if let Some(call) = serving.pop_front() {
                let others = limiter.ended(now, &call);
                limiter.granted(newest, others, SECOND);
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
    fn a_refusal_at_a_raised_cap_reverts_it_and_the_next_one_removes_it() {
        let call = |number, others| Admitted { number, at: Instant::now(), others };
        let mut limiter = Concurrency::new();
        limiter.timed_out(Instant::now(), &call(1, 2), 1, 2);
        for number in 2..79 {
            assert_eq!(limiter.cap(), Some(2), "before call {number}");
            limiter.granted(number, 1, SECOND);
        }
        assert_eq!(limiter.cap(), Some(3), "raised after 77 calls at the cap");
        assert!(limiter.refused(&call(78, 2), 79, 1), "it was sent before the raise");
        assert_eq!(limiter.cap(), Some(3), "which fewer calls in flight don't revert");
        assert!(limiter.refused(&call(80, 2), 80, 2));
        assert_eq!(limiter.cap(), Some(2));
        assert!(!limiter.refused(&call(81, 1), 81, 1), "it isn't due to the calls in flight");
        assert_eq!(limiter.cap(), None);
    }

    #[test]
    fn a_call_is_presumed_lost_after_half_a_minute_or_twice_the_longest_call() {
        let minute = 60 * SECOND;
        for (took, lost_after) in
            [(SECOND, LOST_AFTER), (minute, 2 * minute), (LOST_AFTER * 1000, MAX_LOST_AFTER)]
        {
            let (mut limiter, start) = (Concurrency::new(), Instant::now());
            let (call, now) = (|number| Admitted { number, at: start, others: 1 }, start + took);
            limiter.admitted(start);
            limiter.admitted(start);
            let others = limiter.ended(now, &call(1));
            limiter.timed_out(now, &call(1), 2, others);
            assert_eq!((limiter.cap(), limiter.wait(now)), (Some(1), Some(lost_after)));
            let late = now + lost_after;
            assert_eq!(limiter.wait(late), None);
            limiter.admitted(late);
            assert_eq!(limiter.wait(late), Some(lost_after));
        }
    }

    #[test]
    fn the_longest_call_is_forgotten_after_many_shorter_ones() {
        let (mut limiter, now) = (Concurrency::new(), Instant::now());
        let ended = |limiter: &mut Concurrency, took: Duration| {
            limiter.ended(now + took, &Admitted { number: 1, at: now, others: 0 });
        };
        ended(&mut limiter, 600 * SECOND);
        ended(&mut limiter, SECOND);
        assert!(limiter.longest > 590 * SECOND);
        (0..200).for_each(|_| ended(&mut limiter, SECOND));
        assert!(limiter.longest < 30 * SECOND, "{:?}", limiter.longest);
    }

    #[test]
    fn a_dropped_call_does_not_shorten_the_wait_of_others() {
        let (mut limiter, start) = (Concurrency::new(), Instant::now());
        let call = Admitted { number: 1, at: start, others: 2 };
        (0..4).for_each(|_| limiter.admitted(start));
        let now = start + 20 * SECOND;
        let others = limiter.ended(now, &call);
        limiter.timed_out(now, &call, 4, others);
        assert_eq!((limiter.cap(), limiter.in_flight()), (Some(2), 3));
        limiter.dropped();
        assert_eq!(limiter.wait(now), Some(2 * 20 * SECOND));
    }

    /// A limiter with a cap of two calls in flight, and two streams: of thread 1 and of thread 2.
    fn two_streams(now: Instant) -> Concurrency {
        let mut limiter = Concurrency::new();
        (0..3).for_each(|_| limiter.admitted(now));
        let call = Admitted { number: 1, at: now, others: 2 };
        let others = limiter.ended(now, &call);
        limiter.timed_out(now, &call, 3, others);
        assert_eq!((limiter.cap(), limiter.in_flight()), (Some(2), 2));
        assert_eq!(limiter.began_stream(now, 2, reader(1)), 1);
        assert_eq!(limiter.began_stream(now, 3, reader(2)), 1);
        limiter
    }

    fn reader(thread: u64) -> Reader {
        Reader { thread, timeout: 10 * SECOND }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_stream_keeps_its_place_until_its_end_or_until_it_is_not_read_for_too_long() {
        let now = Instant::now();
        let mut limiter = two_streams(now);
        assert_eq!(limiter.wait(now), Some(10 * SECOND), "until the first of them loses its place");
        limiter.read_stream(now + 6 * SECOND, 2, reader(1));
        assert_eq!(limiter.wait(now + 6 * SECOND), Some(4 * SECOND));
        assert_eq!(limiter.wait(now + 10 * SECOND), None, "the other stream wasn't read");
        limiter.ended_stream(3);
        assert_eq!(limiter.in_flight(), 1, "its end frees no second place");
        limiter.admitted(now + 10 * SECOND);
        assert_eq!(limiter.wait(now + 10 * SECOND), Some(6 * SECOND));
        limiter.ended_stream(2);
        assert_eq!((limiter.in_flight(), limiter.wait(now + 10 * SECOND)), (1, None));
    }

    #[test]
    fn a_stream_that_is_read_again_takes_its_place_again() {
        let now = Instant::now();
        let mut limiter = two_streams(now);
        limiter.release_unread(now + 10 * SECOND);
        assert_eq!(limiter.in_flight(), 0);
        let late = now + 11 * SECOND;
        limiter.read_stream(late, 3, reader(2));
        limiter.read_stream(late, 3, reader(2));
        assert_eq!(limiter.in_flight(), 1);
        limiter.read_stream(late, 2, reader(2));
        assert_eq!(limiter.wait(late), Some(10 * SECOND));
    }

    #[test]
    fn a_thread_that_waits_gives_up_the_places_of_its_streams() {
        let now = Instant::now();
        let mut limiter = two_streams(now);
        assert!(!limiter.release_of_thread(7), "it holds none");
        assert_eq!(limiter.wait(now), Some(10 * SECOND));
        assert!(limiter.release_of_thread(2) && !limiter.release_of_thread(2));
        assert_eq!((limiter.in_flight(), limiter.wait(now)), (1, None));
        limiter.read_stream(now, 2, reader(2));
        assert!(limiter.release_of_thread(2), "a stream belongs to the thread that read it last");
        assert_eq!(limiter.in_flight(), 0);
    }

    #[test]
    fn without_a_cap_places_are_counted_and_nothing_is_given_up() {
        let (mut limiter, now) = (Concurrency::new(), Instant::now());
        for call in 1..=100 {
            let then = now + call as u32 * SECOND;
            limiter.admitted(then);
            limiter.began_stream(then, call, reader(1));
            assert_eq!(limiter.wait(then), None);
        }
        assert!(!limiter.release_of_thread(1));
        assert_eq!(limiter.in_flight(), 10, "the others were not read for too long");
    }

    #[test]
    fn a_call_that_is_let_through_while_streams_are_read_is_one_more_and_its_refusal_confirms_the_cap() {
        let now = Instant::now();
        let mut limiter = two_streams(now);
        let late = now + LOST_AFTER;
        (2..=3).for_each(|call| limiter.read_stream(late, call, reader(1)));
        assert_eq!(limiter.wait(late), None, "the cap delays a call for half a minute at most");
        let call = Admitted { number: 4, at: late, others: limiter.in_flight() };
        limiter.admitted(late);
        assert_eq!(limiter.in_flight(), 3);
        let others = limiter.ended(late, &call);
        assert!(limiter.refused(&call, 4, others));
        assert_eq!((limiter.cap(), limiter.in_flight()), (Some(2), 2));
    }

    #[test]
    fn a_few_timeouts_among_many_granted_calls_are_ignored() {
        let (mut limiter, now) = (Concurrency::new(), Instant::now());
        let call = |number| Admitted { number, at: now, others: 9 };
        let time_out = |limiter: &mut Concurrency, number, took| {
            limiter.timed_out(now + took, &call(number), number, 9);
        };
        for number in 1..=1000 {
            if number % 20 == 0 {
                time_out(&mut limiter, number, 60 * SECOND);
            } else {
                limiter.granted(number, 9, SECOND);
            }
        }
        assert_eq!(limiter.cap(), None);
        (1001..=1004).for_each(|number| time_out(&mut limiter, number, 60 * SECOND));
        assert_eq!(limiter.cap(), None, "several in a row");
        time_out(&mut limiter, 1005, 60 * SECOND);
        time_out(&mut limiter, 1006, 60 * SECOND);
        assert_eq!(limiter.cap(), Some(7));
        let mut limiter = Concurrency::new();
        (1..=100).for_each(|number| limiter.granted(number, 9, 20 * SECOND));
        time_out(&mut limiter, 101, 60 * SECOND);
        assert_eq!(limiter.cap(), Some(7), "where all calls are slow, too many are in flight");
    }

    #[test]
    fn a_timeout_caps_the_calls_at_seven_tenths_once_a_round_trip_unless_it_was_alone() {
        let (mut limiter, now) = (Concurrency::new(), Instant::now());
        let call = |number| Admitted { number, at: now, others: 1 };
        limiter.timed_out(now, &call(1), 10, 0);
        assert_eq!(limiter.cap(), None);
        (1..=10).for_each(|number| limiter.timed_out(now, &call(number), 10, 9));
        assert_eq!(limiter.cap(), Some(7));
        limiter.timed_out(now, &call(11), 12, 6);
        assert_eq!(limiter.cap(), Some(4));
    }
}
