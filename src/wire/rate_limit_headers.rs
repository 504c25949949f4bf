//! Parses the rate limits in the headers of an answer, in the forms that a dozen vendors use.

use std::time::Duration;

use crate::limits::{Limit, RateLimits};
use crate::wire::date::rfc3339;

/// A limit with a later reset, such as that of a day or a month, says little about the present rate. It counts only where
/// there is none with an earlier reset.
const FAR_RESET: Duration = Duration::from_secs(60 * 60);

/// Numbers from here on are points in time, not durations: 1e9 seconds after 1970 is in 2001, and no reset is 30 years away.
const EPOCH_SECONDS: f64 = 1e9;
/// Numbers from here on are points in time in milliseconds.
const EPOCH_MILLIS: f64 = 1e12;

/// Collects the header fields about rate limits.
#[derive(Debug, Default)]
pub(crate) struct RateLimitHeaders<'a> {
    groups: Vec<Group<'a>>,
}

/// The fields about one limit.
#[derive(Debug)]
struct Group<'a> {
    unit: Unit,
    /// The vendor's name of the limit; there may be several with the same unit.
    name: &'a str,
    limit: Option<&'a str>,
    remaining: Option<&'a str>,
    reset: Option<&'a str>,
    window: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Requests,
    Tokens,
}

impl<'a> RateLimitHeaders<'a> {
    /// Adds a field, whose name is in lower case, if it is about rate limits.
    pub(crate) fn add(&mut self, name: &'a str, value: &'a [u8]) {
        // OpenAI, Azure, Groq, Mistral, Together and others; Azure at times; Anthropic; the IETF's drafts.
        let Some(rest) = ["x-ratelimit-", "x-rate-limit-", "anthropic-ratelimit-", "ratelimit"]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))
        else {
            return;
        };
        let Ok(value) = std::str::from_utf8(value) else { return };
        match rest {
            "" => return self.add_structured(value),
            "-policy" => return self.add_policy(value),
            _ => {}
        }
        let rest = rest.trim_start_matches('-');
        // `remaining-requests` at most services, `requests-remaining` at Anthropic.
        let is_field = |word: &str| matches!(word, "limit" | "remaining" | "reset" | "renewalperiod");
        let (first, after) = split_at_byte(rest, rest.bytes().position(|b| b == b'-'));
        let (field, name) = if is_field(first) {
            (first, after)
        } else {
            let (name, last) = split_at_byte(rest, rest.bytes().rposition(|b| b == b'-'));
            if !is_field(last) {
                return;
            }
            (last, name)
        };
        let Some((unit, window)) = parse_name(name) else { return };
        let group = self.group(unit, name);
        group.window = group.window.or(window);
        match field {
            "limit" => group.limit = Some(value),
            "remaining" => group.remaining = Some(value),
            "reset" => group.reset = Some(value),
            _ => group.window = number(value).map(from_secs), // Azure's period
        }
    }

    /// The rate limits; `now` is in seconds since 1970. An absent, implausible or unreadable limit is `None`.
    pub(crate) fn rate_limits(&self, now: impl Fn() -> i64) -> RateLimits {
        let of = |unit: Unit| {
            let limits = self.groups.iter().filter(|group| group.unit == unit);
            let limits = limits.filter_map(|group| group.limit(&now));
            // The limit with the smallest remaining share is reached first.
            limits.min_by(|a, b| {
                let share = |limit: &Limit| limit.remaining as f64 / limit.limit as f64;
                (a.reset > FAR_RESET).cmp(&(b.reset > FAR_RESET)).then(share(a).total_cmp(&share(b)))
            })
        };
        RateLimits { requests: of(Unit::Requests), tokens: of(Unit::Tokens) }
    }

    /// `RateLimit: "name";r=50;t=30` of draft-ietf-httpapi-ratelimit-headers-08 and later, or
    /// `limit=100, remaining=50, reset=30` of the drafts before. The first item counts.
    fn add_structured(&mut self, value: &'a str) {
        let group = self.group(Unit::Requests, "");
        for (key, value) in parameters(value) {
            let place = match key {
                "limit" => &mut group.limit,
                "r" | "remaining" => &mut group.remaining,
                "t" | "reset" => &mut group.reset,
                _ => continue,
            };
            *place = place.or(Some(value));
        }
    }

    /// `RateLimit-Policy: "name";q=100;w=60`, or `100;w=60` of the drafts before.
    fn add_policy(&mut self, value: &'a str) {
        let group = self.group(Unit::Requests, "");
        for (key, value) in parameters(value) {
            match key {
                "q" => group.limit = group.limit.or(Some(value)),
                "w" => group.window = group.window.or_else(|| number(value).map(from_secs)),
                _ => {}
            }
        }
    }

    fn group(&mut self, unit: Unit, name: &'a str) -> &mut Group<'a> {
        let same = |group: &Group<'_>| group.unit == unit && group.name == name;
        let index = self.groups.iter().position(same).unwrap_or_else(|| {
            let (limit, remaining, reset) = (None, None, None);
            self.groups.push(Group { unit, name, limit, remaining, reset, window: None });
            self.groups.len() - 1
        });
        &mut self.groups[index]
    }
}

impl Group<'_> {
    /// The limit, if the fields suffice.
    fn limit(&self, now: impl Fn() -> i64) -> Option<Limit> {
        let count = |text: Option<&str>| {
            number(split_at_byte(text?, text?.bytes().position(|b| matches!(b, b',' | b';'))).0)
        };
        let limit = count(self.limit).filter(|limit| *limit >= 1.0)?;
        let remaining = count(self.remaining)?;
        let reset = match (self.reset.and_then(|reset| parse_reset(reset, now)), self.window) {
            // Azure sends 500 where the period is 60 s, in a unit that isn't documented.
            (Some(reset), Some(window)) => reset.min(window),
            (reset, window) => reset.or(window)?,
        };
        Some(Limit { limit: limit as u64, remaining: remaining as u64, reset })
    }
}

/// Parses the name of a limit into its unit and, if the name has one, its window: `requests`, `req-10-second`,
/// `tokens-minute`, `input-tokens`. An empty name means requests.
fn parse_name(name: &str) -> Option<(Unit, Option<Duration>)> {
    match name {
        // The fast path is for almost all services.
        "" | "requests" => return Some((Unit::Requests, None)),
        "tokens" => return Some((Unit::Tokens, None)),
        _ => {}
    }
    let mut words = name.split('-').peekable();
    words.next_if(|word| matches!(*word, "input" | "output"));
    let unit = match words.next() {
        Some("requests" | "request" | "req") => Unit::Requests,
        Some("tokens" | "token") => Unit::Tokens,
        _ => return None,
    };
    let count = words.peek().and_then(|word| word.parse::<u32>().ok());
    if count.is_some() {
        words.next();
    }
    let seconds = match words.next() {
        None => return Some((unit, None)),
        Some("second") => 1,
        Some("minute") => 60,
        Some("hour") => 60 * 60,
        Some("day") => 24 * 60 * 60,
        Some("month") => 30 * 24 * 60 * 60,
        Some(_) => return None,
    };
    Some((unit, Some(Duration::from_secs(seconds * u64::from(count.unwrap_or(1))))))
}

/// Parses the time until a reset: a duration such as `6m0s`, a number of seconds, or a point in time as a number or a date.
fn parse_reset(text: &str, now: impl Fn() -> i64) -> Option<Duration> {
    let text = text.trim();
    let until = |then: f64| from_secs((then - now() as f64).max(0.0));
    match number(text) {
        Some(millis) if millis >= EPOCH_MILLIS => Some(until(millis / 1000.0)),
        Some(seconds) if seconds >= EPOCH_SECONDS => Some(until(seconds)),
        Some(seconds) => Some(from_secs(seconds)),
        None => parse_duration(text).or_else(|| rfc3339(text).map(|then| until(then as f64))),
    }
}

/// Parses a duration in the form of Go, which OpenAI and Groq use: `1h2m3.5s`, `12ms`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (value, unit) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let scale = match &unit[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number(value)? * scale;
        rest = &unit[end..];
    }
    (!text.is_empty()).then(|| from_secs(seconds))
}

/// The parameters of the first item of a structured field, and of a list of `key=value`.
fn parameters(value: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts = value.split([';', ',']).filter_map(|part| part.trim().split_once('='));
    parts.map(|(key, value)| (key.trim(), value.trim()))
}

/// The text before and after the byte at this offset; the whole text and nothing if there is none.
fn split_at_byte(text: &str, at: Option<usize>) -> (&str, &str) {
    at.map_or((text, ""), |at| (&text[..at], &text[at + 1..]))
}

/// Parses a decimal number without sign or exponent.
pub(super) fn number(text: &str) -> Option<f64> {
    let digits = text.as_bytes().trim_ascii();
    if digits.is_empty() || !digits[0].is_ascii_digit() {
        return None;
    }
    // The fast path is for integers that a float represents exactly.
    if digits.len() <= 15 && digits.iter().all(u8::is_ascii_digit) {
        return Some(digits.iter().fold(0, |sum: u64, digit| sum * 10 + u64::from(digit - b'0')) as f64);
    }
    let plain = digits.iter().all(|b| b.is_ascii_digit() || *b == b'.');
    if plain { text.trim().parse().ok() } else { None }
}

/// A duration; one that is too long becomes the maximum.
pub(super) fn from_secs(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_742_031_400; // 2025-03-15T09:36:40Z

    fn parse(fields: &[(&str, &str)]) -> RateLimits {
        let mut headers = RateLimitHeaders::default();
        for (name, value) in fields {
            headers.add(name, value.as_bytes());
        }
        headers.rate_limits(|| NOW)
    }

    fn limit(limit: u64, remaining: u64, seconds: f64) -> Option<Limit> {
        Some(Limit { limit, remaining, reset: Duration::from_secs_f64(seconds) })
    }

    #[test]
    fn the_form_of_each_vendor() {
        let openai = parse(&[
            ("x-ratelimit-limit-requests", "500"),
            ("x-ratelimit-remaining-requests", "499"),
            ("x-ratelimit-reset-requests", "120ms"),
            ("x-ratelimit-limit-tokens", "30000"),
            ("x-ratelimit-remaining-tokens", "29980"),
            ("x-ratelimit-reset-tokens", "6m0s"),
            ("x-ratelimit-remaining-input-images", "7"),
            ("x-ratelimit-remaining-tokens_usage_based", "1"),
        ]);
        assert_eq!((openai.requests, openai.tokens), (limit(500, 499, 0.12), limit(30_000, 29_980, 360.0)));

        let anthropic = parse(&[
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("anthropic-ratelimit-requests-reset", "2025-03-15T09:37:40Z"),
            ("anthropic-ratelimit-input-tokens-limit", "400000"),
            ("anthropic-ratelimit-input-tokens-remaining", "399000"),
            ("anthropic-ratelimit-input-tokens-reset", "2025-03-15T09:36:41Z"),
            ("anthropic-ratelimit-output-tokens-limit", "80000"),
            ("anthropic-ratelimit-output-tokens-remaining", "800"),
            ("anthropic-ratelimit-output-tokens-reset", "2025-03-15T09:37:39Z"),
        ]);
        assert_eq!((anthropic.requests, anthropic.tokens), (limit(50, 49, 60.0), limit(80_000, 800, 59.0)));

        let azure = parse(&[
            ("x-ratelimit-limit-requests", "120"),
            ("x-ratelimit-remaining-requests", "119"),
            ("x-ratelimit-renewalperiod-requests", "60"),
            ("x-ratelimit-reset-requests", "500"),
            ("x-ratelimit-abusepenalty-active", "False"),
        ]);
        assert_eq!((azure.requests, azure.tokens), (limit(120, 119, 60.0), None));

        let mistral = parse(&[
            ("x-ratelimit-limit-req-10-second", "60"),
            ("x-ratelimit-remaining-req-10-second", "53"),
            ("x-ratelimit-limit-tokens-month", "10000000000"),
            ("x-ratelimit-remaining-tokens-month", "1"),
            ("x-ratelimit-limit-tokens-minute", "2000000"),
            ("x-ratelimit-remaining-tokens-minute", "1999370"),
            ("x-ratelimit-tokens-query-cost", "110"),
        ]);
        assert_eq!(
            (mistral.requests, mistral.tokens),
            (limit(60, 53, 10.0), limit(2_000_000, 1_999_370, 60.0))
        );

        let together =
            [("x-ratelimit-limit", "2"), ("x-ratelimit-remaining", "1"), ("x-ratelimit-reset", "2")];
        assert_eq!(parse(&together).requests, limit(2, 1, 2.0));
        let epoch = [together[0], together[1], ("x-ratelimit-reset", "1742031403")];
        assert_eq!(parse(&epoch).requests, limit(2, 1, 3.0));
        let millis = [together[0], together[1], ("x-ratelimit-reset", "1742031403500")];
        assert_eq!(parse(&millis).requests, limit(2, 1, 3.5));
        let past = [together[0], together[1], ("x-ratelimit-reset", "1742031000")];
        assert_eq!(parse(&past).requests, limit(2, 1, 0.0));
    }

    #[test]
    fn the_forms_of_the_ietf_drafts() {
        let new = [("ratelimit", "\"default\";r=50;t=30"), ("ratelimit-policy", "\"default\";q=100;w=60")];
        assert_eq!(parse(&new).requests, limit(100, 50, 30.0));
        let seventh = [("ratelimit", "limit=100, remaining=50, reset=30"), ("ratelimit-policy", "100;w=60")];
        assert_eq!(parse(&seventh).requests, limit(100, 50, 30.0));
        let third =
            [("ratelimit-limit", "100, 100;w=60"), ("ratelimit-remaining", "50"), ("ratelimit-reset", "30")];
        assert_eq!(parse(&third).requests, limit(100, 50, 30.0));
    }

    #[test]
    fn absent_and_implausible_limits_are_none() {
        let with = |limit: &'static str, remaining: &'static str, reset: &'static str| {
            parse(&[
                ("x-ratelimit-limit", limit),
                ("x-ratelimit-remaining", remaining),
                ("x-ratelimit-reset", reset),
            ])
            .requests
        };
        assert!(with("10", "5", "1s").is_some());
        for (l, r, t) in [
            ("0", "5", "1s"),
            ("-1", "-1", "0"),
            ("10", "-1", "1s"),
            ("10", "", "1s"),
            ("ten", "5", "1s"),
            ("10", "5", "soon"),
            ("10", "5", "-3"),
            ("10", "5", "1x"),
            ("10", "5", ""),
            ("NaN", "5", "1s"),
            ("10", "inf", "1s"),
        ] {
            assert_eq!(with(l, r, t), None, "{l} {r} {t}");
        }
        assert_eq!(parse(&[("x-ratelimit-remaining", "0")]).requests, None);
        assert_eq!(with("1e9", "5", "1s"), None);
        let huge = "9".repeat(400);
        assert!(
            parse(&[("ratelimit-limit", &huge), ("ratelimit-remaining", &huge), ("ratelimit-reset", &huge)])
                .requests
                .is_some()
        );
    }

    #[test]
    fn durations_in_the_form_of_go() {
        for (text, seconds) in [
            ("1s", 1.0),
            ("6m0s", 360.0),
            ("12ms", 0.012),
            ("17.399999999s", 17.399999999),
            ("2m59.56s", 179.56),
            ("1h2m3s", 3723.0),
            ("500µs", 0.0005),
        ] {
            assert_eq!(parse_duration(text), Some(from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "1", "1s2", "1 s", "-1s", "1.2.3s", "µ"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
