//! A whole round trip with a tool: the model asks for the weather, the program looks it up, the model answers. With
//! `HOLYSHEEP_API_KEY` set it asks the real service, without it a small server inside this process.
//!
//!     cargo run --example tools

use holysheep::test_server::{Server, ok, tool_call};
use holysheep::{ChatRequest, Client, Config, Message, Tool};
use serde::Deserialize;
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

/// What the model fills in.
#[derive(Deserialize)]
struct Place {
    city: String,
}

fn main() -> Result<(), Failure> {
    env_logger::init();
    if std::env::var_os("HOLYSHEEP_API_KEY").is_some() {
        return converse(&Client::from_env()?);
    }
    let asks = tool_call("weather", &json!({"city": "Paris"}));
    let server = Server::script([asks, ok("It is sunny in Paris, 21 °C.")]);
    println!("HOLYSHEEP_API_KEY is not set: asking a server at {}", server.url());
    let config = Config::builder().api_key("sk-of-no-service").base_url(server.url()).build()?;
    converse(&Client::new(config)?)
}

fn converse(client: &Client) -> Result<(), Failure> {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let weather = Tool::function("weather", "The weather in a city, now", schema);
    let mut request = ChatRequest::new("gpt-4.1").user("What is the weather in Paris?").tools([weather]);
    loop {
        let answer = client.chat(&request)?;
        if answer.tool_calls().is_empty() {
            println!("{}", answer.text());
            return Ok(());
        }
        let calls = answer.tool_calls().to_vec();
        // The model's own message goes back with the conversation, and then one answer for each of its calls.
        request = request.message(answer.choices[0].message.clone());
        for call in calls {
            let place: Place = serde_json::from_str(&call.function.arguments)?;
            println!("the model asks for {} of {}", call.function.name, place.city);
            request = request.message(Message::tool(call.id, look_up(&place.city)));
        }
    }
}

fn look_up(city: &str) -> String {
    json!({"city": city, "sky": "clear", "celsius": 21}).to_string()
}
