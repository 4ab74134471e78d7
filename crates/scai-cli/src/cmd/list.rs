//! `scai list DIR`

use std::collections::BTreeSet;
use std::io::Write;

use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::manager::Listed;
use scai_checkpoint::{CheckpointManager, Options};
use serde::Serialize;
use serde_json::Value as Json;

use crate::args::ListArgs;
use crate::exit::{Exit, Failure};
use crate::locate::{manager, nearest};
use crate::progress;
use crate::render::{number, one_line, paint, size, style, table, time, write_json, write_table};

/// Statistics shown when none are named.
const FEW: usize = 4;

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
    let stats = statistics(args, &listed)?;
    let rows = rows(args, &manager, listed)?;
    let exit = rows.iter().fold(Exit::Success, |exit, row| {
        exit.or_worse(row.checkpoint.condition.map_or(Exit::Success, Exit::of))
    });
    if args.json {
        write_json(out, &rows)?;
        return Ok(exit);
    }
    if rows.is_empty() {
        let mut err = anstream::stderr().lock();
        writeln!(err, "there are no checkpoints in `{}`", args.directory.display())?;
        return Ok(exit);
    }
    let fixed = [">ITERATION", "SAVED", ">SIZE"].map(str::to_owned);
    let mut headings: Vec<String> = fixed.into();
    headings.extend(stats.iter().map(|name| format!(">{}", one_line(name).to_uppercase())));
    headings.push("VERIFIED".to_owned());
    headings.push("NOTES".to_owned());
    let cells = rows.iter().map(|row| cells(row, &stats)).collect();
    write_table(out, &table(&headings, cells))?;
    let total: u64 = rows.iter().map(|row| row.checkpoint.size).sum();
    let count = rows.len();
    let line = format!("{count} checkpoint{}, {}", if count == 1 { "" } else { "s" }, size(total));
    writeln!(out, "{}", paint(style::DIM, line))?;
    Ok(exit)
}

fn rows(
    args: &ListArgs,
    manager: &CheckpointManager,
    listed: Vec<Listed>,
) -> Result<Vec<Row>, Failure> {
    if !args.verify {
        return Ok(listed
            .into_iter()
            .map(|checkpoint| Row { checkpoint, verified: None })
            .collect());
    }
    let bar = progress::bytes(listed.iter().map(|listed| listed.size).sum(), "verifying");
    let rows = listed.into_iter().map(|mut checkpoint| {
        let verification = manager.verify_with(
            &checkpoint.name,
            ReadOptions::default().progress(&|bytes| bar.inc(bytes)),
        )?;
        if let Some(error) = verification.damage.first().or(verification.obstacle.as_ref()) {
            checkpoint.problem = Some(error.to_string());
            checkpoint.condition = Some(verification.condition());
        }
        Ok(Row { checkpoint, verified: Some(verification.is_sound()) })
    });
    let rows = rows.collect();
    bar.finish_and_clear();
    rows
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
    let Row { checkpoint, verified } = row;
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
    cells.push(match verified {
        None => paint(style::DIM, "-"),
        Some(true) => paint(style::GOOD, "yes"),
        Some(false) => paint(style::BAD, "NO"),
    });
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
