//! Batches: every request becomes one item, the input is read lazily, and a batch always ends its threads.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use std::{iter, thread};

use crate::support::{Server, hang_up, ok, silence, status};
use holysheep::{
    AdaptiveConfig, BatchItem, ChatRequest, Client, Clock, Config, ConfigBuilder, EmbeddingRequest, Error,
    Event, Jitter, RetryConfig,
};

fn config(server: &Server) -> ConfigBuilder {
    Config::builder().api_key("sk-test-0123456789abcdef").base_url(server.url())
}

fn client(server: &Server) -> Client {
    Client::new(config(server).build().unwrap()).unwrap()
}

fn request(number: usize) -> ChatRequest {
    ChatRequest::new("gpt-4.1").user(number.to_string())
}

/// The prompt of a request.
fn prompt(request: &ChatRequest) -> String {
    let json = serde_json::to_value(request).unwrap();
    json["messages"][0]["content"].as_str().unwrap().to_owned()
}

fn answered(items: &[BatchItem]) -> usize {
    items.iter().filter(|item| item.result.is_ok()).count()
}

#[track_caller]
fn assert_complete(items: &[BatchItem], count: usize) {
    let indexes: BTreeSet<usize> = items.iter().map(|item| item.index).collect();
    assert_eq!((items.len(), indexes.len()), (count, count));
    assert_eq!(indexes.last(), count.checked_sub(1).as_ref());
    assert!(items.iter().all(|item| prompt(&item.request) == item.index.to_string()));
}

#[test]
fn every_request_becomes_one_item() {
    let server = Server::always(ok("hi"));
    for (count, concurrency) in [(0, 8), (1, 8), (3, 0), (100, 1), (1000, 64)] {
        let batch = client(&server).batch((0..count).map(request)).concurrency(concurrency);
        let items: Vec<_> = batch.run().collect();
        assert_complete(&items, count);
        assert_eq!(answered(&items), count);
    }
}

#[test]
fn in_order_returns_items_in_the_order_of_the_input() {
    let server = Server::script([ok("slow").after(Duration::from_millis(300))]);
    server.add((0..199).map(|_| ok("hi")));
    let items: Vec<_> = client(&server).batch((0..200).map(request)).in_order(true).run().collect();
    assert_complete(&items, 200);
    assert!(items.iter().map(|item| item.index).eq(0..200));
    let server = Server::script([silence(), ok("hi"), ok("hi")]);
    let items: Vec<_> = client(&server).batch((0..3).map(request)).run().take(2).collect();
    assert_eq!(answered(&items), 2, "without in_order items are returned as they are finished");
}

#[test]
fn a_failed_call_is_one_failed_item() {
    let server = Server::script((0..50).map(|call| match call % 5 {
        0 => status(400),
        1 => status(404),
        _ => ok("hi"),
    }));
    let items: Vec<_> = client(&server).batch((0..50).map(request)).run().collect();
    assert_complete(&items, 50);
    assert_eq!(answered(&items), 30);
}

/// An input of `count` requests that counts how many of them are read.
fn counted(pulled: &Arc<AtomicUsize>, count: usize) -> impl Iterator<Item = ChatRequest> + Send + 'static {
    let pulled = Arc::clone(pulled);
    (0..count).map(move |number| {
        pulled.fetch_add(1, Ordering::SeqCst);
        request(number)
    })
}

#[test]
fn the_input_is_not_read_further_ahead_than_the_buffer() {
    for (in_order, most) in [(false, 8), (true, 36)] {
        let server = Server::always(ok("hi"));
        let pulled = Arc::default();
        let batch = client(&server).batch(counted(&pulled, 100_000)).concurrency(4).in_order(in_order);
        let mut items = batch.run();
        for taken in 1..200 {
            items.next().unwrap();
            let ahead = pulled.load(Ordering::SeqCst) - taken;
            assert!(ahead <= most, "{ahead} read and not returned");
        }
        server.wait_for_requests(200);
        drop(items);
        assert!(pulled.load(Ordering::SeqCst) < 300);
    }
}

#[test]
fn a_slow_call_does_not_block_the_eight_results_queued_for_each_call() {
    let (arrived, others) = mpsc::channel();
    let others = Mutex::new(others);
    let server = Server::respond(move |request| {
        if request.json()["messages"][0]["content"] != "0" {
            arrived.send(()).unwrap();
            return ok("hi");
        }
        let others = others.lock().unwrap();
        let answered = (0..35).take_while(|_| others.recv_timeout(Duration::from_secs(10)).is_ok());
        ok(&answered.count().to_string())
    });
    let batch = client(&server).batch((0..100).map(request)).concurrency(4).in_order(true);
    let items: Vec<_> = batch.run().collect();
    assert_complete(&items, 100);
    assert_eq!(items[0].result.as_ref().unwrap().text(), "35", "calls answered before the first one");
}

#[test]
fn an_input_that_depends_on_the_output_makes_progress() {
    let server = Server::always(ok("hi"));
    let (send, receive) = mpsc::channel();
    let mut items = client(&server).batch(receive).concurrency(64).run();
    for number in 0..100 {
        send.send(request(number)).unwrap();
        assert_eq!(items.next().unwrap().index, number);
    }
    drop(send);
    assert!(items.next().is_none() && items.next().is_none());
}

#[test]
fn dropping_a_batch_closes_its_connections_and_not_the_clients() {
    let server = Server::script(iter::repeat_n(silence(), 8).chain([ok("hi")]));
    let (client, pulled) = (client(&server), Arc::default());
    let items = client.batch(counted(&pulled, 100)).run();
    server.wait_for_requests(8);
    drop(items);
    drop(client.batch((0..10).map(request)));
    assert_eq!(client.chat(&request(0)).unwrap().text(), "hi");
    assert_eq!(pulled.load(Ordering::SeqCst), 8);
}

#[test]
fn a_shutdown_ends_a_batch_and_fails_its_calls_in_flight() {
    let server = Server::always(silence());
    let client = client(&server);
    let mut items = client.batch(iter::repeat_with(|| request(0))).run();
    server.wait_for_requests(8);
    client.shutdown();
    for _ in 0..8 {
        assert!(matches!(items.next().unwrap().result, Err(Error::Shutdown)));
    }
    assert!(items.next().is_none());
    assert_eq!(client.batch([request(0)]).run().count(), 0, "no call starts after a shutdown");
}

#[test]
fn a_drain_lets_requests_in_flight_finish_and_ends_all_waits() {
    let server = Server::always(ok("hi").after(Duration::from_millis(200)));
    let adaptive = AdaptiveConfig::default().max_rate(1.0); // one call is sent, and the others wait
    let client = Client::new(config(&server).adaptive(adaptive).build().unwrap()).unwrap();
    let items = client.batch(iter::repeat_with(|| request(0))).concurrency(4).run();
    server.wait_for_requests(1);
    while client.handler("gpt-4.1").snapshot().waiting < 3 {
        thread::yield_now();
    }
    client.drain();
    let items: Vec<_> = items.collect();
    assert!(answered(&items) == 1 && items.len() <= 4 + 8 * 4, "{items:?}");
    assert!(items.iter().all(|item| matches!(item.result, Ok(_) | Err(Error::Shutdown))));
    assert!(matches!(client.chat(&request(0)), Err(Error::Shutdown)));
    assert_eq!(client.batch([request(0)]).run().count(), 0);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_drain_ends_the_wait_between_two_attempts() {
    let server = Server::always(status(500).retry_after(60));
    let client = client(&server);
    let call = thread::spawn({
        let client = client.clone();
        move || client.chat(&request(0))
    });
    server.wait_for_requests(1);
    client.drain();
    assert!(matches!(call.join().unwrap(), Err(Error::Shutdown)));
}

#[test]
fn calls_that_wait_for_one_model_do_not_hold_up_those_of_another() {
    let server = Server::always(ok("hi"));
    // One call a minute for each model: the input is sorted by model, and only the first call of each can be sent at once.
    let adaptive = AdaptiveConfig::default().initial_rate(1.0).max_rate(1.0);
    let client = Client::new(config(&server).adaptive(adaptive).build().unwrap()).unwrap();
    let models = ["a", "b", "c"].into_iter().flat_map(|model| iter::repeat_n(model, 5));
    let requests: Vec<_> = models.map(|model| ChatRequest::new(model).user("hi")).collect();
    let items: Vec<_> = client.batch(requests).concurrency(2).run().take(3).collect();
    let answered: Vec<_> = items.iter().map(|item| item.request.model()).collect();
    assert!(["a", "b", "c"].iter().all(|model| answered.contains(model)), "{answered:?}");
}

#[test]
fn a_call_that_waits_for_its_retry_does_not_hold_up_others() {
    let server = Server::script(iter::repeat_n(status(500), 2).chain(iter::repeat_n(ok("hi"), 10)));
    let minute = Duration::from_secs(60);
    let retry = RetryConfig::default().jitter(Jitter::None).max_delay(minute).base_delay(minute);
    let retry = retry.status_max_delay(500, minute);
    let client = client(&server).with_retry(retry);
    let items: Vec<_> = client.batch((0..10).map(request)).concurrency(2).run().take(8).collect();
    assert_eq!(answered(&items), 8, "the two that wait for a minute come last: {items:?}");
}

#[test]
fn a_call_that_is_refused_repeatedly_is_queued_behind_the_others() {
    // One request is larger than the token quota, but the service doesn't say so. It answers once the previous item was taken,
    // so that there is always room for others.
    let (answers, taken) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&taken);
    let server = Server::respond(move |sent| {
        if sent.body.contains("\"20\"") {
            return status(429);
        }
        while seen.load(Ordering::SeqCst) < answers.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        answers.fetch_add(1, Ordering::SeqCst);
        ok("hi")
    });
    let clock = Clock::fake();
    let config = config(&server).clock(clock.clone()).adaptive(AdaptiveConfig::default().seed(1));
    let client = Client::new(config.build().unwrap()).unwrap();
    let batch = client.batch((0..200).map(request)).concurrency(1).run();
    let take = |item: &BatchItem| {
        taken.fetch_add(item.result.is_ok().into(), Ordering::SeqCst);
    };
    let items: Vec<_> = batch.inspect(take).collect();
    assert_complete(&items, 200);
    assert_eq!(answered(&items), 199);
    let place = items.iter().position(|item| item.result.is_err()).unwrap();
    assert_eq!(items[place].result.as_ref().unwrap_err().attempts(), 11);
    assert!(place > 80, "eight others go before each of its retries but the first: {place}");
    let waited: Duration = clock.sleeps().iter().sum();
    assert!(waited < Duration::from_secs(30), "{waited:?}"); // it was two minutes
}

#[test]
fn embeddings_can_be_sent_in_a_batch() {
    let vector = |n: usize| serde_json::json!({"data": [{"index": 0, "embedding": [n]}], "model": "m"});
    let server = Server::script((0..3).map(|n| status(200).json(&vector(n))));
    let requests = ["x", "y", "z"].map(|text| EmbeddingRequest::new("m", text));
    let items: Vec<_> = client(&server).batch(requests).concurrency(1).in_order(true).run().collect();
    let vectors: Vec<_> =
        items.iter().map(|item| item.result.as_ref().unwrap().data[0].embedding[0]).collect();
    assert_eq!(vectors, [0.0, 1.0, 2.0]);
    assert!(items.iter().all(|item| item.result.as_ref().unwrap().meta().attempts == 1));
    assert!(client(&server).batch([EmbeddingRequest::new("", "x")]).run().next().unwrap().result.is_err());
}

#[test]
fn a_shutdown_does_not_wait_for_a_blocked_input() {
    let server = Server::always(ok("hi"));
    let client = client(&server);
    let (send, receive) = mpsc::channel();
    let mut items = client.batch(receive).run();
    send.send(request(0)).unwrap();
    assert!(items.next().unwrap().result.is_ok());
    let taker = thread::spawn(move || items.next().is_none());
    client.shutdown();
    assert!(taker.join().unwrap());
    drop(send);
}

#[test]
fn a_drained_batch_takes_no_further_requests_from_its_input() {
    let server = Server::always(ok("hi"));
    let client = client(&server);
    let (sender, receiver) = mpsc::sync_channel(0);
    let mut items = client.batch(receiver).concurrency(4).run();
    sender.send(request(0)).unwrap();
    assert!(items.next().unwrap().result.is_ok());
    client.drain();
    drop(items);
    let taken = (1..100).take_while(|number| sender.send(request(*number)).is_ok()).count();
    assert!(taken <= 1, "one thread may have been waiting for the next one; {taken} were taken");
}

/// The queue of waiting calls asks the handler of each model for a permit.
#[test]
fn models_without_waiting_calls_are_forgotten() {
    let server = Server::always(ok("hi"));
    let requests = (0..3000).map(|number| ChatRequest::new(format!("m-{number}")).user(number.to_string()));
    let client = client(&server);
    let items: Vec<_> = client.batch(requests).concurrency(4).run().collect();
    assert_complete(&items, 3000);
    let known = (0..3000).filter(|number| client.handler(&format!("m-{number}")).snapshot().successes > 0);
    assert!(known.count() <= 200, "the handlers of most models were evicted");
}

#[test]
fn a_panic_in_a_call_is_one_failed_item() {
    let server = Server::always(ok("hi"));
    let calls = AtomicUsize::new(0);
    let observer = move |event: &Event| {
        let third = matches!(event, Event::Attempt { .. }) && calls.fetch_add(1, Ordering::SeqCst) % 3 == 2;
        assert!(!third, "every third call panics, as this test intends");
    };
    let client = Client::new(config(&server).on_event(observer).build().unwrap()).unwrap();
    let items: Vec<_> = client.batch((0..30).map(request)).run().collect();
    assert_complete(&items, 30);
    assert_eq!(items.iter().filter(|item| matches!(item.result, Err(Error::Panicked))).count(), 10);
    assert_eq!(answered(&items), 20);
}

#[test]
fn a_panic_in_the_input_is_propagated_after_the_calls_in_flight() {
    let server = Server::always(ok("hi"));
    let input = (0..20).map(|number| {
        assert!(number < 15, "the input panics, as this test intends");
        request(number)
    });
    let mut items = client(&server).batch(input).run();
    let mut taken = Vec::new();
    let end = catch_unwind(AssertUnwindSafe(|| taken.extend(items.by_ref())));
    assert!(end.unwrap_err().downcast_ref::<&str>().unwrap().starts_with("the input panics"));
    assert_complete(&taken, 15);
    assert!(items.next().is_none());
}

#[test]
fn threads_are_added_only_while_calls_are_not_paced() {
    let server = Server::always(silence());
    server.add(iter::repeat_n(ok("hi"), 2000));
    let mut items = client(&server).batch(iter::repeat_with(|| request(0))).concurrency(32).run();
    (0..2000).for_each(|_| assert!(items.next().unwrap().result.is_ok()));
    server.wait_for_requests(2032); // the last 32 get no answer, so each of them occupies a thread
    assert_eq!(server.requests().len(), 2032);
    drop(items);

    let server = Server::always(ok("hi").after(Duration::from_millis(2)));
    let paced = config(&server).adaptive(AdaptiveConfig::default().max_rate(12_000.0));
    let client = Client::new(paced.build().unwrap()).unwrap();
    let items: Vec<_> = client.batch((0..100).map(request)).concurrency(32).run().collect();
    assert_complete(&items, 100);
    let connections = server.connections();
    assert!(connections <= 10, "{connections} connections; two are enough for a call every 5 ms");
}

#[test]
fn an_outage_delays_a_batch_and_fails_no_item() {
    for failure in [status(503), hang_up()] {
        // With one thread, because the sleeps of several threads add up on a fake clock.
        let server = Server::script(iter::repeat_n(failure, 100).chain(iter::repeat_n(ok("hi"), 20)));
        let adaptive = AdaptiveConfig::default().error_threshold(3).seed(1);
        let config = config(&server).clock(Clock::fake()).adaptive(adaptive);
        let client = Client::new(config.deadline(Some(Duration::from_secs(60))).build().unwrap()).unwrap();
        let items: Vec<_> = client.batch((0..20).map(request)).concurrency(1).run().collect();
        assert_complete(&items, 20);
        assert_eq!(answered(&items), 20, "{:?}", items[0].result);
        let attempts = items.iter().map(|item| item.result.as_ref().unwrap().meta().attempts);
        assert_eq!(attempts.sum::<u32>(), 120, "trial calls of the circuit breaker do not count as retries");
        assert!(client.handler("gpt-4.1").snapshot().openings > 15);
    }
}

#[test]
fn a_call_that_always_fails_ends_with_an_error() {
    let server = Server::always(status(500));
    // With a fixed seed, because all five waits of a call can be so short at random that it fails before the breaker opens.
    let adaptive = AdaptiveConfig::default().error_threshold(1).seed(1);
    let config = config(&server).clock(Clock::fake()).adaptive(adaptive);
    let client = Client::new(config.build().unwrap()).unwrap();
    let items: Vec<_> = client.batch((0..3).map(request)).concurrency(1).run().collect();
    let attempts: Vec<_> = items.iter().map(|item| item.result.as_ref().unwrap_err().attempts()).collect();
    assert!(attempts.iter().all(|&attempts| (30..=36).contains(&attempts)), "{attempts:?}");
}

#[test]
fn a_batch_does_not_use_the_retry_budget() {
    // Nine in ten requests fail: the retry budget of 20 that single calls share would soon be empty.
    let server = Server::script((0..5000).map(|call| if call % 10 == 9 { ok("hi") } else { status(500) }));
    let adaptive = AdaptiveConfig::default().error_threshold(u32::MAX).seed(7);
    let retry = holysheep::RetryConfig::default().max_retries(100);
    let config = config(&server).clock(Clock::fake()).adaptive(adaptive).retry(retry);
    let items: Vec<_> =
        Client::new(config.build().unwrap()).unwrap().batch((0..100).map(request)).run().collect();
    assert_complete(&items, 100);
    assert_eq!(answered(&items), 100);
}

#[test]
fn the_deadline_of_an_item_does_not_run_while_it_is_paced() {
    let server = Server::always(ok("hi"));
    // One call a minute, and a deadline of half a minute for each.
    let adaptive = AdaptiveConfig::default().max_rate(1.0).initial_rate(1.0);
    let config =
        config(&server).clock(Clock::fake()).adaptive(adaptive).deadline(Some(Duration::from_secs(30)));
    let client = Client::new(config.build().unwrap()).unwrap();
    // With one thread, because on a fake clock the waits of other threads would count against each deadline.
    let items: Vec<_> = client.batch((0..30).map(request)).concurrency(1).run().collect();
    assert_eq!(answered(&items), 30);
    assert!(
        matches!(client.chat(&request(0)), Err(Error::Deadline { .. })),
        "the deadline of a single call includes pacing"
    );
}

#[test]
fn every_end_of_a_batch_ends_its_threads() {
    for (reply, shut_down) in [(ok("hi"), false), (ok("hi"), true), (silence(), false), (silence(), true)] {
        let server = Server::always(reply);
        let client = client(&server);
        let (alive, ended) = mpsc::channel::<()>();
        let input = (0..1000).map(move |number| {
            let _ = &alive;
            request(number)
        });
        let items = client.batch(input).concurrency(4).run();
        server.wait_for_requests(4); // now the threads wait for the consumer or for the service
        if shut_down {
            client.shutdown();
        }
        drop(items);
        // A thread whose connection isn't closed would end only after the timeout of a minute.
        let end = ended.recv_timeout(Duration::from_secs(20));
        assert_eq!(end, Err(mpsc::RecvTimeoutError::Disconnected), "the last thread drops the input");
    }
}
