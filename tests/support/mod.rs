//! The test server that the crate offers to its users, under the name by which the crate's own tests import it.
#![allow(unused_imports, unreachable_pub, reason = "each test binary uses a part of it")]

pub use holysheep::test_server::*;
