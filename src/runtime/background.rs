//! A bounded number of background threads for work that no caller waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Starts background threads, at most `limit` at a time.
#[derive(Debug, Clone)]
pub(crate) struct Background {
    running: Arc<AtomicUsize>,
    limit: usize,
}

/// Counts a running thread until it ends, even by a panic.
struct Running(Arc<AtomicUsize>);

impl Background {
    pub(crate) fn new(limit: usize) -> Background {
        Background { running: Arc::default(), limit }
    }

    /// Runs `work` on a thread of its own. If none is available, drops it.
    pub(crate) fn run(&self, work: impl FnOnce() + Send + 'static) {
        let running = Running(Arc::clone(&self.running));
        if self.running.fetch_add(1, Ordering::AcqRel) < self.limit {
            let _ = thread::Builder::new().spawn(move || {
                let _running = running;
                work();
            });
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn work_beyond_the_limit_is_dropped_and_ended_threads_make_room() {
        let background = Background::new(2);
        let (started, starts) = channel();
        let blocked: Vec<_> = (0..3)
            .map(|number| {
                let (release, released) = channel::<()>();
                let started = started.clone();
                background.run(move || {
                    started.send(number).unwrap();
                    let _ = released.recv();
                    drop(started);
                });
                release
            })
            .collect();
        let mut ran = [starts.recv().unwrap(), starts.recv().unwrap()];
        ran.sort_unstable();
        assert_eq!(ran, [0, 1]);
        drop(blocked);
        while background.running.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
        background.run(move || started.send(3).unwrap());
        assert_eq!(starts.recv().unwrap(), 3);
    }
}
