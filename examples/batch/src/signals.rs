//! Handles the signals that end a run. A signal that was ignored when the program started stays ignored.

use crate::RunError;

/// Calls `end` for each termination signal, with the count of such signals so far.
#[cfg(unix)]
pub(crate) fn handle(mut end: impl FnMut(usize) + Send + 'static) -> Result<(), RunError> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    let status = std::fs::read_to_string("/proc/self/status");
    let ignored = status.ok().as_deref().and_then(ignored);
    // If the ignored signals are unknown, SIGHUP keeps its default, so that nohup works.
    let wanted: &[i32] = if ignored.is_some() { &[SIGINT, SIGTERM, SIGHUP] } else { &[SIGINT, SIGTERM] };
    let is_ignored = |signal: i32| ignored.unwrap_or(0) >> (signal - 1) & 1 == 1;
    let mut signals =
        signal_hook::iterator::Signals::new(wanted.iter().copied().filter(|signal| !is_ignored(*signal)))?;
    std::thread::Builder::new().spawn(move || {
        for (index, _) in signals.forever().enumerate() {
            end(index + 1);
        }
    })?;
    Ok(())
}

/// The set of ignored signals in `/proc/self/status` (proc_pid_status(5)): signal N is bit N - 1.
#[cfg(unix)]
fn ignored(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

/// Calls `end` for each termination signal, with the count of such signals so far.
#[cfg(not(unix))]
pub(crate) fn handle(mut end: impl FnMut(usize) + Send + 'static) -> Result<(), RunError> {
    let mut number = 0;
    Ok(ctrlc::set_handler(move || {
        number += 1;
        end(number);
    })?)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_set_of_ignored_signals_is_read() {
        let status =
            "Name:\tbatch\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000003\nSigCgt:\t0000000000000000\n";
        assert_eq!(ignored(status), Some(0b11));
        assert_eq!(ignored("Name:\tbatch\n"), None);
    }
}
