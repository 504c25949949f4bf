//! Reading JSON that a server sent, and saying where it can't be read.

use serde::de::DeserializeOwned;

use crate::error::{EXCERPT, Error, Result, excerpt};

/// Reads a value from the body of an answer with this status.
///
/// A body that ends in the middle of a value was cut on its way: [`Error::Transport`]. Any other one that can't be read
/// is [`Error::Decode`].
pub(crate) fn read<R: DeserializeOwned>(body: &[u8], status: u16, request_id: Option<&str>) -> Result<R> {
    // One look at the whole for UTF-8 is cheaper than one at each string.
    let value = match std::str::from_utf8(body) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(body),
    };
    value.map_err(|error| {
        if error.is_eof() && !body.trim_ascii().is_empty() {
            return Error::Transport { answered: true, source: error.into() };
        }
        let at = offset(body, error.line(), error.column());
        let from = at.saturating_sub(EXCERPT / 4);
        Error::Decode {
            status,
            at: format!("byte {at} of {}", body.len()),
            excerpt: excerpt(&body[from..]),
            request_id: request_id.map(str::to_owned),
            source: error.into(),
        }
    })
}

/// The byte at a line and a column, both counted from 1, at most the length.
fn offset(body: &[u8], line: usize, column: usize) -> usize {
    let before: usize =
        body.split_inclusive(|b| *b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    (before + column.saturating_sub(1)).min(body.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(body: &str) -> Error {
        read::<Vec<u32>>(body.as_bytes(), 200, Some("req-1")).unwrap_err()
    }

    #[test]
    fn says_where_and_shows_what_is_there() {
        let error = fail("[1,\n2, oops]");
        let shown = "can't read the answer (status 200) at byte 7 of 12: `[1, 2, oops]`";
        assert_eq!(error.to_string(), shown);
        assert_eq!((error.status(), error.request_id()), (Some(200), Some("req-1")));
        assert!(fail("").to_string().ends_with("at byte 0 of 0: ``"));
    }

    #[test]
    fn a_cut_body_is_a_broken_connection() {
        assert!(matches!(fail("[1, 2"), Error::Transport { answered: true, .. }));
    }

    #[test]
    fn the_excerpt_is_bounded_and_shows_the_place() {
        let body = format!("[{}oops{}", "1,".repeat(10_000), "x".repeat(10_000_000));
        let Error::Decode { excerpt, at, .. } = fail(&body) else { panic!() };
        assert!(excerpt.len() <= EXCERPT + '…'.len_utf8() && excerpt.contains("1,oops"), "{at} {excerpt}");
    }
}
