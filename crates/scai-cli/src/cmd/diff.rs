//! `scai diff A B`

use std::io::Write;

use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::{Tensor, Value};
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::args::DiffArgs;
use crate::compute::compare::{Change, Comparison, Depth, What, trees};
use crate::compute::difference::Difference;
use crate::compute::totals::totals;
use crate::exit::{Exit, Failure};
use crate::input::{self, Input};
use crate::progress;
use crate::render::tree::shortened;
use crate::render::{
    count, counted, flat_list, one_line, paint, scalar, short, size, style, table, to_json,
    write_json, write_table,
};

/// What a script gets.
#[derive(Serialize)]
struct Report {
    a: String,
    b: String,
    /// `null` where only the digests say so.
    identical: Option<bool>,
    /// Every byte of both files was read and is what was saved.
    checked: bool,
    /// Tensors that both have and that are equal bit for bit.
    equal_tensors: usize,
    /// Tensors whose equality was decided by digests alone.
    by_digest: usize,
    /// Bytes of tensors that were read to compare them.
    bytes_read: u64,
    ignored: usize,
    changes: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    path: String,
    /// `removed`, `added`, `type`, `value`, `items`, `form`, `attributes` or `elements`.
    kind: &'static str,
    #[serde(skip_serializing_if = "Json::is_null")]
    a: Json,
    #[serde(skip_serializing_if = "Json::is_null")]
    b: Json,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<Difference>,
}

pub(crate) fn run(args: &DiffArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let (a, b) = (Input::open(&args.a)?, Input::open(&args.b)?);
    let (left, right) = (a.tree()?, b.tree()?);
    for ignored in &args.ignore {
        if left.lookup(ignored).is_none() {
            input::part(&right, ignored)?;
        }
    }
    let checked = !args.digests_only;
    if checked {
        check(&a)?;
        check(&b)?;
    }
    let depth = if args.no_values || !checked { Depth::Names } else { Depth::Values };
    let bar = progress::bytes(2 * totals(&left).bytes.min(totals(&right).bytes), "comparing");
    let comparison = trees(&left, &right, &args.ignore, depth, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let comparison = comparison?;
    let exit = match comparison.identical() {
        true if checked || comparison.by_digest == 0 => Exit::Success,
        true => Exit::ByDigests,
        false => Exit::Found,
    };
    if args.json {
        write_json(out, &report(args, &comparison, exit))?;
        return Ok(exit);
    }
    if !comparison.identical() {
        let path = |path: &std::path::Path| one_line(&path.display().to_string());
        writeln!(out, "{} {}", paint(style::BAD, "-"), path(&args.a))?;
        writeln!(out, "{} {}", paint(style::GOOD, "+"), path(&args.b))?;
        writeln!(out)?;
        print(&comparison, out)?;
    }
    summary(&comparison, exit, out)?;
    Ok(exit)
}

/// Reads every byte: digests speak for what was saved, not for what a disk made of it since.
fn check(input: &Input<'_>) -> Result<(), Failure> {
    let bar = progress::bytes(input.file.len(), "checking");
    let damage = input.file.verify(ReadOptions::default().progress(&|bytes| bar.inc(bytes)));
    bar.finish_and_clear();
    match damage.into_iter().next() {
        Some(error) => Err(error.at_path(input.path.display().to_string()).into()),
        None => Ok(()),
    }
}

fn summary(comparison: &Comparison<'_>, exit: Exit, out: &mut impl Write) -> Result<(), Failure> {
    let differing = comparison
        .changes
        .iter()
        .filter(|change| matches!(change.what, What::Elements(..)))
        .count();
    let tensors = comparison.equal_tensors + differing;
    let common = counted(tensors as u64, "tensor");
    let read = match comparison.read {
        0 => String::new(),
        read => format!(", {} read", size(read)),
    };
    let mut text = match exit {
        Exit::ByDigests => format!(
            "{}: {common}, {} of them not read; without `--digests-only` they are checked as well",
            paint(style::GOOD, "saved identical"),
            count(comparison.by_digest as u64),
        ),
        Exit::Success => {
            let verdict = paint(style::GOOD, "identical bit for bit");
            if tensors == 0 { verdict } else { format!("{verdict}: {common}{read}") }
        }
        _ => {
            let changes = counted(comparison.changes.len() as u64, "difference");
            let mut text = format!("{}: {changes}", paint(style::BAD, "different"));
            if tensors > 0 {
                let equal = count(comparison.equal_tensors as u64);
                text += &format!("; {equal} of {common} equal{read}");
            }
            text
        }
    };
    if comparison.ignored > 0 {
        text += &format!("; {} ignored", counted(comparison.ignored as u64, "value"));
    }
    if comparison.laid_out_differently > 0 {
        let n = counted(comparison.laid_out_differently as u64, "tensor");
        text += &format!("; {n} with other strides");
    }
    writeln!(out, "{text}")?;
    Ok(())
}

/// Values first, then the tensors whose elements differ.
fn print(comparison: &Comparison<'_>, out: &mut impl Write) -> std::io::Result<()> {
    let is_elements = |change: &&Change<'_>| matches!(change.what, What::Elements(..));
    let (tensors, values): (Vec<_>, Vec<_>) = comparison.changes.iter().partition(is_elements);
    let headings =
        |headings: &[&str]| headings.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    if !values.is_empty() {
        let rows = values.into_iter().map(value_cells).collect();
        write_table(out, &table(&headings(&["", "", "", ""]), rows))?;
        writeln!(out)?;
    }
    if !tensors.is_empty() {
        let rows = tensors.into_iter().filter_map(tensor_cells).collect();
        let names = ["", "TENSOR", "DTYPE", "SHAPE", ">DIFFERING", "", ">MAX ABS", ">MAX REL", ""];
        write_table(out, &table(&headings(&names), rows))?;
        writeln!(out)?;
    }
    Ok(())
}

/// Mark, path, what it is, and how it differs.
fn value_cells(change: &Change<'_>) -> Vec<String> {
    let (mark, style) = match change.what {
        What::Removed(_) => ("-", style::BAD),
        What::Added(_) => ("+", style::GOOD),
        _ => ("~", style::WARN),
    };
    let [kind, how] = match &change.what {
        What::Removed(value) | What::Added(value) => [kind(value), brief(value)],
        What::Value(a, b) if a.type_name() != b.type_name() => {
            let types = format!("{} → {}", a.type_name(), b.type_name());
            [types, scalars(a, b).unwrap_or_default()]
        }
        What::Value(a, b) => [kind(a), scalars(a, b).unwrap_or_else(|| "other content".to_owned())],
        What::Items { a, b, differing } => [kind(a), items(a, b, *differing)],
        What::Form(a, b) => [form(a), format!("→ {}", form(b))],
        What::Attributes(a, b) => [form(a), attributes(a, b)],
        What::Elements(tensor, _) => [form(tensor), "differs".to_owned()],
    };
    vec![paint(style, mark), one_line(&change.path), paint(style::DIM, kind), how]
}

/// Mark, path, dtype, shape, and how the elements differ.
fn tensor_cells(change: &Change<'_>) -> Option<Vec<String>> {
    let What::Elements(tensor, difference) = &change.what else { return None };
    let mut cells = vec![
        paint(style::WARN, "~"),
        one_line(&change.path),
        paint(style::DIM, tensor.dtype()),
        paint(style::DIM, format!("{:?}", tensor.shape())),
    ];
    let Some(Difference { differing, elements, max_abs, max_rel, not_finite }) = difference else {
        return Some(cells);
    };
    let shown = |part: &Json| part.as_f64().map_or_else(String::new, short);
    cells.extend([count(*differing), paint(style::DIM, format!("of {}", count(*elements)))]);
    cells.extend([shown(max_abs), shown(max_rel)]);
    cells.push(match not_finite {
        0 => String::new(),
        n => paint(style::BAD, format!("{} with NaN or infinity", count(*n))),
    });
    Some(cells)
}

fn kind(value: &Value) -> String {
    match value.resolved() {
        Value::Tensor(tensor) => form(tensor),
        other => other.type_name().to_owned(),
    }
}

fn form(tensor: &Tensor) -> String {
    format!("{} {:?}", tensor.dtype(), tensor.shape())
}

/// A value in a few words.
fn brief(value: &Value) -> String {
    match value.resolved() {
        Value::Tensor(tensor) => size(tensor.nbytes()),
        other => match scalar(other).or_else(|| flat_list(other, 40)) {
            Some(text) => shortened(&text),
            None => counted(other.children().len() as u64, "entry"),
        },
    }
}

fn scalars(a: &Value, b: &Value) -> Option<String> {
    Some(format!("{} → {}", shortened(&scalar(a)?), shortened(&scalar(b)?)))
}

fn items(a: &Value, b: &Value, differing: usize) -> String {
    let (len_a, len_b) = (a.children().len(), b.children().len());
    let common = len_a.min(len_b);
    match (flat_list(a, 30), flat_list(b, 30)) {
        (Some(a), Some(b)) if common <= 4 => format!("{a} → {b}"),
        _ if len_a == len_b => {
            format!("{} of {} items differ", count(differing as u64), count(len_a as u64))
        }
        _ => format!(
            "{} → {}, {} of the common ones differ",
            count(len_a as u64),
            counted(len_b as u64, "item"),
            if differing == 0 { "none".to_owned() } else { count(differing as u64) },
        ),
    }
}

fn attributes(a: &Tensor, b: &Tensor) -> String {
    let (a, b) = (a.attributes(), b.attributes());
    let pairs = [
        ("requires_grad", a.requires_grad, b.requires_grad),
        ("parameter", a.parameter, b.parameter),
        ("conjugate", a.conjugate, b.conjugate),
        ("negative", a.negative, b.negative),
    ];
    let changed = pairs.into_iter().filter(|(_, a, b)| a != b);
    let changed: Vec<String> = changed.map(|(name, a, b)| format!("{name} {a} → {b}")).collect();
    changed.join(", ")
}

fn report(args: &DiffArgs, comparison: &Comparison<'_>, exit: Exit) -> Report {
    Report {
        a: args.a.display().to_string(),
        b: args.b.display().to_string(),
        identical: (exit != Exit::ByDigests).then(|| comparison.identical()),
        checked: !args.digests_only,
        equal_tensors: comparison.equal_tensors,
        by_digest: comparison.by_digest,
        bytes_read: comparison.read,
        ignored: comparison.ignored,
        changes: comparison.changes.iter().map(entry).collect(),
    }
}

fn entry(change: &Change<'_>) -> Entry {
    let brief = |tensor: &Tensor| {
        json!({
            "dtype": tensor.dtype().name(),
            "shape": tensor.shape(),
            "requires_grad": tensor.attributes().requires_grad,
            "parameter": tensor.attributes().parameter,
        })
    };
    let of_type = |value: &Value| json!({ "type": value.type_name(), "value": to_json(value) });
    let (kind, a, b, difference) = match &change.what {
        What::Removed(value) => ("removed", of_type(value), Json::Null, None),
        What::Added(value) => ("added", Json::Null, of_type(value), None),
        What::Value(a, b) if a.type_name() != b.type_name() => {
            ("type", of_type(a), of_type(b), None)
        }
        What::Value(a, b) => ("value", of_type(a), of_type(b), None),
        What::Items { a, b, .. } => ("items", of_type(a), of_type(b), None),
        What::Form(a, b) => ("form", brief(a), brief(b), None),
        What::Attributes(a, b) => ("attributes", brief(a), brief(b), None),
        What::Elements(tensor, difference) => {
            ("elements", brief(tensor), brief(tensor), difference.clone())
        }
    };
    Entry { path: change.path.clone(), kind, a, b, difference }
}
