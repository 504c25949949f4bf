//! Ends a read on time. The kernel rounds the timeout of a socket up, on Linux by as much as an eighth, so that 60 seconds may
//! take 67. This layer first waits for less, and then for the rest. It is next to TCP, where a read can be repeated.

use std::time::Duration;

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

use crate::runtime::clock::Clock;

/// The inverse of the fraction by which a timeout may be late: each level of Linux's timer wheel has an eighth of its range as
/// its granularity (`kernel/time/timer.c`).
const LATE_BY: u32 = 8;

/// Shorter timeouts aren't divided: they are late by at most a tick of the kernel, 1 to 10 ms.
const SHORT: Duration = Duration::from_millis(10);

/// Makes connections whose reads end on time.
#[derive(Debug)]
pub(super) struct ExactTimeoutConnector(pub(super) Clock);

impl<In: Transport> Connector<In> for ExactTimeoutConnector {
    type Out = ExactTimeoutTransport<In>;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| ExactTimeoutTransport { inner, clock: self.0.clone() }))
    }
}

/// A connection whose reads end on time.
#[derive(Debug)]
pub(super) struct ExactTimeoutTransport<T> {
    inner: T,
    clock: Clock,
}

/// The first part of a wait that never ends too late.
fn first_part(wait: Duration) -> Duration {
    if wait > SHORT { wait - wait / LATE_BY } else { wait }
}

impl<T: Transport> Transport for ExactTimeoutTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        if timeout.after.is_not_happening() {
            return self.inner.await_input(timeout);
        }
        let started = self.clock.now();
        let mut left = *timeout.after;
        loop {
            let part = first_part(left);
            match self.inner.await_input(NextTimeout { after: part.into(), per_read: None, ..timeout }) {
                Err(Error::Timeout(_)) if part < left => {}
                ended => return ended,
            }
            left = timeout.after.saturating_sub(self.clock.now().saturating_duration_since(started));
            if left.is_zero() {
                return Err(Error::Timeout(timeout.reason));
            }
        }
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use ureq::Timeout;
    use ureq::unversioned::transport::LazyBuffers;

    use super::*;

    /// A silent connection on a fake clock. Its timeouts are late by this many thousandths.
    #[derive(Debug)]
    struct Silent {
        buffers: LazyBuffers,
        clock: Clock,
        late_by: u32,
        reads: u32,
    }

    impl Transport for Silent {
        fn buffers(&mut self) -> &mut dyn Buffers {
            &mut self.buffers
        }

        fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), Error> {
            Ok(())
        }

        fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
            self.reads += 1;
            assert!(!timeout.after.is_zero() && timeout.per_read.is_none());
            self.clock.advance(*timeout.after + *timeout.after * self.late_by / 1000);
            Err(Error::Timeout(timeout.reason))
        }

        fn is_open(&mut self) -> bool {
            true
        }
    }

    #[test]
    fn a_read_ends_on_time_however_late_the_timeouts_of_the_socket_are() {
        let most_late = 125;
        for seconds in [1, 5, 30, 60, 3600] {
            for late_by in [0, 1, 50, 124, most_late] {
                let clock = Clock::fake();
                let inner =
                    Silent { buffers: LazyBuffers::new(16, 16), clock: clock.clone(), late_by, reads: 0 };
                let mut connection = ExactTimeoutTransport { inner, clock: clock.clone() };
                let per_read = Duration::from_secs(seconds);
                let timeout = NextTimeout { per_read: Some(per_read.into()), ..NextTimeout::default() };
                let started = clock.now();
                let ended = connection.await_input(timeout);
                assert!(matches!(ended, Err(Error::Timeout(Timeout::PerRead))), "{ended:?}");
                let late = (clock.now() - started).checked_sub(per_read);
                assert!(
                    late.is_some_and(|late| late <= SHORT / LATE_BY),
                    "{per_read:?}, {late_by}: {late:?}"
                );
                assert!(connection.inner.reads < 10, "{}", connection.inner.reads);
            }
        }
    }
}
