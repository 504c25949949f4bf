//! The output: one complete line for each item, in a file that only one run writes at a time and the next one continues.

pub(crate) mod line;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

use crate::RunError;
use crate::options::{Options, Place};
use crate::report;
use crate::resume::{EarlierRun, Reading};

pub(crate) struct Output {
    file: Box<dyn Write>,
    name: String,
    /// The file that this one replaced, still locked: another run may have opened it before the replacement.
    _old: Option<File>,
}

impl Output {
    /// Opens the output, and reads what earlier runs did.
    pub(crate) fn open(options: &Options) -> Result<(Output, EarlierRun), RunError> {
        let Place::File(path) = &options.output else {
            let file = Box::new(io::stdout());
            let output = Output { file, name: "standard output".to_owned(), _old: None };
            return Ok((output, EarlierRun::default()));
        };
        let name = path.display().to_string();
        let cant = |what: &str, error: io::Error| RunError::from(format!("can't {what} {name}: {error}"));
        // A pipe is opened only for writing: a process that holds a reading end itself gets no error when the reader is gone.
        let is_file = !path.exists() || path.is_file();
        let mut open = OpenOptions::new();
        open.append(true).create(true).read(is_file);
        let mut file = open.open(path).map_err(|error| cant("write", error))?;
        if !is_file {
            return Ok((Output { file: Box::new(file), name, _old: None }, EarlierRun::default()));
        }
        let lock = |file: &File| if options.lock { lock(file, &name) } else { Ok(()) };
        lock(&file)?;
        let is_empty = file.metadata().map_err(|error| cant("read", error))?.len() == 0;
        if !is_empty && !options.resume {
            return Err(
                format!("{name} isn't empty; add --resume to continue it, or give another name").into()
            );
        }
        let reading = Reading::new(options, &name);
        if options.retry_failed {
            let (new, earlier) = reading.drop_failures(path, &mut file, lock)?;
            return Ok((Output { file: Box::new(new), name, _old: Some(file) }, earlier));
        }
        let earlier = reading.repair(&mut file)?;
        Ok((Output { file: Box::new(file), name, _old: None }, earlier))
    }

    /// Appends a line and flushes it.
    pub(crate) fn append(&mut self, line: &[u8]) -> Result<(), RunError> {
        let written = self.file.write_all(line).and_then(|()| self.file.flush());
        let name = &self.name;
        written.map_err(|error| {
            format!("can't write {name}: {error}; when that is fixed, run the same again with --resume")
                .into()
        })
    }
}

/// Reads what earlier runs did, without changing the file.
pub(crate) fn look(options: &Options) -> Result<EarlierRun, RunError> {
    let Place::File(path) = &options.output else { return Ok(EarlierRun::default()) };
    if !(options.resume && path.is_file()) {
        return Ok(EarlierRun::default());
    }
    let name = path.display().to_string();
    let mut file = File::open(path).map_err(|error| format!("can't read {name}: {error}"))?;
    Reading::new(options, &name).look(&mut file)
}

/// Keeps other runs off the output.
fn lock(file: &File, name: &str) -> Result<(), RunError> {
    locked(fs4::FileExt::try_lock(file), name)
}

/// Without locks a run continues with a warning.
fn locked(tried: Result<(), fs4::TryLockError>, name: &str) -> Result<(), RunError> {
    match tried {
        Err(fs4::TryLockError::WouldBlock) => {
            Err(format!("{name} is being written by another run; wait for it, or stop it").into())
        }
        Err(fs4::TryLockError::Error(error)) => {
            report::tell(&cant_lock(name, &error));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// The warning for a file system without locks, such as NFS without a lock daemon (`ENOLCK`).
fn cant_lock(name: &str, error: &io::Error) -> String {
    format!(
        "warning: can't lock {name} ({error}); make sure that no other run writes to it, and add --no-lock"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_locks_is_a_warning() {
        let error = io::Error::other("No locks available");
        let said = cant_lock("out.jsonl", &error);
        assert_eq!(
            said,
            "warning: can't lock out.jsonl (No locks available); make sure that no other run writes to it, and add --no-lock"
        );
        let unlocked = locked(Err(fs4::TryLockError::Error(error)), "out.jsonl");
        assert!(unlocked.is_ok());
        let refused = locked(Err(fs4::TryLockError::WouldBlock), "out.jsonl");
        assert!(refused.unwrap_err().to_string().contains("is being written by another run"));
    }
}
