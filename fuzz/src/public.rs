//! Targets of the crate's public API, and of NO_PROXY.

use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use holysheep::test_server::{Reply, Server, raw};
use holysheep::{ChatRequest, Client, Config, Error, RetryConfig};

use crate::proxy::{Target, from_environment};

const KEY: &str = "sk-0123456789abcdef";

/// The longest time that a call may take: it has a few timeouts of 200 ms each.
const MOST: Duration = Duration::from_secs(3);

/// The response of the server to the next requests.
static RESPONSE: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn client() -> &'static Client {
    static CLIENT: OnceLock<(Client, Server)> = OnceLock::new();
    let (client, _) = CLIENT.get_or_init(|| {
        let server = Server::respond(|_| reply());
        let config = Config::builder()
            .api_key(KEY)
            .base_url(server.url())
            .timeout(Duration::from_millis(200))
            .retry(RetryConfig::default().max_retries(0))
            .adaptive(holysheep::AdaptiveConfig::off());
        (Client::new(config.build().unwrap()).unwrap(), server)
    });
    client
}

fn reply() -> Reply {
    raw(RESPONSE.lock().unwrap().clone()).then_close()
}

fn check(error: &Error) {
    let text = format!("{error} {error:?}");
    assert!(!text.contains(KEY), "{text}");
    let _ = (error.status(), error.attempts(), error.retry_after(), error.request_id().map(str::len));
}

/// Any bytes of a server end a chat, a stream and a list of models soon, without a panic, and without the key in an error. The
/// first byte is a length of the body, or none, so that the fuzzer needn't find heads.
pub fn response(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let head: &[u8] = match kind % 4 {
        0 => b"",
        1 => b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n",
        2 => b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n",
        _ => b"HTTP/1.1 429 Too Many Requests\r\n",
    };
    *RESPONSE.lock().unwrap() = [head, bytes].concat();
    let (client, request, started) = (client(), ChatRequest::new("m").user("hi"), Instant::now());
    match client.chat_stream(&request) {
        Ok(stream) => stream.filter_map(Result::err).for_each(|error| check(&error)),
        Err(error) => check(&error),
    }
    match client.chat(&request) {
        Ok(answer) => assert!(!format!("{:?}", answer.meta()).contains(KEY)),
        Err(error) => check(&error),
    }
    client.models().map_or_else(|error| check(&error), drop);
    assert!(started.elapsed() < MOST, "{:?}", started.elapsed());
}

/// Any text as an address, proxy, key, header or agent is taken, or refused with `Error::Config`.
pub fn settings(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let base = || Config::builder().base_url("http://127.0.0.1:9/v1").api_key("k");
    let builder = match kind % 5 {
        0 => base().base_url(text),
        1 => base().proxy(text),
        2 => base().api_key(text),
        3 => text.split_once(':').map_or_else(base, |(name, value)| base().header(name, value)),
        _ => base().user_agent(text),
    };
    if let Err(error) = builder.build().and_then(Client::new) {
        assert!(matches!(error, Error::Config { .. }), "{error:?}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

/// A host is excluded by a list that names it, and no list panics. The first line is the host, the second one the list.
pub fn no_proxy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some((authority, list)) = text.split_once('\n') else { return };
    let target = Target { https: true, authority };
    let select = |list: &str| {
        from_environment(target, |name| match name {
            "no_proxy" => Some(list.to_owned()),
            "https_proxy" => Some("http://proxy".to_owned()),
            _ => None,
        })
    };
    let _ = select(list);
    assert_eq!(select("*"), None);
    if !authority.is_empty() && authority.bytes().all(|byte| byte.is_ascii_lowercase()) {
        assert_eq!(select(authority), None);
        assert!(select(&format!("x{authority}")).is_some());
    }
}
