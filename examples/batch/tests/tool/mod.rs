//! Runs the batch tool as a program and reads its output, for all tests.
#![allow(dead_code, reason = "each test binary uses a part of it")]

#[path = "../../../../tests/support/faulty.rs"]
pub(crate) mod faulty;
#[path = "../../../../tests/support/quota.rs"]
pub(crate) mod quota;
#[path = "../../../../tests/support/mod.rs"]
pub(crate) mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{env, fs, process};

use serde_json::Value;

/// The path of the program.
pub(crate) const TOOL: &str = env!("CARGO_BIN_EXE_batch");

/// A directory for one test, removed at its end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Folder {
        let path = env::temp_dir().join(format!("holysheep-{name}-{}", process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// An input with these lines.
    pub(crate) fn input(&self, lines: &[Value]) -> PathBuf {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let path = self.file("in.jsonl");
        fs::write(&path, lines).unwrap();
        path
    }

    /// An input of `count` prompts; each prompt is its own index.
    pub(crate) fn prompts(&self, count: usize) -> PathBuf {
        let lines: String =
            (0..count).map(|item| format!("{{\"id\":\"i{item}\",\"prompt\":\"{item}\"}}\n")).collect();
        let path = self.file("in.jsonl");
        fs::write(&path, lines).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program with a key, an address, an input and an output.
pub(crate) fn batch(url: &str, input: &Path, output: &Path) -> Command {
    let mut command = Command::new(TOOL);
    command.arg(input).arg("-o").arg(output).args(["--model", "m"]);
    command.env("HOLYSHEEP_API_KEY", "sk-test-0123456789abcdef").env("HOLYSHEEP_BASE_URL", url);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asserts that each of `count` prompts has exactly one line, with its own answer.
#[track_caller]
pub(crate) fn assert_complete(lines: &[Value], count: usize) {
    let by_index: BTreeMap<u64, &Value> =
        lines.iter().map(|line| (line["index"].as_u64().unwrap(), line)).collect();
    assert_eq!((lines.len(), by_index.len()), (count, count));
    assert!(by_index.keys().copied().eq(0..count as u64));
    for (index, line) in by_index {
        assert_eq!(line["id"], format!("i{index}"));
        assert_eq!(line["answer"], index.to_string(), "{line}");
    }
}

/// Runs a program and asserts its exit status; returns its standard output and standard error.
#[track_caller]
pub(crate) fn ends(mut command: Command, status: i32) -> (String, String) {
    let Output { status: ended, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(ended.code(), Some(status), "{out}{err}");
    assert!(!err.contains("sk-test") && !err.contains("panicked"), "{err}");
    (out, err)
}

/// Runs a program and asserts that it fails with status 2 and this message.
#[track_caller]
pub(crate) fn fails(command: Command, says: &str) {
    let (_, err) = ends(command, 2);
    assert!(err.contains(says), "{err}");
}
