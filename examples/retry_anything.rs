//! Retries an operation other than HTTP: reading a file that another thread hasn't written yet.
//!
//!     cargo run --example retry_anything

use std::time::Duration;
use std::{env, fs, io, process, thread};

use holysheep::{Jitter, Retry, RetryConfig, Verdict, retry};

fn main() -> io::Result<()> {
    env_logger::init();
    let path = env::temp_dir().join(format!("holysheep-{}.txt", process::id()));
    let settings = RetryConfig::default()
        .base_delay(Duration::from_millis(50))
        .max_delay(Duration::from_millis(400))
        .jitter(Jitter::Equal);

    let target = path.clone();
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(150));
        fs::write(target, "written at last")
    });

    // By default a missing file is a permanent error. Here it is the only retryable one.
    let mut attempts = 0;
    let decide = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => Verdict::Retry,
        _ => Verdict::GiveUp,
    };
    let read = || {
        attempts += 1;
        fs::read_to_string(&path)
    };
    let text = Retry::when(&settings, read, decide)
        .notify(|error, wait| println!("{error}; the next attempt is in {wait:.0?}"))
        .run()?;
    println!("read {text:?} at attempt {attempts}");
    writer.join().map_err(|_| io::Error::other("the writer panicked"))??;
    fs::remove_file(&path)?;

    // `retry` uses io::Error's own classification, which doesn't retry a missing file.
    let mut attempts = 0;
    let result = retry(&settings, || {
        attempts += 1;
        fs::read_to_string(&path)
    });
    println!("without the file: {:?} after {attempts} attempt", result.map_err(|error| error.kind()));
    Ok(())
}
