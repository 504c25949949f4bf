//! What the headers of an answer say to a client that may have to come back: when, whether, and under which id.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::limits::RateLimits;
use crate::wire::date::http_date;
use crate::wire::rate_limit_headers::{RateLimitHeaders, from_secs, number};

/// The headers that matter here, read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Headers {
    /// How long the server asks to be left alone. On a success it is no order.
    pub(crate) retry_after: Option<Duration>,
    /// What the server says of trying again.
    pub(crate) should_retry: Option<bool>,
    /// The server's name for this exchange.
    pub(crate) request_id: Option<String>,
    /// How the body is compressed, where it is.
    pub(crate) content_encoding: Option<String>,
    /// Where a redirect points.
    pub(crate) location: Option<String>,
    /// The body is a JSON document, and no stream of events.
    pub(crate) json: bool,
    /// What is left of the quotas.
    pub(crate) rate_limits: RateLimits,
}

/// How the type of a JSON document begins.
const JSON: &[u8] = b"application/json";

/// Headers that carry a request's id, the best first: OpenAI's and most gateways', Anthropic's, Azure's, Cloudflare's.
const REQUEST_IDS: [&str; 4] = ["x-request-id", "request-id", "apim-request-id", "cf-ray"];

impl Headers {
    /// Reads header fields, names in lower case, at this time of day. A value that isn't text counts as absent.
    pub(crate) fn read<'a>(
        fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        wall: impl Fn() -> SystemTime,
    ) -> Headers {
        let mut headers = Headers::default();
        let mut best_id = REQUEST_IDS.len();
        let mut limits = RateLimitHeaders::default();
        let (mut millis, mut asked, mut upstream, mut date) = (None, Vec::new(), Vec::new(), None);
        for (name, value) in fields {
            let text = || std::str::from_utf8(value).ok();
            match name {
                "retry-after-ms" => millis = text().and_then(number).map(|millis| millis / 1000.0),
                "retry-after" => asked.extend(text()),
                "llm_provider-retry-after" => upstream.extend(text()), // LiteLLM's name for its upstream's wish
                "content-type" => {
                    headers.json =
                        value.len() >= JSON.len() && value[..JSON.len()].eq_ignore_ascii_case(JSON);
                }
                "content-encoding" => {
                    let coding =
                        text().map(str::trim).filter(|coding| !coding.eq_ignore_ascii_case("identity"));
                    headers.content_encoding = coding.filter(|coding| !coding.is_empty()).map(str::to_owned);
                }
                "x-should-retry" => headers.should_retry = text().and_then(yes_or_no),
                "date" => date = text(),
                "location" => headers.location = text().map(str::to_owned),
                // The rest of what matters begins with one of these letters, and half of what servers send doesn't.
                _ if !name.starts_with(['x', 'r', 'a', 'c']) => {}
                _ => {
                    let rank = REQUEST_IDS.iter().position(|id| *id == name).unwrap_or(best_id);
                    if rank < best_id {
                        (best_id, headers.request_id) = (rank, text().map(str::to_owned));
                    }
                    limits.take(name, value);
                }
            }
        }
        // Points in time are read against the server's own clock, so that a wrong one on either side does no harm.
        let now = &|| {
            let here = wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
            date.and_then(|date| http_date(date, here)).unwrap_or(here)
        };
        headers.rate_limits = limits.read(now);
        // Of several wishes the longest is the one that keeps to all.
        let longest = |wishes: &[&str]| wishes.iter().filter_map(|wish| retry_after(wish, now)).max();
        headers.retry_after =
            millis.map(from_secs).or_else(|| longest(&asked)).or_else(|| longest(&upstream));
        headers
    }
}

/// `Retry-After` (RFC 9110 section 10.2.3): seconds, broken ones too, or a date. What can't be read counts as absent,
/// never as zero.
fn retry_after(asked: &str, now: impl Fn() -> i64) -> Option<Duration> {
    if let Some(seconds) = number(asked) {
        return Some(from_secs(seconds));
    }
    let now = now();
    let then = http_date(asked.trim(), now)?;
    Some(Duration::from_secs(then.saturating_sub(now).max(0) as u64))
}

fn yes_or_no(value: &str) -> Option<bool> {
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

    fn read(fields: &[(&str, &str)]) -> Headers {
        Headers::read(fields.iter().map(|(name, value)| (*name, value.as_bytes())), || {
            UNIX_EPOCH + Duration::from_secs(NOW)
        })
    }

    fn asked(fields: &[(&str, &str)]) -> Option<f64> {
        read(fields).retry_after.map(|wait| wait.as_secs_f64())
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
            assert_eq!(asked(&[("retry-after", value)]), wait, "{value:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_absent_and_never_zero() {
        for value in
            ["", "-10", "+1", "inf", "nan", "1e3", "1.2.3", "1, 2", "soon", "\u{b2}", "Zun, 29 Sep 2023"]
        {
            assert_eq!(asked(&[("retry-after", value)]), None, "{value:?}");
        }
    }

    #[test]
    fn milliseconds_win_if_they_can_be_read() {
        assert_eq!(asked(&[("retry-after", "7"), ("retry-after-ms", "1500")]), Some(1.5));
        assert_eq!(asked(&[("retry-after", "7"), ("retry-after-ms", "soon")]), Some(7.0));
    }

    #[test]
    fn a_date_is_read_against_the_servers_clock() {
        let fields =
            [("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")];
        assert_eq!(asked(&fields), Some(30.0));
    }

    #[test]
    fn a_gateways_name_for_the_wish_of_its_upstream_is_the_last_resort() {
        assert_eq!(asked(&[("llm_provider-retry-after", "9")]), Some(9.0));
        assert_eq!(asked(&[("llm_provider-retry-after", "9"), ("retry-after", "3")]), Some(3.0));
    }

    #[test]
    fn of_several_wishes_the_longest_that_can_be_read_counts() {
        assert_eq!(asked(&[("retry-after", "50"), ("retry-after", "5")]), Some(50.0));
        assert_eq!(asked(&[("retry-after", "50"), ("retry-after", "junk")]), Some(50.0));
        assert_eq!(asked(&[("llm_provider-retry-after", "50"), ("retry-after", "junk")]), Some(50.0));
    }

    #[test]
    fn the_servers_word_on_trying_again() {
        assert_eq!(read(&[("x-should-retry", "true")]).should_retry, Some(true));
        assert_eq!(read(&[("x-should-retry", " False")]).should_retry, Some(false));
        assert_eq!(read(&[("x-should-retry", "perhaps")]).should_retry, None);
    }

    #[test]
    fn the_best_request_id_wins_in_any_order() {
        let id = |fields: &[(&str, &str)]| read(fields).request_id;
        assert_eq!(id(&[("cf-ray", "ray"), ("x-request-id", "req")]).as_deref(), Some("req"));
        assert_eq!(id(&[("request-id", "req"), ("cf-ray", "ray")]).as_deref(), Some("req"));
        assert_eq!(id(&[("server", "nginx")]), None);
    }
}
