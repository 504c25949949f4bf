//! Calls to a real server: llama.cpp's, which says random words in true answers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on shall say so loudly")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use holysheep::{ChatRequest, Client, Config, Error};
use serde_json::{Value, json};

const KEY: &str = "sk-llama-0123456789";

/// The server's process, which is asked to end when this is dropped.
struct Llama {
    process: Child,
    url: String,
}

impl Llama {
    /// Starts the server, if the scripts that do are there.
    fn start() -> Option<Llama> {
        let script: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/servers/llamacpp/run.sh");
        if !script.exists() {
            eprintln!("skipped: there is no {}", script.display());
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut process = Command::new("bash")
            .arg(script)
            .args([port.to_string().as_str(), "--key", KEY])
            .env("YARD_CACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/llamacpp")) // installs once
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = lines.map_while(Result::ok).any(|line| line == "READY");
        let llama = Llama { process, url: format!("http://127.0.0.1:{port}/v1") };
        assert!(ready, "the server didn't start");
        Some(llama)
    }

    fn client(&self, key: &str) -> Client {
        Client::new(Config::builder().base_url(&self.url).api_key(key).build().unwrap()).unwrap()
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        // Not `kill()`: the script ends its children only if it is asked to.
        let _ = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_server_is_understood() {
    let Some(llama) = Llama::start() else { return };
    let client = llama.client(KEY);
    let request = ChatRequest::new("tiny-random").system("Be brief.").user("Say something.").max_tokens(8);

    let answer = client.chat(&request).unwrap();
    let usage = answer.usage.as_ref().unwrap();
    assert!(!answer.text().is_empty());
    assert!(matches!(answer.finish_reason(), Some("length" | "stop")), "{answer:?}");
    assert_eq!(usage.total_tokens, Some(usage.prompt_tokens.unwrap() + usage.completion_tokens.unwrap()));
    assert_eq!(answer.meta().status, 200); // perhaps not at the first attempt: it listens before its model is loaded

    let two = client.chat(&request.clone().extra("n", 2)).unwrap();
    assert_eq!(two.choices.len(), 2);

    assert_eq!(client.models().unwrap()[0].id, "tiny-random");
    client.validate_api_key().unwrap();
    // Its list of models is open to all, so only a chat shows that a key is wrong.
    let error = llama.client("sk-wrong").chat(&request).unwrap_err();
    assert!(error.is_auth() && error.attempts() == 1, "{error:?}");

    let error = client.chat(&ChatRequest::new("tiny-random").user("long ".repeat(5000))).unwrap_err();
    let Error::Api { status: 400, kind: Some(kind), .. } = &error else { panic!("{error:?}") };
    assert_eq!(kind, "exceed_context_size_error");

    let error =
        client.post::<_, Value>("/embeddings", &json!({"model": "tiny-random", "input": "x"})).unwrap_err();
    assert_eq!((error.status(), error.is_retryable()), (Some(501), false));
    assert_eq!(client.get::<Value>("/nothing").unwrap_err().status(), Some(404));
}
