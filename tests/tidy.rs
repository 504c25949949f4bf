//! Rules for the sources: which module may use what, how long a function may be, and what every file begins with.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

use std::fs;
use std::path::{Path, PathBuf};

/// The longest function in lines: it fits on a screen.
const LONGEST_FUNCTION: usize = 70;

/// The longest file in lines, without its tests.
const LONGEST_FILE: usize = 360;

struct Source {
    path: String,
    /// The text without the tests at the end.
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
fn assert_only_in(words: &[&str], allowed: impl Fn(&str) -> bool) {
    for source in sources("src").iter().filter(|source| !allowed(&source.path)) {
        for (number, line) in code_lines(source) {
            let word = words.iter().find(|word| line.contains(**word));
            assert!(word.is_none(), "{}:{number} names {}: {line}", source.path, word.unwrap());
        }
    }
}

#[test]
fn ureq_is_named_in_http_only() {
    assert_only_in(&["ureq::", "use ureq"], |path| path.starts_with("src/http/"));
}

#[test]
fn the_clock_is_read_in_one_file() {
    let clocks = [
        "Instant::now",
        "SystemTime::now",
        ".elapsed()",
        "thread::sleep",
        "park_timeout",
        "wait_timeout",
        "recv_timeout",
    ];
    assert_only_in(&clocks, |path| path == "src/runtime/clock.rs");
}

#[test]
fn pure_modules_have_no_side_effects() {
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
    assert_only_in(&effects, |path| !pure.iter().any(|folder| path.starts_with(folder)));
}

#[test]
fn a_module_uses_only_modules_of_lower_layers() {
    // The layers, from the lowest; modules of one layer don't use each other.
    let layers: [&[&str]; 9] = [
        &["error", "limits"],
        &["json", "meta"],
        &["api", "policy"],
        &["wire"],
        &["runtime"],
        &["http"],
        &["adaptive"],
        &["retry"],
        &["client", "test_server"],
    ];
    let layer_of = |module: &str| layers.iter().position(|modules| modules.contains(&module));
    for source in sources("src") {
        let module = source.path.trim_start_matches("src/").split(['/', '.']).next().unwrap();
        if ["lib", "guide"].contains(&module) {
            continue;
        }
        let layer = layer_of(module).unwrap_or_else(|| panic!("{} is in no layer", source.path));
        for (number, line) in code_lines(&source) {
            // Any other path to a module of another layer would escape this check.
            let is_top = source.path.matches('/').count() == 1;
            let escapes = ["crate::{", "super::super"].iter().any(|path| line.contains(path));
            assert!(
                !escapes && (!is_top || !line.contains("super::")),
                "{}:{number} doesn't name the module by its path from crate::",
                source.path
            );
            for (start, path) in line.match_indices("crate::") {
                let used = &line[start + path.len()..];
                let used: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let is_lower = layer_of(&used).is_none_or(|used| used < layer);
                assert!(
                    is_lower || used == module,
                    "{}:{number} uses {used}, which is in no lower layer",
                    source.path
                );
            }
        }
    }
}

/// The client is tested with the test server, so that code which both used could hide its own errors. The runtime is
/// exempt: it has the only clock, and the waits that a dropped server ends.
#[test]
fn the_test_server_uses_nothing_of_the_client() {
    for source in sources("src").iter().filter(|source| source.path.starts_with("src/test_server")) {
        for (number, line) in code_lines(source) {
            for (start, path) in line.match_indices("crate::") {
                let used = &line[start + path.len()..];
                let allowed = ["runtime::", "test_server::"].iter().any(|module| used.starts_with(module));
                assert!(allowed, "{}:{number} uses more than the runtime: {line}", source.path);
            }
        }
    }
}

#[test]
fn every_file_begins_with_its_purpose() {
    for folder in ["src", "tests", "examples"] {
        for source in sources(folder) {
            assert!(source.whole.starts_with("//! "), "{} doesn't begin with a //! sentence", source.path);
        }
    }
}

#[test]
fn functions_and_files_are_short() {
    for source in ["src", "examples/batch/src", "examples/simulate/src"].into_iter().flat_map(sources) {
        let length = source.code.lines().count();
        assert!(length <= LONGEST_FILE, "{} has {length} lines", source.path);
        let mut start = None;
        let lines = source.code.lines().enumerate();
        for (index, line) in lines.filter(|(_, line)| !line.trim_start().starts_with("//")) {
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
fn no_leftovers_of_work_in_progress() {
    let leftovers = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("dbg", "!("),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    for folder in ["src", "tests", "examples"] {
        for source in sources(folder) {
            for word in leftovers {
                assert!(!source.whole.contains(word), "{} contains {word}", source.path);
            }
        }
    }
}

#[test]
fn there_are_five_runtime_dependencies() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let named =
        section.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    let mut names: Vec<&str> = named.map(|(name, _)| name.trim()).collect();
    names.sort_unstable();
    assert_eq!(names, ["fastrand", "log", "serde", "serde_json", "ureq"]);
}

/// A test that needs files from outside of the repository is ignored: it never passes without having run.
#[test]
fn tests_with_files_from_outside_of_the_repository_are_ignored() {
    let folder = concat!("..", "/shared");
    for source in ["src", "tests"].into_iter().flat_map(sources) {
        let reads = [format!("\"{folder}"), format!("\"/{folder}")];
        let reads = reads.iter().any(|path| source.whole.contains(path));
        let ignores = source.whole.contains(&format!("#[ignore = \"needs {folder}"));
        assert_eq!(reads, ignores, "{} reads files from outside of the repository", source.path);
    }
}
