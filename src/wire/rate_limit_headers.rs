//! Parses the rate limits in the headers of an answer, in the forms that a dozen vendors use.

use std::time::Duration;

use crate::json::lenient::decimal;
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
    requests: Fields<'a>,
    tokens: Fields<'a>,
    /// Limits under other names than `requests` and `tokens`.
    others: Vec<Group<'a>>,
}

/// The fields about one limit.
#[derive(Debug, Default)]
struct Fields<'a> {
    limit: Option<&'a [u8]>,
    remaining: Option<&'a [u8]>,
    reset: Option<&'a [u8]>,
    window: Option<Duration>,
}

/// The fields about a limit with a name of the vendor's own; there may be several for the same unit.
#[derive(Debug)]
struct Group<'a> {
    unit: Unit,
    name: &'a str,
    fields: Fields<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Requests,
    Tokens,
}

impl<'a> RateLimitHeaders<'a> {
    /// Adds a field, whose name is in lower case, if it is about rate limits.
    #[inline]
    pub(crate) fn add(&mut self, name: &'a str, value: &'a [u8]) {
        // OpenAI, Azure, Groq, Mistral, Together and others; Azure at times; Anthropic; the IETF's drafts.
        let rest = name
            .strip_prefix("x-ratelimit-")
            .or_else(|| name.strip_prefix("x-rate-limit-"))
            .or_else(|| name.strip_prefix("anthropic-ratelimit-"))
            .or_else(|| name.strip_prefix("ratelimit"));
        if let Some(rest) = rest {
            self.add_field(rest, value);
        }
    }

    fn add_field(&mut self, name: &'a str, value: &'a [u8]) {
        match name {
            // The fast path is for the names that most services use.
            "limit-requests" => self.requests.limit = Some(value),
            "limit-tokens" => self.tokens.limit = Some(value),
            "remaining-requests" => self.requests.remaining = Some(value),
            "remaining-tokens" => self.tokens.remaining = Some(value),
            "reset-requests" => self.requests.reset = Some(value),
            "reset-tokens" => self.tokens.reset = Some(value),
            "" => self.add_structured(value),
            "-policy" => self.add_policy(value),
            _ => self.add_named(name.trim_start_matches('-'), value),
        }
    }

    /// `remaining-requests` at most services, `requests-remaining` at Anthropic.
    fn add_named(&mut self, name: &'a str, value: &'a [u8]) {
        let is_field = |word: &str| matches!(word, "limit" | "remaining" | "reset" | "renewalperiod");
        let (first, rest) = name.split_once('-').unwrap_or((name, ""));
        let (field, limit) = match name.rsplit_once('-') {
            _ if is_field(first) => (first, rest),
            Some((rest, last)) if is_field(last) => (last, rest),
            _ => return,
        };
        let Some((unit, window)) = parse_name(limit) else { return };
        let fields = self.fields(unit, limit);
        fields.window = fields.window.or(window);
        match field {
            "limit" => fields.limit = Some(value),
            "remaining" => fields.remaining = Some(value),
            "reset" => fields.reset = Some(value),
            _ => fields.window = number(value).map(from_secs), // Azure's period
        }
    }

    /// The rate limits; `now` is in seconds since 1970. An absent, implausible or unreadable limit is `None`.
    pub(crate) fn rate_limits(&self, now: impl Fn() -> i64) -> RateLimits {
        let of = |unit: Unit, fields: &Fields<'_>| {
            let others = self.others.iter().filter(|group| group.unit == unit);
            let limits = others.filter_map(|group| group.fields.limit(&now)).chain(fields.limit(&now));
            // The limit with the smallest remaining share is reached first.
            limits.min_by(|a, b| {
                let share = |limit: &Limit| limit.remaining as f64 / limit.limit as f64;
                (a.reset > FAR_RESET).cmp(&(b.reset > FAR_RESET)).then(share(a).total_cmp(&share(b)))
            })
        };
        RateLimits { requests: of(Unit::Requests, &self.requests), tokens: of(Unit::Tokens, &self.tokens) }
    }

    /// `RateLimit: "name";r=50;t=30` of draft-ietf-httpapi-ratelimit-headers-08 and later, or
    /// `limit=100, remaining=50, reset=30` of the drafts before. The first item counts.
    fn add_structured(&mut self, value: &'a [u8]) {
        let fields = self.fields(Unit::Requests, "");
        for (key, value) in parameters(value) {
            let place = match key {
                b"limit" => &mut fields.limit,
                b"r" | b"remaining" => &mut fields.remaining,
                b"t" | b"reset" => &mut fields.reset,
                _ => continue,
            };
            *place = place.or(Some(value));
        }
    }

    /// `RateLimit-Policy: "name";q=100;w=60`, or `100;w=60` of the drafts before.
    fn add_policy(&mut self, value: &'a [u8]) {
        let fields = self.fields(Unit::Requests, "");
        for (key, value) in parameters(value) {
            match key {
                b"q" => fields.limit = fields.limit.or(Some(value)),
                b"w" => fields.window = fields.window.or_else(|| number(value).map(from_secs)),
                _ => {}
            }
        }
    }

    /// The fields about the limit of this name.
    fn fields(&mut self, unit: Unit, name: &'a str) -> &mut Fields<'a> {
        match name {
            "requests" => return &mut self.requests,
            "tokens" => return &mut self.tokens,
            _ => {}
        }
        let index = self.others.iter().position(|group| group.name == name).unwrap_or_else(|| {
            self.others.push(Group { unit, name, fields: Fields::default() });
            self.others.len() - 1
        });
        &mut self.others[index].fields
    }
}

impl Fields<'_> {
    /// The limit, if the fields suffice.
    fn limit(&self, now: impl Fn() -> i64) -> Option<Limit> {
        let limit = count(self.limit?).filter(|limit| *limit >= 1.0)?;
        let remaining = count(self.remaining?)?;
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
    if name.is_empty() {
        return Some((Unit::Requests, None));
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

/// Parses how much is allowed or left. Only the first of several numbers counts: `100, 100;w=60`.
fn count(value: &[u8]) -> Option<f64> {
    number(value).or_else(|| number(value.split(|b| matches!(b, b',' | b';')).next()?))
}

/// Parses the time until a reset: a duration such as `6m0s`, a number of seconds, or a point in time as a number or a date.
fn parse_reset(value: &[u8], now: impl Fn() -> i64) -> Option<Duration> {
    let value = value.trim_ascii();
    let until = |then: f64| from_secs((then - now() as f64).max(0.0));
    match number(value) {
        Some(millis) if millis >= EPOCH_MILLIS => Some(until(millis / 1000.0)),
        Some(seconds) if seconds >= EPOCH_SECONDS => Some(until(seconds)),
        Some(seconds) => Some(from_secs(seconds)),
        None => parse_duration(value).or_else(|| {
            let then = rfc3339(std::str::from_utf8(value).ok()?)?;
            Some(until(then as f64))
        }),
    }
}

/// Parses a duration in the form of Go, which OpenAI and Groq use: `1h2m3.5s`, `12ms`.
fn parse_duration(value: &[u8]) -> Option<Duration> {
    let mut rest = value;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (value, unit) = rest.split_at(rest.iter().position(|b| !b.is_ascii_digit() && *b != b'.')?);
        let end = unit.iter().position(u8::is_ascii_digit).unwrap_or(unit.len());
        let (unit, after) = unit.split_at(end);
        let scale = match unit {
            b"h" => 3600.0,
            b"m" => 60.0,
            b"s" => 1.0,
            b"ms" => 1e-3,
            b"us" | b"\xc2\xb5s" => 1e-6, // µs
            b"ns" => 1e-9,
            _ => return None,
        };
        seconds += number(value)? * scale;
        rest = after;
    }
    (!value.is_empty()).then(|| from_secs(seconds))
}

/// The parameters of the first item of a structured field, and of a list of `key=value`.
fn parameters(value: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    value.split(|b| matches!(b, b';' | b',')).filter_map(|part| {
        let (key, value) = part.split_at(part.iter().position(|b| *b == b'=')?);
        Some((key.trim_ascii(), value[1..].trim_ascii()))
    })
}

/// Parses a decimal number without sign or exponent.
pub(super) fn number(text: &[u8]) -> Option<f64> {
    // The fast path is for integers.
    if let Some(integer) = decimal(text) {
        return Some(integer as f64);
    }
    let digits = text.trim_ascii();
    let is_plain =
        digits.first()?.is_ascii_digit() && digits.iter().all(|b| b.is_ascii_digit() || *b == b'.');
    if is_plain { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
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
    fn a_name_may_state_the_window_of_its_limit() {
        let window = |name| parse_name(name).map(|(_, window)| window.map(|window| window.as_secs()));
        for (name, seconds) in [
            ("requests", Some(None)),
            ("requests-second", Some(Some(1))),
            ("tokens-minute", Some(Some(60))),
            ("input-tokens-5-minute", Some(Some(300))),
            ("requests-hour", Some(Some(3_600))),
            ("requests-day", Some(Some(86_400))),
            ("requests-month", Some(Some(2_592_000))),
            ("requests-fortnight", None),
            ("images-minute", None),
        ] {
            assert_eq!(window(name), seconds, "{name}");
        }
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
        let no_reset = [("ratelimit", "\"default\";r=50"), new[1]];
        assert_eq!(parse(&no_reset).requests, limit(100, 50, 60.0), "at the end of the window at the latest");
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
            assert_eq!(parse_duration(text.as_bytes()), Some(from_secs(seconds)), "{text}");
        }
        for text in ["", "s", "1", "1s2", "1 s", "-1s", "1.2.3s", "µ"] {
            assert_eq!(parse_duration(text.as_bytes()), None, "{text}");
        }
    }
}
