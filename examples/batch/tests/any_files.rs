//! Inputs and outputs with random damage: the tool ends with a status of its own, and what it writes is complete.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod tool;

use std::collections::BTreeSet;
use std::fs;

use serde::Deserialize;
use tool::support::{Server, ok};
use tool::{Folder, batch};

/// How many damaged files are tried.
const ROUNDS: u64 = 150;

/// Lines of all the formats that the tool reads, and some that it doesn't.
const INPUT: &str = r#"{"id":"i0","prompt":"a","column":[1,2.5,null]}
{"messages":[{"role":"user","content":[{"type":"text","text":"b"}]}],"temperature":0.5,"seed":42.0}
{"custom_id":"c","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"user","content":"c"}]}}
{"custom_id":"d","params":{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"d"}]}}
{"id":12345678901234567890123,"request":{"model":"m","messages":[{"role":"user","content":"\ud83d"}]}}
{"input":["e","f"],"model":"m"}
"a string"
{"id":"i7","prompt":"g"}
"#;

/// An output of the tool's own format, and one of OpenAI's.
const OUTPUTS: [&str; 2] = [
    r#"{"id":"i0","index":0,"answer":"a","attempts":1,"seconds":0.25}
{"id":"i7","index":7,"error":{"kind":"api","message":"no"},"attempts":1}
"#,
    r#"{"id":"batch_req_0","custom_id":"i0","response":{"status_code":200,"request_id":"r","body":{"choices":[{"message":{"content":"a"}}]}},"error":null}
"#,
];

/// What is put into a file: bytes that mean something to a parser of lines or JSON.
const WORDS: [&[u8]; 12] = [
    b"\n",
    b"\r\n",
    b"\0\0\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\\ud83d",
    b"[[[[",
    b"}}",
    b"\"",
    b"null",
    b"1e999",
    b"\"index\":99999999999999999999",
];

/// A line of an output. Its other fields are only checked for their syntax: ids and columns come back as they were, also with
/// half a surrogate pair, which serde_json's `Value` refuses.
#[derive(Deserialize)]
struct Line {
    index: Option<u64>,
}

fn damaged(text: &str, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..random.usize(0..5) {
        let at = random.usize(0..=bytes.len());
        match random.u8(0..5) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] = random.u8(..),
            2 => drop(bytes.drain(at..(at + 30).min(bytes.len()))),
            _ => drop(bytes.splice(at..at, random.choice(WORDS).unwrap_or_default().iter().copied())),
        }
    }
    bytes
}

#[test]
fn a_damaged_file_neither_breaks_the_tool_nor_its_output() {
    let folder = Folder::new("any-files");
    let (input, output) = (folder.file("in.jsonl"), folder.file("out.jsonl"));
    let server = Server::always(ok("hi"));
    for seed in 0..ROUNDS {
        let random = &mut fastrand::Rng::with_seed(seed);
        fs::write(&input, damaged(INPUT, random)).unwrap();
        let _ = fs::remove_file(&output);
        let mut command = batch(&server.url(), &input, &output);
        if random.bool() {
            fs::write(&output, damaged(random.choice(OUTPUTS).unwrap_or_default(), random)).unwrap();
            command.arg(if random.bool() { "--resume" } else { "--retry-failed" });
        }
        let options = ["--dry-run", "--in-order", "--expect-json", "--format=openai", "--summary=-"];
        random.choice(options).filter(|_| random.bool()).map(|option| command.arg(option));
        let before = fs::read(&output).unwrap_or_default();
        let ended = command.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        let status = ended.status.code();
        assert!(
            matches!(status, Some(0..=2)) && !said.contains("panicked"),
            "seed {seed}: {status:?} {said}"
        );
        let after = fs::read(&output).unwrap_or_default();
        let has_reason = !said.trim().is_empty() || !ended.stdout.is_empty();
        assert!(status == Some(0) || has_reason, "seed {seed}: no reason");
        if after == before {
            continue;
        }
        // A torn last line is cut off.
        let kept = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let written = after.strip_prefix(&before[..kept]).unwrap_or(&after);
        let mut done = BTreeSet::new();
        for line in written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Line =
                serde_json::from_slice(line).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            if let Some(index) = line.index {
                assert!(done.insert(index), "seed {seed}: item {index} was written twice");
            }
        }
    }
}
