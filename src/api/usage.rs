//! The token usage of a call, and its cost.

use crate::json::extra::Extra;
use crate::json::object::json_object;

/// The token usage of a call. A number that the service doesn't send is `None`.
///
/// ```
/// use holysheep::Usage;
///
/// let usage: Usage = serde_json::from_str(r#"{"prompt_tokens": 9, "completion_tokens": 3}"#)?;
/// assert_eq!(usage.prompt_tokens, Some(9));
/// assert_eq!(usage.total_tokens, None); // unknown, not 0
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// Tokens in the request.
    pub prompt_tokens: Option<u64>,
    /// Tokens in the answer. Some services don't include reasoning tokens.
    pub completion_tokens: Option<u64>,
    /// All tokens.
    pub total_tokens: Option<u64>,
    /// Counts of special tokens.
    pub details: UsageDetails,
    /// All other fields as they were received, including those that `details` is read from.
    pub extra: Extra,
}

/// Counts of special tokens. A number that the service doesn't send is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct UsageDetails {
    /// Tokens in the request that the service had cached; most services charge less for them.
    pub cached_tokens: Option<u64>,
    /// Reasoning tokens.
    pub reasoning_tokens: Option<u64>,
}

/// The price of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Price {
    /// Price per million tokens in requests.
    pub input_per_mtok: f64,
    /// Price per million tokens in answers.
    pub output_per_mtok: f64,
}

impl Usage {
    /// The cost of the call at this price, in the price's currency, without discounts for cached tokens.
    ///
    /// All tokens beyond those in the request are charged as output, because some services count reasoning tokens in the
    /// total only. A number that the service doesn't send counts as 0.
    pub fn cost(&self, price: &Price) -> f64 {
        let input = self.prompt_tokens.unwrap_or(0);
        let beyond = self.total_tokens.unwrap_or(0).saturating_sub(input);
        let output = self.completion_tokens.unwrap_or(0).max(beyond);
        (input as f64 * price.input_per_mtok + output as f64 * price.output_per_mtok) / 1e6
    }
}

json_object!(serialize Usage {
    optional prompt_tokens: "prompt_tokens",
    optional completion_tokens: "completion_tokens",
    optional total_tokens: "total_tokens",
});

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    #[test]
    fn cost() {
        let price = Price { input_per_mtok: 2.0, output_per_mtok: 8.0 };
        let cost = |usage: Value| from_value::<Usage>(usage).unwrap().cost(&price);
        let million = 1_000_000;
        assert_eq!(
            cost(json!({"prompt_tokens": million, "completion_tokens": 500_000, "total_tokens": 1_500_000})),
            6.0
        );
        assert_eq!(cost(json!({"prompt_tokens": million, "completion_tokens": 500_000})), 6.0);
        assert_eq!(cost(json!({"prompt_tokens": million, "total_tokens": million})), 2.0);
        // Reasoning tokens in the total only.
        assert_eq!(
            cost(json!({"prompt_tokens": million, "completion_tokens": 1, "total_tokens": 2 * million})),
            10.0
        );
    }
}
