//! `scai show FILE [PATH]`

use std::io::Write;

use scai_checkpoint::codec::{Format, Protection};
use scai_checkpoint::{Tensor, Value};
use serde::Serialize;
use serde_json::Value as Json;

use crate::args::ShowArgs;
use crate::compute::numbers::{Numbers, as_json, decode};
use crate::compute::stats::{Stats, stats};
use crate::compute::totals::{Totals, totals};
use crate::exit::{Exit, Failure};
use crate::input::{self, Input, UNNOTICED};
use crate::progress;
use crate::render::tree::{Line, lines};
use crate::render::{
    count, counted, flat_list, number, one_line, paint, printable, scalar, size, style, table,
    to_json, write_json, write_long_table, write_table,
};

/// Elements of a single tensor that are shown.
const FEW: usize = 6;

/// What a script gets.
#[derive(Serialize)]
struct Report {
    path: String,
    format: &'static str,
    size: u64,
    protection: &'static str,
    /// `none` where it was converted from a file without checksums.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_protection: Option<&'static str>,
    iteration: Option<i64>,
    timestamp: Option<String>,
    model: Option<Totals>,
    optimizer: Option<Totals>,
    total: Totals,
    entries: Vec<Entry>,
}

/// A value of the tree. Containers come before what they hold.
#[derive(Serialize)]
struct Entry {
    path: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The class of an object that only code could make.
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    /// Of a container.
    #[serde(skip_serializing_if = "Option::is_none")]
    len: Option<usize>,
    /// Of anything that is neither a container nor a tensor, and of a list of such.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensor: Option<TensorEntry>,
    /// Of a container that is the same object as one before, which has its entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    same_as: Option<String>,
}

#[derive(Serialize)]
struct TensorEntry {
    dtype: &'static str,
    shape: Vec<usize>,
    strides: Vec<usize>,
    bytes: u64,
    tied_to: Option<String>,
    shares_memory_with: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<Option<Stats>>,
}

pub(crate) fn run(args: &ShowArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let input = Input::open(&args.file)?;
    let tree = input.tree()?;
    let path = args.path.as_deref().unwrap_or_default();
    let part = input::part(&tree, path)?;
    let depth = args.depth.unwrap_or(usize::MAX);
    if args.json {
        let report = report(args, &input, &tree, path, part, depth)?;
        write_json(out, &report)?;
        return Ok(Exit::Success);
    }
    if args.path.is_none() {
        header(args, &input, &tree, out)?;
    }
    match part.resolved() {
        Value::Tensor(tensor) => tensor_details(path, tensor, out)?,
        // For people and for `$(…)`: the value and nothing else.
        Value::Str(text) => writeln!(out, "{}", printable(text))?,
        other => match scalar(other) {
            Some(text) => writeln!(out, "{text}")?,
            None => contents(args, path, part, depth, out)?,
        },
    }
    Ok(Exit::Success)
}

/// What the file is, before what is in it.
fn header(
    args: &ShowArgs,
    input: &Input<'_>,
    tree: &Value,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let path = args.file.display().to_string();
    writeln!(out, "{}", paint(style::BOLD, one_line(&path)))?;
    let mut facts = vec![
        ("format", format!("{}, {}", input.file.format(), size(input.file.len()))),
        ("checksums", checksums(input)),
    ];
    if input.file.format() == Format::TorchScript {
        facts.push(("code", "left out".to_owned()));
    }
    let top = |key: &str| tree.as_dict().and_then(|dict| dict.get(key));
    let text = |value: &Value| match value.resolved() {
        Value::Str(text) => Some(one_line(text)),
        other => scalar(other),
    };
    facts.extend(top("iteration").and_then(text).map(|text| ("iteration", text)));
    facts.extend(top("timestamp").and_then(text).map(|text| ("saved", text)));
    let model = top("model_state_dict").map(|part| amount(&totals(part), "parameter"));
    let optimizer = top("optimizer_state_dict").map(|part| amount(&totals(part), "value"));
    if model.is_none() && optimizer.is_none() {
        facts.push(("content", amount(&totals(tree), "value")));
    }
    facts.extend(model.map(|text| ("model", text)));
    facts.extend(optimizer.map(|text| ("optimizer", text)));
    for (key, value) in input.file.foreign_metadata() {
        facts.push(("metadata", one_line(&format!("{key} = {value}"))));
    }
    let rows =
        facts.into_iter().map(|(name, text)| vec![paint(style::DIM, format!("  {name}")), text]);
    write_table(out, &table(&[String::new(), String::new()], rows.collect()))?;
    writeln!(out)?;
    Ok(())
}

fn amount(totals: &Totals, noun: &str) -> String {
    let Totals { tensors, elements, bytes } = *totals;
    let tensors = counted(tensors as u64, "tensor");
    format!("{} in {tensors}, {}", counted(elements, noun), size(bytes))
}

fn checksums(input: &Input<'_>) -> String {
    match input.file.protection() {
        Protection::Digests if input.comes_unprotected() => {
            format!("a digest for each chunk; converted from a file without checksums, {UNNOTICED}")
        }
        Protection::Digests => "a digest for each chunk, written by scai".to_owned(),
        Protection::Crc32 => "a CRC-32 for each record, as torch writes them".to_owned(),
        Protection::None => paint(style::WARN, "none"),
    }
}

/// The tree below a container.
fn contents(
    args: &ShowArgs,
    path: &str,
    part: &Value,
    depth: usize,
    out: &mut impl Write,
) -> Result<(), Failure> {
    if let Some(text) = flat_list(part, usize::MAX) {
        writeln!(out, "{text}")?;
        return Ok(());
    }
    let mut lines = lines(part, path, depth);
    let mut headings = vec!["", "", ">", ""];
    if args.stats {
        // Statistics take the room of values.
        lines.retain(|line| totals(line.value).tensors > 0);
        headings = vec!["NAME", "TYPE", ">SIZE", "SHAPE"];
        headings.extend([">MIN", ">MAX", ">MEAN", ">STD", ">NORM", ">NAN", ">INF"]);
    }
    let stats = if args.stats { measured(&lines)? } else { Vec::new() };
    let row = |i: usize| {
        let mut row: Vec<String> = lines[i].cells().into();
        row.extend(stats.get(i).and_then(Option::as_deref).into_iter().flat_map(stats_cells));
        row
    };
    let headings: Vec<String> = headings.into_iter().map(str::to_owned).collect();
    write_long_table(out, &headings, lines.len(), &row)?;
    Ok(())
}

/// The statistics of the tensors among the lines; tied ones are measured once.
fn measured(lines: &[Line<'_>]) -> Result<Vec<Option<Box<Stats>>>, Failure> {
    let tensor =
        |line: &Line<'_>| line.value.as_tensor().filter(|_| line.tied_to.is_none()).cloned();
    let total = lines.iter().filter_map(tensor).map(|tensor| tensor.nbytes()).sum();
    let bar = progress::bytes(total, "reading");
    let measured = lines.iter().map(|line| {
        let Some(tensor) = tensor(line) else { return Ok(None) };
        let stats = stats(&tensor).map_err(|error| error.at_tensor(&line.path))?;
        bar.inc(tensor.nbytes());
        Ok(stats.map(Box::new))
    });
    let measured = measured.collect();
    bar.finish_and_clear();
    measured
}

fn stats_cells(stats: &Stats) -> [String; 7] {
    let Stats { min, max, mean, std, norm, nan, inf } = stats;
    let shown = |value: &Json| match value {
        Json::Number(exact) if exact.is_f64() => exact.as_f64().map_or_else(String::new, number),
        Json::Null => "-".to_owned(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    let bad = |n: u64| if n > 0 { paint(style::BAD, count(n)) } else { String::new() };
    [shown(min), shown(max), shown(mean), shown(std), shown(norm), bad(*nan), bad(*inf)]
}

/// All that is known of one tensor.
fn tensor_details(path: &str, tensor: &Tensor, out: &mut impl Write) -> Result<(), Failure> {
    let at = |error: scai_checkpoint::Error| error.at_tensor(path);
    let mut facts = vec![
        ("dtype", tensor.dtype().to_string()),
        ("shape", format!("{:?}", tensor.shape())),
        (
            "size",
            format!("{}, {}", counted(tensor.numel() as u64, "element"), size(tensor.nbytes())),
        ),
    ];
    let contiguous = if tensor.is_contiguous() { ", contiguous" } else { "" };
    facts.push(("strides", format!("{:?}{contiguous}", tensor.strides())));
    if tensor.offset() > 0 || tensor.storage().len() > tensor.nbytes() {
        let text = format!("from element {} of {}", tensor.offset(), size(tensor.storage().len()));
        facts.push(("view", text));
    }
    let attributes = tensor.attributes();
    let flags = [
        (attributes.parameter, "parameter"),
        (attributes.requires_grad, "requires_grad"),
        (attributes.conjugate, "conjugate"),
        (attributes.negative, "negative"),
    ];
    let flags: Vec<&str> =
        flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
    if !flags.is_empty() {
        facts.push(("flags", flags.join(", ")));
    }
    if tensor.storage().location() != "cpu" {
        facts.push(("device", one_line(tensor.storage().location())));
    }
    if let Some(record) = tensor.storage().record() {
        facts.push(("record", one_line(record)));
    }
    if let Some(stats) = stats(tensor).map_err(at)? {
        let names = ["min", "max", "mean", "std", "norm", "NaN", "infinite"];
        let cells = names.into_iter().zip(stats_cells(&stats));
        facts.extend(cells.filter(|(_, text)| !text.is_empty()));
    }
    if let Some(values) = first_values(tensor).map_err(at)? {
        facts.push(("values", values));
    }
    let rows = facts.into_iter().map(|(name, text)| vec![paint(style::DIM, name), text]);
    write_table(out, &table(&[String::new(), String::new()], rows.collect()))?;
    Ok(())
}

/// The first elements; `None` where they are no numbers or would cost a large read.
fn first_values(tensor: &Tensor) -> scai_checkpoint::Result<Option<String>> {
    const CHEAP: u64 = 1 << 20;
    let size = tensor.dtype().size();
    let few = FEW.min(tensor.numel());
    let bytes = if tensor.is_contiguous() {
        let start = (tensor.offset() * size) as u64;
        tensor.storage().read(start..start + (few * size) as u64)?
    } else if tensor.nbytes() <= CHEAP {
        let mut bytes = tensor.to_bytes()?;
        bytes.truncate(few * size);
        bytes
    } else {
        return Ok(None);
    };
    let texts: Vec<String> = match decode(tensor.dtype(), &bytes) {
        Some(Numbers::Ints(ints)) => ints.iter().map(ToString::to_string).collect(),
        Some(Numbers::Floats(floats)) => floats.iter().map(|&x| number(x)).collect(),
        Some(Numbers::Complex(parts)) => {
            parts.iter().map(|[re, im]| format!("{}+{}j", number(*re), number(*im))).collect()
        }
        None => return Ok(None),
    };
    let more = if tensor.numel() > few { ", …" } else { "" };
    Ok(Some(format!("{}{more}", texts.join(", "))).filter(|text| !text.is_empty()))
}

fn report(
    args: &ShowArgs,
    input: &Input<'_>,
    tree: &Value,
    path: &str,
    part: &Value,
    depth: usize,
) -> Result<Report, Failure> {
    let top = |key: &str| tree.as_dict().and_then(|dict| dict.get(key));
    let mut entries = Vec::new();
    if !path.is_empty() {
        entries.push(entry(args, path, part, None)?);
    }
    for line in lines(part, path, depth) {
        entries.push(entry(args, &line.path, line.value, Some(&line))?);
    }
    Ok(Report {
        path: args.file.display().to_string(),
        format: input.format(),
        size: input.file.len(),
        protection: input.protection(),
        source_protection: input.comes_unprotected().then(|| input::protection(Protection::None)),
        iteration: top("iteration").and_then(Value::as_int),
        timestamp: top("timestamp").and_then(Value::as_str).map(str::to_owned),
        model: top("model_state_dict").map(totals),
        optimizer: top("optimizer_state_dict").map(totals),
        total: totals(tree),
        entries,
    })
}

fn entry(
    args: &ShowArgs,
    path: &str,
    value: &Value,
    line: Option<&Line<'_>>,
) -> Result<Entry, Failure> {
    let tensor = match value.resolved() {
        Value::Tensor(tensor) => {
            let measured = match args.stats {
                true => Some(stats(tensor).map_err(|error| error.at_tensor(path))?),
                false => None,
            };
            Some(TensorEntry {
                dtype: tensor.dtype().name(),
                shape: tensor.shape().to_vec(),
                strides: tensor.strides().to_vec(),
                bytes: tensor.nbytes(),
                tied_to: line.and_then(|line| line.tied_to.clone()),
                shares_memory_with: line.and_then(|line| line.shares_with.clone()),
                stats: measured,
            })
        }
        _ => None,
    };
    let is_plain = scalar(value).is_some() || flat_list(value, 0).is_some();
    let is_container = !value.children().is_empty() || value.as_dict().is_some();
    let is_plain = is_plain && !matches!(value.resolved(), Value::Object(_));
    Ok(Entry {
        path: path.to_owned(),
        kind: value.type_name(),
        class: match value.resolved() {
            Value::Object(object) => Some(object.class.clone()),
            _ => None,
        },
        len: is_container.then(|| value.children().len()),
        value: is_plain.then(|| match value.resolved() {
            Value::Float(float) => as_json(*float),
            other => to_json(other),
        }),
        tensor,
        same_as: line.and_then(|line| line.same_as.clone()),
    })
}
