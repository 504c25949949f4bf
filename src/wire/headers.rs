//! Parses the headers of an answer that matter for retries, rate limits and errors.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::limits::RateLimits;
use crate::meta::AnswerHeaders;
use crate::wire::date::http_date;
use crate::wire::rate_limit_headers::{RateLimitHeaders, from_secs, number};
use crate::wire::secrets::Secrets;

/// The parsed headers of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Headers {
    /// How long the server asks the client to wait. It has no effect on a success.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the server asks for a retry or forbids it.
    pub(crate) should_retry: Option<bool>,
    /// The server's id of the request.
    pub(crate) request_id: Option<String>,
    /// The encoding of the body, if it is compressed.
    pub(crate) content_encoding: Option<String>,
    /// The target of a redirect.
    pub(crate) location: Option<String>,
    /// Whether the body is a JSON document rather than an event stream.
    pub(crate) json: bool,
    /// The rate limits that the server reported.
    pub(crate) rate_limits: RateLimits,
    /// All fields of an answer that the HTTP library parsed.
    pub(crate) all: Option<AnswerHeaders>,
}

/// The beginning of the media type of JSON.
const JSON: &[u8] = b"application/json";

/// Headers with the id of the request, by priority: OpenAI and most gateways, Anthropic, Azure, Cloudflare.
const REQUEST_IDS: [&str; 4] = ["x-request-id", "request-id", "apim-request-id", "cf-ray"];

impl Headers {
    /// Parses header fields with names in lower case; `wall` is the time of day. A value that isn't text counts as absent.
    pub(crate) fn parse<'a>(
        fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        wall: impl Fn() -> SystemTime,
    ) -> Headers {
        let mut headers = Headers::default();
        let mut best_id = REQUEST_IDS.len();
        let mut limits = RateLimitHeaders::default();
        let (mut millis, mut values, mut upstream_values, mut date) = (None, Vec::new(), Vec::new(), None);
        for (name, value) in fields {
            let text = || std::str::from_utf8(value).ok();
            match name {
                "retry-after-ms" => millis = number(value).map(|millis| millis / 1000.0),
                "retry-after" => values.extend(text()),
                // LiteLLM passes the header of its upstream on under this name.
                "llm_provider-retry-after" => upstream_values.extend(text()),
                "content-type" => {
                    headers.json =
                        value.len() >= JSON.len() && value[..JSON.len()].eq_ignore_ascii_case(JSON);
                }
                "content-encoding" => {
                    let coding =
                        text().map(str::trim).filter(|coding| !coding.eq_ignore_ascii_case("identity"));
                    headers.content_encoding = coding.filter(|coding| !coding.is_empty()).map(str::to_owned);
                }
                "x-should-retry" => headers.should_retry = text().and_then(parse_bool),
                "date" => date = text(),
                "location" => headers.location = text().map(str::to_owned),
                // All other relevant names begin with one of these letters, and half of the headers of most servers don't.
                _ if !name.starts_with(['x', 'r', 'a', 'c']) => {}
                _ => {
                    let rank = REQUEST_IDS.iter().position(|id| *id == name).unwrap_or(best_id);
                    if rank < best_id {
                        (best_id, headers.request_id) = (rank, text().map(str::to_owned));
                    }
                    limits.add(name, value);
                }
            }
        }
        // Dates are compared with the server's own clock, so that a wrong clock on either side has no effect.
        let now = &|| {
            let local = wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
            date.and_then(|date| http_date(date, local)).unwrap_or(local)
        };
        headers.rate_limits = limits.rate_limits(now);
        // The longest of several values satisfies all of them.
        let longest = |values: &[&str]| values.iter().filter_map(|value| parse_retry_after(value, now)).max();
        headers.retry_after =
            millis.map(from_secs).or_else(|| longest(&values)).or_else(|| longest(&upstream_values));
        headers
    }
}

impl Headers {
    /// Redacts secrets that the server repeats. All other headers are parsed into numbers.
    pub(crate) fn redact(&mut self, secrets: &Secrets) {
        for text in
            [&mut self.request_id, &mut self.content_encoding, &mut self.location].into_iter().flatten()
        {
            secrets.redact_in_place(text);
        }
    }
}

/// Parses `Retry-After` (RFC 9110 section 10.2.3): seconds, which may have a fraction, or a date. An unreadable value counts
/// as absent, never as zero.
fn parse_retry_after(value: &str, now: impl Fn() -> i64) -> Option<Duration> {
    if let Some(seconds) = number(value.as_bytes()) {
        return Some(from_secs(seconds));
    }
    let now = now();
    let then = http_date(value.trim(), now)?;
    Some(Duration::from_secs(then.saturating_sub(now).max(0) as u64))
}

fn parse_bool(value: &str) -> Option<bool> {
    match value.trim() {
        yes if yes.eq_ignore_ascii_case("true") => Some(true),
        no if no.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_696_004_797; // Fri, 29 Sep 2023 16:26:37 GMT

    fn parse(fields: &[(&str, &str)]) -> Headers {
        Headers::parse(fields.iter().map(|(name, value)| (*name, value.as_bytes())), || {
            UNIX_EPOCH + Duration::from_secs(NOW)
        })
    }

    fn retry_after(fields: &[(&str, &str)]) -> Option<f64> {
        parse(fields).retry_after.map(|wait| wait.as_secs_f64())
    }

    #[test]
    fn every_form_of_retry_after() {
        let cases = [
            ("20", Some(20.0)),
            ("\t42 ", Some(42.0)),
            ("0", Some(0.0)),
            ("1.5", Some(1.5)),
            ("Fri, 29 Sep 2023 16:26:57 GMT", Some(20.0)),
            ("Friday, 29-Sep-23 16:26:57 GMT", Some(20.0)),
            ("Fri Sep 29 16:26:57 2023", Some(20.0)),
            ("Fri, 29 Sep 2023 16:26:27 GMT", Some(0.0)),
            ("99999999999999999999999999999999999", Some(Duration::MAX.as_secs_f64())),
        ];
        for (value, wait) in cases {
            assert_eq!(retry_after(&[("retry-after", value)]), wait, "{value:?}");
        }
    }

    #[test]
    fn an_unreadable_value_is_absent_and_never_zero() {
        for value in
            ["", "-10", "+1", "inf", "nan", "1e3", "1.2.3", "1, 2", "soon", "\u{b2}", "Zun, 29 Sep 2023"]
        {
            assert_eq!(retry_after(&[("retry-after", value)]), None, "{value:?}");
        }
    }

    #[test]
    fn readable_milliseconds_take_precedence() {
        assert_eq!(retry_after(&[("retry-after", "7"), ("retry-after-ms", "1500")]), Some(1.5));
        assert_eq!(retry_after(&[("retry-after", "7"), ("retry-after-ms", "soon")]), Some(7.0));
    }

    #[test]
    fn a_date_is_compared_with_the_servers_clock() {
        let fields =
            [("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")];
        assert_eq!(retry_after(&fields), Some(30.0));
    }

    #[test]
    fn the_header_of_a_gateways_upstream_comes_last() {
        assert_eq!(retry_after(&[("llm_provider-retry-after", "9")]), Some(9.0));
        assert_eq!(retry_after(&[("llm_provider-retry-after", "9"), ("retry-after", "3")]), Some(3.0));
    }

    #[test]
    fn the_longest_of_several_readable_values_counts() {
        assert_eq!(retry_after(&[("retry-after", "50"), ("retry-after", "5")]), Some(50.0));
        assert_eq!(retry_after(&[("retry-after", "50"), ("retry-after", "junk")]), Some(50.0));
        assert_eq!(retry_after(&[("llm_provider-retry-after", "50"), ("retry-after", "junk")]), Some(50.0));
    }

    #[test]
    fn the_server_decides_about_a_retry() {
        assert_eq!(parse(&[("x-should-retry", "true")]).should_retry, Some(true));
        assert_eq!(parse(&[("x-should-retry", " False")]).should_retry, Some(false));
        assert_eq!(parse(&[("x-should-retry", "perhaps")]).should_retry, None);
    }

    #[test]
    fn the_request_id_with_the_highest_priority_counts_in_any_order() {
        let id = |fields: &[(&str, &str)]| parse(fields).request_id;
        assert_eq!(id(&[("cf-ray", "ray"), ("x-request-id", "req")]).as_deref(), Some("req"));
        assert_eq!(id(&[("request-id", "req"), ("cf-ray", "ray")]).as_deref(), Some("req"));
        assert_eq!(id(&[("server", "nginx")]), None);
    }
}
