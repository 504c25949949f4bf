//! The walls of the house, so that nobody has to remember them: who may name what, and what every file begins with.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on shall say so loudly")]

use std::fs;
use std::path::{Path, PathBuf};

/// Longest function: it can be seen whole on a screen.
const LONGEST_FUNCTION: usize = 70;

/// Longest file before its tests: it can be held in the head.
const LONGEST_FILE: usize = 360;

struct Source {
    path: String,
    /// Without the tests at the end.
    code: String,
    whole: String,
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let whole = fs::read_to_string(&path).unwrap();
                let code = whole.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
                let path = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                found.push(Source { path, code, whole });
            }
        }
    }
    assert!(!found.is_empty(), "no sources in {folder}");
    found
}

/// The lines that are code, without comments.
fn code_lines(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let lines = source.code.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines
        .map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
        .filter(|(_, line)| !line.trim().is_empty())
}

#[track_caller]
fn only(words: &[&str], allowed: impl Fn(&str) -> bool) {
    for source in sources("src").iter().filter(|source| !allowed(&source.path)) {
        for (number, line) in code_lines(source) {
            let word = words.iter().find(|word| line.contains(**word));
            assert!(word.is_none(), "{}:{number} names {}: {line}", source.path, word.unwrap());
        }
    }
}

#[test]
fn the_http_library_is_named_in_http_only() {
    only(&["ureq::", "use ureq"], |path| path.starts_with("src/http/"));
}

#[test]
fn time_is_read_and_slept_in_one_file() {
    let clocks = [
        "Instant::now",
        "SystemTime::now",
        ".elapsed()",
        "thread::sleep",
        "park_timeout",
        "wait_timeout",
        "recv_timeout",
    ];
    only(&clocks, |path| path == "src/runtime/clock.rs");
}

#[test]
fn deciding_and_saying_touch_nothing() {
    let effects = [
        "crate::http",
        "crate::runtime",
        "thread::",
        "Mutex",
        "Condvar",
        "Atomic",
        "std::net::Tcp",
        "std::fs",
        "log::",
        "fastrand::",
        "env::",
    ];
    let pure = ["src/policy/", "src/api/", "src/wire/", "src/json/"];
    only(&effects, |path| !pure.iter().any(|folder| path.starts_with(folder)));
}

#[test]
fn a_file_uses_only_what_is_below_it() {
    // The layers, from the lowest; modules of one layer don't see each other.
    let floors: [&[&str]; 9] = [
        &["error", "limits"],
        &["json", "meta"],
        &["api", "policy"],
        &["wire"],
        &["runtime"],
        &["http"],
        &["adaptive"],
        &["retry"],
        &["client"],
    ];
    let floor_of = |room: &str| floors.iter().position(|rooms| rooms.contains(&room));
    for source in sources("src") {
        let room = source.path.trim_start_matches("src/").split(['/', '.']).next().unwrap();
        if room == "lib" {
            continue;
        }
        let here = floor_of(room).unwrap_or_else(|| panic!("{} is on no floor", source.path));
        for (number, line) in code_lines(&source) {
            let Some((_, used)) = line.split_once("crate::") else { continue };
            let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let Some(there) = floor_of(&used) else { continue };
            assert!(
                there < here || used == room,
                "{}:{number} uses {used}, which isn't below it",
                source.path
            );
        }
    }
}

#[test]
fn every_file_says_first_what_it_is_for() {
    for folder in ["src", "tests", "examples"] {
        for source in sources(folder) {
            assert!(source.whole.starts_with("//! "), "{} doesn't begin with what it is for", source.path);
        }
    }
}

#[test]
fn no_function_is_out_of_sight_and_no_file_out_of_mind() {
    for source in sources("src") {
        let length = source.code.lines().count();
        assert!(length <= LONGEST_FILE, "{} has {length} lines", source.path);
        let mut start = None;
        for (index, line) in source.code.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let opens = line
                .trim_start()
                .split(['(', '<'])
                .next()
                .is_some_and(|head| head.split(' ').any(|word| word == "fn"));
            if opens && !line.trim_end().ends_with(';') && start.is_none() {
                start = Some((index, indent));
            }
            if let Some((first, depth)) = start {
                let closes =
                    indent == depth && line.trim() == "}" || index == first && line.trim_end().ends_with('}');
                if closes {
                    let length = index - first + 1;
                    assert!(length <= LONGEST_FUNCTION, "{}:{} has {length} lines", source.path, first + 1);
                    start = None;
                }
            }
        }
    }
}

#[test]
fn nothing_is_left_lying_about() {
    let litter = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("dbg", "!("),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    for folder in ["src", "tests", "examples"] {
        for source in sources(folder) {
            for word in litter {
                assert!(!source.whole.contains(word), "{} holds {word}", source.path);
            }
        }
    }
}

#[test]
fn the_runtime_dependencies_are_the_five_of_the_card() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let named =
        section.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    let mut names: Vec<&str> = named.map(|(name, _)| name.trim()).collect();
    names.sort_unstable();
    assert_eq!(names, ["fastrand", "log", "serde", "serde_json", "ureq"]);
}
