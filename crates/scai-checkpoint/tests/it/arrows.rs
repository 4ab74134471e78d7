//! Dependencies point the way that ARCHITECTURE.md draws them, between crates and between the modules
//! of each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The headings with a list of modules, from the top down, and where these are.
const MAPS: [(&str, &str); 7] = [
    ("Inside the engine", "crates/scai-checkpoint/src"),
    ("Inside the trainer", "crates/scai-train/src"),
    ("Inside the adapter for burn", "crates/scai-burn/src"),
    ("Inside the adapter for candle", "crates/scai-candle/src"),
    ("Inside the inspection", "crates/scai-inspect/src"),
    ("Inside the command", "crates/scai-cli/src"),
    ("Inside the extension", "crates/scai-python/src"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The first block of text below a heading.
fn block(heading: &str) -> Vec<String> {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let below = map.lines().skip_while(|line| *line != format!("## {heading}"));
    let block = below.skip_while(|line| *line != "```text").skip(1);
    let lines: Vec<String> = block.take_while(|line| *line != "```").map(str::to_owned).collect();
    assert!(!lines.is_empty(), "there is no map below `{heading}`");
    lines
}

/// The modules of a map with the line that each stands in.
fn order(heading: &str) -> BTreeMap<String, usize> {
    let lines = block(heading);
    let named = lines.iter().enumerate().filter(|(_, line)| !line.starts_with(' '));
    named.map(|(i, line)| (line.split("  ").next().unwrap_or(line).to_owned(), i)).collect()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules at the top of this crate that some code refers to: `crate::error::Error`,
/// `use crate::{error, memory::zeroed}`.
fn referred(code: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let name = |text: &str| text.trim().chars().take_while(|c| is_name(*c)).collect::<String>();
    let mut found = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            Some(group) => {
                let group = group.split(';').next().unwrap_or_default();
                found.extend(group.split(',').map(name));
            }
            None => drop(found.insert(name(after))),
        }
    }
    found
}

/// Without comments, and without tests, which may use anything.
fn code_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The arrows of `code` in the module `module` that are not drawn.
fn upward(order: &BTreeMap<String, usize>, module: &str, code: &str) -> Vec<String> {
    let Some(own) = order.get(module) else { return vec![format!("`{module}` is not on the map")] };
    let others = referred(code).into_iter().filter(|other| other != module);
    let up = others.filter(|other| order.get(other).is_some_and(|other| other <= own));
    up.map(|other| format!("`{module}` uses `{other}`")).collect()
}

#[test]
fn modules_use_only_what_is_drawn_below_them() {
    let mut wrong = Vec::new();
    for (heading, source) in MAPS {
        let (order, source) = (order(heading), root().join(source));
        let mut files = Vec::new();
        sources(&source, &mut files);
        assert!(files.len() > 4, "{}", source.display());
        for file in files {
            let inside = file.strip_prefix(&source).unwrap();
            let module = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
            if module == "lib" || module == "main" {
                continue;
            }
            let found = upward(&order, module, &code_of(&file)).into_iter();
            wrong.extend(found.map(|arrow| format!("{}: {arrow}", file.display())));
        }
    }
    assert_eq!(wrong, [""; 0], "see ARCHITECTURE.md");
}

#[test]
fn crates_depend_only_on_what_is_drawn_to_their_right() {
    let lines = block("The crates");
    let column = |name: &str| {
        let found = lines.iter().find_map(|line| {
            let at = line.find(name)?;
            let end = line[at + name.len()..].chars().next().unwrap_or(' ');
            (end == ' ').then(|| line[..at].chars().count())
        });
        found.unwrap_or_else(|| panic!("`{name}` is not on the map"))
    };
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let manifest = fs::read_to_string(path.join("Cargo.toml")).unwrap();
        let tables = manifest.split("\n[").filter(|table| table.starts_with("dependencies]"));
        for line in tables.flat_map(str::lines).filter(|line| line.starts_with("scai-")) {
            let end = line.find(|c: char| !c.is_alphanumeric() && c != '-').unwrap_or(line.len());
            let other = &line[..end];
            assert!(column(&name) < column(other), "`{name}` depends on `{other}`");
        }
    }
}

#[test]
fn an_arrow_that_is_not_drawn_is_found_however_it_is_written() {
    let order = BTreeMap::from([("manager".to_owned(), 0), ("error".to_owned(), 1)]);
    for code in [
        "use crate::manager::Shared;",
        "use crate::{error, manager::Shared};",
        "crate::manager::x()",
    ] {
        assert_eq!(upward(&order, "error", code), ["`error` uses `manager`"], "{code}");
    }
    assert_eq!(upward(&order, "manager", "use crate::error::Error;"), [""; 0]);
    assert_eq!(upward(&order, "other", ""), ["`other` is not on the map"]);
}
