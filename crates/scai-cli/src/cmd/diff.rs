//! `scai diff A B`

use std::io::Write;

use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::{Tensor, Value};
use scai_inspect::diff::{Change, Depth, Options, TensorDifference, What, bytes_to_read};
use scai_inspect::{Difference, diff};

use crate::args::DiffArgs;
use crate::exit::{Exit, Failure};
use crate::render::tree::shortened;
use crate::render::{
    count, counted, flat_list, one_line, paint, scalar, short, size, style, table, write_json,
    write_table,
};
use crate::{input, progress};

pub(crate) fn run(args: &DiffArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let (a, b) = (input::open(&args.a)?, input::open(&args.b)?);
    let (left, right) = (input::tree(&a)?, input::tree(&b)?);
    for ignored in &args.ignore {
        if left.lookup(ignored).is_none() {
            input::part(right, ignored)?;
        }
    }
    let depth = match (args.digests_only, args.no_values) {
        (true, _) => Depth::Digests,
        (false, true) => Depth::Names,
        (false, false) => Depth::Values,
    };
    let bar = progress::bytes(bytes_to_read(&a, &b, depth)?, "comparing");
    let progress = |bytes| bar.inc(bytes);
    let read = ReadOptions::default().progress(&progress);
    let difference = diff(&a, &b, Options::default().ignore(&args.ignore).depth(depth).read(read));
    bar.finish_and_clear();
    let difference = difference?;
    let exit = match difference.identical {
        Some(true) => Exit::Success,
        Some(false) => Exit::Found,
        None => Exit::ByDigests,
    };
    if args.json {
        write_json(out, &difference)?;
        return Ok(exit);
    }
    if exit == Exit::Found {
        writeln!(out, "{} {}", paint(style::BAD, "-"), one_line(&difference.a))?;
        writeln!(out, "{} {}", paint(style::GOOD, "+"), one_line(&difference.b))?;
        writeln!(out)?;
        print(&difference, out)?;
    }
    summary(&difference, out)?;
    Ok(exit)
}

fn summary(difference: &Difference<'_>, out: &mut impl Write) -> std::io::Result<()> {
    let differing = difference
        .changes
        .iter()
        .filter(|change| matches!(change.what, What::Elements(..)))
        .count();
    let tensors = difference.equal_tensors + differing;
    let common = counted(tensors as u64, "tensor");
    let read = match difference.bytes_read {
        0 => String::new(),
        read => format!(", {} read", size(read)),
    };
    let mut text = match difference.identical {
        None => format!(
            "{}: {common}, {} of them not read; omit `--digests-only` to check them as well",
            paint(style::GOOD, "identical when saved"),
            count(difference.by_digest as u64),
        ),
        Some(true) => {
            let verdict = paint(style::GOOD, "identical bit for bit");
            if tensors == 0 { verdict } else { format!("{verdict}: {common}{read}") }
        }
        Some(false) => {
            let changes = counted(difference.changes.len() as u64, "difference");
            let mut text = format!("{}: {changes}", paint(style::BAD, "different"));
            if tensors > 0 {
                let equal = count(difference.equal_tensors as u64);
                text += &format!("; {equal} of {common} equal{read}");
            }
            text
        }
    };
    if difference.ignored > 0 {
        text += &format!("; {} ignored", counted(difference.ignored as u64, "value"));
    }
    if difference.laid_out_differently > 0 {
        let n = counted(difference.laid_out_differently as u64, "tensor");
        text += &format!("; {n} with different strides");
    }
    writeln!(out, "{text}")
}

/// Values first, then the tensors whose elements differ.
fn print(difference: &Difference<'_>, out: &mut impl Write) -> std::io::Result<()> {
    let is_elements = |change: &&Change<'_>| matches!(change.what, What::Elements(..));
    let (tensors, values): (Vec<_>, Vec<_>) = difference.changes.iter().partition(is_elements);
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
        What::Value(a, b) => {
            [kind(a), scalars(a, b).unwrap_or_else(|| "different content".to_owned())]
        }
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
    let Some(difference) = difference else {
        return Some(cells);
    };
    let TensorDifference { differing, elements, max_abs, max_rel, not_finite, .. } = difference;
    let shown = |part: &Option<f64>| part.map_or_else(String::new, short);
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
