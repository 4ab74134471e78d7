//! `scai show FILE [PATH]`

use std::io::Write;

use scai_checkpoint::codec::{Format, Protection};
use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::{Tensor, Value};
use scai_inspect::elements::{Elements, first};
use scai_inspect::show::{Entry, Options};
use scai_inspect::{Distributed, File, Number, Stats, Summary, Totals, show, stats};

use crate::args::ShowArgs;
use crate::exit::{Exit, Failure};
use crate::input::{self, UNNOTICED};
use crate::progress;
use crate::render::tree::{Line, lines};
use crate::render::{
    count, counted, flat_list, number, one_line, paint, printable, scalar, size, style, table,
    time, write_json, write_long_table, write_table,
};

/// Elements of a single tensor that are shown.
const ELEMENTS: usize = 6;

pub(crate) fn run(args: &ShowArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let file = input::open(&args.file)?;
    let tree = input::tree(&file)?;
    let path = args.path.as_deref().unwrap_or_default();
    let part = input::part(tree, path)?;
    let summary = look(args, &file, part)?;
    if args.json {
        write_json(out, &summary)?;
        return Ok(Exit::Success);
    }
    if args.path.is_none() {
        header(&file, &summary, out)?;
    }
    if args.shards {
        shards(&summary, path, out)?;
        return Ok(Exit::Success);
    }
    match part.resolved() {
        Value::Tensor(tensor) => {
            let known = summary.entries.first().and_then(|entry| entry.stats.clone());
            tensor_details(path, tensor, known, out)?;
        }
        // For people and for `$(…)`: the value and nothing else.
        Value::Str(text) => writeln!(out, "{}", printable(text))?,
        other => match scalar(other) {
            Some(text) => writeln!(out, "{text}")?,
            None => contents(args, part, &summary.entries, out)?,
        },
    }
    Ok(Exit::Success)
}

fn look<'a>(args: &ShowArgs, file: &'a File, part: &Value) -> Result<Summary<'a>, Failure> {
    let mut options = Options::default().part(args.path.as_deref().unwrap_or_default());
    if let Some(depth) = args.depth {
        options = options.depth(depth);
    }
    if args.shards {
        options = options.with_shards();
    }
    if !args.stats {
        return Ok(show(file, options)?);
    }
    let bar = progress::bytes(Totals::of(part).bytes, "reading");
    let progress = |bytes| bar.inc(bytes);
    let read = ReadOptions::default().progress(&progress);
    let summary = show(file, options.with_stats().read(read));
    bar.finish_and_clear();
    Ok(summary?)
}

/// What the file is, before what is in it.
fn header(file: &File, summary: &Summary<'_>, out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "{}", paint(style::BOLD, one_line(&summary.path)))?;
    let mut facts = vec![
        ("format", format!("{}, {}", summary.format, size(summary.size))),
        ("checksums", checksums(summary)),
    ];
    if summary.format == Format::TorchScript {
        facts.push(("code", "left out".to_owned()));
    }
    facts.extend(summary.distributed.iter().flat_map(directory));
    let tree = file.tree()?;
    let top = |key: &str| tree.as_dict().and_then(|dict| dict.get(key));
    let text = |value: &Value| match value.resolved() {
        Value::Str(text) => Some(one_line(text)),
        other => scalar(other),
    };
    facts.extend(top("iteration").and_then(text).map(|text| ("iteration", text)));
    facts.extend(top("timestamp").and_then(text).map(|text| ("saved", text)));
    let Summary { model, optimizer, total, .. } = summary;
    if model.is_none() && optimizer.is_none() {
        facts.push(("content", amount(total, "value")));
    }
    facts.extend(model.iter().map(|totals| ("model", amount(totals, "parameter"))));
    facts.extend(optimizer.iter().map(|totals| ("optimizer", amount(totals, "value"))));
    for (key, value) in file.content().foreign_metadata() {
        facts.push(("metadata", one_line(&format!("{key} = {value}"))));
    }
    let rows =
        facts.into_iter().map(|(name, text)| vec![paint(style::DIM, format!("  {name}")), text]);
    write_table(out, &table(&[String::new(), String::new()], rows.collect()))?;
    writeln!(out)?;
    Ok(())
}

/// What is known of a distributed checkpoint.
fn directory(known: &Distributed) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let files = counted(known.files.len() as u64, "file");
    let ranks = known.world_size.map(|ranks| format!(" of {}", counted(ranks, "rank")));
    facts.push(("files", format!("{files}{}", ranks.unwrap_or_default())));
    facts.push(match &known.committed_at {
        Some(at) => ("committed", time(at)),
        None => ("committed", "no: nothing says that its files belong together".to_owned()),
    });
    facts
}

/// Which file holds which part.
fn shards(summary: &Summary<'_>, path: &str, out: &mut impl Write) -> Result<(), Failure> {
    let Some(parts) = summary.distributed.as_ref().and_then(|known| known.shards.as_ref()) else {
        return Err(Failure::usage(
            format!("`{}` is one file, not a distributed checkpoint", summary.path),
            Some("`--shards` shows the parts of a directory of shards".to_owned()),
        ));
    };
    let is_below = |other: &str| {
        path.is_empty()
            || other.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let parts: Vec<_> = parts.iter().filter(|part| is_below(&part.path)).collect();
    let headings = ["NAME", "SHAPE", "AT", ">RANK", "FILE", ">BYTES"].map(str::to_owned);
    let row = |i: usize| {
        let part = parts[i];
        let dims = |dims: &Option<Vec<u64>>| {
            dims.as_ref().map_or_else(|| "-".to_owned(), |dims| format!("{dims:?}"))
        };
        vec![
            one_line(&part.path),
            dims(&part.sizes),
            dims(&part.offsets),
            part.rank.map_or_else(|| "-".to_owned(), |rank| rank.to_string()),
            one_line(&part.file),
            size(part.bytes[1] - part.bytes[0]),
        ]
    };
    write_long_table(out, &headings, parts.len(), &row)?;
    Ok(())
}

fn amount(totals: &Totals, noun: &str) -> String {
    let Totals { tensors, elements, bytes } = *totals;
    let tensors = counted(tensors as u64, "tensor");
    format!("{} in {tensors}, {}", counted(elements, noun), size(bytes))
}

fn checksums(summary: &Summary<'_>) -> String {
    match summary.protection {
        Protection::Digests if summary.source_protection.is_some() => {
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
    part: &Value,
    entries: &[Entry<'_>],
    out: &mut impl Write,
) -> Result<(), Failure> {
    if let Some(text) = flat_list(part, usize::MAX) {
        writeln!(out, "{text}")?;
        return Ok(());
    }
    // The part itself was asked for, and is not shown again.
    let is_part = args.path.as_ref().is_some_and(|path| !path.is_empty());
    let mut lines = lines(entries.get(usize::from(is_part)..).unwrap_or_default());
    let mut headings = vec!["", "", ">", ""];
    if args.stats {
        // Statistics are shown in place of values.
        lines.retain(|line| Totals::of(line.entry.value).tensors > 0);
        headings = vec!["NAME", "TYPE", ">SIZE", "SHAPE"];
        headings.extend([">MIN", ">MAX", ">MEAN", ">STD", ">NORM", ">NAN", ">INF"]);
    }
    let row = |i: usize| {
        let line: &Line<'_> = &lines[i];
        // Those of tied tensors are shown once.
        let stats = line.entry.stats.iter().flatten().filter(|_| line.entry.tied_to.is_none());
        line.cells().into_iter().chain(stats.flat_map(|stats| stats_cells(stats))).collect()
    };
    let headings: Vec<String> = headings.into_iter().map(str::to_owned).collect();
    write_long_table(out, &headings, lines.len(), &row)?;
    Ok(())
}

fn stats_cells(stats: &Stats) -> [String; 7] {
    let float = |value: Number| match value {
        Number::Float(float) if float.is_finite() => number(float),
        other => other.to_string(),
    };
    let shown = |value: Option<Number>| value.map_or_else(|| "-".to_owned(), float);
    let bad = |n: u64| if n > 0 { paint(style::BAD, count(n)) } else { String::new() };
    let moments = [stats.mean, stats.std, stats.norm].map(|x| shown(x.map(Number::Float)));
    let [mean, std, norm] = moments;
    [shown(stats.min), shown(stats.max), mean, std, norm, bad(stats.nan), bad(stats.inf)]
}

/// All that is known about one tensor. All about one tensor; its statistics are computed if they
/// are not known yet.
fn tensor_details(
    path: &str,
    tensor: &Tensor,
    known: Option<Option<Box<Stats>>>,
    out: &mut impl Write,
) -> Result<(), Failure> {
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
    let stats = match known {
        Some(known) => known,
        None => stats(tensor, 1).map_err(at)?.map(Box::new),
    };
    if let Some(stats) = stats {
        let names = ["min", "max", "mean", "std", "norm", "NaN", "infinite"];
        let cells = names.into_iter().zip(stats_cells(&stats));
        facts.extend(cells.filter(|(_, text)| !text.is_empty()));
    }
    if let Some(elements) = first(tensor, ELEMENTS).map_err(at)? {
        let values = listed(&elements, tensor.numel() > ELEMENTS);
        facts.extend(Some(("values", values)).filter(|(_, text)| !text.is_empty()));
    }
    let rows = facts.into_iter().map(|(name, text)| vec![paint(style::DIM, name), text]);
    write_table(out, &table(&[String::new(), String::new()], rows.collect()))?;
    Ok(())
}

/// Elements, separated by commas.
fn listed(elements: &Elements, are_more: bool) -> String {
    let texts: Vec<String> = match elements {
        Elements::Ints(ints) => ints.iter().map(ToString::to_string).collect(),
        Elements::Floats(floats) => floats.iter().map(|&x| number(x)).collect(),
        Elements::Complex(parts) => {
            parts.iter().map(|[re, im]| format!("{}+{}j", number(*re), number(*im))).collect()
        }
    };
    let more = if are_more { ", …" } else { "" };
    format!("{}{more}", texts.join(", "))
}
