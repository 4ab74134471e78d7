//! `scai verify FILE|DIR…`

use std::io::Write;
use std::path::{Path, PathBuf};

use scai_checkpoint::codec::torch::Protection;
use scai_checkpoint::{Answers, CheckpointManager, Error, Options, Verification};
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::exit::{Exit, Failure};
use crate::locate::{manager, no_such_file, split};
use crate::progress;
use crate::render::{one_line, paint, printable, size, style, write_json};

/// What a script gets for each file.
#[derive(Serialize)]
struct Report {
    path: String,
    size: u64,
    sound: bool,
    protection: Option<&'static str>,
    iteration: Option<i64>,
    #[serde(flatten)]
    answers: Answers,
    damage: Vec<Damage>,
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
    let mut reports = Vec::new();
    let mut exit = Exit::Success;
    for target in &targets {
        let verification = target.manager.verify(&target.name, &|bytes| bar.inc(bytes))?;
        exit = worse(exit, &verification);
        if args.json {
            reports.push(report(target, &verification));
        } else {
            bar.suspend(|| print(out, target, &verification, targets.len() == 1))?;
        }
    }
    bar.finish_and_clear();
    if args.json {
        write_json(out, &reports)?;
    } else if targets.is_empty() {
        writeln!(anstream::stderr(), "there are no checkpoints to verify")?;
    }
    Ok(exit)
}

/// The checkpoints that a path stands for.
fn find<'a>(path: &Path, manager: &'a CheckpointManager) -> Result<Vec<Target<'a>>, Failure> {
    if path.is_dir() {
        let listed = manager.list()?.into_iter();
        return Ok(listed
            .map(|listed| Target {
                manager,
                path: path.join(&listed.name),
                name: listed.name,
                size: listed.size,
            })
            .collect());
    }
    let name = split(path)?.1.to_owned();
    let size = path.metadata().map_or(0, |metadata| metadata.len());
    Ok(vec![Target { manager, name, path: path.to_owned(), size }])
}

fn is_unprotected(verification: &Verification) -> bool {
    matches!(verification.damage.as_slice(), [Error::Unprotected { .. }])
}

fn worse(exit: Exit, verification: &Verification) -> Exit {
    match exit {
        _ if verification.is_sound() => exit,
        Exit::Success if is_unprotected(verification) => Exit::Unprotected,
        exit if is_unprotected(verification) => exit,
        _ => Exit::Found,
    }
}

fn protection(verification: &Verification) -> Option<&'static str> {
    verification.protection.map(|protection| match protection {
        Protection::None => "none",
        Protection::Crc32 => "crc32",
        Protection::Digests => "digests",
    })
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
        protection: protection(verification),
        iteration: verification.iteration,
        answers: verification.answers,
        damage: damage.collect(),
    }
}

fn print(
    out: &mut impl Write,
    target: &Target<'_>,
    verification: &Verification,
    with_answers: bool,
) -> std::io::Result<()> {
    let verdict = if verification.is_sound() {
        paint(style::GOOD, "sound      ")
    } else if is_unprotected(verification) {
        paint(style::WARN, "unprotected")
    } else {
        paint(style::BAD, "DAMAGED    ")
    };
    let how = match verification.protection {
        Some(Protection::Digests) => "every digest matches",
        Some(Protection::Crc32) => "every CRC-32 matches",
        Some(Protection::None) | None => "",
    };
    let how = if verification.is_sound() { how } else { "" };
    let path = one_line(&target.path.display().to_string());
    let line = format!("{verdict}  {path}  {}  {how}", size(verification.len));
    writeln!(out, "{}", line.trim_end())?;
    for damage in &verification.damage {
        writeln!(out, "  {}", printable(&damage.to_string()))?;
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
