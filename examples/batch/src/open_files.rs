//! Warns where the system allows fewer open files than the run needs.

/// Open files besides those of the connections: the standard streams, input, output, name look-ups.
const OTHERS: usize = 16;

/// A warning if the limit of open files is too low for this many connections.
pub(crate) fn warning(concurrency: usize) -> Option<String> {
    let limit = limit(&std::fs::read_to_string("/proc/self/limits").ok()?)?;
    let needed = concurrency + OTHERS;
    (limit < needed).then(|| {
        format!(
            "warning: only {limit} files may be open (ulimit -n), and --concurrency {concurrency} needs about {needed}; raise \
             the limit with ulimit -n {needed}, or lower --concurrency"
        )
    })
}

/// The soft limit in `/proc/self/limits` (proc_pid_limits(5)); `None` where there is none.
fn limit(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 1048576              files     \n";
        assert_eq!(limit(limits), Some(1024));
        assert_eq!(limit(&limits.replace("1024 ", "unlimited ")), None);
    }
}
