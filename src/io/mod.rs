//! The rooms that touch: time, sockets, bodies. They decide nothing.

pub(crate) mod clock;
pub(crate) mod connect;
pub(crate) mod settings;
pub(crate) mod stream;
#[cfg(any(feature = "rustls", feature = "native-tls"))]
mod tls;
pub(crate) mod transport;
mod veil;
