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
    /// Cached tokens in the request; most services charge less for them.
    pub cached_tokens: Option<u64>,
    /// Reasoning tokens.
    pub reasoning_tokens: Option<u64>,
}

/// The price of a model, per million tokens, as price lists state it.
///
/// ```
/// use holysheep::Price;
///
/// let price = Price::new(2.0, 8.0).cached_input(0.5);
/// assert_eq!(price.input_per_mtok, 2.0);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Price {
    /// Price per million tokens in requests.
    pub input_per_mtok: f64,
    /// Price per million tokens in answers.
    pub output_per_mtok: f64,
    /// Price per million cached tokens in requests; `None` means the price of other input.
    pub cached_input_per_mtok: Option<f64>,
}

impl Price {
    /// Prices per million tokens in requests and in answers.
    pub fn new(input: f64, output: f64) -> Price {
        Price { input_per_mtok: input, output_per_mtok: output, cached_input_per_mtok: None }
    }

    /// Sets the price per million cached tokens in requests.
    pub fn cached_input(mut self, price: f64) -> Price {
        self.cached_input_per_mtok = Some(price);
        self
    }
}

impl Usage {
    /// All tokens of the call, which is what it takes from a limit on tokens.
    pub(crate) fn tokens(&self) -> Option<u64> {
        let sum = || match (self.prompt_tokens, self.completion_tokens) {
            (None, None) => None,
            (input, output) => Some(input.unwrap_or(0).saturating_add(output.unwrap_or(0))),
        };
        self.total_tokens.or_else(sum)
    }

    /// The cost of the call at this price, in the price's currency.
    ///
    /// All tokens beyond those in the request are charged as output, because some services count reasoning tokens only in
    /// the total. Cached tokens are part of the request's tokens and have their own price if one is set. A missing number
    /// counts as 0.
    pub fn cost(&self, price: &Price) -> f64 {
        let input = self.prompt_tokens.unwrap_or(0);
        let cached = self.details.cached_tokens.unwrap_or(0).min(input);
        let beyond = self.total_tokens.unwrap_or(0).saturating_sub(input);
        let output = self.completion_tokens.unwrap_or(0).max(beyond);
        let of = |tokens: u64, price: f64| tokens as f64 * price / 1e6;
        of(input - cached, price.input_per_mtok)
            + of(cached, price.cached_input_per_mtok.unwrap_or(price.input_per_mtok))
            + of(output, price.output_per_mtok)
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
        let price = Price::new(2.0, 8.0);
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
    #[test]
    fn cached_tokens_have_their_own_price() {
        let cost = |cached: u64, price: Price| {
            let usage = json!({
                "prompt_tokens": 1_000_000, "completion_tokens": 250_000,
                "prompt_tokens_details": {"cached_tokens": cached}
            });
            from_value::<Usage>(usage).unwrap().cost(&price)
        };
        let price = Price::new(2.0, 8.0);
        assert_eq!(cost(500_000, price), 4.0, "without their own price they are input");
        assert_eq!(cost(0, price.cached_input(0.5)), 4.0);
        assert_eq!(cost(500_000, price.cached_input(0.5)), 3.25);
        assert_eq!(cost(500_000, price.cached_input(0.0)), 3.0);
        assert_eq!(cost(2_000_000, price.cached_input(0.5)), 2.5, "at most as many as in the request");
    }
}
