//! Calls to a real server: llama.cpp with a model of random weights. Its start script is not in the repository, so the test is
//! ignored by default.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use holysheep::{ChatRequest, Client, Config, Error, Tool};
use serde_json::{Value, json};

const KEY: &str = "sk-llama-0123456789";

/// The server process, which is terminated on drop.
struct Llama {
    process: Child,
    url: String,
}

impl Llama {
    fn start() -> Llama {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/servers/llamacpp/run.sh");
        assert!(script.exists(), "{} does not exist", script.display());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut process = Command::new("bash")
            .arg(script)
            .args([port.to_string().as_str(), "--key", KEY])
            .env("YARD_CACHE", concat!(env!("CARGO_TARGET_TMPDIR"), "/llamacpp")) // installed once
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = lines.map_while(Result::ok).any(|line| line == "READY");
        let llama = Llama { process, url: format!("http://127.0.0.1:{port}/v1") };
        assert!(ready, "the server didn't start");
        llama
    }

    /// The id of a special token, from llama.cpp's `/tokenize` endpoint.
    fn token(&self, text: &str) -> Value {
        let root = Config::builder().base_url(self.url.trim_end_matches("/v1")).api_key(KEY).build().unwrap();
        let body = json!({"content": text, "parse_special": true, "add_special": false});
        let tokens: Value = Client::new(root).unwrap().post("/tokenize", &body).unwrap();
        tokens["tokens"][0].clone()
    }

    fn client(&self, key: &str) -> Client {
        Client::new(Config::builder().base_url(&self.url).api_key(key).build().unwrap()).unwrap()
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        // SIGTERM instead of `kill()`, because the script ends its children only on SIGTERM.
        let _ = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "needs ../shared/servers/llamacpp"]
fn a_real_server_answers_calls_streams_tools_and_schemas() {
    let llama = Llama::start();
    let client = llama.client(KEY);
    let request = ChatRequest::new("tiny-random").system("Be brief.").user("Say something.").max_tokens(8);

    let answer = client.chat(&request).unwrap();
    let usage = answer.usage.as_ref().unwrap();
    assert!(!answer.text().is_empty());
    assert!(matches!(answer.finish_reason(), Some("length" | "stop")), "{answer:?}");
    assert_eq!(usage.total_tokens, Some(usage.prompt_tokens.unwrap() + usage.completion_tokens.unwrap()));
    assert_eq!(answer.meta().status, 200); // possibly after retries, because the server listens before the model is loaded

    let two = client.chat(&request.clone().extra("n", 2)).unwrap();
    assert_eq!(two.choices.len(), 2);

    assert_eq!(client.models().unwrap()[0].id, "tiny-random");
    client.validate_api_key().unwrap();
    // llama.cpp lists models without a key, so only a chat detects a wrong one.
    let error = llama.client("sk-wrong").chat(&request).unwrap_err();
    assert!(error.is_auth() && error.attempts() == 1, "{error:?}");

    let error = client.chat(&ChatRequest::new("tiny-random").user("long ".repeat(5000))).unwrap_err();
    let Error::Api { status: 400, kind: Some(kind), .. } = &error else { panic!("{error:?}") };
    assert_eq!(kind, "exceed_context_size_error");

    let end = llama.token("<|im_end|>");
    let call = llama.token("<tool_call>\n");
    streams(&client, &request, json!([[call, 40], [end, 60]]));

    let error =
        client.post::<_, Value>("/embeddings", &json!({"model": "tiny-random", "input": "x"})).unwrap_err();
    assert_eq!((error.status(), error.is_retryable()), (Some(501), false));
    assert_eq!(client.get::<Value>("/nothing").unwrap_err().status(), Some(404));
}

/// Streams, tool calls in chunks, structured answers, and streams that are dropped early.
///
/// `calls` is a logit bias that makes the random model call a tool.
fn streams(client: &Client, request: &ChatRequest, calls: Value) {
    let mut stream = client.chat_stream(request).unwrap();
    let texts: Vec<String> = stream.by_ref().map(|chunk| chunk.unwrap().text().to_owned()).collect();
    assert_eq!(texts.concat(), stream.partial());
    let response = stream.into_response().unwrap();
    assert!(response.usage.as_ref().unwrap().total_tokens.is_some(), "usage is requested by default");
    assert!(response.finish_reason().is_some() && response.text() == texts.concat());

    // The server continues to serve after streams are dropped early.
    for _ in 0..4 {
        let mut stream = client.chat_stream(&request.clone().max_tokens(500)).unwrap();
        stream.next().unwrap().unwrap();
    }
    client.chat(request).unwrap();

    let schema =
        json!({"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]});
    let weather = Tool::function("get_weather", "The weather", schema);
    let tools = ChatRequest::new("tiny-random").user("hi").max_tokens(300).seed(7).tools([weather]);
    let tools = tools.tool_choice("required").extra("logit_bias", calls);
    let whole = client.chat(&tools).unwrap();
    let pieces = client.chat_stream(&tools).unwrap().into_response().unwrap();
    for response in [whole, pieces] {
        let [call] = response.tool_calls() else { panic!("{:?}", response.tool_calls()) };
        assert_eq!(call.function.name, "get_weather");
        let arguments: Value = serde_json::from_str(&call.function.arguments).unwrap();
        assert!(arguments["city"] == "Paris" || arguments["city"] == "Rome", "{arguments}");
    }

    let schema = json!({"type": "object", "properties": {"a": {"enum": ["red", "green"]}, "n": {"type": "boolean"}},
        "required": ["a", "n"], "additionalProperties": false});
    let structured =
        ChatRequest::new("tiny-random").user("hi").max_tokens(200).seed(7).json_schema("x", schema);
    let value: Value = client.chat(&structured).unwrap().json().unwrap();
    assert!(value["n"].is_boolean() && value["a"].is_string(), "{value}");

    let long = ChatRequest::new("tiny-random").user("long ".repeat(5000));
    assert_eq!(client.chat_stream(&long).unwrap_err().status(), Some(400));
}
