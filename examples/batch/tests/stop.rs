//! Early stops of a run: permanent failures, signals and closed outputs, and the output that they leave.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod tool;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tool::faulty::Service;
use tool::support::{Server, ok, silence, status};
use tool::{Folder, TOOL, assert_complete, batch, ends, fails, lines};

#[test]
fn a_refused_key_or_an_empty_account_stops_the_run() {
    let folder = Folder::new("key");
    let (input, output) = (folder.prompts(1000), folder.file("out.jsonl"));
    let error = |error| json!({"error": error});
    let replies = [
        status(401),
        status(429).json(&error(json!({"message": "pay", "code": "insufficient_quota"}))),
        // LiteLLM passes the code on in the message. Some gateways answer with a 200.
        status(429)
            .json(&error(json!({"message": "RateLimitError: insufficient_quota - pay", "code": "429"}))),
        status(200).json(&error(json!({"message": "pay", "code": "insufficient_quota"}))),
        status(200).json(&error(json!({"message": "no such key", "code": "invalid_api_key"}))),
    ];
    for reply in replies {
        let server = Server::always(reply);
        let mut command = batch(&server.url(), &input, &output);
        command.arg("--resume");
        fails(command, "every further request would fail too");
        assert!(server.requests().len() <= 16, "{} requests", server.requests().len());
        assert_eq!(lines(&output).len(), 0);
    }
}

#[test]
fn a_mistake_in_all_items_stops_the_run() {
    let folder = Folder::new("alike");
    let (input, output) = (folder.prompts(1000), folder.file("out.jsonl"));
    for refusal in [404, 400] {
        let server = Server::always(status(refusal));
        let mut command = batch(&server.url(), &input, &output);
        command.arg("--resume");
        let says = format!("100 in a row failed alike (status {refusal}): ");
        fails(command, &says);
        assert!((100..150).contains(&server.requests().len()));
        assert_eq!(lines(&output).len(), 0, "none of them is done");
    }
    let mut command = Command::new(TOOL);
    command.arg(&input).args(["-o", "-"]).env("HOLYSHEEP_API_KEY", "sk-test-0123456789abcdef");
    fails(command, "100 in a row failed alike (bad line): line");
}

#[test]
fn a_permanent_failure_in_mid_run_stops_the_run() {
    let limit = status(403).json(&json!({"error": {"message": "Key limit exceeded"}}));
    let login = status(200).header("content-type", "text/html").body("<html><title>Log in</title></html>");
    for (name, reply, says) in [
        ("limit", limit, "20 in a row failed alike (status 403): "),
        ("login", login, "20 in a row failed alike (unreadable answer): "),
    ] {
        let folder = Folder::new(name);
        let (input, output) = (folder.prompts(300), folder.file("out.jsonl"));
        let server = Server::script((0..50).map(|_| ok("hi")).chain((0..200).map(|_| reply.clone())));
        let mut command = batch(&server.url(), &input, &output);
        command.args(["--stop-after", "20"]);
        fails(command, says);
        assert!(server.requests().len() <= 50 + 20 + 4 * 8, "{}", server.requests().len());
        let written = lines(&output);
        assert_eq!(written.len(), 50, "none of the failures is done");
        assert!(written.iter().all(|line| line["answer"] == "hi"));
        let server = Server::always(ok("hi"));
        let mut command = batch(&server.url(), &input, &output);
        command.arg("--resume");
        ends(command, 0);
        assert_eq!((lines(&output).len(), server.requests().len()), (300, 250));
    }
}

#[test]
fn a_request_larger_than_the_rate_limit_fails_alone() {
    let folder = Folder::new("too-large");
    let (input, output) = (folder.prompts(20), folder.file("out.jsonl"));
    let message = "Request too large for m on tokens per min (TPM): Limit 30000, Requested 41251.";
    let refusal = status(429)
        .json(&json!({"error": {"message": message, "type": "tokens", "code": "rate_limit_exceeded"}}));
    let server = Server::script((0..20).map(|call| if call % 4 == 0 { refusal.clone() } else { ok("hi") }));
    let (_, err) = ends(batch(&server.url(), &input, &output), 1);
    assert!(err.contains("15 answered, 5 failed") && err.contains("5 failed: status 429"), "{err}");
    assert_eq!(server.requests().len(), 20, "none is sent again");
}

#[test]
fn bad_requests_in_mid_run_do_not_stop_it() {
    let folder = Folder::new("requests");
    let (input, output) = (folder.prompts(300), folder.file("out.jsonl"));
    let server =
        Server::script([ok("hi")].into_iter().chain((0..298).map(|_| status(400))).chain([ok("hi")]));
    let mut command = batch(&server.url(), &input, &output);
    command.args(["--concurrency", "1"]);
    ends(command, 1);
    assert_eq!(lines(&output).len(), 300, "some were answered, so all are sent");
    assert_eq!(lines(&output).iter().filter(|line| line["error"]["status"] == 400).count(), 298);
}

#[test]
fn a_service_that_never_answers_ends_the_run_and_the_cause_is_named() {
    let folder = Folder::new("never");
    let (input, output) = (folder.prompts(20), folder.file("out.jsonl"));
    let server = Server::always(status(500));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // nothing listens here
    for (url, why) in [
        (server.url(), "last failure: status 500"),
        (format!("http://{nobody}/v1"), "last failure: can't connect to 127.0.0.1"),
    ] {
        let mut command = batch(&url, &input, &output);
        command.args(["--first-answer", "1", "--resume"]);
        let (_, err) = ends(command, 2);
        assert!(
            err.contains("the service answered nothing for 1 s (--first-answer)") && err.contains(why),
            "{err}"
        );
        assert!(!err.contains(" 0 requests"), "{err}");
    }
    // After a first answer, the run waits through the outage.
    let server = Server::script(
        [ok("hi")].into_iter().chain((0..2).map(|_| status(500))).chain((0..99).map(|_| ok("hi"))),
    );
    let mut command = batch(&server.url(), &input, &output);
    command.args(["--first-answer", "0.001", "--resume", "--concurrency", "1"]);
    ends(command, 0);
}

#[test]
fn fail_fast_stops_at_the_first_failure() {
    let folder = Folder::new("fast");
    let (input, output) = (folder.prompts(1000), folder.file("out.jsonl"));
    let server = Server::always(status(404));
    let mut command = batch(&server.url(), &input, &output);
    command.arg("--fail-fast");
    let (_, err) = ends(command, 1);
    assert!(err.contains("stopped at the first failure"), "{err}");
    assert!((1..=24).contains(&lines(&output).len()));
    assert_eq!(lines(&output).len(), server.requests().len());
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn the_first_interrupt_lets_requests_finish_and_the_second_aborts_them() {
    let folder = Folder::new("interrupt");
    let (input, output) = (folder.prompts(100), folder.file("out.jsonl"));
    let mut done = 0;
    for name in ["-INT", "-TERM"] {
        let server = Server::always(ok("hi").after(Duration::from_millis(300)));
        let mut command = batch(&server.url(), &input, &output);
        let child = command.args(["--concurrency", "4", "--resume"]).spawn().unwrap();
        server.wait_for_requests(4);
        signal(&child, name);
        let ended = child.wait_with_output().unwrap();
        let err = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(130), "{err}");
        assert!(err.contains("may finish") && err.contains("run the same with --resume"), "{err}");
        done += server.requests().len();
        assert_eq!(lines(&output).len(), done, "{err}");
    }

    let server = Server::always(silence());
    let mut command = batch(&server.url(), &input, &output);
    let mut child = command.args(["--concurrency", "4", "--resume"]).spawn().unwrap();
    server.wait_for_requests(4);
    let done = lines(&output).len();
    // A signal that arrives before the first one is handled is merged with it, so signals are sent until the run has ended.
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        signal(&child, "-INT");
        assert!(started.elapsed() < Duration::from_secs(30), "the run doesn't end");
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(lines(&output).len(), done, "an aborted item isn't done");
}

#[test]
fn an_interrupt_does_not_wait_for_queued_requests() {
    let folder = Folder::new("waiting");
    let (input, output) = (folder.prompts(100), folder.file("out.jsonl"));
    let server = Server::always(ok("hi"));
    let mut command = batch(&server.url(), &input, &output);
    let child = command.args(["--rpm", "0.1"]).spawn().unwrap();
    server.wait_for_requests(1);
    while lines(&output).is_empty() {
        std::thread::yield_now();
    }
    signal(&child, "-TERM");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    assert_eq!((lines(&output).len(), server.requests().len()), (1, 1));
}

#[test]
fn a_stop_does_not_wait_for_a_silent_input() {
    let server = Server::always(status(401));
    let mut command = batch(&server.url(), Path::new("-"), Path::new("-"));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{{\"prompt\": \"hi\"}}").unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(2));
    drop(stdin);
}

#[test]
fn a_closed_output_stops_the_run_and_a_closed_stderr_does_not() {
    let folder = Folder::new("gone");
    let (input, output) = (folder.prompts(2000), folder.file("pipe"));
    assert!(Command::new("mkfifo").arg(&output).status().unwrap().success());
    let service = Service::new(0.0, Duration::ZERO);
    let child = batch(&service.url(), &input, &output).spawn().unwrap();
    drop(fs::File::open(&output).unwrap());
    let err = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert!(err.contains("can't write"), "{err}");
    let output = folder.file("out.jsonl");
    let mut child = batch(&service.url(), &input, &output).spawn().unwrap();
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
    assert_complete(&lines(&output), 2000);
}

/// The tool, started by a shell after a setup command.
fn after(setup: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{setup}; exec \"$0\" \"$@\"")])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap());
    }
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

#[test]
fn a_signal_that_is_ignored_at_the_start_stays_ignored() {
    for (setup, name, ends_with) in
        [("trap '' HUP", "-HUP", 0), ("trap '' INT", "-INT", 0), ("true", "-HUP", 130)]
    {
        let folder = Folder::new(&format!("ignored{name}{ends_with}"));
        let (input, output) = (folder.prompts(100), folder.file("out.jsonl"));
        let server = Server::always(ok("hi").after(Duration::from_millis(50)));
        let mut child = after(setup, &batch(&server.url(), &input, &output)).spawn().unwrap();
        server.wait_for_requests(8);
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(ends_with), "{setup} {name}");
        assert_eq!(lines(&output).len() == 100, ends_with == 0);
    }
}

#[test]
fn too_few_open_files_cause_a_warning() {
    let folder = Folder::new("files");
    let (input, output) = (folder.prompts(2), folder.file("out.jsonl"));
    let server = Server::always(ok("hi"));
    for (concurrency, warns) in [("100", true), ("8", false)] {
        let mut command = batch(&server.url(), &input, &output);
        command.args(["--concurrency", concurrency, "--resume"]);
        let (_, err) = ends(after("ulimit -n 64", &command), 0);
        let warning = "warning: only 64 files may be open (ulimit -n), and --concurrency 100 needs about 116";
        assert_eq!(err.contains(warning), warns, "{err}");
    }
}
