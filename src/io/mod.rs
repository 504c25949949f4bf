//! The rooms that touch: time, sockets, bodies. They decide nothing.

pub(crate) mod clock;
pub(crate) mod connect;
pub(crate) mod transport;
