//! `scai list DIR`

use std::collections::BTreeSet;
use std::io::Write;

use scai_checkpoint::Options;
use scai_checkpoint::Value;
use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::verify::Condition;
use scai_inspect::list::{CheckpointRow, OtherFile};
use scai_inspect::{Listing, list};

use crate::args::ListArgs;
use crate::exit::{Exit, Failure};
use crate::locate::{manager, nearest};
use crate::progress;
use crate::render::{
    counted, number, one_line, paint, size, style, table, time, write_json, write_table,
};

/// Statistics shown by default.
const STATISTICS: usize = 4;

pub(crate) fn run(args: &ListArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let manager = manager(&args.directory, Options::default())?;
    let mut listing = list(&manager)?;
    let stats = statistics(args, &listing)?;
    if args.verify {
        let bar = progress::bytes(listing.size(), "verifying");
        let progress = |bytes| bar.inc(bytes);
        let verified = listing.verify(&manager, ReadOptions::default().progress(&progress));
        bar.finish_and_clear();
        verified?;
    }
    let exit = exit(&listing);
    if args.json {
        write_json(out, &listing)?;
        return Ok(exit);
    }
    let Listing { checkpoints, others, .. } = &listing;
    if checkpoints.is_empty() && others.is_empty() {
        let mut err = anstream::stderr().lock();
        writeln!(err, "there are no checkpoints in `{}`", args.directory.display())?;
    }
    if !checkpoints.is_empty() {
        let fixed = [">ITERATION", "SAVED", ">SIZE"].map(str::to_owned);
        let mut headings: Vec<String> = fixed.into();
        headings.extend(stats.iter().map(|name| format!(">{}", one_line(name).to_uppercase())));
        headings.push("VERIFIED".to_owned());
        headings.push("NOTES".to_owned());
        let cells = checkpoints.iter().map(|row| checkpoint_cells(row, &stats)).collect();
        write_table(out, &table(&headings, cells))?;
        write_total(out, checkpoints.iter().map(|row| row.checkpoint.size), "checkpoint")?;
    }
    if !others.is_empty() {
        let gap = if checkpoints.is_empty() { "" } else { "\n" };
        write!(out, "{gap}")?;
        let headings = ["OTHER FILE", "FORMAT", ">SIZE", "VERIFIED", "NOTES"].map(str::to_owned);
        write_table(out, &table(&headings, others.iter().map(other_cells).collect()))?;
        write_total(out, others.iter().map(|other| other.size), "other file")?;
    }
    Ok(exit)
}

fn exit(listing: &Listing) -> Exit {
    let checkpoints = listing.checkpoints.iter().filter_map(|row| row.checkpoint.condition);
    // Other files may be of any kind, but not damaged.
    let is_bad =
        |condition: &Condition| matches!(condition, Condition::Damaged | Condition::Unreadable);
    let others = listing.others.iter().filter_map(|other| other.condition).filter(is_bad);
    checkpoints.chain(others).map(Exit::of).fold(Exit::Success, Exit::or_worse)
}

fn write_total(
    out: &mut impl Write,
    sizes: impl ExactSizeIterator<Item = u64>,
    noun: &str,
) -> std::io::Result<()> {
    let count = counted(sizes.len() as u64, noun);
    writeln!(out, "{}", paint(style::DIM, format!("{count}, {}", size(sizes.sum()))))
}

/// The statistics to show: those that were named, or the first few that are numbers.
fn statistics(args: &ListArgs, listing: &Listing) -> Result<Vec<String>, Failure> {
    let all = || listing.checkpoints.iter().map(|row| &row.checkpoint.training_stats);
    let known: BTreeSet<&str> = all().flat_map(|stats| stats.names()).collect();
    if let Some(unknown) = args.stats.iter().find(|name| !known.contains(name.as_str())) {
        let near = nearest(unknown, known.iter().copied());
        let names: Vec<&str> = known.iter().copied().collect();
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("available statistics: {}", names.join(", ")),
        };
        return Err(Failure::usage(
            format!("no checkpoint has a statistic `{unknown}`"),
            Some(hint),
        ));
    }
    if !args.stats.is_empty() {
        return Ok(args.stats.clone());
    }
    let newest = all().rev().find(|stats| !stats.is_empty());
    Ok(newest.map_or_else(Vec::new, |stats| {
        let is_number = |name: &&str| stats.get(name).is_some_and(|value| is_number(&value));
        stats.names().filter(is_number).map(str::to_owned).take(STATISTICS).collect()
    }))
}

fn is_number(value: &Value) -> bool {
    matches!(value, Value::Int(_) | Value::BigInt(_) | Value::Float(_))
}

fn checkpoint_cells(row: &CheckpointRow, stats: &[String]) -> Vec<String> {
    let checkpoint = &row.checkpoint;
    let mut cells = vec![
        checkpoint.iteration.to_string(),
        checkpoint.timestamp.as_deref().map_or_else(|| "-".to_owned(), time),
        size(checkpoint.size),
    ];
    cells.extend(stats.iter().map(|name| match checkpoint.training_stats.get(name) {
        None | Some(Value::None) => "-".to_owned(),
        Some(Value::Str(text)) => one_line(&text),
        Some(value) if is_number(&value) => {
            checkpoint.training_stats.number(name).map(number).unwrap_or_default()
        }
        Some(_) => one_line(&checkpoint.training_stats.json(name).unwrap_or_default()),
    }));
    cells.push(verified(row.verified));
    let mut notes = Vec::new();
    if checkpoint.latest {
        notes.push(paint(style::BOLD, "latest"));
    }
    if checkpoint.superseded {
        notes.push(paint(style::WARN, "superseded"));
    }
    if checkpoint.pinned {
        notes.push("pinned".to_owned());
    }
    if let Some(problem) = &checkpoint.problem {
        notes.push(paint(style::BAD, one_line(problem)));
    }
    cells.push(notes.join(", "));
    cells
}

fn other_cells(other: &OtherFile) -> Vec<String> {
    let mut notes = Vec::new();
    if !other.shards.is_empty() {
        notes.push(counted(other.shards.len() as u64, "shard"));
    }
    notes.extend(other.problem.as_ref().map(|problem| paint(style::BAD, one_line(problem))));
    vec![
        one_line(&other.name),
        other.format.map_or("-", |format| format.name()).to_owned(),
        size(other.size),
        verified(other.verified),
        notes.join(", "),
    ]
}

fn verified(verified: Option<bool>) -> String {
    match verified {
        None => paint(style::DIM, "-"),
        Some(true) => paint(style::GOOD, "yes"),
        Some(false) => paint(style::BAD, "NO"),
    }
}
