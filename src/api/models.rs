//! The list of models that a service offers.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::json::bounded::Bounded;
use crate::json::budget::Budget;
use crate::json::extra::Extra;
use crate::json::lenient::{List, text};
use crate::json::object::json_object;

/// A model in a service's list.
///
/// ```no_run
/// use holysheep::Client;
///
/// for model in Client::from_env()?.models()? {
///     println!("{} ({})", model.id, model.owned_by().unwrap_or("unknown owner"));
/// }
/// # Ok::<_, holysheep::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Model {
    /// The model name for requests.
    pub id: String,
    /// All other fields.
    pub extra: Extra,
}

impl Model {
    /// The owner of the model, if the service names one.
    pub fn owned_by(&self) -> Option<&str> {
        self.extra.get("owned_by")?.as_str()
    }
}

json_object!(Model { always id: "id" => text } finish with_name);

/// Uses the name as the id if there is no id, as in the native lists of Ollama and Google.
fn with_name(mut model: Model) -> Model {
    if model.id.is_empty() {
        let name = model.extra.get("name").or_else(|| model.extra.get("model"));
        model.id = name.and_then(Value::as_str).unwrap_or_default().to_owned();
    }
    model
}

/// The wire format of the list: `{"data": […]}`, or from some gateways `{"models": […]}` or a bare array.
#[derive(Debug)]
pub(crate) struct ModelList(Vec<Model>);

impl ModelList {
    pub(crate) fn into_vec(self) -> Vec<Model> {
        self.0
    }
}

impl<'de> Deserialize<'de> for ModelList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ModelList, D::Error> {
        ModelList::read(deserializer, &Budget::unlimited())
    }
}

impl Bounded for ModelList {
    fn read<'de, D: Deserializer<'de>>(deserializer: D, budget: &Budget) -> Result<ModelList, D::Error> {
        let mut list = deserializer.deserialize_any(ListOrFields(budget))?;
        list.retain(|model| !model.id.is_empty()); // a request can't name a model without an id
        Ok(ModelList(list))
    }
}

struct ListOrFields<'b>(&'b Budget);

impl<'de> Visitor<'de> for ListOrFields<'_> {
    type Value = Vec<Model>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of models")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Vec<Model>, A::Error> {
        let list = List::<Model>::read(SeqAccessDeserializer::new(items), self.0)?;
        Ok(list.0.ok().flatten().unwrap_or_default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Vec<Model>, A::Error> {
        let (mut data, mut models) = (None, None);
        while let Some(name) = fields.next_key::<String>()? {
            let place = match name.as_str() {
                "data" => &mut data,
                "models" => &mut models,
                _ => {
                    fields.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *place = fields.next_value_seed(self.0.seed::<List<Model>>())?.0.ok().flatten();
        }
        data.or(models).ok_or_else(|| A::Error::custom("there is no list of models"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json, to_value};

    #[test]
    fn every_list_format_is_read() {
        for value in [
            json!({"object": "list", "data": [{"id": "a"}, {"id": "b"}]}),
            json!([{"id": "a"}, {"id": "b"}]),
            json!({"models": [{"name": "a"}, {"model": "b"}]}),
            json!({"data": [{"id": "a"}, {"id": null}, 7, {"id": "b"}]}),
        ] {
            let models = from_value::<ModelList>(value.clone()).unwrap().into_vec();
            let ids: Vec<&str> = models.iter().map(|model| model.id.as_str()).collect();
            assert_eq!(ids, ["a", "b"], "{value}");
        }
        for value in [json!({}), json!("a"), json!({"data": "a"})] {
            assert!(from_value::<ModelList>(value).is_err());
        }
    }

    #[test]
    fn a_model_survives_a_round_trip() {
        let value = json!({"id": "a", "created": 7, "owned_by": "o", "object": "model", "meta": {"n": 1}});
        let model: Model = from_value(value.clone()).unwrap();
        assert_eq!(model.owned_by(), Some("o"));
        assert_eq!(to_value(&model).unwrap(), value);
    }
}
