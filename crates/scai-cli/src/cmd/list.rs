//! `scai list DIR`

use std::collections::BTreeSet;
use std::io::Write;

use indicatif::ProgressBar;
use scai_checkpoint::codec::Unprotected;
use scai_checkpoint::file::{self, ReadOptions};
use scai_checkpoint::manager::Listed;
use scai_checkpoint::verify::{Condition, Verification};
use scai_checkpoint::{CheckpointManager, Error, Options};
use serde::Serialize;
use serde_json::Value as Json;

use crate::args::ListArgs;
use crate::exit::{Exit, Failure};
use crate::locate::{manager, nearest};
use crate::others::{Other, others};
use crate::render::{
    counted, number, one_line, paint, size, style, table, time, write_json, write_table,
};
use crate::{input, progress};

/// Statistics shown when none are named.
const FEW: usize = 4;

/// A file that is not a checkpoint of an iteration.
#[derive(Serialize)]
struct OtherRow {
    name: String,
    /// None: what sorts checkpoints leaves these apart.
    iteration: Option<u64>,
    size: u64,
    format: Option<&'static str>,
    /// The files that an index names.
    shards: Vec<String>,
    /// What is wrong with it at first sight.
    problem: Option<String>,
    condition: Option<Condition>,
    verified: Option<bool>,
}

/// What a script gets: other files first, so that the newest checkpoint is the last.
#[derive(Serialize)]
#[serde(untagged)]
enum Either<'a> {
    Other(&'a OtherRow),
    Checkpoint(&'a Row),
}

/// A line of the list.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    checkpoint: Listed,
    /// Whether every byte is right; null where that was not asked.
    verified: Option<bool>,
}

pub(crate) fn run(args: &ListArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let manager = manager(&args.directory, Options::default())?;
    let listed = manager.list()?;
    let found = others(&args.directory)?;
    let stats = statistics(args, &listed)?;
    let sizes = listed.iter().map(|listed| listed.size);
    let total = sizes.chain(found.iter().map(|other| other.size)).sum();
    let bar = args.verify.then(|| progress::bytes(total, "verifying"));
    let others = other_rows(args, &manager, found, bar.as_ref())?;
    let rows = rows(&manager, listed, bar.as_ref())?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let conditions = rows.iter().map(|row| row.checkpoint.condition);
    // What is beside the checkpoints may be of any kind, but not damaged.
    let is_bad =
        |&condition: &Condition| matches!(condition, Condition::Damaged | Condition::Unreadable);
    let beside = others.iter().filter_map(|other| other.condition).filter(is_bad);
    let exit = conditions.flatten().chain(beside).map(Exit::of).fold(Exit::Success, Exit::or_worse);
    if args.json {
        let all = others.iter().map(Either::Other).chain(rows.iter().map(Either::Checkpoint));
        write_json(out, &all.collect::<Vec<_>>())?;
        return Ok(exit);
    }
    if rows.is_empty() && others.is_empty() {
        let mut err = anstream::stderr().lock();
        writeln!(err, "there are no checkpoints in `{}`", args.directory.display())?;
    }
    if !rows.is_empty() {
        let fixed = [">ITERATION", "SAVED", ">SIZE"].map(str::to_owned);
        let mut headings: Vec<String> = fixed.into();
        headings.extend(stats.iter().map(|name| format!(">{}", one_line(name).to_uppercase())));
        headings.push("VERIFIED".to_owned());
        headings.push("NOTES".to_owned());
        let cells = rows.iter().map(|row| cells(row, &stats)).collect();
        write_table(out, &table(&headings, cells))?;
        let sizes = rows.iter().map(|row| row.checkpoint.size);
        write_total(out, sizes, "checkpoint")?;
    }
    if !others.is_empty() {
        let gap = if rows.is_empty() { "" } else { "\n" };
        write!(out, "{gap}")?;
        let headings = ["OTHER FILE", "FORMAT", ">SIZE", "VERIFIED", "NOTES"].map(str::to_owned);
        write_table(out, &table(&headings, others.iter().map(OtherRow::cells).collect()))?;
        write_total(out, others.iter().map(|other| other.size), "other file")?;
    }
    Ok(exit)
}

fn write_total(
    out: &mut impl Write,
    sizes: impl ExactSizeIterator<Item = u64>,
    noun: &str,
) -> std::io::Result<()> {
    let count = counted(sizes.len() as u64, noun);
    writeln!(out, "{}", paint(style::DIM, format!("{count}, {}", size(sizes.sum()))))
}

/// What a glance at each of the files shows, or a look at every byte.
fn other_rows(
    args: &ListArgs,
    manager: &CheckpointManager,
    found: Vec<Other>,
    bar: Option<&ProgressBar>,
) -> Result<Vec<OtherRow>, Failure> {
    let row = |Other { name, size, shards }| {
        let mut row = OtherRow {
            iteration: None,
            size,
            format: None,
            shards,
            problem: None,
            condition: None,
            verified: None,
            name,
        };
        let opened = file::open(args.directory.join(&row.name), Unprotected::Accept);
        let error = match opened {
            Ok(file) => {
                row.format = Some(input::format(file.format()));
                file.tree().err()
            }
            Err(error) => Some(error),
        };
        let mut report = |error: &Error, condition| {
            row.problem = Some(error.to_string());
            row.condition = Some(condition);
        };
        if let Some(error) = &error {
            report(error, Condition::of(error));
        }
        if let Some(bar) = bar {
            let verification = manager
                .verify_with(&row.name, ReadOptions::default().progress(&|bytes| bar.inc(bytes)))?;
            if let Some(error) = first_problem(&verification) {
                report(error, verification.condition());
            }
            row.verified = Some(verification.is_sound());
        }
        Ok(row)
    };
    found.into_iter().map(row).collect()
}

fn first_problem(verification: &Verification) -> Option<&Error> {
    verification.damage.first().or(verification.obstacle.as_ref())
}

impl OtherRow {
    fn cells(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.shards.is_empty() {
            notes.push(counted(self.shards.len() as u64, "shard"));
        }
        notes.extend(self.problem.as_ref().map(|problem| paint(style::BAD, one_line(problem))));
        vec![
            one_line(&self.name),
            self.format.unwrap_or("-").to_owned(),
            size(self.size),
            verified(self.verified),
            notes.join(", "),
        ]
    }
}

fn verified(verified: Option<bool>) -> String {
    match verified {
        None => paint(style::DIM, "-"),
        Some(true) => paint(style::GOOD, "yes"),
        Some(false) => paint(style::BAD, "NO"),
    }
}

fn rows(
    manager: &CheckpointManager,
    listed: Vec<Listed>,
    bar: Option<&ProgressBar>,
) -> Result<Vec<Row>, Failure> {
    let row = |mut checkpoint: Listed| {
        let Some(bar) = bar else { return Ok(Row { checkpoint, verified: None }) };
        let verification = manager.verify_with(
            &checkpoint.name,
            ReadOptions::default().progress(&|bytes| bar.inc(bytes)),
        )?;
        if let Some(error) = first_problem(&verification) {
            checkpoint.problem = Some(error.to_string());
            checkpoint.condition = Some(verification.condition());
        }
        Ok(Row { checkpoint, verified: Some(verification.is_sound()) })
    };
    listed.into_iter().map(row).collect()
}

/// The statistics to show: those that were named, or the first few that are numbers.
fn statistics(args: &ListArgs, listed: &[Listed]) -> Result<Vec<String>, Failure> {
    let known: BTreeSet<&str> =
        listed.iter().flat_map(|listed| listed.training_stats.keys().map(String::as_str)).collect();
    if let Some(unknown) = args.stats.iter().find(|name| !known.contains(name.as_str())) {
        let near = nearest(unknown, known.iter().copied());
        let names: Vec<&str> = known.iter().copied().collect();
        let hint = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are: {}", names.join(", ")),
        };
        return Err(Failure::usage(
            format!("no checkpoint has a statistic `{unknown}`"),
            Some(hint),
        ));
    }
    if !args.stats.is_empty() {
        return Ok(args.stats.clone());
    }
    let newest = listed.iter().rev().find(|listed| !listed.training_stats.is_empty());
    Ok(newest.map_or_else(Vec::new, |listed| {
        let numbers = listed.training_stats.iter().filter(|(_, value)| value.is_number());
        numbers.map(|(name, _)| name.clone()).take(FEW).collect()
    }))
}

fn cells(row: &Row, stats: &[String]) -> Vec<String> {
    let checkpoint = &row.checkpoint;
    let mut cells = vec![
        checkpoint.iteration.to_string(),
        checkpoint.timestamp.as_deref().map_or_else(|| "-".to_owned(), time),
        size(checkpoint.size),
    ];
    cells.extend(stats.iter().map(|name| match checkpoint.training_stats.get(name) {
        None | Some(Json::Null) => "-".to_owned(),
        Some(Json::Number(value)) => value.as_f64().map_or_else(|| value.to_string(), number),
        Some(Json::String(text)) => one_line(text),
        Some(other) => one_line(&other.to_string()),
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
