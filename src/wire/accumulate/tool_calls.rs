//! Assembles tool calls from the deltas of a stream.

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::api::tool_calls::MAX_TOOL_CALLS;
use crate::api::{FunctionCall, ToolCall, ToolCallDelta};
use crate::json::budget::{Budget, Excess};
use crate::wire::accumulate::merge;

/// The tool calls of one choice, assembled so far.
#[derive(Debug, Default)]
pub(super) struct PartialToolCalls {
    calls: Vec<PartialToolCall>,
    /// The position of the call that the last delta belonged to.
    last: usize,
}

#[derive(Debug)]
struct PartialToolCall {
    index: Option<u64>,
    call: ToolCall,
    extra: Map<String, Value>,
    function_extra: Map<String, Value>,
}

impl PartialToolCalls {
    /// Adds a delta to the call that it belongs to.
    pub(super) fn add(&mut self, delta: &ToolCallDelta, budget: &Budget) -> Result<(), Excess> {
        let position = match self.find(delta) {
            Some(position) => position,
            None => {
                budget.check_entries(self.calls.len() + 1, MAX_TOOL_CALLS)?;
                let call = ToolCall::function("", "", "");
                let (extra, function_extra) = (Map::new(), Map::new());
                self.calls.push(PartialToolCall { index: delta.index, call, extra, function_extra });
                self.calls.len() - 1
            }
        };
        self.last = position;
        self.calls.get_mut(position).map_or(Ok(()), |partial| partial.add(delta, budget))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    pub(super) fn into_list(self) -> Vec<ToolCall> {
        self.calls.into_iter().map(PartialToolCall::into_call).collect()
    }

    /// The position of the call that a delta belongs to: by id, then by index, then the last one. `None` if the delta
    /// begins a call.
    ///
    /// Some servers omit ids or indices, repeat them in every delta, give every call the index 0 (Gemini) or the same id
    /// (DeepSeek, Z.ai), or give every delta its own id. A delta that begins a call has a name.
    fn find(&self, delta: &ToolCallDelta) -> Option<usize> {
        let id = delta.id.as_deref().filter(|id| !id.is_empty());
        let name = delta.function.name.as_deref().filter(|name| !name.is_empty());
        let may_be = |partial: &PartialToolCall| {
            let other_index = delta.index.is_some_and(|index| partial.index.is_some_and(|own| own != index));
            !(other_index && name.is_some())
        };
        let by_id =
            id.and_then(|id| self.calls.iter().rposition(|partial| partial.call.id == id && may_be(partial)));
        if by_id.is_some() {
            return by_id;
        }
        let by_index =
            delta.index.and_then(|index| self.calls.iter().rposition(|partial| partial.index == Some(index)));
        if by_index.is_none() && delta.index.is_some() && (name.is_some() || id.is_some()) {
            return None;
        }
        let position = by_index.or_else(|| Some(self.last).filter(|last| *last < self.calls.len()))?;
        let partial = self.calls.get(position)?;
        match name {
            Some(name) if partial.is_followed_by(id, name, by_index.is_some()) => None,
            _ => Some(position),
        }
    }
}

impl PartialToolCall {
    /// Whether a delta with this name begins another call. Otherwise it repeats or completes the name of this one.
    fn is_followed_by(&self, id: Option<&str>, name: &str, same_index: bool) -> bool {
        let function = &self.call.function;
        let other_id = id.is_some() && !self.call.id.is_empty();
        match function.arguments.trim_end() {
            _ if function.name.is_empty() => other_id,
            // Before any arguments, it may be the rest of a split name, unless its id or index belongs to another call.
            "" => other_id || (function.name != name && !same_index),
            _ if function.name != name => true,
            arguments => is_complete_json(arguments),
        }
    }

    fn add(&mut self, delta: &ToolCallDelta, budget: &Budget) -> Result<(), Excess> {
        self.index = self.index.or(delta.index);
        let call = &mut self.call;
        if let Some(id) = delta.id.as_ref().filter(|_| call.id.is_empty()) {
            call.id.clone_from(id);
        }
        if let Some(kind) = delta.kind.as_ref().filter(|kind| !kind.is_empty()) {
            call.kind.clone_from(kind);
        }
        let FunctionCall { name, arguments, .. } = &mut call.function;
        if let Some(next) = &delta.function.name {
            // An equal name, or one after arguments, is a repetition.
            if arguments.is_empty() && next != name {
                name.push_str(next);
            }
        }
        arguments.push_str(delta.function.arguments.as_deref().unwrap_or_default());
        merge(&mut self.function_extra, &delta.function.extra, budget)?;
        merge(&mut self.extra, &delta.extra, budget)
    }

    fn into_call(self) -> ToolCall {
        let PartialToolCall { mut call, extra, function_extra, .. } = self;
        call.extra = extra.into();
        call.function.extra = function_extra.into();
        call
    }
}

/// Whether arguments are complete JSON. The last byte is checked first, because this is called for every delta of a server
/// that repeats the name in each of them.
fn is_complete_json(arguments: &str) -> bool {
    arguments.ends_with('}') && serde_json::from_str::<IgnoredAny>(arguments).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The calls assembled from these deltas, as `(id, name, arguments)`.
    fn calls(deltas: Value) -> Vec<(String, String, String)> {
        let mut calls = PartialToolCalls::default();
        for delta in serde_json::from_value::<Vec<ToolCallDelta>>(deltas).unwrap() {
            calls.add(&delta, &Budget::unlimited()).unwrap();
        }
        calls
            .into_list()
            .into_iter()
            .map(|call| (call.id, call.function.name, call.function.arguments))
            .collect()
    }

    /// A delta of a call; null stands for a missing field.
    fn delta(
        index: impl Into<Value>,
        id: impl Into<Value>,
        name: impl Into<Value>,
        arguments: &str,
    ) -> Value {
        let (index, id, name) = (index.into(), id.into(), name.into());
        json!({"index": index, "id": id, "function": {"name": name, "arguments": arguments}})
    }

    #[track_caller]
    fn check(deltas: Vec<Value>, expected: &[(&str, &str, &str)]) {
        let owned = |(id, name, arguments): &(&str, &str, &str)| {
            ((*id).to_owned(), (*name).to_owned(), (*arguments).to_owned())
        };
        assert_eq!(calls(Value::Array(deltas)), expected.iter().map(owned).collect::<Vec<_>>());
    }

    const NONE: Value = Value::Null;

    #[test]
    fn the_usual_form() {
        let deltas = vec![
            delta(0, "a", "f", ""),
            delta(0, NONE, NONE, "{\"x\":"),
            delta(0, NONE, NONE, "1}"),
            delta(1, "b", "g", ""),
            delta(1, NONE, NONE, "{}"),
        ];
        check(deltas, &[("a", "f", "{\"x\":1}"), ("b", "g", "{}")]);
    }

    #[test]
    fn interleaved_calls() {
        let deltas = vec![
            delta(0, "a", "f", ""),
            delta(1, "b", "g", ""),
            delta(0, NONE, NONE, "{\"x\":"),
            delta(1, NONE, NONE, "{\"y\":"),
            delta(0, NONE, NONE, "1}"),
            delta(1, NONE, NONE, "2}"),
        ];
        check(deltas, &[("a", "f", "{\"x\":1}"), ("b", "g", "{\"y\":2}")]);
    }

    #[test]
    fn ids_and_names_in_every_delta() {
        let deltas = vec![delta(0, "a", "f", "{\"x\":"), delta(0, "a", "f", "{}}"), delta(1, "b", "f", "{}")];
        check(deltas, &[("a", "f", "{\"x\":{}}"), ("b", "f", "{}")]);
    }

    #[test]
    fn no_index() {
        let deltas = vec![
            delta(NONE, "a", "f", "{\"x\":"),
            delta(NONE, NONE, NONE, "1}"),
            delta(NONE, "b", "f", "{"),
            delta(NONE, "", "", "}"),
        ];
        check(deltas, &[("a", "f", "{\"x\":1}"), ("b", "f", "{}")]);
    }

    #[test]
    fn no_id() {
        let deltas =
            vec![delta(0, NONE, "f", "{\"x\":"), delta(0, NONE, NONE, "1}"), delta(1, NONE, "f", "{}")];
        check(deltas, &[("", "f", "{\"x\":1}"), ("", "f", "{}")]);
    }

    #[test]
    fn neither_id_nor_index() {
        let deltas = vec![
            delta(NONE, NONE, "f", "{\"x\":"),
            delta(NONE, NONE, "f", "1}"),
            delta(NONE, NONE, "f", "{}"),
            delta(NONE, NONE, "g", ""),
            delta(NONE, NONE, NONE, "{}"),
        ];
        check(deltas, &[("", "f", "{\"x\":1}"), ("", "f", "{}"), ("", "g", "{}")]);
    }

    #[test]
    fn every_call_has_index_0() {
        let deltas = vec![
            delta(0, "a", "f", "{\"x\":1}"),
            delta(0, "b", "f", "{\"x\":2}"),
            delta(0, "", "g", "{}"),
            delta(0, "d", "h", ""),
            delta(0, NONE, NONE, "{}"),
        ];
        check(deltas, &[("a", "f", "{\"x\":1}"), ("b", "f", "{\"x\":2}"), ("", "g", "{}"), ("d", "h", "{}")]);
    }

    #[test]
    fn every_delta_has_its_own_id() {
        let deltas = vec![
            delta(0, "a", "f", ""),
            delta(0, "b", NONE, "{\"x\":"),
            delta(0, "c", "f", "1"),
            delta(0, "d", "", "}"),
        ];
        check(deltas, &[("a", "f", "{\"x\":1}")]);
    }

    #[test]
    fn every_delta_has_its_own_index() {
        let deltas = vec![
            delta(0, "a", "f", ""),
            delta(1, NONE, NONE, "{\"x\":"),
            delta(2, "a", NONE, "1"),
            delta(3, NONE, NONE, "}"),
        ];
        check(deltas, &[("a", "f", "{\"x\":1}")]);
    }

    #[test]
    fn a_split_name_and_a_late_name() {
        let deltas = vec![
            delta(0, "a", "get_", ""),
            delta(0, NONE, "weather", ""),
            delta(0, NONE, NONE, "{}"),
            delta(1, "b", NONE, ""),
            delta(1, NONE, "f", "{}"),
        ];
        check(deltas, &[("a", "get_weather", "{}"), ("b", "f", "{}")]);
    }

    #[test]
    fn unknown_fields_are_kept() {
        let mut calls = PartialToolCalls::default();
        let deltas = json!([
            {"index": 0, "id": "a", "function": {"name": "f"}, "extra_content": {"google": {"thought_signature": "s"}}},
            {"index": 0, "type": "function", "function": {"arguments": "{}"}, "extra_content": null}
        ]);
        for delta in serde_json::from_value::<Vec<ToolCallDelta>>(deltas).unwrap() {
            calls.add(&delta, &Budget::unlimited()).unwrap();
        }
        let call = calls.into_list().remove(0);
        assert_eq!(call.extra["extra_content"]["google"]["thought_signature"], "s");
    }

    #[test]
    fn the_number_of_calls_is_limited() {
        let mut calls = PartialToolCalls::default();
        let nth = |n: usize| ToolCallDelta {
            index: Some(n as u64),
            id: Some(n.to_string()),
            ..ToolCallDelta::default()
        };
        let budget = Budget::unlimited();
        (0..MAX_TOOL_CALLS).for_each(|n| calls.add(&nth(n), &budget).unwrap());
        assert_eq!(calls.add(&nth(MAX_TOOL_CALLS), &budget), Err(Excess::Entries(MAX_TOOL_CALLS)));
        assert_eq!(calls.add(&nth(7), &budget), Ok(()));
    }
}
