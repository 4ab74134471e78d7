//! What `--init-from` took from a checkpoint, as a table.

use scai_checkpoint::{ShapeMismatch, TensorSpec};
use scai_train::Restored;

use crate::render::{count, one_line, paint, style, table};

/// The report of a load that takes what fits, for a network with these parameters.
pub(super) fn report(restored: &Restored, parameters: &[TensorSpec]) -> String {
    let Restored { network, optimizer, .. } = restored;
    let elements = |spec: &TensorSpec| spec.shape.iter().product::<usize>() as u64;
    let all: u64 = parameters.iter().map(elements).sum();
    let taken: u64 =
        parameters.iter().filter(|spec| network.loaded.contains(&spec.name)).map(elements).sum();
    let mut rows = Vec::new();
    let mut row = |what: &str, tensors: usize, note: String| {
        rows.push(vec![what.to_owned(), tensors.to_string(), note]);
    };
    row("loaded", network.loaded.len(), {
        let share = taken as f64 / all.max(1) as f64 * 100.0;
        format!("{} of {} parameters, {share:.1}%", count(taken), count(all))
    });
    row("moments", optimizer.loaded.len(), "parameters whose optimizer state goes on".to_owned());
    if !network.missing.is_empty() {
        row("missing", network.missing.len(), format!("new: {}", few(&network.missing)));
    }
    if !network.unexpected.is_empty() {
        row(
            "unexpected",
            network.unexpected.len(),
            format!("left out: {}", few(&network.unexpected)),
        );
    }
    for ShapeMismatch { name, checkpoint, model } in &network.mismatched {
        let note = format!(
            "{}: {} {:?} there, {} {:?} here",
            one_line(name),
            checkpoint.0,
            checkpoint.1,
            model.0,
            model.1
        );
        row("mismatched", 1, note);
    }
    let headings = ["", ">TENSORS", ""].map(str::to_owned);
    let mut lines: Vec<String> =
        table(&headings, rows).lines().map(|line| format!("  {}", line.trim_end())).collect();
    let hint = paint(style::GOOD, "tip");
    lines.extend(network.hints.iter().map(|text| format!("  {hint}: {}", one_line(text))));
    lines.join("\n")
}

/// The modules of the names: `backbone.blocks.4` stands for all tensors in it.
fn few(names: &[String]) -> String {
    const MOST: usize = 4;
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
