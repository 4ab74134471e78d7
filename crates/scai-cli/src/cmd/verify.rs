//! `scai verify FILE|DIR…`

use std::io::Write;

use scai_checkpoint::codec::Protection;
use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::store::is_url;
use scai_checkpoint::verify::{Answers, Condition};
use scai_inspect::verify::targets;
use scai_inspect::{VerifyReport, verify};

use crate::args::VerifyArgs;
use crate::exit::{Exit, Failure};
use crate::input::UNNOTICED;
use crate::locate::no_such_file;
use crate::progress;
use crate::render::{one_line, paint, printable, size, style, write_json};

pub(crate) fn run(args: &VerifyArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    if let Some(missing) = args.paths.iter().find(|path| !path.exists() && !is_url(path)) {
        return Err(no_such_file(missing));
    }
    let mut found = Vec::new();
    for path in &args.paths {
        found.extend(targets(path)?);
    }
    let bar = progress::bytes(found.iter().map(|target| target.size).sum(), "verifying");
    let progress = |bytes| bar.inc(bytes);
    let mut options = ReadOptions::default().progress(&progress);
    if let Some(jobs) = args.jobs {
        options = options.threads(jobs.get());
    }
    let shown = found.iter().map(|target| one_line(&target.path.display().to_string()));
    let width = shown.map(|path| path.chars().count()).max().unwrap_or(0);
    let mut reports = Vec::new();
    let mut exit = Exit::Success;
    for target in &found {
        let report = verify(&target.path, options)?;
        if !report.answers.exists && is_url(&target.path) {
            return Err(no_such_file(&target.path));
        }
        exit = exit.or_worse(Exit::of(report.condition));
        if args.json {
            reports.push(report);
        } else {
            // The questions are about one file.
            let with_answers = found.len() == 1 && !target.path.is_dir();
            bar.suspend(|| print(out, &report, width, with_answers))?;
        }
    }
    bar.finish_and_clear();
    if args.json {
        write_json(out, &reports)?;
    }
    if found.is_empty() {
        return Err(Failure::usage("there are no checkpoints to verify".to_owned(), None));
    }
    Ok(exit)
}

fn print(
    out: &mut impl Write,
    report: &VerifyReport,
    width: usize,
    with_answers: bool,
) -> std::io::Result<()> {
    let (style, verdict) = match report.condition {
        Condition::Sound => (style::GOOD, "sound"),
        Condition::Unprotected => (style::WARN, "unprotected"),
        Condition::Damaged => (style::BAD, "DAMAGED"),
        Condition::NeedsCode => (style::WARN, "needs code"),
        Condition::Unsupported => (style::WARN, "unsupported"),
        Condition::NotACheckpoint => (style::WARN, "not a checkpoint"),
        _ => (style::BAD, "unreadable"),
    };
    let verdict = paint(style, format_args!("{verdict:<11}"));
    let path = one_line(&report.path);
    let line = format!("{verdict}  {path:width$}  {:>10}  {}", size(report.size), how(report));
    writeln!(out, "{}", line.trim_end())?;
    // The line above names the file.
    let is_damage = |condition| condition != Condition::Unprotected;
    let damage = report.damage.iter().filter(|damage| is_damage(damage.condition));
    for finding in damage.chain(&report.obstacle) {
        writeln!(out, "  {}", printable(&finding.detail))?;
    }
    for unbound in &report.unbound {
        writeln!(
            out,
            "  {}",
            printable(&format!("not part of it: `{}`: {}", unbound.name, unbound.what))
        )?;
    }
    if with_answers { print_answers(out, report.answers) } else { Ok(()) }
}

/// What the verdict is based on.
fn how(report: &VerifyReport) -> String {
    if matches!(report.condition, Condition::Damaged | Condition::Unreadable) {
        return String::new();
    }
    let how = match report.protection {
        Some(Protection::Digests) => "every digest matches",
        Some(Protection::Crc32) => "every CRC-32 matches",
        Some(Protection::None) if report.is_distributed => {
            "no checksum binds its files, so damage to `.metadata` and a mix of two saves cannot be detected"
        }
        Some(Protection::None) => "no checksums, so damage cannot be detected",
        None => "",
    };
    if report.sound && report.source_protection.is_some() {
        return format!("{how}; converted from a file without checksums, {UNNOTICED}");
    }
    how.to_owned()
}

fn print_answers(out: &mut impl Write, answers: Answers) -> std::io::Result<()> {
    let Answers {
        exists,
        readable,
        has_required_fields,
        has_model_state,
        has_optimizer_state,
        has_training_stats,
        has_metadata,
        has_timestamp,
    } = answers;
    for (question, answer) in [
        ("exists", exists),
        ("readable", readable),
        ("has_required_fields", has_required_fields),
        ("has_model_state", has_model_state),
        ("has_optimizer_state", has_optimizer_state),
        ("has_training_stats", has_training_stats),
        ("has_metadata", has_metadata),
        ("has_timestamp", has_timestamp),
    ] {
        let (style, word) = if answer { (style::GOOD, "yes") } else { (style::BAD, "no") };
        writeln!(out, "  {question:<20} {}", paint(style, word))?;
    }
    Ok(())
}
