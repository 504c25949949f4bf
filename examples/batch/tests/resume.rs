//! Resuming: which items count as done, how an output is repaired and continued, and which outputs are refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod tool;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tool::faulty::Service;
use tool::support::{Reply, Server, ok, silence, status};
use tool::{Folder, assert_complete, batch, ends, fails, lines};

#[test]
fn a_torn_or_unfinished_last_line_is_repaired() {
    let folder = Folder::new("torn");
    let (input, output) = (folder.prompts(5), folder.file("out.jsonl"));
    let service = Service::new(0.0, Duration::ZERO);
    let line = |item: usize| {
        json!({"id": format!("i{item}"), "index": item, "answer": item.to_string(), "attempts": 1})
            .to_string()
    };
    for (before, asked) in [
        (format!("{}\n{}\n{{\"id\":\"i3\",\"ind", line(2), line(0)), 3),
        (format!("{}\n{}", line(2), line(0)), 3),
        (format!("{}\n{}\n\0\0\0", line(2), line(0)), 3),
        (format!("{}\n{{\"id\":\"i3\",\"ind\0\0\0", line(2)), 4),
        (format!("{}\n{}\0\0\0", line(2), line(0)), 3),
        ("{\"ind".to_owned(), 5),
        (line(4), 4),
        ((0..5).map(|item| line(item) + "\n").collect(), 0),
    ] {
        fs::write(&output, &before).unwrap();
        let already = service.counts().requests;
        let mut command = batch(&service.url(), &input, &output);
        command.arg("--resume");
        ends(command, 0);
        assert_complete(&lines(&output), 5);
        assert_eq!(service.counts().requests - already, asked, "{before}");
    }
}

#[test]
fn after_a_kill_only_requests_in_flight_are_repeated() {
    const KILLS: usize = 50;
    const ITEMS: usize = 1000;
    const CONCURRENCY: usize = 8;
    let folder = Folder::new("killed");
    let (input, output) = (folder.prompts(ITEMS), folder.file("out.jsonl"));
    let service = Service::new(0.01, Duration::from_millis(2));
    let mut killed = 0;
    for _ in 0..KILLS {
        let mut command = batch(&service.url(), &input, &output);
        command.args(["--resume", "--timeout", "0.3", "--concurrency", &CONCURRENCY.to_string()]);
        command.stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let some = service.counts().requests + fastrand::usize(..2 * ITEMS / KILLS);
        service.wait_for(some, || child.try_wait().unwrap().is_some());
        killed += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut command = batch(&service.url(), &input, &output);
    command.args(["--resume", "--timeout", "0.3"]);
    ends(command, 0);
    assert_complete(&lines(&output), ITEMS);
    let answers: usize = service.counts().answered.values().sum();
    assert!(killed > 0 && answers <= ITEMS + CONCURRENCY * killed, "{answers} answers after {killed} kills");
}

#[test]
fn failed_items_are_resent_on_request_and_have_one_line() {
    let folder = Folder::new("failed");
    let (input, output) = (folder.prompts(20), folder.file("out.jsonl"));
    let server = Server::script((0..20).map(|call| if call % 2 == 0 { status(400) } else { ok("early") }));
    ends(batch(&server.url(), &input, &output), 1);
    let failed = |lines: &[Value]| lines.iter().filter(|line| line.get("error").is_some()).count();
    assert_eq!((lines(&output).len(), failed(&lines(&output))), (20, 10));
    let mut command = batch(&server.url(), &input, &output);
    command.arg("--resume");
    let (_, err) = ends(command, 1);
    assert!(err.contains("20 items are already done, 10 of them failed"), "{err}");
    assert!(
        err.contains("10 items failed in earlier runs") && err.contains("--resume --retry-failed"),
        "{err}"
    );
    assert_eq!(server.requests().len(), 20, "failed items are done");
    let mut command = batch(&server.url(), &input, &output);
    command.args(["--resume", "--retry-failed", "--dry-run"]);
    let (out, _) = ends(command, 0);
    assert!(out.starts_with("10 items, 0 of them bad"), "{out}");
    fs::set_permissions(&output, fs::Permissions::from_mode(0o600)).unwrap();
    server.add((0..10).map(|_| ok("late")));
    let mut command = batch(&server.url(), &input, &output);
    command.args(["--resume", "--retry-failed"]);
    ends(command, 0);
    let lines = lines(&output);
    assert_eq!((lines.len(), failed(&lines)), (20, 0));
    assert_eq!(lines.iter().filter(|line| line["answer"] == "late").count(), 10);
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 2, "no other file is left");
    assert_eq!(fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o600, "the permissions stay");
}

#[test]
fn two_runs_cannot_share_an_output() {
    let folder = Folder::new("lock");
    let (input, output) = (folder.prompts(1), folder.file("out.jsonl"));
    let server = Server::always(silence());
    let mut first = batch(&server.url(), &input, &output).spawn().unwrap();
    server.wait_for_requests(1);
    let mut command = batch(&server.url(), &input, &output);
    command.arg("--resume");
    fails(command, "is being written by another run");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn a_run_that_cannot_start_says_why_and_changes_nothing() {
    let folder = Folder::new("cant");
    let (input, output) = (folder.prompts(50), folder.file("out.jsonl"));
    let service = Service::new(0.0, Duration::ZERO);
    let url = service.url();
    let call = |output: &Path, arguments: &[&str]| {
        let mut command = batch(&url, &input, output);
        command.args(arguments);
        command
    };
    fails(call(Path::new("/dev/full"), &[]), "can't write /dev/full: No space left on device");
    fails(call(&folder.file("none/out"), &[]), "can't write");
    let link = folder.file("link");
    std::os::unix::fs::symlink(&input, &link).unwrap();
    for same in [&input, &folder.0.join(".").join("in.jsonl"), &link] {
        fails(call(same, &["--resume"]), "the output is the input");
    }
    fails(call(&output, &["--rpm", "1", "--shard", "1/100"]), "less than one request an hour");
    fails(call(&output, &["--retry-failed"]), "add --resume");
    fails(call(&output, &["--resume", "--retry-failed", "--in-order"]), "leave one of the two out");
    fails(call(&output, &["--shard", "5/4"]), "--shard 5/4: give two numbers such as 1/4");
    fails(call(&output, &["--limit", "0"]), "give a whole number from 1");
    fails(call(&output, &["--rpm", "-1"]), "give a number from 0.001");
    fails(call(&output, &["--price", "1"]), "give two prices");
    fails(batch(&url, &folder.file("missing"), &output), "can't read");
    fails(batch(&url, &folder.0, &output), "is a directory");
    let mut keyless = call(&output, &[]);
    // A loopback service would need no key. Nothing is sent to this host.
    keyless.env_remove("HOLYSHEEP_API_KEY").env("HOLYSHEEP_BASE_URL", "https://service.example/v1");
    fails(keyless, "HOLYSHEEP_API_KEY: is not set; give the key for service.example");
    assert!(!output.exists());

    ends(call(&output, &["--limit", "20"]), 0);
    fails(call(&output, &[]), "isn't empty; add --resume");
    let text = fs::read_to_string(&input).unwrap();
    fs::write(&input, text.lines().take(5).collect::<Vec<_>>().join("\n")).unwrap();
    fails(call(&output, &["--resume"]), "has item 20, and the input only 5");
    fs::write(&input, text.lines().rev().collect::<Vec<_>>().join("\n")).unwrap();
    fails(call(&output, &["--resume"]), "line 1 of the input has changed since");
    fs::write(&input, &text).unwrap();
    let noted = fs::read_to_string(&output).unwrap();
    for other in [format!("something else\n{noted}{{\"ind"), "{\"prompt\": \"not an output\"}".to_owned()] {
        fs::write(&output, &other).unwrap();
        fails(call(&output, &["--resume"]), "line 1 is no line of an output");
        fails(call(&output, &["--resume", "--retry-failed"]), "line 1 is no line of an output");
        assert_eq!(fs::read_to_string(&output).unwrap(), other, "what isn't an output is left alone");
    }
    fs::write(&output, noted).unwrap();
    ends(call(&output, &["--resume"]), 0);
    assert_complete(&lines(&output), 50);
}

/// An answer with this finish reason.
fn ended(text: &str, reason: &str) -> Reply {
    let message = json!({"role": "assistant", "content": text});
    status(200).json(&json!({"model": "m", "choices": [{"message": message, "finish_reason": reason}]}))
}

fn refusal() -> Reply {
    let message = json!({"role": "assistant", "content": null, "refusal": "I can't."});
    status(200).json(&json!({"model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}))
}

#[test]
fn answers_are_flagged_and_fail_as_configured() {
    for format in ["native", "openai"] {
        let folder = Folder::new(&format!("flags-{format}"));
        let (input, output) = (folder.prompts(6), folder.file("out.jsonl"));
        let replies = || {
            [
                ok("fine"),
                ended("cu", "length"),
                ended("", "length"),
                ended("", "stop"),
                ended("", "content_filter"),
                refusal(),
            ]
        };
        let server = Server::script(replies());
        let call = |arguments: &[&str], ends_with| {
            let mut command = batch(&server.url(), &input, &output);
            command.args(["--concurrency", "1", "--format", format]).args(arguments);
            ends(command, ends_with).1
        };
        let err = call(&[], 1);
        assert!(err.contains("3 answered, 3 failed"), "{err}");
        assert!(err.contains("2 failed: empty\n1 failed: filter\n"), "{err}");
        for flag in [
            "2 answers flagged: length",
            "3 answers flagged: empty",
            "1 answers flagged: filter",
            "1 answers flagged: refusal",
        ] {
            assert!(err.contains(flag), "{flag}: {err}");
        }
        let written = lines(&output);
        let flags: Vec<_> = written.iter().map(|line| line["flags"].clone()).collect();
        let expected = [
            Value::Null,
            json!(["length"]),
            json!(["empty", "length"]),
            json!(["empty"]),
            json!(["filter", "empty"]),
            json!(["refusal"]),
        ];
        assert_eq!(flags, expected);
        let failed: Vec<_> =
            written.iter().map(|line| line.get("error").is_some_and(|error| !error.is_null())).collect();
        assert_eq!(failed, [false, false, true, true, true, false]);
        assert_eq!(
            written[2]["error"]["message"],
            "the answer is empty; the answer was cut by the token limit; raise max_tokens"
        );
        let reason = if format == "native" {
            &written[2]["finish_reason"]
        } else {
            &written[2]["response"]["body"]["choices"][0]["finish_reason"]
        };
        assert_eq!(reason, "length", "what was paid for is written");

        server.add([ok("one"), ok("two"), ok("three"), ok("four"), ok("five")]);
        call(&["--resume", "--retry-failed", "--fail-on", "length,empty,filter,refusal"], 0);
        assert_eq!(server.requests().len(), 11, "all flagged answers are asked for again");
        assert_eq!(lines(&output).len(), 6);

        fs::remove_file(&output).unwrap();
        server.add(replies());
        let err = call(&["--fail-on", "none"], 0);
        assert!(err.contains("6 answered, 0 failed"), "{err}");
    }
}

#[test]
fn an_answer_that_is_not_json_fails_where_json_was_requested() {
    let folder = Folder::new("json");
    let asks = json!({"prompt": "a", "response_format": {"type": "json_object"}});
    let input = folder.input(&[asks.clone(), asks.clone(), asks, json!({"prompt": "b"})]);
    let output = folder.file("out.jsonl");
    let replies = || [ok("{\"a\": 1}"), ok("```json\n[1]\n```"), ok("Sure! {"), ok("text")];
    let server = Server::script([]);
    for (arguments, ends_with, failed) in
        [(&[][..], 0, 0), (&["--expect-json"], 1, 1), (&["--expect-json=all"], 1, 2)]
    {
        let _ = fs::remove_file(&output);
        server.add(replies());
        let mut command = batch(&server.url(), &input, &output);
        command.args(["--concurrency", "1"]).args(arguments);
        let (_, err) = ends(command, ends_with);
        let kinds: Vec<_> = lines(&output)
            .iter()
            .filter_map(|line| line["error"]["kind"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(kinds, vec!["not_json"; failed], "{arguments:?}");
        assert!(err.contains("answers flagged: not_json"), "{err}");
    }
    server.add([ok("text")]);
    let mut command = batch(&server.url(), &folder.input(&[json!({"prompt": "b"})]), Path::new("-"));
    command.arg("--expect-json");
    let (_, err) = ends(command, 0);
    assert!(err.contains("warning: --expect-json checked no answer"), "{err}");
}

#[test]
fn changed_settings_cause_a_warning() {
    let folder = Folder::new("settings");
    let (input, output) = (folder.prompts(4), folder.file("out.jsonl"));
    let service = Service::new(0.0, Duration::ZERO);
    let call = |arguments: &[&str]| {
        let mut command = batch(&service.url(), &input, &output);
        command.args(arguments);
        ends(command, 0).1
    };
    call(&["--limit", "2", "--set", "temperature=0"]);
    let same = call(&["--resume", "--set", "temperature=0", "--limit", "1"]);
    assert!(!same.contains("warning"), "{same}");
    for other in [&["--set", "temperature=1"][..], &[], &["--set", "temperature=0", "--model", "other"]] {
        let err = call(&[&["--resume", "--dry-run"], other].concat());
        assert!(err.is_empty(), "{err}");
        let err = call(&[&["--resume"], other].concat());
        assert!(
            err.contains("3 of them were sent with another --model, --system, --set or --template"),
            "{other:?} {err}"
        );
        let text = fs::read_to_string(&output).unwrap();
        fs::write(&output, text.split_inclusive('\n').take(3).collect::<String>()).unwrap();
    }
}

#[test]
fn a_corrected_line_needs_retry_failed_and_the_error_names_it() {
    let folder = Folder::new("corrected");
    let (input, output) = (folder.prompts(3), folder.file("out.jsonl"));
    let good = fs::read_to_string(&input).unwrap();
    fs::write(&input, good.replacen("{\"id\":\"i1\"", "\"id\":\"i1\"", 1)).unwrap();
    let service = Service::new(0.0, Duration::ZERO);
    let call = |arguments: &[&str]| {
        let mut command = batch(&service.url(), &input, &output);
        command.args(arguments);
        command
    };
    ends(call(&[]), 1);
    fs::write(&input, good).unwrap();
    fails(call(&["--resume"]), "line 2 of the input has changed, and it had failed; add --retry-failed");
    ends(call(&["--resume", "--retry-failed"]), 0);
    assert_complete(&lines(&output), 3);
}

#[test]
fn an_output_cut_at_any_byte_is_continued() {
    for format in ["native", "openai"] {
        let folder = Folder::new(&format!("cut-{format}"));
        let (input, output) = (folder.prompts(2), folder.file("out.jsonl"));
        let service = Service::new(0.0, Duration::ZERO);
        let call = |arguments: &[&str], ends_with| {
            let mut command = batch(&service.url(), &input, &output);
            command.args(["--in-order", "--format", format, "--resume"]).args(arguments);
            ends(command, ends_with).0
        };
        call(&[], 0);
        let complete = fs::read(&output).unwrap();
        let first = complete.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in 0..complete.len() {
            fs::write(&output, &complete[..cut]).unwrap();
            // A line without its newline is complete.
            let done = usize::from(cut + 1 >= first) + usize::from(cut + 1 == complete.len());
            let out = call(&["--dry-run"], 0);
            assert!(out.starts_with(&format!("{} items", 2 - done)), "{format} {cut}: {out}");
            if cut % 16 == 0 {
                call(&[], 0);
                assert_eq!(lines(&output).len(), 2, "{format} {cut}");
            }
        }
        // Lines that are torn inside a number.
        let text = String::from_utf8(complete).unwrap();
        for torn in ["0.", "1e", "1e-", "-", "1.5e"] {
            let Some((before, _)) =
                text.split_once(if format == "native" { "\"seconds\":" } else { "\"created\":" })
            else {
                continue;
            };
            fs::write(&output, format!("{before}\"seconds\":{torn}")).unwrap();
            assert!(call(&["--dry-run"], 0).starts_with("2 items"), "{torn}");
        }
    }
}

#[test]
fn a_foreign_file_is_not_modified_even_if_its_last_line_is_torn() {
    let folder = Folder::new("foreign");
    let (input, output) = (folder.prompts(1), folder.file("out.jsonl"));
    for other in ["{\"prompt\": \"torn", "{\"id\":1,\"prompt\":\"torn", "not JSON", "[", "{\"answer\":1,"] {
        fs::write(&output, other).unwrap();
        let mut command = batch("http://127.0.0.1:1/v1", &input, &output);
        command.arg("--resume");
        fails(command, "line 1 is no line of an output");
        assert_eq!(fs::read_to_string(&output).unwrap(), other);
    }
}

#[test]
fn without_a_lock_two_runs_can_write_one_output() {
    let folder = Folder::new("no-lock");
    let (input, output) = (folder.prompts(1), folder.file("out.jsonl"));
    let server = Server::always(silence());
    let mut first = batch(&server.url(), &input, &output).arg("--no-lock").spawn().unwrap();
    server.wait_for_requests(1);
    let other = Server::script([ok("hi")]);
    let mut command = batch(&other.url(), &input, &output);
    command.args(["--resume", "--no-lock"]);
    ends(command, 0);
    first.kill().unwrap();
    first.wait().unwrap();
}
