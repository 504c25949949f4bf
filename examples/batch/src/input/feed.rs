//! The requests that are still to be sent, pulled by the threads of the batch.

use std::sync::Arc;

use holysheep::ChatRequest;

use crate::input::Reader;
use crate::input::request::Parsed;
use crate::job::{Job, Pending, Stop};
use crate::options::{Defaults, Options, Shard};
use crate::resume::EarlierRun;

/// The model of a bad line. The client refuses it before anything is sent.
const NO_MODEL: &str = "";

pub(crate) struct Feed {
    reader: Reader,
    earlier: EarlierRun,
    job: Arc<Job>,
    options: Arc<Options>,
    /// Items that may still be sent.
    left: usize,
    sent: usize,
}

impl Feed {
    pub(crate) fn new(options: &Arc<Options>, reader: Reader, earlier: EarlierRun, job: &Arc<Job>) -> Feed {
        let (options, job, left) = (Arc::clone(options), Arc::clone(job), options.limit);
        Feed { reader, earlier, job, options, left, sent: 0 }
    }

    fn pull(&mut self) -> Result<Option<ChatRequest>, String> {
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
            let chat = match request {
                Ok(request) => {
                    pending.wants_json = request.wants_json;
                    pending.tokens = 2 * request.size.tokens; // as many again for the answer
                    request.chat
                }
                // It takes the same way as all others, so that its line in the output has its turn.
                Err(why) => {
                    pending.bad = Some(format!("line {line} {why}"));
                    ChatRequest::new(NO_MODEL)
                }
            };
            if !self.job.admit(self.sent, chat.model(), pending) {
                return Ok(None);
            }
            self.sent += 1;
            self.left -= 1;
            return Ok(Some(chat));
        }
        Ok(None)
    }
}

impl Iterator for Feed {
    type Item = ChatRequest;

    fn next(&mut self) -> Option<ChatRequest> {
        if self.job.is_stopping() {
            return None;
        }
        self.pull().unwrap_or_else(|why| {
            self.job.stop(Stop::Input(why));
            None
        })
    }
}
