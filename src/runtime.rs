//! Clocks, cancellation, background threads and locks.

pub(crate) mod background;
pub(crate) mod cancel;
pub(crate) mod clock;
pub(crate) mod sync;
pub(crate) mod thread_number;
