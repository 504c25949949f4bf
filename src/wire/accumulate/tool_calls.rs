//! Puts tool calls together out of the pieces that a stream brings.

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::api::{FunctionCall, ToolCall, ToolCallDelta};
use crate::wire::accumulate::{TooMany, merge};

/// The most calls in one answer: services let a request name 128 tools, and nobody wants each of them called more than
/// once. It bounds the memory and the search for the call that a piece belongs to.
pub(crate) const MOST_CALLS: usize = 128;

/// The calls of one answer, as far as they came.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: Vec<Open>,
    /// The one that the last piece went to.
    last: usize,
}

#[derive(Debug)]
struct Open {
    index: Option<u64>,
    call: ToolCall,
    extra: Map<String, Value>,
    function_extra: Map<String, Value>,
}

impl Calls {
    /// Adds a piece to the call that it belongs to.
    pub(super) fn add(&mut self, piece: &ToolCallDelta) -> Result<(), TooMany> {
        let place = match self.place(piece) {
            Some(place) => place,
            None if self.open.len() == MOST_CALLS => return Err(TooMany::Calls),
            None => {
                let call = ToolCall::function("", "", "");
                let (extra, function_extra) = (Map::new(), Map::new());
                self.open.push(Open { index: piece.index, call, extra, function_extra });
                self.open.len() - 1
            }
        };
        self.last = place;
        if let Some(open) = self.open.get_mut(place) {
            open.add(piece);
        }
        Ok(())
    }

    pub(super) fn into_list(self) -> Vec<ToolCall> {
        self.open.into_iter().map(Open::into_call).collect()
    }

    /// The call that a piece belongs to: by id, then by index, then the last one. None where the piece begins a call.
    ///
    /// Servers leave ids or indices out, repeat them in every piece, give every call the index 0 (Gemini) or every
    /// piece an id of its own. What tells a new call from a further piece is that it brings a name.
    fn place(&self, piece: &ToolCallDelta) -> Option<usize> {
        let id = piece.id.as_deref().filter(|id| !id.is_empty());
        let by_id = id.and_then(|id| self.open.iter().rposition(|open| open.call.id == id));
        if by_id.is_some() {
            return by_id;
        }
        let name = piece.function.name.as_deref().filter(|name| !name.is_empty());
        let by_index =
            piece.index.and_then(|index| self.open.iter().rposition(|open| open.index == Some(index)));
        if by_index.is_none() && piece.index.is_some() && (name.is_some() || id.is_some()) {
            return None;
        }
        let place = by_index.or_else(|| Some(self.last).filter(|last| *last < self.open.len()))?;
        let open = self.open.get(place)?;
        match name {
            Some(name) if open.is_followed_by(id, name, by_index.is_some()) => None,
            _ => Some(place),
        }
    }
}

impl Open {
    /// Whether a piece with this name begins another call, rather than saying the name once more or at last.
    fn is_followed_by(&self, id: Option<&str>, name: &str, same_index: bool) -> bool {
        let known = &self.call.function;
        let other_id = id.is_some() && !self.call.id.is_empty();
        match known.arguments.trim_end() {
            _ if known.name.is_empty() => other_id,
            // Nothing said yet: the rest of a name that came in pieces, unless the piece says that it's another one.
            "" => other_id || (known.name != name && !same_index),
            _ if known.name != name => true,
            arguments => is_whole(arguments),
        }
    }

    fn add(&mut self, piece: &ToolCallDelta) {
        self.index = self.index.or(piece.index);
        let call = &mut self.call;
        if let Some(id) = piece.id.as_ref().filter(|_| call.id.is_empty()) {
            call.id.clone_from(id);
        }
        if let Some(kind) = piece.kind.as_ref().filter(|kind| !kind.is_empty()) {
            call.kind.clone_from(kind);
        }
        let FunctionCall { name, arguments, .. } = &mut call.function;
        if let Some(more) = &piece.function.name {
            // Once arguments came, or where it is the same, a name is only said again.
            if arguments.is_empty() && more != name {
                name.push_str(more);
            }
        }
        arguments.push_str(piece.function.arguments.as_deref().unwrap_or_default());
        merge(&mut self.function_extra, &piece.function.extra);
        merge(&mut self.extra, &piece.extra);
    }

    fn into_call(self) -> ToolCall {
        let Open { mut call, extra, function_extra, .. } = self;
        call.extra = extra.into();
        call.function.extra = function_extra.into();
        call
    }
}

/// Whether arguments are whole JSON. The last byte is looked at first: this is asked for every piece of a server that
/// repeats the name in each of them.
fn is_whole(arguments: &str) -> bool {
    arguments.ends_with('}') && serde_json::from_str::<IgnoredAny>(arguments).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The calls made of these pieces, as `(id, name, arguments)`.
    fn calls(pieces: Value) -> Vec<(String, String, String)> {
        let mut calls = Calls::default();
        for piece in serde_json::from_value::<Vec<ToolCallDelta>>(pieces).unwrap() {
            calls.add(&piece).unwrap();
        }
        calls
            .into_list()
            .into_iter()
            .map(|call| (call.id, call.function.name, call.function.arguments))
            .collect()
    }

    /// A piece with what isn't null.
    fn piece(
        index: impl Into<Value>,
        id: impl Into<Value>,
        name: impl Into<Value>,
        arguments: &str,
    ) -> Value {
        let (index, id, name) = (index.into(), id.into(), name.into());
        json!({"index": index, "id": id, "function": {"name": name, "arguments": arguments}})
    }

    #[track_caller]
    fn check(pieces: Vec<Value>, expected: &[(&str, &str, &str)]) {
        let owned = |(id, name, arguments): &(&str, &str, &str)| {
            ((*id).to_owned(), (*name).to_owned(), (*arguments).to_owned())
        };
        assert_eq!(calls(Value::Array(pieces)), expected.iter().map(owned).collect::<Vec<_>>());
    }

    const NONE: Value = Value::Null;

    #[test]
    fn the_usual_form() {
        let pieces = vec![
            piece(0, "a", "f", ""),
            piece(0, NONE, NONE, "{\"x\":"),
            piece(0, NONE, NONE, "1}"),
            piece(1, "b", "g", ""),
            piece(1, NONE, NONE, "{}"),
        ];
        check(pieces, &[("a", "f", "{\"x\":1}"), ("b", "g", "{}")]);
    }

    #[test]
    fn calls_that_grow_in_turns() {
        let pieces = vec![
            piece(0, "a", "f", ""),
            piece(1, "b", "g", ""),
            piece(0, NONE, NONE, "{\"x\":"),
            piece(1, NONE, NONE, "{\"y\":"),
            piece(0, NONE, NONE, "1}"),
            piece(1, NONE, NONE, "2}"),
        ];
        check(pieces, &[("a", "f", "{\"x\":1}"), ("b", "g", "{\"y\":2}")]);
    }

    #[test]
    fn ids_and_names_in_every_piece() {
        let pieces = vec![piece(0, "a", "f", "{\"x\":"), piece(0, "a", "f", "{}}"), piece(1, "b", "f", "{}")];
        check(pieces, &[("a", "f", "{\"x\":{}}"), ("b", "f", "{}")]);
    }

    #[test]
    fn no_index() {
        let pieces = vec![
            piece(NONE, "a", "f", "{\"x\":"),
            piece(NONE, NONE, NONE, "1}"),
            piece(NONE, "b", "f", "{"),
            piece(NONE, "", "", "}"),
        ];
        check(pieces, &[("a", "f", "{\"x\":1}"), ("b", "f", "{}")]);
    }

    #[test]
    fn no_id() {
        let pieces =
            vec![piece(0, NONE, "f", "{\"x\":"), piece(0, NONE, NONE, "1}"), piece(1, NONE, "f", "{}")];
        check(pieces, &[("", "f", "{\"x\":1}"), ("", "f", "{}")]);
    }

    #[test]
    fn neither_id_nor_index() {
        let pieces = vec![
            piece(NONE, NONE, "f", "{\"x\":"),
            piece(NONE, NONE, "f", "1}"),
            piece(NONE, NONE, "f", "{}"),
            piece(NONE, NONE, "g", ""),
            piece(NONE, NONE, NONE, "{}"),
        ];
        check(pieces, &[("", "f", "{\"x\":1}"), ("", "f", "{}"), ("", "g", "{}")]);
    }

    #[test]
    fn every_call_has_index_0() {
        let pieces = vec![
            piece(0, "a", "f", "{\"x\":1}"),
            piece(0, "b", "f", "{\"x\":2}"),
            piece(0, "", "g", "{}"),
            piece(0, "d", "h", ""),
            piece(0, NONE, NONE, "{}"),
        ];
        check(pieces, &[("a", "f", "{\"x\":1}"), ("b", "f", "{\"x\":2}"), ("", "g", "{}"), ("d", "h", "{}")]);
    }

    #[test]
    fn every_piece_has_an_id_of_its_own() {
        let pieces = vec![
            piece(0, "a", "f", ""),
            piece(0, "b", NONE, "{\"x\":"),
            piece(0, "c", "f", "1"),
            piece(0, "d", "", "}"),
        ];
        check(pieces, &[("a", "f", "{\"x\":1}")]);
    }

    #[test]
    fn every_piece_has_an_index_of_its_own() {
        let pieces = vec![
            piece(0, "a", "f", ""),
            piece(1, NONE, NONE, "{\"x\":"),
            piece(2, "a", NONE, "1"),
            piece(3, NONE, NONE, "}"),
        ];
        check(pieces, &[("a", "f", "{\"x\":1}")]);
    }

    #[test]
    fn a_name_in_pieces_and_a_name_that_comes_late() {
        let pieces = vec![
            piece(0, "a", "get_", ""),
            piece(0, NONE, "weather", ""),
            piece(0, NONE, NONE, "{}"),
            piece(1, "b", NONE, ""),
            piece(1, NONE, "f", "{}"),
        ];
        check(pieces, &[("a", "get_weather", "{}"), ("b", "f", "{}")]);
    }

    #[test]
    fn what_comes_along_is_kept() {
        let mut calls = Calls::default();
        let pieces = json!([
            {"index": 0, "id": "a", "function": {"name": "f"}, "extra_content": {"google": {"thought_signature": "s"}}},
            {"index": 0, "type": "function", "function": {"arguments": "{}"}, "extra_content": null}
        ]);
        for piece in serde_json::from_value::<Vec<ToolCallDelta>>(pieces).unwrap() {
            calls.add(&piece).unwrap();
        }
        let call = calls.into_list().remove(0);
        assert_eq!(call.extra["extra_content"]["google"]["thought_signature"], "s");
    }

    #[test]
    fn their_number_is_bounded() {
        let mut calls = Calls::default();
        let nth = |n: usize| ToolCallDelta {
            index: Some(n as u64),
            id: Some(n.to_string()),
            ..ToolCallDelta::default()
        };
        (0..MOST_CALLS).for_each(|n| calls.add(&nth(n)).unwrap());
        assert_eq!(calls.add(&nth(MOST_CALLS)), Err(TooMany::Calls));
        assert_eq!(calls.add(&nth(7)), Ok(()));
    }
}
