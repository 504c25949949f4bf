//! Rules for the repository: layers of modules, side effects, dependencies, lengths of functions and files, file heads, and
//! banned phrases.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

use std::fs;
use std::path::{Path, PathBuf};

/// The longest function in lines, so that it fits on a screen.
const LONGEST_FUNCTION: usize = 70;

/// The longest file in lines, without its tests.
const LONGEST_FILE: usize = 360;

struct Source {
    path: String,
    /// The text without the tests at the end.
    code: String,
    whole: String,
}

/// The files in a folder and its subfolders.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted))
}

/// The path from the root of the repository.
fn relative(path: &Path) -> String {
    let path = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
    path.to_str().unwrap().replace('\\', "/")
}

/// The Rust files in a folder and its subfolders.
fn sources(folder: &str) -> Vec<Source> {
    let rust = files(folder).into_iter().filter(|path| has_extension(path, &["rs"]));
    let found: Vec<Source> = rust
        .map(|path| {
            let whole = fs::read_to_string(&path).unwrap();
            let code = whole.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
            Source { path: relative(&path), code, whole }
        })
        .collect();
    assert!(!found.is_empty(), "no sources in {folder}");
    found
}

/// The lines of code with their numbers, without comments.
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
            // This check finds only paths that begin with crate:: and name the module.
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

/// The client is tested with the test server, so bugs in code that both use could go unnoticed. The runtime is exempt: it
/// has the only clock, and the waits that end when the server is dropped.
#[test]
fn the_test_server_uses_no_code_of_the_client() {
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
fn every_file_begins_with_a_doc_comment() {
    for folder in ["src", "tests", "examples", "benches", "fuzz/src", "fuzz/fuzz_targets"] {
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

/// Phrases that a native speaker of technical English wouldn't use, with their replacements. `concat!` keeps this list itself from
/// matching.
const BANNED_PHRASES: [(&str, &str); 23] = [
    (concat!("on e", "nd"), "consecutive"),
    (concat!("in v", "ain"), "wasted"),
    (concat!("leave t", "o"), "permission to"),
    (concat!("on the w", "ire"), "in flight, or sent"),
    (concat!("the nearest t", "hat"), "the nearest allowed value"),
    (concat!("is t", "old"), "is notified, or receives"),
    (concat!("are t", "old"), "are notified, or receive"),
    (concat!("was t", "old"), "was notified, or received"),
    (concat!("told a", "part"), "distinguished"),
    (concat!("sh", "all"), "must, or will"),
    (concat!("go o", "n"), "continue"),
    (concat!("goes o", "n"), "continues"),
    (concat!("going o", "n"), "continuing"),
    (concat!("tried a", "gain"), "retried"),
    (concat!("tries a", "gain"), "retries"),
    (concat!("by ch", "ance"), "at random"),
    (concat!("un", "asked"), "unrequested"),
    (concat!("passed o", "ver"), "skipped, or ignored"),
    (concat!("however l", "ong"), "without a timeout"),
    (concat!("what comes n", "ext"), "the next step"),
    (concat!("from which o", "n"), "after which"),
    (concat!("at most so m", "any"), "at most `count`: name the number"),
    (concat!("some", "body"), "the user, the caller or the program"),
];

/// The texts in which phrases are checked: everything but recorded data, licences and generated files.
fn texts() -> Vec<PathBuf> {
    let folders = ["src", "tests", "examples", "benches", "docs", "fuzz/src", "fuzz/fuzz_targets", ".ci"];
    let root_files = files_in_root().into_iter().filter(|path| has_extension(path, &["md", "toml"]));
    let found = folders
        .into_iter()
        .flat_map(files)
        .filter(|path| path.extension().is_none() || has_extension(path, &["rs", "md", "toml", "py"]));
    found.chain(root_files).collect()
}

fn files_in_root() -> Vec<PathBuf> {
    let entries = fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
}

/// The words of a text with their line numbers, in lower case and without comment markers. Names are split at underscores.
fn words(text: &str) -> Vec<(usize, String)> {
    let lines = text.lines().enumerate().flat_map(|(index, line)| {
        let line = line.to_lowercase().replace('_', " ");
        let words = line.split_whitespace().filter(|word| !["//", "///", "//!", "#"].contains(word));
        words.map(|word| (index + 1, word.to_owned())).collect::<Vec<_>>()
    });
    lines.collect()
}

/// The lines at which a phrase begins. Only whole words match; a line break may be between them, and punctuation around them.
fn lines_with(words: &[(usize, String)], phrase: &str) -> Vec<usize> {
    let phrase: Vec<&str> = phrase.split(' ').collect();
    let is_punctuation = |c: char| !c.is_alphanumeric();
    let matches = |found: &[(usize, String)]| {
        found.iter().zip(&phrase).enumerate().all(|(index, ((_, word), wanted))| {
            let word = if index == 0 { word.trim_start_matches(is_punctuation) } else { word };
            let is_last = index + 1 == phrase.len();
            *wanted == if is_last { word.trim_end_matches(is_punctuation) } else { word }
        })
    };
    words.windows(phrase.len()).filter(|found| matches(found)).map(|found| found[0].0).collect()
}

#[test]
fn banned_phrases_do_not_occur() {
    let mut found = Vec::new();
    for path in texts() {
        let words = words(&fs::read_to_string(&path).unwrap());
        for (phrase, replacement) in BANNED_PHRASES {
            let places = lines_with(&words, phrase).into_iter();
            found.extend(
                places
                    .map(|line| format!("{}:{line}: for \"{phrase}\" write {replacement}", relative(&path))),
            );
        }
    }
    assert!(found.is_empty(), "{} banned phrases:\n{}", found.len(), found.join("\n"));
}

#[test]
fn phrases_match_whole_words_across_lines_and_in_names() {
    let text = "/// An open breaker.\n// Ends: an open,\n//! breaker; fn an_open_breaker()\nan opened breaker, an open\n/// (breaker)";
    assert_eq!(lines_with(&words(text), "open breaker"), [1, 3]);
    assert_eq!(lines_with(&words(text), "breaker"), [1, 3, 3, 4, 5]);
}

#[test]
fn there_are_five_runtime_dependencies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [manifest, lock] =
        ["Cargo.toml", "Cargo.lock"].map(|file| fs::read_to_string(root.join(file)).unwrap());
    let sections = manifest.split("\n[").filter_map(|section| section.split_once("]\n"));
    let runtime = sections.filter(|(head, _)| *head == "dependencies" || head.ends_with(".dependencies"));
    let lines = runtime.flat_map(|(_, section)| section.lines().filter(|line| !line.starts_with('#')));
    let (mut optional, mut names): (Vec<_>, Vec<_>) =
        lines.filter_map(|line| line.split_once(" = ")).partition(|(_, how)| how.contains("optional = true"));
    names.sort_unstable();
    let names: Vec<&str> = names.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["fastrand", "log", "serde", "serde_json", "ureq"]);
    // The TLS features may name what ureq's TLS features bring with them, and nothing else.
    optional.sort_unstable();
    let optional: Vec<&str> = optional.into_iter().map(|(name, _)| name).collect();
    assert_eq!(optional, ["der", "native-tls", "openssl", "rustls"]);
    let brought = lock.split("[[package]]").filter(|package| {
        package.starts_with("\nname = \"ureq\"\n") || package.starts_with("\nname = \"native-tls\"\n")
    });
    let brought: Vec<&str> = brought.flat_map(str::lines).collect();
    for name in optional {
        assert!(brought.contains(&&*format!(" \"{name}\",")), "{name} is a dependency of its own");
    }
}

/// A test that needs files from outside the repository must be ignored, so that it doesn't pass without them.
#[test]
fn tests_that_need_files_from_outside_the_repository_are_ignored() {
    let folder = concat!("..", "/shared");
    for source in ["src", "tests"].into_iter().flat_map(sources) {
        let reads = [format!("\"{folder}"), format!("\"/{folder}")];
        let reads = reads.iter().any(|path| source.whole.contains(path));
        let ignores = source.whole.contains(&format!("#[ignore = \"needs {folder}"));
        assert_eq!(reads, ignores, "{} reads files from outside the repository", source.path);
    }
}

/// The limits page names constants and tests; they must exist where it says.
#[test]
fn the_limits_page_names_constants_and_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/limits.md")).unwrap();
    let all: String = ["src", "tests"].into_iter().flat_map(sources).map(|source| source.whole).collect();
    let mut rows = 0;
    for row in page.lines().filter(|line| line.contains("` in `")) {
        let quoted: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        let [.., constant, file, test] = quoted[..] else { panic!("incomplete row: {row}") };
        let code = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(code.contains(&format!("const {constant}:")), "{constant} is not in {file}");
        assert!(all.contains(&format!("fn {test}(")), "there is no test {test}");
        rows += 1;
    }
    assert!(rows > 20, "only {rows} rows were recognised");
}
