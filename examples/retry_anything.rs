//! The retry function around something that isn't HTTP: a file that another program hasn't written yet.
//!
//!     cargo run --example retry_anything

use std::time::{Duration, Instant};
use std::{env, fs, io, process, thread};

use holysheep::{Jitter, Retry, RetryConfig, Verdict, retry};

fn main() -> io::Result<()> {
    env_logger::init();
    let path = env::temp_dir().join(format!("holysheep-{}.txt", process::id()));
    let patient = RetryConfig::default()
        .base_delay(Duration::from_millis(50))
        .max_delay(Duration::from_millis(400))
        .jitter(Jitter::Equal);

    let writer = thread::spawn({
        let path = path.clone();
        move || {
            thread::sleep(Duration::from_millis(150));
            fs::write(path, "written at last")
        }
    });

    // A missing file is usually final; here it is what we wait for, so the verdict is ours.
    let start = Instant::now();
    let mut attempts = 0;
    let not_yet = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => Verdict::Retry,
        _ => Verdict::GiveUp,
    };
    let read = || {
        attempts += 1;
        fs::read_to_string(&path)
    };
    let text = Retry::when(&patient, read, not_yet)
        .notify(|error, wait| println!("{error}; the next attempt is in {wait:.0?}"))
        .run()?;
    println!("read {text:?} at attempt {attempts}, after {:.1?}", start.elapsed());
    writer.join().map_err(|_| io::Error::other("the writer panicked"))??;
    fs::remove_file(&path)?;

    // With the verdict that io::Error gives itself, a missing file is an error at once.
    let mut attempts = 0;
    let missing = retry(&patient, || {
        attempts += 1;
        fs::read_to_string(&path)
    });
    println!(
        "{} after {attempts} attempt",
        missing.err().map_or("nothing is missing".into(), |error| error.to_string())
    );
    Ok(())
}
