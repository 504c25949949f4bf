//! Targets of the batch tool's files.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::path::PathBuf;
use std::sync::OnceLock;

use holysheep::{ChatRequest, EmbeddingRequest};

use crate::input::Reader;
use crate::options::{Options, Parsed};
use crate::resume::Reading;

/// A file of this process.
fn path() -> PathBuf {
    std::env::temp_dir().join(format!("holysheep-fuzz-{}.jsonl", std::process::id()))
}

fn options() -> &'static [Options; 2] {
    static OPTIONS: OnceLock<[Options; 2]> = OnceLock::new();
    OPTIONS.get_or_init(|| {
        ["native", "openai"].map(|format| {
            let input = path().display().to_string();
            let arguments =
                ["--model", "m", "--template", "{prompt}", "--format", format, "-o", "out", &input];
            match Options::parse(lexopt::Parser::from_args(arguments)).unwrap() {
                Parsed::Run(options) => options,
                Parsed::Print(text) => panic!("{text}"),
            }
        })
    })
}

/// Any bytes as an input are items or errors; each line is read once, in order.
pub fn batch_input(data: &[u8]) {
    fs::write(path(), data).unwrap();
    let options = &options()[0];
    let Ok(mut reader) = Reader::open(&options.input) else { return };
    reader.kind(&options.defaults).unwrap();
    let mut items = 0;
    while let Some(item) = reader.next().unwrap() {
        assert_eq!(item.index, items);
        let _ = item.crc32();
        let chat = item.parse::<ChatRequest>(&options.defaults);
        let embedding = item.parse::<EmbeddingRequest>(&options.defaults);
        for id in [chat.id, embedding.id].into_iter().flatten() {
            assert!(serde_json::from_str::<&serde_json::value::RawValue>(id.get()).is_ok());
        }
        items += 1;
    }
    let lines = data.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    assert!(items <= lines.count());
}

/// Any bytes as the output of an earlier run are refused and left alone, or repaired: only a torn last line is removed, and a
/// second repair finds the same items and changes nothing.
pub fn batch_output(data: &[u8]) {
    for options in options() {
        fs::write(path(), data).unwrap();
        let mut file = File::options().read(true).append(true).open(path()).unwrap();
        let reading = Reading::new(options, "output");
        let repaired = reading.repair(&mut file);
        let content = read(&mut file);
        let Ok(repaired) = repaired else {
            assert!(content == data);
            continue;
        };
        assert!(content.is_empty() || content.ends_with(b"\n"));
        let kept = content.strip_suffix(b"\n").unwrap_or(&content);
        assert!(data.starts_with(kept), "only the end may be removed");
        let again = reading.repair(&mut file).map_err(|error| error.to_string()).unwrap();
        assert_eq!((again.count(), again.failed()), (repaired.count(), repaired.failed()));
        assert!(read(&mut file) == content);
    }
}

fn read(file: &mut File) -> Vec<u8> {
    let mut content = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    content
}
