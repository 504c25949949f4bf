//! The crate's public test server, under the name by which all tests import it, and the text of an error with its causes.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses a part of it")]

use std::error::Error as _;

pub use holysheep::test_server::*;

/// The error with all its causes, as a program would print it.
pub fn full_message(error: &holysheep::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
