//! `scai prune DIR`

use std::io::Write;

use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::manager::{Listed, Prune};
use scai_checkpoint::{Options, Retention};
use scai_inspect::{PruneReport, prune_report};

use crate::args::PruneArgs;
use crate::exit::{Exit, Failure};
use crate::locate::{manager, nearest};
use crate::progress;
use crate::render::{counted, paint, size, style, table, write_json, write_table};

pub(crate) fn run(args: &PruneArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let retention = args.retention().map_err(|error| Failure::usage(error.to_string(), None))?;
    if retention.is_none() && !args.superseded {
        return Err(Failure::usage(
            "no retention rule given",
            Some(
                "for example `--keep last:5,every:1000`; `scai prune --help` lists the rules"
                    .into(),
            ),
        ));
    }
    let retention = retention.unwrap_or_default();
    let manager = manager(&args.directory, Options::default())?;
    check_statistics(&retention, &manager.list()?)?;
    let bar = progress::bytes(0, "verifying what is kept");
    let prune = if args.yes { Prune::Remove } else { Prune::DryRun };
    let progress = |bytes| {
        bar.inc_length(bytes);
        bar.inc(bytes);
    };
    let options = ReadOptions::default().progress(&progress);
    let verdicts = if args.superseded {
        manager.prune_superseded(prune, options)
    } else {
        manager.prune_with(&retention, prune, options)
    };
    bar.finish_and_clear();
    let reports = prune_report(&verdicts?);
    if args.json {
        write_json(out, &reports)?;
        return Ok(Exit::Success);
    }
    print(args, out, &reports)?;
    Ok(Exit::Success)
}

/// A statistic that no checkpoint has would keep nothing, which cannot be intended.
fn check_statistics(retention: &Retention, listed: &[Listed]) -> Result<(), Failure> {
    let known = || listed.iter().flat_map(|listed| listed.training_stats.names());
    match retention.statistics().find(|statistic| !known().any(|name| name == *statistic)) {
        None => Ok(()),
        Some(_) if listed.is_empty() => Ok(()),
        Some(statistic) => Err(Failure::usage(
            format!("no checkpoint has a statistic `{statistic}`"),
            nearest(statistic, known()).map(|near| format!("did you mean `{near}`?")),
        )),
    }
}

fn print(args: &PruneArgs, out: &mut impl Write, reports: &[PruneReport]) -> std::io::Result<()> {
    let headings = [">ITERATION", ">SIZE", "", "WHY"].map(str::to_owned);
    let rows = reports.iter().map(|report| {
        let (what, why) = if report.stays {
            let what = if args.yes { "kept" } else { "keep" };
            (paint(style::GOOD, what), report.reasons.join(", "))
        } else {
            let what = if report.removed { "deleted" } else { "delete" };
            let why = if args.superseded { "superseded" } else { "no rule keeps it" };
            (paint(style::WARN, what), why.to_owned())
        };
        vec![report.iteration.to_string(), size(report.size), what, why]
    });
    write_table(out, &table(&headings, rows.collect()))?;
    let gone: Vec<&PruneReport> = reports.iter().filter(|report| !report.stays).collect();
    let bytes = size(gone.iter().map(|report| report.size).sum());
    let count = counted(gone.len() as u64, "checkpoint");
    if args.yes {
        writeln!(out, "{count} deleted, {bytes} freed")
    } else if gone.is_empty() {
        writeln!(out, "nothing to delete")
    } else {
        writeln!(out, "{count} would be deleted, {bytes}; pass `--yes` to delete")
    }
}
