//! What a run and the earlier runs on its output have used, and whether it may use more.

use holysheep::{Price, Usage};

use crate::endpoint::Kind;
use crate::job::total;
use crate::options::Options;

/// Tokens and dollars used, and their limits.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    price: Option<Price>,
    max_tokens: Option<u64>,
    max_cost: Option<f64>,
    earlier: Used,
    now: Used,
}

/// The tokens that a request will probably use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Guess {
    input: u64,
    output: u64,
}

impl Guess {
    /// For a request with this many tokens: a chat has as many again in its answer.
    pub(crate) fn new(input: u64, kind: Kind) -> Guess {
        Guess { input, output: if kind.has_output_tokens() { input } else { 0 } }
    }

    pub(crate) fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }

    fn cost(self, price: &Price) -> f64 {
        (self.input as f64 * price.input_per_mtok + self.output as f64 * price.output_per_mtok) / 1e6
    }
}

/// What answers used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) answers: u64,
    pub(crate) input: u64,
    pub(crate) cached: u64,
    pub(crate) output: u64,
    /// Of answers that don't tell, a guess.
    guessed: u64,
    pub(crate) cost: f64,
    /// Answers that don't tell what they used.
    pub(crate) unknown: u64,
}

impl Used {
    /// Adds an answer; `guess` counts where it doesn't tell.
    pub(crate) fn add(&mut self, usage: Option<&Usage>, guess: Guess, price: Option<&Price>) {
        self.answers += 1;
        let Some(usage) = usage else {
            self.unknown += 1;
            self.guessed += guess.total();
            self.cost += price.map_or(0.0, |price| guess.cost(price));
            return;
        };
        let input = usage.prompt_tokens.unwrap_or_default();
        self.input = self.input.saturating_add(input);
        self.cached = self.cached.saturating_add(usage.details.cached_tokens.unwrap_or_default());
        self.output = self.output.saturating_add(total(usage).unwrap_or_default().saturating_sub(input));
        self.cost += price.map_or(0.0, |price| usage.cost(price));
    }

    fn tokens(&self) -> u64 {
        self.input.saturating_add(self.output).saturating_add(self.guessed)
    }
}

impl Budget {
    pub(crate) fn new(options: &Options, earlier: Used) -> Budget {
        let Options { price, max_tokens, max_cost, .. } = *options;
        Budget { price, max_tokens, max_cost, earlier, now: Used::default() }
    }

    /// Adds an answer of this run.
    pub(crate) fn spend(&mut self, usage: Option<&Usage>, guess: Guess) {
        self.now.add(usage, guess, self.price.as_ref());
    }

    /// What this run used.
    pub(crate) fn now(&self) -> &Used {
        &self.now
    }

    /// Dollars, earlier runs included; `None` without a price.
    pub(crate) fn cost(&self) -> Option<f64> {
        self.price.map(|_| self.earlier.cost + self.now.cost)
    }

    /// The dollars that everything will have cost when so many more items are answered.
    pub(crate) fn projected_cost(&self, left: usize) -> Option<f64> {
        let each = self.now.cost / self.now.answers.max(1) as f64;
        Some(self.cost()? + each * left as f64).filter(|_| self.now.answers > 0)
    }

    /// Says which limit is reached, where as many requests are in flight. They count with the mean of the answers so far.
    pub(crate) fn reached(&self, in_flight: usize) -> Option<String> {
        let all = (self.now.answers + self.earlier.answers).max(1) as f64;
        let expected = in_flight as f64 / all;
        let tokens = self.earlier.tokens().saturating_add(self.now.tokens());
        if let Some(limit) = self.max_tokens.filter(|limit| tokens as f64 * (1.0 + expected) >= *limit as f64)
        {
            return Some(format!("--max-tokens {limit} is reached"));
        }
        let cost = self.earlier.cost + self.now.cost;
        let limit = self.max_cost.filter(|limit| cost * (1.0 + expected) >= *limit)?;
        Some(format!("--max-cost {limit} is reached"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_the_rest_is_projected_from_the_answers_so_far() {
        let usage: Usage =
            serde_json::from_str(r#"{"prompt_tokens": 1000, "completion_tokens": 500}"#).unwrap();
        let options = Options { price: Some(Price::new(2.0, 8.0)), ..Options::default() };
        let earlier = Used { answers: 9, cost: 1.0, ..Used::default() };
        let mut budget = Budget::new(&options, earlier);
        assert_eq!(budget.projected_cost(10), None);
        budget.spend(Some(&usage), Guess::default());
        budget.spend(None, Guess::new(750, Kind::Chat));
        let now = 0.002 + 0.004 + 0.0015 + 0.006;
        assert!((budget.cost().unwrap() - (1.0 + now)).abs() < 1e-9);
        assert!((budget.projected_cost(10).unwrap() - (1.0 + now + 5.0 * now)).abs() < 1e-9);
        assert_eq!(Budget::new(&Options::default(), earlier).cost(), None);
        let embeddings = Guess::new(750, Kind::Embeddings);
        assert_eq!((embeddings.total(), embeddings.cost(&Price::new(2.0, 8.0))), (750, 0.0015));
    }
}
