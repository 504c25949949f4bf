//! Bounds the memory of parsed JSON from servers: a list of small items or objects can take up to 170 times its text.
//!
//! All values from one text share a budget that is proportional to the length of the text. Typed values
//! ([`Bounded`](crate::json::bounded)) are charged while they are read, and exceeding the budget is an error. Unknown fields
//! are parsed later, so they are charged when their text is kept. A field that doesn't fit is left out, because the response
//! is usable without it.

use std::cell::Cell;
use std::fmt;
use std::mem::size_of;

use serde::de;
use serde_json::{Map, Value};

use crate::json::cursor::string_length;

/// Texts of up to this many bytes aren't charged, so typical responses cost nothing. No text takes more than 170 times its
/// length, so these take less than the allowance.
const UNCHARGED: usize = 64 * 1024;

/// The size of a budget: a multiple of the text's length, and a fixed allowance.
struct BudgetSize {
    factor: usize,
    allowance: usize,
}

/// The budget of a complete response. In total, a response may take 8 times its length and 32 MiB. The body and its copy for
/// the unknown fields take 3 times its length, and a list takes 1.5 times its charge while it is copied to grow.
///
/// Log probabilities have the most small values of all responses and take about 6 times their length: 7 MB of them fit.
const RESPONSE: BudgetSize = BudgetSize { factor: 3, allowance: 21 << 20 };

/// The budget of a chunk, and separately of the response that is assembled from chunks.
const CHUNK: BudgetSize = BudgetSize { factor: 2, allowance: 12 << 20 };

/// The charge for a list item. A growing list has up to twice the capacity that it needs, and room for four items at first,
/// for which the first item is charged twice.
const ITEM: usize = 2 * size_of::<Value>();

/// The charge for a map that isn't empty: a B-tree node has room for 11 fields.
const MAP: usize = 640;

/// The charge for a field of a map, without the bytes of its name: nodes are at least half full.
const FIELD: usize = ITEM + 2 * size_of::<String>() + TEXT;

/// The allocation overhead of a string.
const TEXT: usize = 16;

/// The bound that was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    /// A list has more than this many entries.
    Entries(usize),
    /// The values take more than this many bytes.
    Memory(usize),
}

/// The memory that the values of one text may take.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    charged: Cell<usize>,
    excess: Cell<Option<Excess>>,
    omits_fields: Cell<bool>,
}

impl Budget {
    /// For texts that don't come from a server.
    pub(crate) fn unlimited() -> Budget {
        Budget::new(usize::MAX)
    }

    /// The budget of a complete response.
    pub(crate) fn of_answer(text: &[u8]) -> Budget {
        Budget::new(RESPONSE.of(text.len()))
    }

    /// The budget of a chunk of a stream.
    #[inline]
    pub(crate) fn of_chunk(text: &[u8]) -> Budget {
        Budget::new(CHUNK.of(text.len()))
    }

    /// The budget of a response that is assembled from chunks; see [`add_chunk`](Budget::add_chunk).
    pub(crate) fn of_chunks() -> Budget {
        Budget::new(CHUNK.allowance)
    }

    #[inline]
    fn new(limit: usize) -> Budget {
        Budget { limit, charged: Cell::new(0), excess: Cell::new(None), omits_fields: Cell::new(false) }
    }

    /// Adds the budget for a chunk of this length.
    #[inline]
    pub(crate) fn add_chunk(&mut self, length: usize) {
        self.limit = self.limit.saturating_add(length * CHUNK.factor);
    }

    /// Charges this many bytes.
    pub(crate) fn charge(&self, bytes: usize) -> Result<(), Excess> {
        if self.try_charge(bytes) { Ok(()) } else { Err(self.exceeded(Excess::Memory(self.limit))) }
    }

    /// Charges an item of a list of this type.
    pub(crate) fn charge_item<T, E: de::Error>(&self, is_first: bool) -> Result<(), E> {
        self.charge(if is_first { 4 } else { 2 } * size_of::<T>()).map_err(E::custom)
    }

    /// Charges a field of a map, without its value.
    pub(crate) fn charge_field<E: de::Error>(&self, is_first: bool, name: &str) -> Result<(), E> {
        self.charge(field_cost(is_first, name)).map_err(E::custom)
    }

    /// Charges a string.
    pub(crate) fn charge_text<E: de::Error>(&self, text: &str) -> Result<(), E> {
        self.charge(TEXT + text.len()).map_err(E::custom)
    }

    /// Checks the length of a list.
    #[inline]
    pub(crate) fn check_entries(&self, count: usize, max: usize) -> Result<(), Excess> {
        if count > max { Err(self.exceeded(Excess::Entries(max))) } else { Ok(()) }
    }

    /// Refunds the charge for a value that was dropped.
    pub(crate) fn refund(&self, bytes: usize) {
        self.charged.set(self.charged.get().saturating_sub(bytes));
    }

    /// Charges an unknown field whose text is to be kept. Returns false if it doesn't fit and has to be left out.
    #[inline]
    pub(crate) fn try_keep_field(&self, name: &[u8], json: &[u8]) -> bool {
        self.is_unlimited() || {
            let fits = self.try_charge(MAP + FIELD + name.len() + text_cost(json));
            self.omits_fields.set(self.omits_fields.get() || !fits);
            fits
        }
    }

    /// Charges this many bytes if they fit.
    fn try_charge(&self, bytes: usize) -> bool {
        let charged = self.charged.get().saturating_add(bytes);
        let fits = charged <= self.limit;
        if fits {
            self.charged.set(charged);
        }
        fits
    }

    #[inline]
    pub(crate) fn is_unlimited(&self) -> bool {
        self.limit == usize::MAX
    }

    /// The bound that was exceeded, if reading failed for that reason.
    #[inline]
    pub(crate) fn excess(&self) -> Option<Excess> {
        self.excess.get()
    }

    /// Whether unknown fields were left out.
    #[inline]
    pub(crate) fn omits_fields(&self) -> bool {
        self.omits_fields.get()
    }

    #[cold]
    fn exceeded(&self, excess: Excess) -> Excess {
        self.excess.set(Some(excess));
        excess
    }
}

impl BudgetSize {
    #[inline]
    fn of(&self, length: usize) -> usize {
        if length <= UNCHARGED { usize::MAX } else { length.saturating_mul(self.factor) + self.allowance }
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Excess::Entries(max) => write!(f, "more than {max} entries"),
            Excess::Memory(limit) => write!(f, "more than {limit} bytes in memory"),
        }
    }
}

/// An upper bound on the memory of the values in a JSON text, without their container.
fn text_cost(json: &[u8]) -> usize {
    let mut cost = 0;
    let mut rest = json;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let is_empty = || matches!(after.trim_ascii_start().first(), Some(b'}' | b']'));
        cost += match first {
            b'"' => {
                let length = string_length(after).unwrap_or(after.len());
                rest = after.get(length + 1..).unwrap_or_default();
                TEXT + length
            }
            b'{' | b'[' if is_empty() => 0,
            b'{' => MAP + ITEM,
            b'[' => 2 * ITEM,
            b',' => ITEM,
            b':' => FIELD - ITEM,
            _ => 0,
        };
    }
    cost
}

/// The heap memory of a value.
pub(crate) fn value_cost(value: &Value) -> usize {
    match value {
        Value::String(text) => TEXT + text.len(),
        Value::Array(items) if items.is_empty() => 0,
        Value::Array(items) => ITEM + items.iter().map(|item| ITEM + value_cost(item)).sum::<usize>(),
        Value::Object(fields) => fields_cost(fields),
        _ => 0,
    }
}

/// The heap memory of a map with these fields.
pub(crate) fn fields_cost(fields: &Map<String, Value>) -> usize {
    let costs = fields.iter().enumerate();
    costs.map(|(position, (name, value))| field_cost(position == 0, name) + value_cost(value)).sum()
}

/// The memory of a map's field, without the heap memory of its value.
pub(crate) fn field_cost(is_first: bool, name: &str) -> usize {
    if is_first { MAP + FIELD + name.len() } else { FIELD + name.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::bounded::Bounded;
    use crate::json::parse_bounded;

    /// Lists and objects whose memory is many times their text.
    fn costly() -> Vec<String> {
        let list = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
        let fields = |count: usize| (0..count).map(|n| format!("\"{n}\":0")).collect::<Vec<_>>().join(",");
        let mut texts = Vec::new();
        for count in [1, 2, 3, 5, 6, 12, 13, 100, 1025] {
            for item in [
                "0",
                "null",
                "[]",
                "{}",
                "\"\"",
                "\"\\u0061b\"",
                "[[0]]",
                r#"{"a":0}"#,
                r#"{"a":{"b":[1,2]}}"#,
            ] {
                texts.push(list(item, count));
            }
            texts.push(format!("{{{}}}", fields(count)));
            texts.push(list(&format!("{{{}}}", fields(count)), 7));
        }
        texts.push("\" [[ {{ ,, :: \"".to_owned());
        texts
    }

    fn charged(json: &str) -> (Value, usize) {
        let budget = Budget::new(1 << 40);
        let value = parse_bounded::<Value>(json.as_bytes(), &budget).unwrap();
        (value, budget.charged.get())
    }

    #[test]
    fn the_charge_covers_what_is_allocated() {
        for json in costly() {
            let (mut value, mut cost) = (Value::Null, 0);
            let measured = allocation_counter::measure(|| (value, cost) = charged(&json));
            let allocated = measured.bytes_current as usize;
            assert!(allocated <= cost, "{allocated} bytes are allocated, {cost} are charged: {json:.60}");
            assert!(cost <= text_cost(json.as_bytes()), "the estimate of the text is lower: {json:.60}");
            let copied = allocation_counter::measure(|| value = value.clone()).bytes_max as usize;
            assert!(copied <= value_cost(&value), "{copied} bytes are copied: {json:.60}");
            assert!(cost <= 170 * json.len(), "the factor of texts that aren't charged: {json:.60}");
        }
    }

    #[test]
    fn a_response_takes_at_most_8_times_its_length_and_32_mib() {
        let allowed = |length: usize| 8 * length + (32 << 20);
        for length in [0, 1, UNCHARGED, UNCHARGED + 1, 1 << 20, 1 << 30] {
            let text = 3 * length;
            let most = |size: BudgetSize| match size.of(length) {
                usize::MAX => UNCHARGED * 170,
                limit => limit,
            };
            assert!(text + most(RESPONSE) * 3 / 2 <= allowed(length), "{length}");
            assert!(text + most(CHUNK) * 5 / 2 <= allowed(length), "{length}");
        }
    }

    #[test]
    fn a_budget_reports_the_bound_that_was_exceeded() {
        let budget = Budget::new(100);
        assert_eq!((budget.charge(60), budget.excess()), (Ok(()), None));
        assert_eq!(budget.charge(60), Err(Excess::Memory(100)));
        assert_eq!(budget.excess(), Some(Excess::Memory(100)));
        budget.refund(20);
        assert_eq!(budget.charge(60), Ok(()));
        assert_eq!(budget.check_entries(3, 3), Ok(()));
        assert_eq!(budget.check_entries(4, 3), Err(Excess::Entries(3)));
        assert_eq!(Excess::Entries(3).to_string(), "more than 3 entries");
        assert_eq!(Excess::Memory(100).to_string(), "more than 100 bytes in memory");
        let mut chunks = Budget::of_chunks();
        chunks.charge(CHUNK.allowance).unwrap();
        assert!(chunks.charge(1).is_err());
        chunks.add_chunk(10);
        assert_eq!(chunks.charge(10 * CHUNK.factor), Ok(()));
    }

    #[test]
    fn unknown_fields_that_do_not_fit_are_left_out() {
        let budget = Budget::new(10_000);
        assert!(budget.try_keep_field(b"a", b"[1, 2]") && !budget.omits_fields());
        assert!(!budget.try_keep_field(b"b", format!("[{}0]", "0,".repeat(1000)).as_bytes()));
        assert!(budget.omits_fields() && budget.excess().is_none());
        assert!(budget.try_keep_field(b"c", b"1"), "a smaller one still fits");
        let unlimited = Budget::unlimited();
        assert!(unlimited.try_keep_field(b"b", b"[") && unlimited.is_unlimited());
        assert!(Budget::of_answer(&[b' '; UNCHARGED]).is_unlimited());
        assert!(!Budget::of_answer(&[b' '; UNCHARGED + 1]).is_unlimited());
    }

    #[test]
    fn values_are_read_only_within_the_budget() {
        for json in costly() {
            let cost = charged(&json).1;
            for (limit, fits) in [(cost, true), (cost.saturating_sub(1), cost == 0)] {
                let budget = Budget::new(limit);
                assert_eq!(parse_bounded::<Value>(json.as_bytes(), &budget).is_ok(), fits, "{json:.60}");
                assert_eq!(budget.excess().is_none(), fits);
            }
            assert!(Value::read(&charged(&json).0, &Budget::new(cost)).is_ok());
        }
    }
}
