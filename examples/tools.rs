//! A conversation with a tool: the model requests the weather, the program looks it up, the model answers. With
//! `HOLYSHEEP_API_KEY` set the calls go to the real service; without the key, to a server inside this process.
//!
//!     cargo run --example tools

use holysheep::test_server::{Server, ok, tool_call};
use holysheep::{ChatRequest, Client, Config, Message, Result, Tool};
use serde::Deserialize;
use serde_json::json;

/// The arguments of the model's tool call.
#[derive(Deserialize)]
struct Place {
    city: String,
}

fn main() -> Result<()> {
    env_logger::init();
    let server =
        Server::script([tool_call("weather", &json!({"city": "Paris"})), ok("It is sunny in Paris, 21 °C.")]);
    let client = match std::env::var_os("HOLYSHEEP_API_KEY") {
        Some(_) => Client::from_env()?,
        None => Client::new(Config::builder().api_key("sk-of-no-service").base_url(server.url()).build()?)?,
    };

    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let weather = Tool::function("weather", "The weather in a city, now", schema);
    let mut request = ChatRequest::new("gpt-4.1").user("What is the weather in Paris?").tools([weather]);
    loop {
        let answer = client.chat(&request)?;
        if answer.tool_calls().is_empty() {
            println!("{}", answer.text());
            return Ok(());
        }
        // The model's message goes back into the conversation, followed by one result for each of its calls.
        request = request.message(answer.choices[0].message.clone());
        for call in answer.tool_calls() {
            let place: Place = call.arguments()?;
            println!("the model calls {} for {}", call.name(), place.city);
            request = request.message(Message::tool(&call.id, look_up(&place)));
        }
    }
}

fn look_up(place: &Place) -> String {
    json!({"city": place.city, "sky": "clear", "celsius": 21}).to_string()
}
