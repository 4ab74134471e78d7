//! `scai verify FILE|DIR…`

use std::io::Write;
use std::path::{Path, PathBuf};

use scai_checkpoint::codec::{Origin, Protection};
use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::store::{Directory, LocalDirectory, is_draft};
use scai_checkpoint::verify::{Answers, Condition, Verification};
use scai_checkpoint::{CheckpointManager, Error, Options};
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::exit::{Exit, Failure};
use crate::input::UNNOTICED;
use crate::locate::{manager, no_such_file, split};
use crate::progress;
use crate::render::{one_line, paint, printable, size, style, write_json};

/// What a script gets for each file.
#[derive(Serialize)]
struct Report {
    path: String,
    size: u64,
    sound: bool,
    /// What the file is in, in one word.
    condition: Condition,
    protection: Option<&'static str>,
    /// `none` where it was converted from a file without checksums.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_protection: Option<&'static str>,
    iteration: Option<i64>,
    #[serde(flatten)]
    answers: Answers,
    damage: Vec<Damage>,
    /// Why no state can be made of a file whose bytes are right.
    obstacle: Option<String>,
}

#[derive(Serialize)]
struct Damage {
    message: String,
    tensor: Option<String>,
    record: Option<String>,
    bytes: Option<[u64; 2]>,
}

/// A file to verify: its directory's manager, its name there, its path as typed.
struct Target<'a> {
    manager: &'a CheckpointManager,
    name: String,
    path: PathBuf,
    size: u64,
}

pub(crate) fn run(args: &VerifyArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let mut managers = Vec::new();
    for path in &args.paths {
        let mut options = Options::default();
        options.threads = args.jobs.map_or(options.threads, usize::from);
        let directory = if path.is_dir() { path.as_path() } else { split(path)?.0 };
        if !path.exists() {
            return Err(no_such_file(path));
        }
        managers.push(manager(directory, options)?);
    }
    let mut targets = Vec::new();
    for (path, manager) in args.paths.iter().zip(&managers) {
        targets.extend(find(path, manager)?);
    }
    let bar = progress::bytes(targets.iter().map(|target| target.size).sum(), "verifying");
    let width = targets.iter().map(|target| shown(&target.path).chars().count()).max();
    let width = width.unwrap_or(0);
    let mut reports = Vec::new();
    let mut exit = Exit::Success;
    for target in &targets {
        let verification = target
            .manager
            .verify_with(&target.name, ReadOptions::default().progress(&|bytes| bar.inc(bytes)))?;
        exit = exit.or_worse(Exit::of(verification.condition()));
        if args.json {
            reports.push(report(target, &verification));
        } else {
            bar.suspend(|| print(out, target, &verification, width, targets.len() == 1))?;
        }
    }
    bar.finish_and_clear();
    if args.json {
        write_json(out, &reports)?;
    }
    if targets.is_empty() {
        return Err(Failure::usage("there are no checkpoints to verify".to_owned(), None));
    }
    Ok(exit)
}

/// The checkpoints that a path stands for.
fn find<'a>(path: &Path, manager: &'a CheckpointManager) -> Result<Vec<Target<'a>>, Failure> {
    if path.is_dir() {
        let listed = manager.list()?.into_iter();
        let listed = listed.map(|listed| (listed.name, listed.size));
        let found = listed.chain(others(path)?);
        return Ok(found
            .map(|(name, size)| Target { manager, path: path.join(&name), name, size })
            .collect());
    }
    let name = split(path)?.1.to_owned();
    let size = path.metadata().map_or(0, |metadata| metadata.len());
    Ok(vec![Target { manager, name, path: path.to_owned(), size }])
}

/// The other files of a directory that look like checkpoints by their names, sorted.
fn others(directory: &Path) -> Result<Vec<(String, u64)>, Failure> {
    let at = |error| Error::Io { place: Box::default(), action: "list", source: error };
    let entries = LocalDirectory::open(directory).and_then(|store| store.list());
    let entries = entries.map_err(|error| at(error).at_path(directory))?;
    let is_one = |name: &str| {
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
        // `latest.pt` is another name of a checkpoint that has its own.
        matches!(extension, Some("pt" | "pth" | "ckpt" | "safetensors"))
            && name != "latest.pt"
            && !name.starts_with("checkpoint_iter_")
            && !is_draft(name)
    };
    let mut found: Vec<(String, u64)> = entries
        .into_iter()
        .filter(|entry| is_one(&entry.name))
        .map(|entry| (entry.name, entry.len))
        .collect();
    found.sort();
    Ok(found)
}

/// Whether it was converted from a file without checksums.
fn from_unprotected(verification: &Verification) -> bool {
    verification.origin == Origin::Unprotected && verification.protection != Some(Protection::None)
}

fn protection(verification: &Verification) -> Option<&'static str> {
    verification.protection.map(crate::input::protection)
}

fn report(target: &Target<'_>, verification: &Verification) -> Report {
    let damage = verification.damage.iter().map(|error| {
        let place = error.place();
        Damage {
            message: error.to_string(),
            tensor: place.and_then(|place| place.tensor.clone()),
            record: place.and_then(|place| place.record.clone()),
            bytes: place.and_then(|place| place.bytes.clone()).map(|b| [b.start, b.end]),
        }
    });
    Report {
        path: target.path.display().to_string(),
        size: verification.len,
        sound: verification.is_sound(),
        condition: verification.condition(),
        protection: protection(verification),
        source_protection: from_unprotected(verification)
            .then(|| crate::input::protection(Protection::None)),
        iteration: verification.iteration,
        answers: verification.answers,
        damage: damage.collect(),
        obstacle: verification.obstacle.as_ref().map(ToString::to_string),
    }
}

fn shown(path: &Path) -> String {
    one_line(&path.display().to_string())
}

fn print(
    out: &mut impl Write,
    target: &Target<'_>,
    verification: &Verification,
    width: usize,
    with_answers: bool,
) -> std::io::Result<()> {
    let (style, verdict) = match verification.condition() {
        Condition::Sound => (style::GOOD, "sound"),
        Condition::Unprotected => (style::WARN, "unprotected"),
        Condition::Damaged => (style::BAD, "DAMAGED"),
        Condition::NeedsCode => (style::WARN, "needs code"),
        Condition::Unsupported => (style::WARN, "unsupported"),
        Condition::NotACheckpoint => (style::WARN, "not a checkpoint"),
        _ => (style::BAD, "unreadable"),
    };
    let verdict = paint(style, format_args!("{verdict:<11}"));
    let is_bad = matches!(verification.condition(), Condition::Damaged | Condition::Unreadable);
    let how = match verification.protection {
        _ if is_bad => "",
        Some(Protection::Digests) => "every digest matches",
        Some(Protection::Crc32) => "every CRC-32 matches",
        Some(Protection::None) => "it carries no checksums, so damage could not be noticed",
        None => "",
    };
    let mut how = how.to_owned();
    if verification.is_sound() && from_unprotected(verification) {
        how += &format!("; converted from a file without checksums, {UNNOTICED}");
    }
    let path = shown(&target.path);
    let size = size(verification.len);
    let line = format!("{verdict}  {path:width$}  {size:>10}  {how}");
    writeln!(out, "{}", line.trim_end())?;
    // The line above names the file.
    let file = format!("checkpoint `{}`: ", target.path.display());
    let damage =
        verification.damage.iter().filter(|error| !matches!(error, Error::Unprotected { .. }));
    for damage in damage.chain(&verification.obstacle) {
        let damage = damage.to_string();
        writeln!(out, "  {}", printable(damage.strip_prefix(&file).unwrap_or(&damage)))?;
    }
    if with_answers {
        let Answers {
            exists,
            readable,
            has_required_fields,
            has_model_state,
            has_optimizer_state,
            has_training_stats,
            has_metadata,
            has_timestamp,
        } = verification.answers;
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
    }
    Ok(())
}
