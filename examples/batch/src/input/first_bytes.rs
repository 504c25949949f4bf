//! Recognises files that aren't JSON Lines by their first bytes, and names a command that converts them.

use crate::input::BOM;

/// The first bytes of binary formats, what they are, and the command that converts a file.
const BINARY: [(&[u8], &str, &str); 6] = [
    (b"\x1F\x8B", "is compressed with gzip", "gzip -dc FILE | batch - …"),
    (b"\x28\xB5\x2F\xFD", "is compressed with zstd", "zstd -dc FILE | batch - …"),
    (b"\xFF\xFE", "is UTF-16", "iconv -f UTF-16 -t UTF-8 FILE | batch - …"),
    (b"\xFE\xFF", "is UTF-16", "iconv -f UTF-16 -t UTF-8 FILE | batch - …"),
    (b"{\0", "is UTF-16", "iconv -f UTF-16LE -t UTF-8 FILE | batch - …"),
    (b"PAR1", "is Parquet", "duckdb -c \"COPY 'FILE' TO 'prompts.jsonl'\""),
];

const ARRAY: &str = "jq -c '.[]' FILE | batch - …";
const PRETTY: &str = "jq -c . FILE | batch - …";
const CSV: &str = "python3 -c 'import csv, json, sys; [print(json.dumps(row)) for row in csv.DictReader(sys.stdin)]' < FILE > \
                   prompts.jsonl";
const TEXT: &str = "jq -cR '{prompt: .}' FILE | batch - …";

/// Says what the file is, if it can't be JSON Lines. `file` is its name in commands.
pub(super) fn check(first: &[u8], file: &str) -> Result<(), String> {
    let is =
        |what: &str, command: &str| Err(format!("{what}; convert it: {}", command.replace("FILE", file)));
    if let Some((_, what, command)) = BINARY.iter().find(|(bytes, ..)| first.starts_with(bytes)) {
        return is(what, command);
    }
    let text = first.strip_prefix(BOM).unwrap_or(first).trim_ascii_start();
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    match text.first() {
        None => Ok(()),
        Some(b'{') if text.starts_with(b"{\n") || text.starts_with(b"{\r\n") => {
            is("is JSON over several lines, not one object a line", PRETTY)
        }
        Some(b'{') => Ok(()),
        Some(b'[') => is("is one JSON array, not one object a line", ARRAY),
        Some(_) if line.iter().any(|byte| b",;\t".contains(byte)) => {
            is("isn't JSON Lines, but looks like CSV", CSV)
        }
        Some(_) => is("isn't JSON Lines, but looks like plain text", TEXT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_formats_are_named_with_the_command_that_converts_them() {
        for (first, what) in [
            (&b"\x1F\x8B\x08\0"[..], "is compressed with gzip; convert it: gzip -dc in | batch - …"),
            (b"\x28\xB5\x2F\xFD", "is compressed with zstd; convert it: zstd -dc in | batch - …"),
            (b"\xFF\xFE{\0", "is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 in | batch - …"),
            (b"\xFE\xFF\0{", "is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 in | batch - …"),
            (b"{\0\"\0", "is UTF-16; convert it: iconv -f UTF-16LE -t UTF-8 in | batch - …"),
            (b"PAR1", "is Parquet; convert it: duckdb -c \"COPY 'in' TO 'prompts.jsonl'\""),
            (b"\n [\n", "is one JSON array, not one object a line; convert it: jq -c '.[]' in | batch - …"),
            (
                b"\xEF\xBB\xBF{\r\n  \"a\"",
                "is JSON over several lines, not one object a line; convert it: jq -c . in",
            ),
            (
                b"id,prompt\n1,hi\n",
                "isn't JSON Lines, but looks like CSV; convert it: python3 -c 'import csv",
            ),
            (b"id\tprompt\n", "isn't JSON Lines, but looks like CSV"),
            (
                b"Write a poem.\n",
                "isn't JSON Lines, but looks like plain text; convert it: jq -cR '{prompt: .}' in",
            ),
        ] {
            let said = check(first, "in").unwrap_err();
            assert!(said.starts_with(what), "{said}");
        }
    }

    #[test]
    fn json_lines_are_let_through() {
        for first in [&b""[..], b" \r\n\n", b"{\"prompt\"", b"\xEF\xBB\xBF\n{}\n", b"{"] {
            assert_eq!(check(first, "in"), Ok(()), "{first:?}");
        }
    }
}
