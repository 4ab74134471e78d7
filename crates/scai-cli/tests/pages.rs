//! Every command in docs/cli.md and its Chinese page prints what stands below it.
//!
//! `UPDATE=1 cargo test -p scai-cli --test pages` writes the output anew; a line `…` stands for
//! any number of lines and is kept.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests read and write files and panic when something does not hold"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A folder with a copy of the checkpoints that the pages show.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("checkpoints");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(root().join("fixtures/demo/checkpoints")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    folder
}

/// Runs `scai …` and returns what it prints, messages first.
fn run(command: &str, folder: &Path) -> String {
    let mut words = command.split_whitespace();
    assert_eq!(words.next(), Some("scai"));
    let output = Command::new(env!("CARGO_BIN_EXE_scai"))
        .args(words)
        .current_dir(folder)
        .env("TZ", "UTC")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    text(output.stderr) + &text(output.stdout)
}

/// Whether `printed` is `written`, in which a line `…` stands for any number of lines.
fn matches(written: &[&str], printed: &[&str]) -> bool {
    match written {
        [] => printed.is_empty(),
        ["…", rest @ ..] => (0..=printed.len()).any(|skip| matches(rest, &printed[skip..])),
        [first, rest @ ..] => {
            printed.first() == Some(first) && matches(rest, printed.get(1..).unwrap_or_default())
        }
    }
}

/// The lines to write: the first ones before a `…`, and the same number after it as there were.
fn updated(written: &[&str], printed: &[&str]) -> Vec<String> {
    let owned = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
    match written.iter().position(|&line| line == "…") {
        Some(at) if printed.len() > written.len() => {
            let tail = written.len() - at - 1;
            let head = owned(&printed[..at]);
            let end = owned(&printed[printed.len() - tail..]);
            [head, vec!["…".to_owned()], end].concat()
        }
        _ => owned(printed),
    }
}

fn check(page: &str) {
    let path = root().join(page);
    let text = std::fs::read_to_string(&path).unwrap();
    let folder = folder();
    let mut out = Vec::new();
    let mut lines = text.lines().peekable();
    let mut commands = 0;
    let mut differences = Vec::new();
    while let Some(line) = lines.next() {
        out.push(line.to_owned());
        let Some(command) = line.strip_prefix("$ ").filter(|line| line.starts_with("scai ")) else {
            continue;
        };
        commands += 1;
        let mut written = Vec::new();
        while let Some(line) = lines.next_if(|l| !l.starts_with("$ ") && !l.starts_with("```")) {
            written.push(line);
        }
        let printed = run(command, folder.path());
        let printed: Vec<&str> = printed.lines().collect();
        if !matches(&written, &printed) {
            differences.push(format!("$ {command}\n{}", printed.join("\n")));
        }
        out.extend(updated(&written, &printed));
    }
    assert!(commands > 5, "{page} has {commands} commands");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, out.join("\n") + "\n").unwrap();
    } else {
        assert!(differences.is_empty(), "{page} is out of date:\n{}", differences.join("\n"));
    }
}

#[test]
fn the_english_page_shows_what_is_printed() {
    check("docs/cli.md");
}

#[test]
fn the_chinese_page_shows_what_is_printed() {
    check("docs/cli.zh.md");
}
