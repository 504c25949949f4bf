//! Access to all response headers, except those that contain a secret.

use std::borrow::Cow;
use std::sync::Arc;

use ureq::http::HeaderMap;

use crate::meta::{AnswerHeaders, HeaderFields};
use crate::wire::secrets::Secrets;

/// The response's headers, and the secrets of the request.
struct Fields {
    map: HeaderMap,
    secrets: Arc<Secrets>,
}

/// Keeps the headers for [`Meta::header`](crate::Meta::header). The map is moved, and values are checked for secrets only when
/// they are read.
pub(super) fn keep(map: HeaderMap, secrets: &Arc<Secrets>) -> AnswerHeaders {
    AnswerHeaders(Arc::new(Fields { map, secrets: Arc::clone(secrets) }))
}

impl HeaderFields for Fields {
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.map.get(name)?.as_bytes();
        let is_clean = matches!(self.secrets.redact(value), Cow::Borrowed(_));
        std::str::from_utf8(value).ok().filter(|_| is_clean)
    }
}

#[cfg(test)]
mod tests {
    use ureq::http::HeaderValue;

    use super::*;
    use crate::meta::Meta;

    #[test]
    fn a_header_is_found_in_any_case_and_without_secrets() {
        let mut secrets = Secrets::default();
        secrets.add("authorization", "Bearer sk-0123456789", || 'x');
        let mut map = HeaderMap::new();
        for (name, value) in [
            ("x-one", &b"1"[..]),
            ("x-one", b"2"),
            ("x-key", b"your key is sk-0123456789, isn't it"),
            ("x-escaped", b"{\"key\":\"\\u0073k-0123456789\"}"),
            ("x-latin", b"\xe9"),
            ("x-utf8", "\u{e9}".as_bytes()),
        ] {
            map.append(name, HeaderValue::from_bytes(value).unwrap());
        }
        let meta = Meta { headers: Some(keep(map, &Arc::new(secrets))), ..Meta::default() };
        assert_eq!(
            (meta.header("x-one"), meta.header("X-ONE"), meta.header("x-utf8")),
            (Some("1"), Some("1"), Some("\u{e9}"))
        );
        for name in ["x-key", "x-escaped", "x-latin", "x-two", "", "not a name", &"x".repeat(1 << 17)] {
            assert_eq!(meta.header(name), None, "{name:.20}");
        }
        assert!(!format!("{meta:?}").contains("sk-"), "{meta:?}");
        assert_eq!(meta.clone(), meta);
        assert_eq!(Meta::default().header("x-one"), None);
    }
}
