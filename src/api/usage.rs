//! What a call used, and what that costs.

use serde::Deserialize;
use serde::ser::{Serialize, Serializer};
use serde_json::Value;

use crate::json::cursor::{JsonCursor, SyntaxError};
use crate::json::extra::Extra;
use crate::json::lenient::Fields;

/// The tokens that a call used. A number that the service doesn't say is none.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens of the request.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer; some services don't count the model's thoughts in here.
    pub completion_tokens: Option<u64>,
    /// All tokens.
    pub total_tokens: Option<u64>,
    /// What part of them is special.
    pub details: UsageDetails,
    /// Fields beyond these, as they came: the details too.
    pub extra: Extra,
}

/// What part of the tokens is special. A number that the service doesn't say is none.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct UsageDetails {
    /// Tokens of the request that the service had read before, which most services sell for less.
    pub cached_tokens: Option<u64>,
    /// Tokens that the model thought.
    pub reasoning_tokens: Option<u64>,
}

/// What a model costs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Price {
    /// A million tokens of requests.
    pub input_per_mtok: f64,
    /// A million tokens of answers.
    pub output_per_mtok: f64,
}

impl Usage {
    /// What the call cost at this price, in the price's currency, without discounts for cached tokens.
    ///
    /// All tokens that aren't of the request are sold as output: some services count thoughts in the total only. What
    /// the service doesn't say costs nothing.
    pub fn cost(&self, price: &Price) -> f64 {
        let input = self.prompt_tokens.unwrap_or(0);
        let beyond = self.total_tokens.unwrap_or(0).saturating_sub(input);
        let output = self.completion_tokens.unwrap_or(0).max(beyond);
        (input as f64 * price.input_per_mtok + output as f64 * price.output_per_mtok) / 1e6
    }

    /// Reads usage, unless it holds none of its numbers.
    pub(crate) fn read_json(cursor: &mut JsonCursor<'_>) -> Result<Option<Usage>, SyntaxError> {
        let before = cursor.clone();
        if !cursor.enter(b'{')? {
            return Ok(None);
        }
        let mut usage = Usage::default();
        let mut elsewhere = UsageDetails::default();
        let UsageDetails { cached_tokens, reasoning_tokens } = &mut usage.details;
        while let Some(name) = cursor.name()? {
            match &*name {
                b"prompt_tokens" => usage.prompt_tokens = cursor.value()?.whole(),
                b"completion_tokens" => usage.completion_tokens = cursor.value()?.whole(),
                b"total_tokens" => usage.total_tokens = cursor.value()?.whole(),
                b"prompt_tokens_details" => *cached_tokens = detail(cursor, b"cached_tokens")?,
                b"completion_tokens_details" => *reasoning_tokens = detail(cursor, b"reasoning_tokens")?,
                // DeepSeek, Moonshot and Mistral.
                b"prompt_cache_hit_tokens" | b"cached_tokens" | b"num_cached_tokens" => {
                    elsewhere.cached_tokens = cursor.value()?.whole();
                }
                // DeepSeek at Azure.
                b"reasoning_tokens" => elsewhere.reasoning_tokens = cursor.value()?.whole(),
                _ => drop(cursor.value()?),
            }
        }
        *cached_tokens = cached_tokens.or(elsewhere.cached_tokens);
        *reasoning_tokens = reasoning_tokens.or(elsewhere.reasoning_tokens);
        if usage.prompt_tokens.or(usage.completion_tokens).or(usage.total_tokens).is_none() {
            return Ok(None);
        }
        usage.extra = Extra::new(cursor.since(&before).to_vec(), &NUMBERS);
        Ok(Some(usage))
    }

    /// [`cursor`](Usage::read_json) for what was read already.
    pub(crate) fn read(value: Value) -> Result<Usage, Value> {
        let json = value.to_string();
        Usage::read_json(&mut JsonCursor::new(json.as_bytes())).ok().flatten().ok_or(value)
    }
}

/// The fields that every service has.
const NUMBERS: [&str; 3] = ["prompt_tokens", "completion_tokens", "total_tokens"];

/// A count in a group of details.
fn detail(cursor: &mut JsonCursor<'_>, wanted: &[u8]) -> Result<Option<u64>, SyntaxError> {
    let mut found = None;
    if cursor.enter(b'{')? {
        while let Some(name) = cursor.name()? {
            let value = cursor.value()?;
            if &*name == wanted {
                found = value.whole();
            }
        }
    }
    Ok(found)
}

impl Serialize for Usage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.some("prompt_tokens", &self.prompt_tokens)?;
        fields.some("completion_tokens", &self.completion_tokens)?;
        fields.some("total_tokens", &self.total_tokens)?;
        fields.end()
    }
}

impl<'de> Deserialize<'de> for Usage {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Usage, D::Error> {
        let read = Usage::read(Value::deserialize(deserializer)?);
        read.map_err(|_| serde::de::Error::custom("usage without any of its three numbers"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_in_any_dress_and_what_is_unknown_is_none() {
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
            let usage = Usage::read(value.clone()).ok();
            let numbers =
                usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens));
            assert_eq!(numbers, expected, "{value}");
        }
    }

    #[test]
    fn details_are_found_where_services_put_them() {
        for (value, cached, thought) in [
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
            let details = Usage::read(value.clone()).unwrap().details;
            assert_eq!((details.cached_tokens, details.reasoning_tokens), (cached, thought), "{value}");
        }
    }

    #[test]
    fn survives_a_round_trip_with_all_that_came() {
        let value = json!({
            "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cost": 0.5,
            "prompt_tokens_details": {"cached_tokens": 1}, "queue_time": 0.01
        });
        let usage: Usage = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&usage).unwrap(), value);
    }

    #[test]
    fn cost() {
        let price = Price { input_per_mtok: 2.0, output_per_mtok: 8.0 };
        let cost = |usage: Value| Usage::read(usage).unwrap().cost(&price);
        let million = 1_000_000;
        assert_eq!(
            cost(json!({"prompt_tokens": million, "completion_tokens": 500_000, "total_tokens": 1_500_000})),
            6.0
        );
        assert_eq!(cost(json!({"prompt_tokens": million, "completion_tokens": 500_000})), 6.0);
        assert_eq!(cost(json!({"prompt_tokens": million, "total_tokens": million})), 2.0);
        // Thoughts that are in the total only.
        assert_eq!(
            cost(json!({"prompt_tokens": million, "completion_tokens": 1, "total_tokens": 2 * million})),
            10.0
        );
    }
}
