//! Shows the progress of a run: a bar on a terminal, elsewhere a line every 30 seconds. Stops a run whose service never
//! answers.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use holysheep::BreakerState;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::job::{Job, Stop};
use crate::report::{STOPPING, summary, tell};

/// How often the bar is drawn, and how often a line is written without one.
const REDRAW: Duration = Duration::from_millis(250);
const LINE_EVERY: Duration = Duration::from_secs(30);

/// The thread that shows progress.
pub(crate) struct Progress {
    end: mpsc::Sender<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Progress {
    /// `total` is the number of items, as far as it is known. A service that fails for as long as `first_answer` and never
    /// answered ends the run.
    pub(crate) fn start(job: &Arc<Job>, total: Option<usize>, first_answer: Duration) -> Progress {
        let (end, ended) = mpsc::channel();
        let job = Arc::clone(job);
        let work = move || {
            let bar = std::io::stderr().is_terminal().then(|| bar(total));
            let mut next_line = Instant::now() + LINE_EVERY;
            while ended.recv_timeout(REDRAW) == Err(RecvTimeoutError::Timeout) {
                watch(&job, first_answer);
                match &bar {
                    Some(bar) => {
                        bar.set_message(message(&job, total));
                        bar.set_position(job.tally(|tally| tally.finished() + tally.skipped) as u64);
                    }
                    None if Instant::now() >= next_line => {
                        next_line = Instant::now() + LINE_EVERY;
                        let done = job.tally(|tally| tally.finished() + tally.skipped);
                        let of = total.map_or(String::new(), |total| format!(" of {total}"));
                        tell(&format!("{done}{of} done, {}", message(&job, total)));
                    }
                    None => {}
                }
            }
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        };
        Progress { end, thread: thread::Builder::new().spawn(work).ok() }
    }

    /// Clears the display.
    pub(crate) fn finish(mut self) {
        let _ = self.end.send(());
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// Ends a run that was never answered.
fn watch(job: &Job, first_answer: Duration) {
    if !job.is_stopping() && job.service.never_answered_for().is_some_and(|time| time >= first_answer) {
        let why = job.service.last_failure().unwrap_or_default();
        let seconds = first_answer.as_secs_f64();
        job.abort(Stop::Hopeless(format!(
            "the service answered nothing for {seconds} s (--first-answer); last failure: {why}"
        )));
    }
}

fn bar(total: Option<usize>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (ProgressBar::new(total as u64), "{wide_bar} {pos}/{len}\n{msg}"),
        None => (ProgressBar::new_spinner(), "{spinner} {pos} done in {elapsed}\n{msg}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar, // with its own style
    }
}

fn message(job: &Job, total: Option<usize>) -> String {
    let (mut text, left, time) = job.tally(|tally| {
        let text = format!("{} failed, {:.0} a minute", tally.failed, tally.per_minute());
        let left = total.map(|total| tally.left(total));
        (text, left, left.and_then(|left| tally.time_for(left)))
    });
    let (attempts, retries) = job.service.attempts();
    let _ = write!(text, ", {attempts} requests ({retries} retries), {}", job.budget(summary::used));
    if let Some(cost) = left.and_then(|left| job.budget(|budget| budget.projected_cost(left))) {
        let _ = write!(text, " of about ${cost:.2}");
    }
    if let Some(time) = time {
        let time = time.saturating_add(job.service.hold().unwrap_or_default());
        let _ = write!(text, ", {} left", HumanDuration(time));
    }
    text + &waiting(job)
}

/// What requests wait for, and why.
fn waiting(job: &Job) -> String {
    if job.is_stopping() {
        return format!("; {STOPPING}");
    }
    let because =
        || job.service.last_failure().map_or(String::new(), |why| format!(" (last failure: {why})"));
    if let Some(left) = job.service.hold() {
        return format!("; requests wait for up to {} more{}", HumanDuration(left), because());
    }
    let handler = job.handler();
    let waiting = handler.waiting;
    match (handler.breaker, handler.rate_per_minute) {
        (BreakerState::Open | BreakerState::HalfOpen, _) => {
            format!("; {waiting} wait because the service is down{}", because())
        }
        (BreakerState::Closed, Some(rate)) if waiting > 0 => {
            format!("; {waiting} wait for their turn at {rate:.0} a minute{}", because())
        }
        _ if job.lacks_tokens() => "; waiting for --tpm".to_owned(),
        _ if job.service.never_answered_for().is_some() => format!("; nothing was answered yet{}", because()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Budget, Used};
    use crate::options::Options;
    use crate::report::service::Service;
    use crate::report::tally::Tally;
    use holysheep::test_server::{Server, status};
    use holysheep::{ChatRequest, Client, Clock, Config, RetryConfig};

    #[test]
    fn it_says_why_requests_wait() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // closed at once
        let (service, learned) = (Service::default(), Service::default());
        let learn = learned.clone();
        let retry = RetryConfig::default().max_retries(1).base_delay(Duration::from_nanos(1));
        let config =
            Config::builder().api_key("sk-test-0123456789abcdef").base_url(format!("http://{nobody}/v1"));
        let config = config.retry(retry).on_event(move |event| learn.learn(event)).build().unwrap();
        let client = Client::new(config).unwrap();
        let job = |service| {
            let budget = Budget::new(&Options::default(), Used::default());
            Job::new(client.clone(), service, None, budget, Tally::new().unwrap())
        };
        let begins = "0 failed, 0 a minute, 0 requests (0 retries), 0 + 0 tokens";
        assert_eq!(message(&job(service), None), begins);
        client.chat(&ChatRequest::new("m").user("hi")).unwrap_err();
        let text = message(&job(learned.clone()), Some(9));
        assert!(text.contains("2 requests (1 retries)"), "{text}");
        assert!(
            text.contains("; nothing was answered yet (last failure: can't connect to 127.0.0.1"),
            "{text}"
        );
        let job = job(learned);
        watch(&job, Duration::from_secs(60));
        assert_eq!(job.stopped(), None);
        watch(&job, Duration::ZERO);
        assert!(matches!(job.stopped(), Some(Stop::Hopeless(why)) if why.contains("can't connect")));
    }

    #[test]
    fn the_time_left_includes_a_long_wait() {
        let server = Server::always(status(429).retry_after(30_000));
        let (service, day) = (Service::default(), Duration::from_secs(24 * 60 * 60));
        let learn = service.clone();
        let retry = RetryConfig::default().max_retries(1).status_max_delay(429, day);
        let config = Config::builder().api_key("sk-test-0123456789abcdef").base_url(server.url());
        let config = config.retry(retry).clock(Clock::fake()).on_event(move |event| learn.learn(event));
        let client = Client::new(config.build().unwrap()).unwrap();
        client.chat(&ChatRequest::new("m").user("hi")).unwrap_err();
        let mut tally = Tally::new().unwrap();
        tally.answered = 1_000_000; // so many a minute that the last item takes no time
        let budget = Budget::new(&Options::default(), Used::default());
        let job = Job::new(client, service, None, budget, tally);
        let text = message(&job, Some(1_000_001));
        assert!(
            text.contains(", 8 hours left; requests wait for up to 8 hours more (last failure: status 429)"),
            "{text}"
        );
    }
}
