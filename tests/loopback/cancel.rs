//! Cancelling the calls of one clone ends them immediately in every phase and leaves other clones alone.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::hostile::{build, config};
use crate::support::{Reply, Server, ok, raw, silence, status, stream};
use holysheep::{AdaptiveConfig, Cancel, ChatRequest, Client, Clock, Config, Error, Event, RetryConfig};
use socket2::{Domain, Socket, Type};

/// Cancelled calls end within this time. An idle machine needs less than 50 ms; a busy one may need more.
const CANCEL_LIMIT: Duration = Duration::from_millis(500);

fn client(server: &Server, adaptive: AdaptiveConfig) -> Client {
    let config = Config::builder().api_key("sk-test-0123456789").base_url(server.url());
    Client::new(config.clock(Clock::system()).adaptive(adaptive).build().unwrap()).unwrap()
}

fn request() -> ChatRequest {
    ChatRequest::new("gpt-4.1").user("hi")
}

/// Starts a call, cancels it when `begun` returns, and returns its error and the time from the cancellation to its end.
fn cancelled(
    client: &Client,
    begun: impl FnOnce(),
    call: impl FnOnce(&Client) -> Option<Error> + Send + 'static,
) -> (Error, Duration) {
    let cancel = Cancel::new();
    let cancellable = client.with_cancel(&cancel);
    let caller = thread::spawn(move || (call(&cancellable), Instant::now()));
    begun();
    let start = Instant::now();
    cancel.cancel();
    let (error, end) = caller.join().unwrap();
    (error.unwrap(), end.saturating_duration_since(start))
}

fn chat(client: &Client) -> Option<Error> {
    client.chat(&request()).err()
}

#[track_caller]
fn assert_cancelled((error, took): (Error, Duration)) {
    assert!(matches!(error, Error::Cancelled), "{error:?}");
    assert!(took < CANCEL_LIMIT, "{took:?}");
    println!("ended after {took:?}");
}

#[test]
fn cancelling_a_call_to_a_silent_server_leaves_the_pool_and_other_calls_intact() {
    let slow = ok("other").after(Duration::from_millis(300));
    let server = Server::script([ok("first"), slow, silence(), ok("after"), ok("after")]);
    let client = client(&server, AdaptiveConfig::off());
    client.chat(&request()).unwrap();
    // A call of another clone is in flight during the cancellation.
    let other = thread::spawn({
        let client = client.clone();
        move || client.chat(&request())
    });
    server.wait_for_requests(2);
    assert_cancelled(cancelled(&client, || server.wait_for_requests(3), chat));
    assert_eq!(other.join().unwrap().unwrap().text(), "other");
    assert_eq!(client.chat(&request()).unwrap().text(), "after");
    assert_eq!(server.requests()[3].connection, 1, "the connection of the other call is reused");
    assert_eq!(client.with_cancel(&Cancel::new()).chat(&request()).unwrap().text(), "after");
}

#[test]
fn a_call_is_cancelled_while_it_reads() {
    let whole = ok("hello");
    let half = whole.body_len() / 2;
    let stalls: [Reply; 3] = [
        raw("HTTP/1.1 200 OK\r\ncontent-").stall_after(25),
        whole.clone().stall_after(half),
        whole.trickle(Duration::from_millis(50)),
    ];
    for reply in stalls {
        let server = Server::script([reply]);
        let client = client(&server, AdaptiveConfig::off());
        assert_cancelled(cancelled(&client, || server.wait_for_requests(1), chat));
    }
}

#[test]
fn a_call_is_cancelled_between_two_attempts() {
    let server = Server::script([status(503).header("retry-after", "100")]);
    let (waiting, waits) = mpsc::channel();
    let config = Config::builder().api_key("sk-test-0123456789").base_url(server.url());
    let config = config.adaptive(AdaptiveConfig::off()).on_event(move |event| {
        if matches!(event, Event::Retry { .. }) {
            waiting.send(()).unwrap();
        }
    });
    let client = Client::new(config.build().unwrap()).unwrap();
    assert_cancelled(cancelled(&client, || waits.recv().unwrap(), chat));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_call_is_cancelled_while_it_waits_for_its_turn() {
    let server = Server::script([ok("hi")]);
    // One call a minute: the second one waits.
    let client = client(&server, AdaptiveConfig::default().initial_rate(1.0).max_rate(1.0));
    client.chat(&request()).unwrap();
    let handler = client.handler("gpt-4.1");
    let begun = || {
        while handler.snapshot().waiting == 0 {
            thread::yield_now();
        }
    };
    assert_cancelled(cancelled(&client, begun, chat));
    assert_eq!((server.requests().len(), handler.snapshot().waiting), (1, 0));
}

#[test]
fn a_call_is_not_sent_if_the_client_is_drained_when_its_wait_is_over() {
    let server = Server::always(ok("hi"));
    let drained: Arc<OnceLock<Client>> = Arc::default();
    let observer = {
        let drained = Arc::clone(&drained);
        move |event: &Event| {
            if matches!(event, Event::Paced { .. }) {
                drained.get().unwrap().drain();
            }
        }
    };
    let config = Config::builder().api_key("sk-test-0123456789").base_url(server.url()).clock(Clock::fake());
    let config =
        config.adaptive(AdaptiveConfig::default().initial_rate(1.0).max_rate(1.0)).on_event(observer);
    let client = Client::new(config.build().unwrap()).unwrap();
    drained.set(client.clone()).unwrap();
    client.chat(&request()).unwrap();
    let error = client.chat(&request()).unwrap_err();
    assert!(matches!(error, Error::Shutdown), "{error:?}");
    assert_eq!(error.attempts(), 0);
    assert_eq!((server.requests().len(), client.handler("gpt-4.1").snapshot().in_flight), (1, 0));
}

#[test]
fn a_stream_is_cancelled_while_it_is_read() {
    let server = Server::script([stream(["Hel", "lo"]).stall_after_events(1)]);
    let client = client(&server, AdaptiveConfig::off());
    let (started, starts) = mpsc::channel();
    let read = move |client: &Client| {
        let mut stream = client.chat_stream(&request()).unwrap();
        assert_eq!(stream.next().unwrap().unwrap().text(), "Hel");
        started.send(()).unwrap();
        stream.next().unwrap().err()
    };
    assert_cancelled(cancelled(&client, || starts.recv().unwrap(), read));
}

#[test]
fn nothing_is_sent_with_an_already_cancelled_token() {
    let server = Server::script([ok("hi")]);
    let client = client(&server, AdaptiveConfig::default());
    let cancel = Cancel::new();
    let cancellable = client.with_cancel(&cancel);
    cancel.cancel();
    assert!(matches!(chat(&cancellable), Some(Error::Cancelled)));
    assert!(matches!(cancellable.chat_stream(&request()).err(), Some(Error::Cancelled)));
    assert_eq!(cancellable.batch([request()]).run().count(), 0);
    assert!(server.requests().is_empty());
    assert_eq!(client.chat(&request()).unwrap().text(), "hi", "other clones are not cancelled");
}

#[test]
fn shutdown_and_cancellation_are_different_errors() {
    let server = Server::script([silence()]);
    let client = client(&server, AdaptiveConfig::off());
    let cancellable = client.with_cancel(&Cancel::new());
    let caller = thread::spawn(move || chat(&cancellable));
    server.wait_for_requests(1);
    client.shutdown();
    assert!(matches!(caller.join().unwrap(), Some(Error::Shutdown)));
}

#[test]
fn a_batch_ends_when_it_is_cancelled() {
    let server = Server::script([ok("hi"), silence(), silence()]);
    let client = client(&server, AdaptiveConfig::off());
    let cancel = Cancel::new();
    let requests = std::iter::repeat_with(request);
    let mut items = client.with_cancel(&cancel).batch(requests).concurrency(1).run();
    assert!(items.next().unwrap().result.is_ok());
    server.wait_for_requests(2);
    let start = Instant::now();
    cancel.cancel();
    let results: Vec<_> = items.map(|item| item.result.map(drop)).collect();
    assert!(results.iter().all(|result| matches!(result, Err(Error::Cancelled))), "{results:?}");
    assert!(start.elapsed() < CANCEL_LIMIT, "{:?}", start.elapsed());
}

/// A listener with a full queue, which leaves further connections pending, and what keeps it full.
fn full_listener() -> (SocketAddr, Vec<Socket>) {
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let listener = socket();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let waiting = (0..4).map(|_| {
        let socket = socket();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&address);
        socket
    });
    (address.as_socket().unwrap(), waiting.chain([listener]).collect())
}

/// A client of a service that never accepts its connection, and a receiver that returns when a call begins.
fn connecting(address: SocketAddr) -> (Client, mpsc::Receiver<()>) {
    let (sender, began) = mpsc::channel();
    let config = config(format!("http://{address}/v1")).connect_timeout(Duration::from_secs(3600));
    (build(config.on_event(move |_| _ = sender.send(()))), began)
}

#[test]
fn a_shutdown_does_not_wait_for_a_connection() {
    let (address, _full) = full_listener();
    let (client, began) = connecting(address);
    let caller = thread::spawn({
        let client = client.clone();
        move || chat(&client)
    });
    began.recv().unwrap();
    client.shutdown();
    assert!(matches!(caller.join().unwrap(), Some(Error::Shutdown)));
}

#[test]
fn dropping_a_batch_ends_its_calls_while_they_connect() {
    let (address, _full) = full_listener();
    let (client, began) = connecting(address);
    // The threads of the batch own the requests, and so the sender, until their calls end.
    let (sender, ended) = mpsc::channel::<()>();
    let requests = std::iter::repeat_with(move || {
        _ = &sender;
        request()
    });
    let items = client.batch(requests).concurrency(1).run();
    began.recv().unwrap();
    drop(items);
    assert_eq!(ended.recv_timeout(CANCEL_LIMIT), Err(mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn settings_of_a_clone_do_not_affect_the_original() {
    let server = Server::script([silence(), ok("hi"), ok("hi")]);
    let client = client(&server, AdaptiveConfig::off()).with_retry(RetryConfig::default().max_retries(0));
    let error = chat(&client.with_timeout(Duration::from_millis(50))).unwrap();
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    let traced = client.with_header("x-trace", "7f").unwrap().with_header("X-Trace", "8a").unwrap();
    traced.chat(&request()).unwrap();
    client.chat(&request()).unwrap();
    let requests = server.requests();
    assert_eq!((requests[1].header("x-trace"), requests[2].header("x-trace")), (Some("8a"), None));
    for (name, value) in [("x y", "z"), ("x-trace", "a\nb"), ("Content-Length", "7")] {
        assert!(
            matches!(client.with_header(name, value), Err(Error::Config { setting: "header", .. })),
            "{name}"
        );
    }
}
