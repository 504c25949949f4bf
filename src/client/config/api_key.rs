//! Validation of API keys: repairs common paste errors, or rejects the key with a hint.

use crate::client::config::{KEY_VARIABLE, SIGN_UP};
use crate::error::{Error, Result};
use crate::wire::base_url::{BaseUrl, unquoted};

/// The source of a key, for error messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Setting,
    /// The environment variable, which is set.
    Variable,
    /// The environment variable, which isn't set.
    UnsetVariable,
}

/// The endings of names of headers and query parameters that carry a credential, in lower case.
const CREDENTIALS: [&str; 5] = ["authorization", "key", "token", "cookie", "secret"];

impl Origin {
    pub(super) fn setting(self) -> &'static str {
        match self {
            Origin::Setting => "api_key",
            Origin::Variable | Origin::UnsetVariable => KEY_VARIABLE,
        }
    }
}

/// The key without surrounding whitespace and quotes, or the problem with it, in words that don't show the key.
pub(crate) fn checked(key: &str) -> Result<&str, &'static str> {
    let key = unquoted(key);
    if key.chars().any(char::is_control) {
        return Err("holds a control character, such as a line break; copy the key again");
    }
    if key.contains(' ') {
        return Err("holds a space; give the key alone, without Bearer");
    }
    if key.contains(['"', '\'']) {
        return Err("holds a quotation mark; give the key alone");
    }
    if !key.is_ascii() {
        return Err("contains a character that is not ASCII; copy the key again");
    }
    Ok(key)
}

/// The error for a missing key.
pub(super) fn missing(origin: Origin, base: &BaseUrl) -> Error {
    let problem = if origin == Origin::UnsetVariable { "is not set" } else { "is empty" };
    let remedy = match origin {
        _ if !base.holysheep => {
            let host = &base.authority;
            format!("give the key for {host}, or set a header that carries the credential, such as api-key")
        }
        Origin::UnsetVariable => format!("get a key at {SIGN_UP} and export it"),
        Origin::Setting | Origin::Variable => format!("get a key at {SIGN_UP}"),
    };
    Error::config(origin.setting(), format!("{problem}; {remedy}"))
}

/// Whether a header or a query parameter of this name carries a credential, so that no key is needed.
pub(super) fn is_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name != "proxy-authorization" && CREDENTIALS.iter().any(|word| name.ends_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_carry_credentials_are_recognised() {
        for header in
            ["Authorization", "api-key", "x-api-key", "X-Goog-Api-Key", "Ocp-Apim-Subscription-Key", "cookie"]
        {
            assert!(is_credential(header), "{header}");
        }
        for header in ["x-trace-id", "proxy-authorization", "x-key-id", "accept"] {
            assert!(!is_credential(header), "{header}");
        }
    }
}
