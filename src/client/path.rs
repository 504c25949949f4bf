//! Validates the paths of `Client::get` and `Client::post`.

use crate::error::{Error, Result};
use crate::http::options::MAX_URL_PART;

/// The path with a leading slash, if it stays below the base URL.
pub(super) fn checked_path(path: &str) -> Result<String> {
    let location = path.split('?').next().unwrap_or_default();
    if path.len() > MAX_URL_PART {
        let message = format!("exceeds the maximum of {MAX_URL_PART} bytes; send the data in a body");
        return Err(Error::config("path", message));
    }
    let is_parent = |part: &str| part.to_ascii_lowercase().replace("%2e", ".") == "..";
    if location.contains("://") || location.split('/').any(is_parent) {
        return Err(Error::config(
            "path",
            "is not below the base URL; give the part after it, such as /models",
        ));
    }
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}
