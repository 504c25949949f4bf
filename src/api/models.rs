//! The list of models that a service offers.

use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::json::extra::Extra;
use crate::json::lenient::{Fields, objects, read_from_object, take, take_text};

/// A model as the service lists it.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Model {
    /// The name to put into a request.
    pub id: String,
    /// Whatever else the service says about it.
    pub extra: Extra,
}

impl Model {
    /// Whose model it is, where the service says so.
    pub fn owned_by(&self) -> Option<&str> {
        self.extra.get("owned_by")?.as_str()
    }

    fn read(mut fields: Map<String, Value>) -> Model {
        // Without an id, Ollama's own list and Google's go by the name.
        let id = take_text(&mut fields, "id");
        let name = || fields.get("name").or_else(|| fields.get("model"))?.as_str().map(str::to_owned);
        Model { id: id.or_else(name).unwrap_or_default(), extra: fields.into() }
    }
}

read_from_object!(Model);

impl Serialize for Model {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = Fields::new(serializer, &self.extra)?;
        fields.field("id", &self.id)?;
        fields.end()
    }
}

/// The list as it comes: `{"data": […]}` almost everywhere, `{"models": […]}` or the bare array at some gateways.
#[derive(Debug)]
pub(crate) struct ModelList(Vec<Model>);

impl ModelList {
    pub(crate) fn into_vec(self) -> Vec<Model> {
        self.0
    }
}

impl<'de> Deserialize<'de> for ModelList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ModelList, D::Error> {
        let list = match Value::deserialize(deserializer)? {
            Value::Object(mut fields) => {
                take(&mut fields, "data", objects).or_else(|| take(&mut fields, "models", objects))
            }
            list @ Value::Array(_) => objects(list).ok(),
            _ => None,
        };
        let list = list.ok_or_else(|| serde::de::Error::custom("there is no list of models"))?;
        // What has no name can't be asked for.
        Ok(ModelList(list.into_iter().map(Model::read).filter(|model| !model.id.is_empty()).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json, to_value};

    #[test]
    fn lists_in_every_form() {
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
    fn what_is_said_about_a_model_survives() {
        let value = json!({"id": "a", "created": 7, "owned_by": "o", "object": "model", "meta": {"n": 1}});
        let model: Model = from_value(value.clone()).unwrap();
        assert_eq!(model.owned_by(), Some("o"));
        assert_eq!(to_value(&model).unwrap(), value);
    }
}
