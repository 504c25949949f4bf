//! Parsers of the values of options. Each error says what to give instead.

use std::time::Duration;

use holysheep::Price;
use serde_json::Value;

use crate::judge::{Flag, JsonExpected};
use crate::options::{Format, Shard};

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "give a whole number from 1".to_owned())
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.001);
    number.ok_or_else(|| "give a number from 0.001".to_owned())
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    Duration::try_from_secs_f64(positive(text)?).map_err(|error| error.to_string())
}

pub(super) fn shard(text: &str) -> Result<Shard, String> {
    let parts = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
    match parts {
        Some((number @ 1.., of)) if number <= of => Ok(Shard { number: number - 1, of }),
        _ => Err("give two numbers such as 1/4, the first from 1 to the second".to_owned()),
    }
}

/// Two or three prices.
pub(super) fn price(text: &str) -> Result<Price, String> {
    let number =
        |text: &str| text.trim().parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0);
    let prices: Option<Vec<f64>> = text.split(',').map(number).collect();
    match prices.as_deref() {
        Some([input, output]) => Ok(Price::new(*input, *output)),
        Some([input, output, cached]) => Ok(Price::new(*input, *output).cached_input(*cached)),
        _ => Err("give two prices such as 2.50,10, or three with that of cached input".to_owned()),
    }
}

/// A request parameter; text that isn't JSON is a string.
pub(super) fn parameter(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("give KEY=VALUE, such as temperature=0")?;
    match name {
        "" => Err("give KEY=VALUE, such as temperature=0".to_owned()),
        "model" => Err("use --model for the model".to_owned()),
        "messages" => Err("messages belong into the input; for a system message use --system".to_owned()),
        "stream" => Err("stream can't be set: each answer comes as a whole".to_owned()),
        _ => Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into()))),
    }
}

pub(super) fn flags(text: &str) -> Result<Vec<Flag>, String> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let flag = |name: &str| match name.trim() {
        "length" => Ok(Flag::Length),
        "empty" => Ok(Flag::Empty),
        "filter" => Ok(Flag::Filter),
        "refusal" => Ok(Flag::Refusal),
        _ => Err("give a list of length, empty, filter and refusal, or none".to_owned()),
    };
    text.split(',').map(flag).collect()
}

pub(super) fn json_expected(text: &str) -> Result<JsonExpected, String> {
    match text {
        "all" => Ok(JsonExpected::Everywhere),
        _ => Err("give --expect-json or --expect-json=all".to_owned()),
    }
}

pub(super) fn format(text: &str) -> Result<Format, String> {
    match text {
        "native" => Ok(Format::Native),
        "openai" => Ok(Format::OpenAi),
        _ => Err("give native or openai".to_owned()),
    }
}
