//! Rate limits, budgets, shards, and the summary as JSON.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

mod tool;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

use serde_json::{Value, json};
use tool::faulty::Service;
use tool::support::{Reply, Server, ok, status};
use tool::{Folder, TOOL, assert_complete, batch, ends, fails, lines};

#[test]
fn requests_and_tokens_a_minute_are_limited() {
    let folder = Folder::new("bounds");
    let input = folder.prompts(100);
    let server = Server::always(ok("hi")); // 12 tokens each
    for (bound, least) in
        [(["--rpm", "1200", "--limit", "11"], 0.45), (["--tpm", "36000", "--limit", "100"], 0.9)]
    {
        let started = Instant::now();
        let mut command = batch(&server.url(), &input, Path::new("-"));
        command.args(bound);
        ends(command, 0);
        assert!(started.elapsed().as_secs_f64() > least, "{bound:?}: {:?}", started.elapsed());
    }
    // The first line has half a million tokens, but it is invalid, so --tpm doesn't wait for it. --rpm limits the calls of all
    // models combined.
    let bad = format!("{{\"text\": \"{}\"}}\n", "x".repeat(1_000_000));
    let models: String =
        (0..7).map(|model| format!("{{\"prompt\":\"hi\",\"model\":\"{model}\"}}\n")).collect();
    fs::write(&input, bad + &models).unwrap();
    let started = Instant::now();
    let mut command = batch(&server.url(), &input, Path::new("-"));
    command.args(["--tpm", "600000", "--rpm", "1200"]);
    ends(command, 1);
    assert!((0.3..10.0).contains(&started.elapsed().as_secs_f64()), "{:?}", started.elapsed());
}

#[test]
fn shards_cover_the_input_exactly_once() {
    let folder = Folder::new("shards");
    let (input, service) = (folder.prompts(50), Service::new(0.0, Duration::ZERO));
    let mut all = Vec::new();
    for shard in ["1/3", "2/3", "3/3"] {
        let output = folder.file(&shard.replace('/', "of"));
        let mut command = batch(&service.url(), &input, &output);
        command.args(["--shard", shard]);
        ends(command, 0);
        assert!((16..=17).contains(&lines(&output).len()));
        all.extend(lines(&output));
    }
    assert_complete(&all, 50);
}

const GUIDE: &str = include_str!("../../../docs/batch.md");

/// Runs a line of docs/batch.md in a shell, with `items` prompts in `prompts.jsonl`.
#[track_caller]
fn shell(folder: &Folder, items: usize, line: &str, variables: &[(&str, &str)]) {
    let service = Service::new(0.0, Duration::ZERO);
    fs::rename(folder.prompts(items), folder.file("prompts.jsonl")).unwrap();
    let path = [Path::new(TOOL).parent().unwrap().to_str().unwrap(), &env::var("PATH").unwrap()].join(":");
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(&folder.0).stdin(Stdio::null());
    command.env("PATH", path).env("HOLYSHEEP_API_KEY", "sk-test").env("HOLYSHEEP_BASE_URL", service.url());
    command.envs(variables.iter().copied());
    ends(command, 0);
}

#[test]
fn gnu_parallel_runs_the_shards() {
    let is_gnu = |output: Output| String::from_utf8_lossy(&output.stdout).contains("GNU parallel");
    if !Command::new("parallel").arg("--version").stdin(Stdio::null()).output().is_ok_and(is_gnu) {
        println!("skipped: GNU parallel is not installed");
        return;
    }
    let folder = Folder::new("parallel");
    let line = GUIDE.lines().find(|line| line.starts_with("parallel ")).unwrap();
    shell(&folder, 24, line, &[]);
    let shards = (1..=4).map(|shard| lines(&folder.file(&format!("answers.{shard}.jsonl"))));
    let all: Vec<_> = shards.inspect(|lines| assert_eq!(lines.len(), 6)).flatten().collect();
    assert_complete(&all, 24);
}

#[test]
fn slurm_and_kubernetes_run_the_shards_by_their_variables() {
    for (command, variable, index) in
        [("sbatch --array=1-4 --wrap ", "SLURM_ARRAY_TASK_ID", "3"), ("sh -c ", "JOB_COMPLETION_INDEX", "2")]
    {
        let folder = Folder::new(variable);
        let line = GUIDE.lines().find_map(|line| line.strip_prefix(command)).unwrap();
        shell(&folder, 12, line.trim_matches('\''), &[(variable, index)]);
        let done = lines(&folder.file(&format!("answers.{index}.jsonl")));
        let mut indexes: Vec<_> = done.iter().map(|line| line["index"].as_u64().unwrap()).collect();
        indexes.sort_unstable();
        assert_eq!(indexes, [2, 6, 10], "{command}");
    }
}

/// An answer that used these tokens.
fn used(input: u64, cached: u64, output: u64) -> Reply {
    let usage = json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
        "prompt_tokens_details": {"cached_tokens": cached}});
    let message = json!({"role": "assistant", "content": "hi"});
    status(200).json(
        &json!({"model": "m", "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}),
    )
}

#[test]
fn a_budget_stops_the_run_and_counts_earlier_runs() {
    for (limit, format) in [
        (["--max-tokens", "1000"], "native"),
        (["--max-cost", "5.00"], "native"),
        (["--max-cost", "5"], "openai"),
    ] {
        let folder = Folder::new(&format!("budget-{}-{format}", limit[1]));
        let (input, output) = (folder.prompts(30), folder.file("out.jsonl"));
        let server = Server::always(used(60, 20, 40)); // 100 tokens, 50 cents
        let call = |arguments: &[&str], ends_with| {
            let mut command = batch(&server.url(), &input, &output);
            command.args(["--price", "6000,3500,2500", "--resume", "--concurrency", "2", "--format", format]);
            command.args(arguments);
            ends(command, ends_with).1
        };
        let err = call(&["--limit", "6"], 0);
        assert!(err.contains("360 + 240 tokens, $2.58"), "{err}"); // 6 × (40 × 6 + 20 × 2.5 + 40 × 3.5) / 1000
        let err = call(&limit, 3);
        assert!(
            err.contains(&format!("{} {} is reached", limit[0], limit[1].trim_end_matches(".00"))),
            "{err}"
        );
        assert!(err.contains("to continue, run the same with --resume"), "{err}");
        let written = lines(&output).len();
        let by_tokens = limit[0] == "--max-tokens";
        // An admitted item that wasn't sent yet when the limit was reached is left for the next run.
        let expected = if by_tokens { 9..=11 } else { 11..=13 };
        assert!(expected.contains(&written), "{written}");
        call(&limit, 3);
        let (again, is_spent) = (lines(&output).len(), written >= if by_tokens { 10 } else { 12 });
        assert!(
            if is_spent { again == written } else { expected.contains(&again) },
            "{written}, then {again}"
        );
        call(&[], 0);
        assert_eq!(lines(&output).len(), 30);
    }
    let mut command = batch("http://127.0.0.1:1/v1", Path::new("-"), Path::new("-"));
    command.args(["--max-cost", "1"]);
    fails(command, "--max-cost needs the price of a token");
}

#[test]
fn answers_without_usage_count_with_a_guess() {
    let folder = Folder::new("guess");
    let (input, output) = (folder.file("in.jsonl"), folder.file("out.jsonl"));
    let prompt = json!({"prompt": "x".repeat(4000)}).to_string() + "\n"; // a guess of 1,000 tokens, and as many for the answer
    fs::write(&input, prompt.repeat(10)).unwrap();
    let message = json!({"role": "assistant", "content": "hi"});
    let reply =
        status(200).json(&json!({"model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}));
    let server = Server::always(reply);
    let mut command = batch(&server.url(), &input, &output);
    command.args(["--max-tokens", "5000", "--concurrency", "1"]);
    ends(command, 3);
    assert_eq!(lines(&output).len(), 3);
}

#[test]
fn the_summary_is_written_as_json() {
    let folder = Folder::new("summary");
    let (input, output, summary) = (folder.prompts(4), folder.file("out.jsonl"), folder.file("summary.json"));
    let server = Server::script([used(10, 5, 2), status(500), used(10, 0, 2), status(400), ok("")]);
    let mut command = batch(&server.url(), &input, &output);
    command.args(["--concurrency", "1", "--price", "1000,1000", "--summary"]).arg(&summary);
    ends(command, 1);
    let read: Value = serde_json::from_str(&fs::read_to_string(&summary).unwrap()).unwrap();
    let expected = json!({
        "answered": 2, "failed": 2, "already_done": 0, "failed_before": 0, "requests": 5, "retries": 1,
        "tokens": {"input": 29, "cached_input": 5, "output": 7}, "answers_without_usage": 0,
        "failures": {"empty": 1, "status 400": 1}, "flags": {"empty": 1}, "stopped": null, "exit_status": 1
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&read[name], value, "{name}");
    }
    assert!((read["cost"].as_f64().unwrap() - 0.036).abs() < 1e-9);
    assert!(read["item_seconds"]["max"].as_f64() >= read["item_seconds"]["median"].as_f64());
    let mut command = batch(&server.url(), &input, &output);
    command.args(["--resume", "--summary", "-"]);
    let (out, _) = ends(command, 1);
    let read: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&read["already_done"], &read["failed_before"], &read["exit_status"]),
        (&json!(4), &json!(2), &json!(1))
    );
}
