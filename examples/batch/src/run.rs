//! One run: input, requests, output and report joined.

use std::sync::Arc;
use std::time::Duration;

use holysheep::{
    AdaptiveConfig, AdaptiveHandler, ChatRequest, Client, ConfigBuilder, EmbeddingRequest, RetryConfig,
};

use crate::budget::Budget;
use crate::endpoint::{Endpoint, Kind};
use crate::input::feed::Feed;
use crate::input::{self, Reader};
use crate::job::{Job, Stop};
use crate::options::Options;
use crate::output::Output;
use crate::report::progress::Progress;
use crate::report::service::Service;
use crate::report::summary::Summary;
use crate::report::tally::Tally;
use crate::report::{self, tell};
use crate::writer::Writer;
use crate::{BROKEN, RunError, open_files, signals};

/// The longest wait that a server may ask for: quotas by the day are the longest there are.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Exit statuses besides [`BROKEN`]; the last as shells know it.
const COMPLETE: u8 = 0;
const SOME_FAILED: u8 = 1;
const OVER_BUDGET: u8 = 3;
const INTERRUPTED: u8 = 130;

/// Returns the exit status.
pub(crate) fn run(options: Options) -> Result<u8, RunError> {
    let service = Service::default();
    let client = client(&options, &service)?;
    let mut reader = Reader::open(&options.input)?;
    match reader.kind(&options.defaults)? {
        Kind::Chat => send_all::<ChatRequest>(options, &client, service, reader),
        Kind::Embeddings => send_all::<EmbeddingRequest>(options, &client, service, reader),
    }
}

fn send_all<R: Endpoint>(
    options: Options,
    client: &Client,
    service: Service,
    reader: Reader,
) -> Result<u8, RunError> {
    options.check_kind(R::KIND)?;
    let options = Arc::new(options);
    let items = input::count(&options.input);
    let (output, earlier) = Output::open(&options)?;
    if let Some(items) = items {
        earlier.check_end(items)?;
    }
    let (failed_before, ever_answered) = (earlier.failed(), earlier.count() > earlier.failed());
    if earlier.count() > 0 {
        tell(&format!("{} items are already done, {failed_before} of them failed", earlier.count()));
    }
    if earlier.other_settings() > 0 {
        tell(&format!(
            "warning: {} of them were sent with another --model, --system, --set or --template than given now; to keep \
             answers of one kind, write to another output",
            earlier.other_settings()
        ));
    }
    open_files::warning(options.concurrency).iter().for_each(|warning| tell(warning));
    let total =
        items.map(|items| options.shard.share(items).min(options.limit.saturating_add(earlier.count())));
    let budget = Budget::new(&options, earlier.used());
    let job = Arc::new(Job::new(client.clone(), service, options.tokens_per_minute, budget, Tally::new()?));
    stop_on_signals(&job)?;
    let feed = Feed::<R>::new(&options, reader, earlier, &job);
    let progress = Progress::start(&job, total, options.first_answer);
    let batch = client.batch(feed).concurrency(options.concurrency).in_order(options.in_order);
    let mut writer = Writer::new(&options, &job, output, ever_answered);
    let written = batch.run().try_for_each(|item| writer.take(item)).and_then(|()| writer.finish());
    progress.finish();
    let stop = job.stopped();
    let failed = failed_before + job.tally(|tally| tally.failed);
    let exit_status = match stop {
        _ if written.is_err() => BROKEN,
        Some(Stop::Interrupted) => INTERRUPTED,
        Some(Stop::Hopeless(_) | Stop::Input(_)) => BROKEN,
        Some(Stop::Budget(_)) => OVER_BUDGET,
        Some(Stop::FirstFailure) => SOME_FAILED,
        None if failed > 0 => SOME_FAILED,
        None => COMPLETE,
    };
    let summary = Summary { job: &job, stop: stop.as_ref(), failed_before, exit_status };
    tell(&summary.text());
    if let Some(place) = &options.summary {
        summary.write(place)?;
    }
    written?;
    Ok(exit_status)
}

fn client(options: &Options, service: &Service) -> Result<Client, RunError> {
    // A run has the time that a server asks for.
    let statuses = [429, 503, 529];
    let retry = statuses
        .into_iter()
        .fold(RetryConfig::default(), |retry, status| retry.status_max_delay(status, DAY));
    let service = service.clone();
    let mut config = ConfigBuilder::from_env()?
        .retry(retry)
        .deadline(options.deadline)
        .on_event(move |event| service.learn(event));
    if let Some(timeout) = options.timeout {
        config = config.timeout(timeout);
    }
    if let Some(rate) = options.requests_per_minute {
        // One handler for all models, as the limit is one for all.
        let adaptive = AdaptiveConfig::default().max_rate(rate).min_rate(rate.min(1.0));
        config = config.handler(AdaptiveHandler::new(adaptive));
    }
    Ok(Client::new(config.build()?)?)
}

/// The first signal lets the requests in flight finish, the second one aborts them, and the third one doesn't even wait for
/// an output that is stuck.
fn stop_on_signals(job: &Arc<Job>) -> Result<(), RunError> {
    let job = Arc::clone(job);
    signals::handle(move |number| match number {
        1 => {
            job.stop(Stop::Interrupted);
            report::tell_without_bar(report::STOPPING);
        }
        2 => job.abort(Stop::Interrupted),
        _ => std::process::exit(INTERRUPTED.into()),
    })
}
