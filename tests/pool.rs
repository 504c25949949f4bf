//! Connections are shared between threads and reused between calls.
#![allow(clippy::unwrap_used, reason = "a test that can't continue must fail")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use holysheep::{ChatRequest, Client, Config};
use support::{Server, ok};

#[test]
fn there_are_no_more_connections_than_threads() {
    const THREADS: usize = 64;
    const CALLS: usize = 10_000;
    let server = Server::always(ok("hi").after(Duration::from_millis(5)));
    let config = Config::builder().api_key("sk-test").base_url(server.url());
    let client = Client::new(config.build().unwrap()).unwrap();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let request = ChatRequest::new("gpt-4.1").user("hi");
                while next.fetch_add(1, Ordering::Relaxed) < CALLS {
                    assert_eq!(client.chat(&request).unwrap().text(), "hi");
                }
            });
        }
    });
    println!("{} connections", server.connections());
    assert_eq!(server.requests().len(), CALLS);
    assert!(server.connections() <= THREADS, "{} connections", server.connections());
}
