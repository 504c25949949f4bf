//! The client against servers that refuse calls for other reasons than a quota, on real sockets and in real time: nginx's
//! `limit_req` with its default 503, a server with 64 slots, and random refusals.
//!
//! ```sh
//! cargo test --release --test loopback refusals:: -- --ignored --nocapture --test-threads 1
//! ```

use std::net::TcpListener;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crate::support::{Server, ok, status};
use holysheep::{AdaptiveConfig, ChatRequest, Client, Config};

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Makes `calls` calls from each thread; returns the duration and the number of lost calls.
fn work(url: &str, threads: usize, calls: usize) -> (Duration, usize) {
    let adaptive = AdaptiveConfig::default().wait_when_open(true);
    let config = Config::builder().api_key("sk-test-0123456789abcdef").base_url(url).adaptive(adaptive);
    let client = Client::new(config.build().unwrap()).unwrap();
    let start = Instant::now();
    let work = || {
        let request = ChatRequest::new("gpt-4.1").user("Hello?");
        (0..calls)
            .filter(|_| client.chat(&request).inspect_err(|error| eprintln!("{error}")).is_err())
            .count()
    };
    let lost = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    println!(
        "{threads} threads x {calls}: {:.1?}, {lost} lost; {:?}",
        start.elapsed(),
        client.handler("gpt-4.1").snapshot()
    );
    (start.elapsed(), lost)
}

#[test]
#[ignore = "takes half a minute of real time"]
fn no_call_is_lost_with_twice_as_many_threads_as_server_slots() {
    let slots = Mutex::new(Vec::<Instant>::new());
    let server = Server::respond(move |_| {
        let (mut slots, now) = (slots.lock().unwrap(), Instant::now());
        slots.retain(|end| *end > now);
        if slots.len() >= 64 {
            return status(503).retry_after(1).after(millis(200));
        }
        slots.push(now + millis(1500));
        ok("hi").after(millis(1500))
    });
    let (took, lost) = work(&server.url(), 128, 10);
    assert_eq!(lost, 0);
    assert!(took < Duration::from_secs(45), "{took:?}, the minimum is 30 s");
}

#[test]
#[ignore = "takes a minute of real time"]
fn no_call_is_lost_if_one_in_twenty_is_refused_at_random() {
    for (code, retry_after, possible) in [(429, false, 25), (503, true, 33), (529, false, 25)] {
        let random = Mutex::new(fastrand::Rng::with_seed(1));
        let server = Server::respond(move |_| match random.lock().unwrap().u8(..20) {
            0 if retry_after => status(code).retry_after(1).after(millis(20)),
            0 => status(code).after(millis(20)),
            _ => ok("hi").after(millis(200)),
        });
        let (took, lost) = work(&server.url(), 16, 125);
        assert_eq!(lost, 0, "{code}");
        assert!(
            took < Duration::from_secs(possible * 3 / 2),
            "{code}: {took:?}, the minimum is {possible} s"
        );
    }
}

#[test]
#[ignore = "needs nginx, and takes eight minutes of real time (CALLS=60 makes it shorter)"]
fn nginx_limits_with_a_bare_503() {
    let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (front, back) = (port(), port());
    let folder = env::temp_dir().join(format!("holysheep-nginx-{front}"));
    fs::create_dir_all(&folder).unwrap();
    let answer = r#"{"choices":[{"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}"#;
    let config = format!(
        "daemon off; pid {0}/pid; error_log {0}/error.log; events {{}}\nhttp {{ access_log off;\n\
         client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/fastcgi;\n\
         uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;\n\
         limit_req_zone $binary_remote_addr zone=calls:1m rate=10r/s;\n\
         server {{ listen 127.0.0.1:{front}; location / {{ limit_req zone=calls; proxy_pass http://127.0.0.1:{back}; }} }}\n\
         server {{ listen 127.0.0.1:{back}; default_type application/json; return 200 '{answer}'; }} }}\n",
        folder.display()
    );
    fs::write(folder.join("nginx.conf"), config).unwrap();
    let mut nginx = Command::new("nginx").arg("-c").arg(folder.join("nginx.conf")).spawn().unwrap();
    while std::net::TcpStream::connect(("127.0.0.1", front)).is_err() {
        thread::sleep(millis(20));
    }
    let calls = env::var("CALLS").map_or(300, |calls| calls.parse().unwrap());
    let (took, lost) = work(&format!("http://127.0.0.1:{front}/v1"), 16, calls);
    nginx.kill().unwrap();
    nginx.wait().unwrap();
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(lost, 0);
    let possible = Duration::from_millis(100 * 16 * calls as u64);
    assert!(took < possible * 3 / 2, "{took:?}, the minimum is {possible:?}");
}
