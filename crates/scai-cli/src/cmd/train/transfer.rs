//! Which tensors of a checkpoint match and which do not, as a table.

use scai_checkpoint::load::{LoadReport, TensorSpec};
use scai_train::Restored;

use crate::render::{count, counted, one_line, table};

/// Rows of one kind that are shown.
const MOST: usize = 4;

/// The report of a partial load, for a network with these parameters.
pub(super) fn report(restored: &Restored, parameters: &[TensorSpec]) -> String {
    let Restored { network, optimizer, .. } = restored;
    let elements = |spec: &TensorSpec| spec.shape.iter().product::<usize>() as u64;
    let all: u64 = parameters.iter().map(elements).sum();
    let taken = parameters.iter().filter(|spec| network.loaded.contains(&spec.name));
    let taken: u64 = taken.map(elements).sum();
    let share = taken as f64 / all.max(1) as f64 * 100.0;
    let loaded = format!("{} of {} parameters, {share:.1}%", count(taken), count(all));
    let moments = counted(optimizer.loaded.len() as u64, "parameter");
    let first = [
        row("loaded", network.loaded.len(), loaded),
        vec!["moments".to_owned(), moments, "keep their optimizer state".to_owned()],
    ];
    lines(first.into(), network)
}

/// Why a load that must match has failed.
pub(super) fn mismatch(report: &LoadReport) -> String {
    lines(vec![row("matching", report.loaded.len(), String::new())], report)
}

fn row(what: &str, tensors: usize, note: String) -> Vec<String> {
    vec![what.to_owned(), counted(tensors as u64, "tensor"), note]
}

/// The first rows, and what was not loaded.
fn lines(mut rows: Vec<Vec<String>>, report: &LoadReport) -> String {
    for (what, names, note) in [
        ("missing", &report.missing, "only in the network"),
        ("unexpected", &report.unexpected, "only in the checkpoint"),
    ] {
        if !names.is_empty() {
            rows.push(row(what, names.len(), format!("{note}: {}", few(names))));
        }
    }
    if !report.mismatched.is_empty() {
        rows.push(row("mismatched", report.mismatched.len(), "different shape or dtype:".into()));
        let notes = report.mismatched.iter().map(|mismatch| one_line(&mismatch.to_string()));
        rows.extend(notes.take(MOST).map(|note| vec![String::new(), String::new(), note]));
        if let Some(more @ 1..) = report.mismatched.len().checked_sub(MOST) {
            rows.push(vec![String::new(), String::new(), format!("and {more} more")]);
        }
    }
    let table = table(&["", "", ""].map(str::to_owned), rows);
    let mut lines: Vec<String> =
        table.lines().map(|line| format!("  {}", line.trim_end())).collect();
    lines.extend(report.hints.iter().map(|hint| format!("  hint: {}", one_line(hint))));
    lines.join("\n")
}

/// The modules of the names: `backbone.blocks.4` stands for all tensors in it.
fn few(names: &[String]) -> String {
    let mut modules: Vec<&str> = Vec::new();
    for name in names {
        let module = module(name);
        if !modules.contains(&module) {
            modules.push(module);
        }
    }
    let more = modules.len().saturating_sub(MOST);
    let shown: Vec<String> = modules.iter().take(MOST).map(|name| one_line(name)).collect();
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A name to its first number, `backbone.blocks.4`, or without its last part.
fn module(name: &str) -> &str {
    let mut end = 0;
    for part in name.split('.') {
        end += part.len() + 1;
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            return &name[..end - 1];
        }
    }
    name.rsplit_once('.').map_or(name, |(module, _)| module)
}
