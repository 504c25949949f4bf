//! A number for each thread, by which pure code tells threads apart.

use std::sync::atomic::{AtomicU64, Ordering};

static NUMBERS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static NUMBER: u64 = NUMBERS.fetch_add(1, Ordering::Relaxed) + 1;
}

/// The number of the current thread; 0 while the thread ends.
pub(crate) fn thread_number() -> u64 {
    NUMBER.try_with(|number| *number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_one_number() {
        let own = thread_number();
        assert_eq!(thread_number(), own);
        let other = std::thread::spawn(thread_number).join().unwrap();
        assert!(own > 0 && other > 0 && own != other);
    }
}
