//! Checks the paths of requests that the program names itself.

use crate::error::{Error, Result};
use crate::http::options::MAX_URL_PART;

/// A path that stays below the base address.
pub(super) fn checked_path(path: &str) -> Result<String> {
    let location = path.split('?').next().unwrap_or_default();
    if path.len() > MAX_URL_PART {
        let message = format!("exceeds the maximum of {MAX_URL_PART} bytes; put the data into a body");
        return Err(Error::config("path", message));
    }
    let up = |part: &str| part.to_ascii_lowercase().replace("%2e", ".") == "..";
    if location.contains("://") || location.split('/').any(up) {
        return Err(Error::config(
            "path",
            "leaves the base address; give what comes after it, such as /models",
        ));
    }
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}
