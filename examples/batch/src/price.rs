//! Prices, with one of their own for cached input.

use holysheep::Usage;

/// Dollars for tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Price {
    price: holysheep::Price,
    cached_input: f64,
}

impl Price {
    /// Dollars for a million tokens each.
    pub(crate) fn new(input: f64, output: f64, cached_input: f64) -> Price {
        let price = holysheep::Price { input_per_mtok: input, output_per_mtok: output };
        Price { price, cached_input }
    }

    pub(crate) fn of(&self, usage: &Usage) -> f64 {
        let cached = usage.details.cached_tokens.unwrap_or(0).min(usage.prompt_tokens.unwrap_or(0));
        usage.cost(&self.price) - cached as f64 * (self.price.input_per_mtok - self.cached_input) / 1e6
    }

    pub(crate) fn of_input(&self, tokens: u64) -> f64 {
        tokens as f64 * self.price.input_per_mtok / 1e6
    }

    /// The cost of as many tokens of input as of output, for an answer without usage.
    pub(crate) fn of_guess(&self, tokens: u64) -> f64 {
        tokens as f64 / 2.0 * (self.price.input_per_mtok + self.price.output_per_mtok) / 1e6
    }
}
