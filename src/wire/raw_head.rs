//! Parses response heads that the HTTP parser rejects: the status and `Retry-After` still count.

use std::time::SystemTime;

use crate::wire::headers::Headers;

/// The maximum number of header fields that are read: proxies add dozens, and the relevant ones are among the first.
const MAX_FIELDS: usize = 1024;

/// The status and the headers of a head that is too large or has too many fields or an invalid byte. `None` for anything but
/// the head of a final response.
pub(crate) fn parse(head: &[u8], wall: impl Fn() -> SystemTime) -> Option<(u16, Headers)> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut words = lines.next()?.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    words.next().filter(|version| version.starts_with(b"HTTP/"))?;
    let status: u16 = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    if !(200..600).contains(&status) {
        return None;
    }
    let fields: Vec<(String, &[u8])> =
        lines.take(MAX_FIELDS).take_while(|line| !line.is_empty()).filter_map(field).collect();
    let fields = fields.iter().map(|(name, value)| (name.as_str(), *value));
    Some((status, Headers::parse(fields, wall)))
}

fn field(line: &[u8]) -> Option<(String, &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = std::str::from_utf8(&line[..colon]).ok()?.to_ascii_lowercase();
    Some((name, line[colon + 1..].trim_ascii()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read(head: &str) -> Option<(u16, Headers)> {
        parse(head.as_bytes(), || SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn the_status_and_retry_after_are_found_among_malformed_lines() {
        let fields: String = (0..200).map(|n| format!("x-filler-{n}: {n}\r\n")).collect();
        let head =
            format!("HTTP/1.1 429 Too Many\r\n{fields}Retry-After: 7\r\nbad\x01line\r\n\r\nretry-after: 9");
        let (status, headers) = read(&head).unwrap();
        assert_eq!((status, headers.retry_after), (429, Some(Duration::from_secs(7))));
        let (status, headers) = read("HTTP/1.0 503\nretry-after: 2\n").unwrap();
        assert_eq!((status, headers.retry_after), (503, Some(Duration::from_secs(2))));
    }

    #[test]
    fn anything_but_a_final_head_is_none() {
        for head in [
            "",
            "HTTP/1.1",
            "HTTP/1.1 100 Continue\r\n",
            "HTTP/1.1 x",
            "HTTP/1.1 999",
            "220 smtp",
            "HTTP/1.1 -429",
        ] {
            assert_eq!(read(head), None, "{head:?}");
        }
        let many = "a: b\n".repeat(MAX_FIELDS) + "retry-after: 2\n";
        assert_eq!(read(&format!("HTTP/1.1 503\n{many}")).unwrap().1.retry_after, None, "beyond the bound");
    }
}
