//! The requests that are still to be sent, pulled by the threads of the batch.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::budget::Guess;
use crate::endpoint::Endpoint;
use crate::input::Reader;
use crate::input::request::Parsed;
use crate::job::{Job, Pending, Stop};
use crate::options::{Defaults, Options, Shard};
use crate::resume::EarlierRun;

pub(crate) struct Feed<R> {
    reader: Reader,
    earlier: EarlierRun,
    job: Arc<Job>,
    options: Arc<Options>,
    /// Items that may still be sent.
    left: usize,
    sent: usize,
    requests: PhantomData<fn() -> R>,
}

impl<R: Endpoint> Feed<R> {
    pub(crate) fn new(options: &Arc<Options>, reader: Reader, earlier: EarlierRun, job: &Arc<Job>) -> Self {
        let (options, job, left) = (Arc::clone(options), Arc::clone(job), options.limit);
        Feed { reader, earlier, job, options, left, sent: 0, requests: PhantomData }
    }

    /// Not inlined into the worker, whose frame lies under each request in flight: 0.5 MB less for 512 of them.
    #[inline(never)]
    fn pull(&mut self) -> Result<Option<R>, String> {
        let (defaults, shard): (&Defaults, Shard) = (&self.options.defaults, self.options.shard);
        while self.left > 0 {
            let Some(item) = self.reader.next()? else {
                return self.earlier.check_end(self.reader.count()).map(|()| None);
            };
            if !shard.has(item.index) {
                continue;
            }
            if self.earlier.has(&item)? {
                self.job.tally(|tally| tally.skip());
                continue;
            }
            let (index, line, crc32) = (item.index, item.line, item.crc32());
            let Parsed { id, columns, request } = item.parse(defaults);
            let mut pending = Pending { index, crc32, id, columns, ..Pending::default() };
            let sent = match request {
                Ok(request) => {
                    pending.wants_json = request.wants_json;
                    pending.guess = Guess::new(request.size.tokens, R::KIND);
                    request.sent
                }
                // It takes the same way as all others, so that its line in the output has its turn.
                Err(why) => {
                    pending.bad = Some(format!("line {line} {why}"));
                    R::unsendable()
                }
            };
            if !self.job.admit(self.sent, sent.model(), pending) {
                return Ok(None);
            }
            self.sent += 1;
            self.left -= 1;
            return Ok(Some(sent));
        }
        Ok(None)
    }
}

impl<R: Endpoint> Iterator for Feed<R> {
    type Item = R;

    fn next(&mut self) -> Option<R> {
        if self.job.is_stopping() {
            return None;
        }
        self.pull().unwrap_or_else(|why| {
            self.job.stop(Stop::Input(why));
            None
        })
    }
}
