//! Every recorded answer of real services, read as their users want it: what to expect is in `tests/data/outcomes.json`.
#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Map, Value, json};

    use crate::api::ChatResponse;
    use crate::wire::accumulate::Accumulator;
    use crate::wire::error_body::{self, ErrorBody};
    use crate::wire::sse::Decoder;
    use crate::wire::stream_event::StreamEvent;

    /// The recorded answers, by name; none where the folder is missing.
    fn samples() -> Map<String, Value> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/corpora/responses");
        let Ok(files) = fs::read_dir(folder) else {
            crate::wire::skipped(folder);
            return Map::new();
        };
        let read = |path| serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let samples = files.map(|file| read(file.unwrap().path()));
        samples.map(|sample: Value| (sample["name"].as_str().unwrap().to_owned(), sample)).collect()
    }

    fn outcomes() -> Map<String, Value> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/outcomes.json");
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    /// A stream that was read to its end, or to the error in it.
    fn stream(bytes: &[u8], step: usize) -> (Accumulator, Option<ErrorBody>, u64) {
        let (mut decoder, mut accumulator, mut chunks) = (Decoder::new(), Accumulator::new(), 0);
        let mut events = Vec::new();
        for mut piece in bytes.chunks(step) {
            while let Some(event) = decoder.next(&mut piece).unwrap() {
                events.push(event);
            }
        }
        events.extend(decoder.finish().unwrap());
        for event in events {
            match StreamEvent::read(event) {
                Ok(StreamEvent::Chunk(chunk)) => {
                    accumulator.add(&chunk).unwrap();
                    chunks += 1;
                }
                Ok(StreamEvent::Done) => accumulator.end(),
                Ok(StreamEvent::Failure(error)) => return (accumulator, Some(error), chunks),
                Ok(StreamEvent::Nothing) => {}
                Err(_) => break, // an event that was cut off
            }
        }
        (accumulator, None, chunks)
    }

    fn said(outcome: &mut Map<String, Value>, name: &str, text: Option<&str>) {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return };
        let starts: String = text.chars().take(24).collect();
        let ends: String = text.chars().skip(text.chars().count().saturating_sub(24)).collect();
        outcome.insert(name.to_owned(), json!({"bytes": text.len(), "starts": starts, "ends": ends}));
    }

    fn word(outcome: &mut Map<String, Value>, name: &str, word: Option<&str>) {
        if let Some(word) = word.filter(|word| !word.is_empty()) {
            outcome.insert(name.to_owned(), word.into());
        }
    }

    /// What a user sees of an answer.
    fn seen(answer: &ChatResponse) -> Map<String, Value> {
        let mut seen = Map::new();
        said(&mut seen, "text", Some(answer.text()));
        said(&mut seen, "reasoning", answer.reasoning());
        word(&mut seen, "finish_reason", answer.finish_reason());
        word(&mut seen, "refusal", answer.refusal());
        word(&mut seen, "model", Some(&answer.model));
        word(&mut seen, "id", Some(&answer.id));
        if let Some(usage) = &answer.usage {
            let numbers = json!([usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]);
            seen.insert("usage".to_owned(), numbers);
        }
        let calls = answer.tool_calls().iter();
        let calls: Value =
            calls.map(|call| json!([call.id, call.name(), call.arguments::<Value>().unwrap()])).collect();
        if calls != json!([]) {
            seen.insert("tool_calls".to_owned(), calls);
        }
        if answer.choices.len() > 1 {
            seen.insert("choices".to_owned(), answer.choices.len().into());
        }
        if let Some(choice) = answer.choices.first() {
            word(
                &mut seen,
                "function_call",
                choice.message.function_call.as_ref().map(|call| call.name.as_str()),
            );
            let logprobs = choice.logprobs.as_ref().map_or(0, |logprobs| logprobs.content.len());
            if logprobs > 0 {
                seen.insert("logprobs".to_owned(), logprobs.into());
            }
        }
        seen
    }

    /// What a user sees of an error, with as much of its message as is expected.
    fn failed(error: &ErrorBody, status: u16, expected: &Value) -> Map<String, Value> {
        let mut seen = Map::new();
        seen.insert("outcome".to_owned(), "error".into());
        seen.insert("status".to_owned(), status.into());
        word(&mut seen, "code", error.code.as_deref());
        for (name, said) in [("kind", &error.kind), ("param", &error.param)] {
            word(&mut seen, name, said.as_deref().filter(|_| expected.get(name).is_some()));
        }
        let message = error.message.as_deref().unwrap_or_default();
        let wanted = expected["message"].as_str().unwrap();
        word(&mut seen, "message", Some(if message.contains(wanted) { wanted } else { message }));
        seen
    }

    fn chat(body: &str, expected: &Value) -> Map<String, Value> {
        if let Some(error) = error_body::inside_success(body.as_bytes()) {
            return failed(&error, error.status().unwrap_or(500), expected);
        }
        let mut seen = seen(&ChatResponse::decode(body.as_bytes()).unwrap());
        seen.insert("outcome".to_owned(), "answer".into());
        seen
    }

    fn streamed(body: &str, expected: &Value) -> Map<String, Value> {
        let (accumulator, error, chunks) = stream(body.as_bytes(), body.len());
        let complete = accumulator.is_complete();
        let answer = accumulator.into_response();
        if let Some(error) = error {
            let mut seen = failed(&error, error.status().unwrap_or(500), expected);
            said(&mut seen, "text", Some(answer.text()));
            said(&mut seen, "reasoning", answer.reasoning());
            return seen;
        }
        let mut seen = seen(&answer);
        seen.insert("outcome".to_owned(), if complete { "answer" } else { "truncated" }.into());
        seen.insert("chunks".to_owned(), chunks.into());
        seen
    }

    #[test]
    fn every_recorded_answer_is_read_as_its_user_wants_it() {
        let (samples, outcomes) = (samples(), outcomes());
        let mut wrong = Vec::new();
        for (name, sample) in &samples {
            let (body, expected) = (sample["body"].as_str().unwrap(), &outcomes[name]);
            let seen = match sample["kind"].as_str().unwrap() {
                "chat" => chat(body, expected),
                "stream" => streamed(body, expected),
                _ => {
                    // One was recorded without its status.
                    let status = sample["status"].as_u64().unwrap_or(400).try_into().unwrap();
                    failed(&ErrorBody::read(body.as_bytes()), status, expected)
                }
            };
            if json!(seen) != *expected {
                wrong.push(format!("{name}\n  seen     {}\n  expected {expected}", json!(seen)));
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), samples.len(), wrong.join("\n"));
        assert!(samples.is_empty() || samples.len() == outcomes.len());
    }

    #[test]
    fn every_recorded_answer_survives_a_round_trip() {
        for (name, sample) in samples().iter().filter(|(_, sample)| sample["kind"] == "chat") {
            let body = sample["body"].as_str().unwrap();
            let Ok(answer) = ChatResponse::decode(body.as_bytes()) else { continue };
            let again = ChatResponse::decode(&serde_json::to_vec(&answer).unwrap()).unwrap();
            assert_eq!(answer.clone(), again, "{name}");
            // And nothing of what came is lost, save nulls and empty things.
            let (came, goes): (Value, Value) = (serde_json::from_str(body).unwrap(), json!(answer));
            let lost = lost("", &came, &goes);
            assert!(lost.is_empty(), "{name}: {lost:?}");
        }
    }

    /// The places whose values are missing or others.
    fn lost(place: &str, came: &Value, goes: &Value) -> Vec<String> {
        let empty = |value: &Value| {
            value.is_null()
                || value.as_str() == Some("")
                || value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(|fields| fields.values().all(|value| value == ""))
        };
        match (came, goes) {
            (Value::Object(came), Value::Object(goes)) => came
                .iter()
                .flat_map(|(name, came)| {
                    lost(&format!("{place}.{name}"), came, goes.get(name).unwrap_or(&Value::Null))
                })
                .collect(),
            (Value::Array(came), Value::Array(goes)) if came.len() == goes.len() => came
                .iter()
                .zip(goes)
                .flat_map(|(came, goes)| lost(&format!("{place}[]"), came, goes))
                .collect(),
            (came, goes) if came == goes || (empty(came) && empty(goes)) => Vec::new(),
            // The older completions' text is the content of a message here.
            (Value::String(_), Value::Null) if place == ".choices[].text" => Vec::new(),
            _ => vec![place.to_owned()],
        }
    }

    #[test]
    fn streams_come_in_pieces_of_any_length() {
        for (name, sample) in samples().iter().filter(|(_, sample)| sample["kind"] == "stream") {
            let body = sample["body"].as_str().unwrap();
            let whole = stream(body.as_bytes(), body.len()).0.into_response();
            for step in [1, 2, 3, 7, 61, 1000] {
                assert_eq!(
                    stream(body.as_bytes(), step).0.into_response(),
                    whole,
                    "{name} in pieces of {step}"
                );
            }
        }
    }

    /// A stream that was cut at every byte: never whole before its finish reason came, always with what had arrived.
    #[test]
    fn a_cut_stream_is_never_whole_and_keeps_what_came() {
        let samples = samples();
        for name in ["openai-stream-03", "openrouter-stream-01", "mistral-stream-04"] {
            let Some(sample) = samples.get(name) else { return };
            let body = sample["body"].as_str().unwrap();
            let text = stream(body.as_bytes(), body.len()).0.into_response().text().to_owned();
            // The event with the reason is read once it is all there, be it without its blank line.
            let reason = body.find("\"finish_reason\":\"").unwrap();
            let whole_from = reason + body[reason..].find('\n').unwrap();
            let mut longest = 0;
            for cut in 0..body.len() {
                let (accumulator, error, _) = stream(&body.as_bytes()[..cut], usize::MAX);
                assert_eq!(
                    (accumulator.is_complete(), error),
                    (cut >= whole_from, None),
                    "{name} cut at {cut}"
                );
                let partial = accumulator.partial();
                assert!(
                    text.starts_with(partial) && partial.len() >= longest,
                    "{name} cut at {cut}: {partial}"
                );
                longest = partial.len();
                let events = body[..cut].matches("\n\n").count();
                if events > 0 && body[..cut].ends_with("\n\n") {
                    let before = stream(body[..cut].trim_end().as_bytes(), usize::MAX).0;
                    assert_eq!(before.partial(), partial, "{name} cut at {cut}");
                }
            }
            assert_eq!(longest, text.len(), "{name}");
        }
    }
}
