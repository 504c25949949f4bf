//! Prompts made from a template and the columns of a line.

use crate::input::line::{Fields, value};

/// Text with columns in braces; a brace itself is doubled.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) text: String,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Column(String),
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Template, String> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            pieces.push(Piece::Text(rest[..at].to_owned()));
            let (brace, after) = rest[at..].split_at(1);
            if let Some(after) = after.strip_prefix(brace) {
                pieces.push(Piece::Text(brace.to_owned()));
                rest = after;
                continue;
            }
            let column = after.split_once('}').filter(|(name, _)| brace == "{" && !name.contains('{'));
            let (name, after) =
                column.ok_or("a brace isn't closed or opened; write a brace itself as {{ or }}")?;
            pieces.push(Piece::Column(name.to_owned()));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Template { text: text.to_owned(), pieces })
    }

    /// The prompt for a line. A column that isn't text is put in as its JSON.
    pub(super) fn fill(&self, fields: &Fields) -> Result<String, String> {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => Ok(text.clone()),
            Piece::Column(name) => {
                let raw = fields
                    .get(name)
                    .ok_or_else(|| format!("has no column {name}, which --template names"))?;
                Ok(value(raw).as_str().map_or_else(|| raw.get().to_owned(), str::to_owned))
            }
        };
        self.pieces.iter().map(piece).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_filled_in_and_doubled_braces_are_braces() {
        let fields = Fields::parse(r#"{"text":"né\n","n":1.50,"list":[1, 2]}"#).unwrap();
        let fill = |template: &str| Template::parse(template).and_then(|template| template.fill(&fields));
        assert_eq!(fill("Translate: {text}|{n}|{list}").unwrap(), "Translate: né\n|1.50|[1, 2]");
        assert_eq!(fill("{{\"a\": {n}}}").unwrap(), "{\"a\": 1.50}");
        assert_eq!(fill("no columns").unwrap(), "no columns");
        assert_eq!(fill("{gone}").unwrap_err(), "has no column gone, which --template names");
        for broken in ["{text", "text}", "{a{b}", "{"] {
            assert!(fill(broken).unwrap_err().contains("{{ or }}"), "{broken}");
        }
    }
}
