//! The public API is the one listed in docs/public-api.txt, so that a review sees each change of it. To write the list:
//! `UPDATE=1 cargo test --test public_api -- --ignored`
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't continue must fail")]

use std::process::Command;
use std::{env, fs};

#[test]
#[ignore = "builds the documentation as JSON, whose format depends on the toolchain"]
fn the_public_api_is_as_listed() {
    let root = env!("CARGO_MANIFEST_DIR");
    let target = format!("{root}/target/public-api");
    let built = Command::new(env!("CARGO"))
        .args([
            "rustdoc",
            "--lib",
            "--quiet",
            "--locked",
            "--features",
            "test-server",
            "--target-dir",
            &target,
        ])
        .args(["--", "-Zunstable-options", "--output-format", "json", "--cap-lints", "allow"])
        .current_dir(root)
        .env("RUSTC_BOOTSTRAP", "1")
        .status();
    assert!(built.unwrap().success());
    let api = public_api::Builder::from_rustdoc_json(format!("{target}/doc/holysheep.json"))
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .unwrap()
        .to_string();
    let list = format!("{root}/docs/public-api.txt");
    if env::var_os("UPDATE").is_some() {
        fs::write(&list, &api).unwrap();
    }
    let listed = fs::read_to_string(&list).unwrap_or_default();
    let changed: Vec<String> = api
        .lines()
        .filter(|line| !listed.lines().any(|other| other == *line))
        .map(|line| format!("+ {line}"))
        .chain(listed.lines().filter(|line| !api.lines().any(|o| o == *line)).map(|line| format!("- {line}")))
        .collect();
    assert!(changed.is_empty() && api == listed, "docs/public-api.txt is out of date: {changed:#?}");
}
