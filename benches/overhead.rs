//! Benchmark: CPU instructions of a call, compared with a hand-written loop, counted by callgrind. See `README.md` here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that can't continue must fail"
)]

use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio, exit};
use std::time::Duration;
use std::{env, thread};

use holysheep::{ChatRequest, Client, Config};
use serde::{Deserialize, Serialize};

/// The chunks of a stream.
const CHUNKS: usize = 2000;

/// The most instructions that this crate may use for each one of the loop's.
const MOST: f64 = 1.10;

/// Sizes of a block that a program allocates first, in bytes. What malloc and free cost depends on where a call's memory lies:
/// next to the top of the heap, glibc merges its free lists at each call, which is 4 % more. The sizes spread over one step
/// in which the heap grows, 132 KiB.
const PADDINGS: [usize; 4] = [0, 33 * 1024, 66 * 1024, 99 * 1024];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let padding = env::var("PADDING").map_or(0, |size| size.parse().unwrap());
    let _padding = black_box(Vec::<u8>::with_capacity(padding));
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => compare(),
        ["serve"] => serve(),
        ["crate", url, calls] => by_crate(url, calls.parse().unwrap()),
        ["hand", url, calls] => by_hand(url, calls.parse().unwrap()),
        ["crate-stream", url, calls] => stream_by_crate(url, calls.parse().unwrap()),
        ["hand-stream", url, calls] => stream_by_hand(url, calls.parse().unwrap()),
        _ => panic!("usage: overhead [serve | (crate | hand | crate-stream | hand-stream) URL CALLS]"),
    }
}

/// Counts both, and fails if the crate costs more than it may.
fn compare() {
    let program = env::current_exe().unwrap();
    let mut server = Command::new(&program).arg("serve").stdout(Stdio::piped()).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut url).unwrap();
    let count = |who: &str, calls: u64, padding: usize| {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(&program)
            .args([who, url.trim(), &calls.to_string()])
            .env("PADDING", padding.to_string())
            .output()
            .expect("valgrind is needed, a package of that name");
        let report = String::from_utf8_lossy(&output.stderr).into_owned();
        let collected = report.lines().find_map(|line| line.split_once("Collected :"));
        collected.unwrap_or_else(|| panic!("{report}")).1.trim().parse::<u64>().unwrap() as f64
    };
    // The difference of two lengths leaves out the start of the process and the first connection.
    let mean = |who: &str, long: u64, short: u64| {
        let counts = PADDINGS.map(|padding| count(who, long, padding) - count(who, short, padding));
        counts.iter().sum::<f64>() / counts.len() as f64 / (long - short) as f64
    };
    let chunks = CHUNKS as f64;
    let rows = [
        ("a call", mean("crate", 700, 200), mean("hand", 700, 200)),
        ("a chunk", mean("crate-stream", 2, 1) / chunks, mean("hand-stream", 2, 1) / chunks),
    ];
    server.kill().unwrap();
    server.wait().unwrap();
    for (what, ours, theirs) in rows {
        let ratio = ours / theirs;
        println!("instructions {what}: {ours:.0}, by hand {theirs:.0}, ratio {ratio:.3} (at most {MOST})");
    }
    if rows.iter().any(|(_, ours, theirs)| ours / theirs > MOST) {
        exit(1);
    }
}

fn stream_by_crate(url: &str, calls: u64) {
    let config = Config::builder().api_key("sk-0123456789abcdef0123").base_url(url).build().unwrap();
    let client = Client::new(config).unwrap();
    let request = ChatRequest::new("gpt-4.1").user("Tell me a story.");
    for _ in 0..calls {
        let mut length = 0;
        for chunk in client.chat_stream(&request).unwrap() {
            length += chunk.unwrap().text().len();
        }
        assert_eq!(length, 5 * CHUNKS);
    }
}

/// A minimal hand-written equivalent that parses only the text.
fn stream_by_hand(url: &str, calls: u64) {
    #[derive(Deserialize)]
    struct Chunk {
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        delta: Delta,
    }
    #[derive(Deserialize)]
    struct Delta {
        content: Option<String>,
    }
    let agent = agent();
    for _ in 0..calls {
        let request = agent
            .post(format!("{url}/chat/completions"))
            .header("authorization", "Bearer sk-0123456789abcdef0123")
            .header("content-type", "application/json");
        let body =
            r#"{"model":"gpt-4.1","messages":[{"role":"user","content":"Tell me a story."}],"stream":true}"#;
        let response = request.send(body.as_bytes()).unwrap();
        let mut reader = BufReader::with_capacity(16 * 1024, response.into_body().into_reader());
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).unwrap() > 0 {
            if let Some(data) = line.trim_end().strip_prefix("data: ").filter(|data| *data != "[DONE]") {
                let chunk: Chunk = serde_json::from_str(data).unwrap();
                length += chunk
                    .choices
                    .first()
                    .and_then(|choice| choice.delta.content.as_ref())
                    .map_or(0, String::len);
            }
            line.clear();
        }
        assert_eq!(length, 5 * CHUNKS);
    }
}

fn by_crate(url: &str, calls: u64) {
    let config = Config::builder().api_key("sk-0123456789abcdef0123").base_url(url).build().unwrap();
    let client = Client::new(config).unwrap();
    for _ in 0..calls {
        let request =
            ChatRequest::new("gpt-4.1").system("You are terse.").user("Say hello.").temperature(0.7);
        assert_eq!(client.chat(&request).unwrap().text(), "Hello! How can I help you today?");
    }
}

/// A minimal hand-written equivalent: the same settings, a struct with only the used fields, a simple retry.
fn by_hand(url: &str, calls: u64) {
    #[derive(Serialize)]
    struct Request<'a> {
        model: &'a str,
        messages: Vec<Message<'a>>,
        temperature: f64,
    }
    #[derive(Serialize)]
    struct Message<'a> {
        role: &'a str,
        content: &'a str,
    }
    #[derive(Deserialize)]
    struct Response {
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        message: Answer,
    }
    #[derive(Deserialize)]
    struct Answer {
        content: String,
    }

    let second = Duration::from_secs(1);
    let agent = agent();
    for _ in 0..calls {
        let messages = vec![
            Message { role: "system", content: "You are terse." },
            Message { role: "user", content: "Say hello." },
        ];
        let body = serde_json::to_vec(&Request { model: "gpt-4.1", messages, temperature: 0.7 }).unwrap();
        let mut wait = second;
        let text = loop {
            let request = agent
                .post(format!("{url}/chat/completions"))
                .header("authorization", "Bearer sk-0123456789abcdef0123")
                .header("content-type", "application/json");
            let mut response = request.send(&body[..]).unwrap();
            if response.status() == 200 {
                let bytes = response.body_mut().read_to_vec().unwrap();
                break serde_json::from_slice::<Response>(&bytes).unwrap().choices.remove(0).message.content;
            }
            thread::sleep(wait);
            wait *= 2;
        };
        assert_eq!(text, "Hello! How can I help you today?");
    }
}

/// The settings that the crate has by default.
fn agent() -> ureq::Agent {
    let second = Duration::from_secs(1);
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_connect(Some(10 * second))
        .timeout_recv_response(Some(60 * second))
        .timeout_per_read(Some(60 * second))
        .timeout_per_write(Some(60 * second))
        .timeout_recv_body(Some(3600 * second))
        .input_buffer_size(16 * 1024)
        .output_buffer_size(16 * 1024)
        .max_idle_connections(512)
        .max_idle_connections_per_host(512)
        .proxy(None)
        .build();
    ureq::Agent::new_with_config(config)
}

/// Answers every request as OpenAI does, with as many headers.
fn serve() {
    let body = r#"{"id":"chatcmpl-CkJ2y8WbXJ4V0nC6jQ1rH5aZ3sT7u","object":"chat.completion","created":1764000000,"model":"gpt-4.1-2025-04-14","choices":[{"index":0,"message":{"role":"assistant","content":"Hello! How can I help you today?","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_0123456789"}"#;
    let mut reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", body.len());
    for header in [
        "date: Tue, 24 Nov 2026 02:00:00 GMT",
        "content-type: application/json",
        "connection: keep-alive",
        "access-control-expose-headers: X-Request-ID",
        "openai-organization: user-0123456789abcdef",
        "openai-processing-ms: 412",
        "openai-project: proj_0123456789abcdef",
        "openai-version: 2020-10-01",
        "x-envoy-upstream-service-time: 431",
        "x-ratelimit-limit-requests: 500",
        "x-ratelimit-limit-tokens: 30000",
        "x-ratelimit-remaining-requests: 499",
        "x-ratelimit-remaining-tokens: 29980",
        "x-ratelimit-reset-requests: 120ms",
        "x-ratelimit-reset-tokens: 40ms",
        "x-request-id: req_0123456789abcdef0123456789abcdef",
        "cf-cache-status: DYNAMIC",
        "x-content-type-options: nosniff",
        "server: cloudflare",
        "cf-ray: 9a1b2c3d4e5f6789-FRA",
    ] {
        reply += header;
        reply += "\r\n";
    }
    reply += "\r\n";
    reply += body;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("http://{}/v1", listener.local_addr().unwrap());
    for stream in listener.incoming().flatten() {
        let reply = reply.clone();
        let streamed = streamed();
        thread::spawn(move || answer_all(&stream, reply.as_bytes(), &streamed));
    }
}

/// A stream as OpenAI sends it, each event as a chunk of its own.
fn streamed() -> Vec<u8> {
    let mut reply =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let mut event = |data: &str| {
        let event = format!("data: {data}\n\n");
        reply.extend_from_slice(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
    };
    let chunk = |delta: &str, finish: &str| {
        format!(
            r#"{{"id":"chatcmpl-CkJ2y8WbXJ4V0nC6jQ1rH5aZ3sT7u","object":"chat.completion.chunk","created":1764000000,"model":"gpt-4.1-2025-04-14","service_tier":"default","system_fingerprint":"fp_0123456789","choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}],"usage":null}}"#
        )
    };
    for _ in 0..CHUNKS {
        event(&chunk(r#"{"content":" word"}"#, "null"));
    }
    event(&chunk("{}", "\"stop\""));
    event("[DONE]");
    reply.extend_from_slice(b"0\r\n\r\n");
    reply
}

fn answer_all(mut stream: &TcpStream, reply: &[u8], streamed: &[u8]) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse().ok()?,
                None if line.is_empty() => break,
                _ => {}
            }
        }
        let mut body = String::new();
        reader.by_ref().take(length).read_to_string(&mut body).ok()?;
        stream.write_all(if body.contains("\"stream\":true") { streamed } else { reply }).ok()?;
    }
}
