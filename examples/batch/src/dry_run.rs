//! Checks all of the input, and says what a run would do. Nothing is sent or written.

use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;

use holysheep::{ChatRequest, EmbeddingRequest};

use crate::RunError;
use crate::endpoint::{Endpoint, Kind};
use crate::input::Reader;
use crate::options::Options;
use crate::output;

/// Bad lines that are listed.
const BAD_LISTED: usize = 10;

/// Column names that are listed.
const COLUMNS_LISTED: usize = 20;

#[derive(Default)]
struct Counts {
    items: usize,
    bad: usize,
    tokens: u64,
    images: u64,
    duplicates: usize,
}

/// Returns the exit status.
pub(crate) fn check(options: &Options) -> Result<u8, RunError> {
    let mut reader = Reader::open(&options.input)?;
    match reader.kind(&options.defaults)? {
        Kind::Chat => check_all::<ChatRequest>(options, reader),
        Kind::Embeddings => check_all::<EmbeddingRequest>(options, reader),
    }
}

fn check_all<R: Endpoint>(options: &Options, mut reader: Reader) -> Result<u8, RunError> {
    options.check_kind(R::KIND)?;
    let earlier = output::look(options)?;
    let (mut counts, mut columns, mut out) = (Counts::default(), BTreeSet::new(), std::io::stdout().lock());
    // Hashes take less memory than ids, and two of a million ids share one of 64 bits once in 37 million times.
    let (mut ids, hasher) = (HashSet::new(), RandomState::new());
    while let Some(item) = reader.next()? {
        if counts.items >= options.limit || !options.shard.has(item.index) || earlier.has(&item)? {
            continue;
        }
        counts.items += 1;
        let parsed = item.parse::<R>(&options.defaults);
        let is_new = parsed.id.is_none_or(|id| ids.insert(hasher.hash_one(id.get())));
        counts.duplicates += usize::from(!is_new);
        if columns.len() < COLUMNS_LISTED {
            columns.extend(parsed.columns.into_iter().map(|(name, _)| name));
        }
        match parsed.request {
            Ok(request) => {
                counts.tokens += request.size.tokens;
                counts.images += request.size.images;
            }
            Err(why) => {
                counts.bad += 1;
                if counts.bad <= BAD_LISTED {
                    writeln!(out, "line {} {why}", item.line)?;
                }
            }
        }
    }
    earlier.check_end(reader.count())?;
    counts.write(R::KIND, options, &columns, &mut out)?;
    Ok(u8::from(counts.bad > 0))
}

impl Counts {
    fn write(
        &self,
        kind: Kind,
        options: &Options,
        columns: &BTreeSet<String>,
        out: &mut impl Write,
    ) -> std::io::Result<()> {
        let Counts { items, bad, tokens, images, duplicates } = self;
        if *bad > BAD_LISTED {
            writeln!(out, "{} more bad lines", bad - BAD_LISTED)?;
        }
        let what = if kind == Kind::Embeddings { " for embeddings" } else { "" };
        write!(out, "{items} items{what}, {bad} of them bad, about {tokens} tokens of text to send")?;
        if let Some(price) = &options.price {
            write!(out, " for ${:.2}", *tokens as f64 * price.input_per_mtok / 1e6)?;
            if kind.has_output_tokens() {
                write!(out, ", without the answers")?;
            }
        }
        writeln!(out)?;
        if *images > 0 {
            writeln!(out, "{images} images or files, which aren't in the estimate")?;
        }
        if *duplicates > 0 {
            writeln!(out, "{duplicates} items with an id that an earlier item has")?;
        }
        if !columns.is_empty() {
            let names: Vec<&str> = columns.iter().map(String::as_str).collect();
            writeln!(out, "columns, which aren't sent and come back: {}", names.join(", "))?;
        }
        Ok(())
    }
}
