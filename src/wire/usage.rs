//! Reads token usage from JSON. The counts have the same names in every service, the details do not.

use crate::api::{Usage, UsageDetails};
use crate::json::budget::Budget;
use crate::json::cursor::{JsonCursor, SyntaxError};
use crate::json::extra::Extra;

/// Whether a field is excluded from the unknown ones.
fn is_count(name: &[u8]) -> bool {
    matches!(name, b"prompt_tokens" | b"completion_tokens" | b"total_tokens")
}

/// Reads usage. `None` if it has none of its three counts.
pub(super) fn read_usage(cursor: &mut JsonCursor<'_>, budget: &Budget) -> Result<Option<Usage>, SyntaxError> {
    let start = cursor.clone();
    if !cursor.enter(b'{')? {
        return Ok(None);
    }
    let mut usage = Usage::default();
    let mut alternative = UsageDetails::default();
    let UsageDetails { cached_tokens, reasoning_tokens } = &mut usage.details;
    while let Some(name) = cursor.next_name()? {
        match &*name {
            b"prompt_tokens" => usage.prompt_tokens = cursor.value()?.count(),
            b"completion_tokens" => usage.completion_tokens = cursor.value()?.count(),
            b"total_tokens" => usage.total_tokens = cursor.value()?.count(),
            b"prompt_tokens_details" => *cached_tokens = read_detail(cursor, b"cached_tokens")?,
            b"completion_tokens_details" => *reasoning_tokens = read_detail(cursor, b"reasoning_tokens")?,
            // DeepSeek, Moonshot and Mistral.
            b"prompt_cache_hit_tokens" | b"cached_tokens" | b"num_cached_tokens" => {
                alternative.cached_tokens = cursor.value()?.count();
            }
            // DeepSeek on Azure.
            b"reasoning_tokens" => alternative.reasoning_tokens = cursor.value()?.count(),
            _ => drop(cursor.value()?),
        }
    }
    *cached_tokens = cached_tokens.or(alternative.cached_tokens);
    *reasoning_tokens = reasoning_tokens.or(alternative.reasoning_tokens);
    if usage.prompt_tokens.or(usage.completion_tokens).or(usage.total_tokens).is_none() {
        return Ok(None);
    }
    usage.extra = Extra::new(cursor.text_since(&start).to_vec(), is_count);
    usage.extra.bound(budget);
    Ok(Some(usage))
}

/// Reads one count of an object of details.
fn read_detail(cursor: &mut JsonCursor<'_>, wanted: &[u8]) -> Result<Option<u64>, SyntaxError> {
    let mut count = None;
    if cursor.enter(b'{')? {
        while let Some(name) = cursor.next_name()? {
            let value = cursor.value()?;
            if &*name == wanted {
                count = value.count();
            }
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn counts_of_any_type_and_missing_ones() {
        for (value, expected) in [
            (
                json!({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
                Some((Some(1), Some(2), Some(3))),
            ),
            (
                json!({"prompt_tokens": 1.0, "completion_tokens": "2", "total_tokens": 9}),
                Some((Some(1), Some(2), Some(9))),
            ),
            (json!({"prompt_tokens": null, "completion_tokens": 0}), Some((None, Some(0), None))),
            (json!({"total_tokens": 3}), Some((None, None, Some(3)))),
            (json!({"prompt_tokens": "many"}), None),
            (json!({}), None),
            (json!("lots"), None),
        ] {
            let usage = from_value::<Usage>(value.clone()).ok();
            let numbers =
                usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens));
            assert_eq!(numbers, expected, "{value}");
        }
    }

    #[test]
    fn details_are_found_at_every_service() {
        for (value, cached, reasoning) in [
            (
                json!({"prompt_tokens_details": {"cached_tokens": 1}, "completion_tokens_details": {"reasoning_tokens": 2}}),
                Some(1),
                Some(2),
            ),
            (json!({"prompt_cache_hit_tokens": 1}), Some(1), None),
            (json!({"cached_tokens": 1}), Some(1), None),
            (json!({"num_cached_tokens": 1}), Some(1), None),
            (json!({"prompt_tokens_details": null, "reasoning_tokens": 0}), None, Some(0)),
            (json!({}), None, None),
        ] {
            let mut value = value;
            value["total_tokens"] = 9.into();
            let details = from_value::<Usage>(value.clone()).unwrap().details;
            assert_eq!((details.cached_tokens, details.reasoning_tokens), (cached, reasoning), "{value}");
        }
    }

    #[test]
    fn usage_survives_a_round_trip() {
        let value = json!({
            "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cost": 0.5,
            "prompt_tokens_details": {"cached_tokens": 1}, "queue_time": 0.01
        });
        let usage: Usage = from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&usage).unwrap(), value);
    }
}
