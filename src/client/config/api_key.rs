//! Checks the API key: trims it, or refuses it with a hint.

use crate::error::{Error, Result};

/// The key without surrounding whitespace. An error says what is wrong without showing the key; `sign_up` is the address
/// for a new one.
pub(crate) fn checked(key: &str, sign_up: &str) -> Result<String> {
    let key = key.trim();
    let refuse = |message: String| Err(Error::config("api_key", message));
    if key.is_empty() {
        return refuse(format!("is empty; get a key at {sign_up}"));
    }
    if key.chars().any(char::is_control) {
        return refuse("holds a control character, such as a line break; copy the key again".to_owned());
    }
    if key.contains(' ') {
        return refuse("holds a space; give the key alone, without Bearer or quotes".to_owned());
    }
    if !key.is_ascii() {
        return refuse("holds a character that no key has; copy the key again".to_owned());
    }
    Ok(key.to_owned())
}
