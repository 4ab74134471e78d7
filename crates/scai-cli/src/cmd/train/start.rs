//! Where training begins: at a checkpoint, or from scratch.

use std::path::{Path, PathBuf};

use scai_checkpoint::codec::Unprotected;
use scai_checkpoint::load::{LoadReport, MatchOptions, Strictness};
use scai_checkpoint::manager::Listed;
use scai_checkpoint::{Error as Engine, file};
use scai_games::Game;
use scai_train::{Config, Error, LoadOptions, Restore, ResumedAt, Trainer, TrainingStats};
use serde_json::{Value as Json, json};

use super::screen::Screen;
use super::{ask, transfer};
use crate::args::{ResumeFrom, TrainArgs};
use crate::exit::Failure;
use crate::locate::no_such_file;
use crate::render::{counted, one_line};

/// Where training begins.
pub(super) struct Start {
    from: From,
    stats: TrainingStats,
}

enum From {
    Beginning,
    /// With the matching tensors of another network.
    Init {
        path: PathBuf,
        report: String,
    },
    Newest(ResumedAt),
    File {
        path: PathBuf,
        iteration: u64,
    },
}

impl Start {
    /// Iterations that are done.
    pub(super) fn iteration(&self) -> u64 {
        self.stats.total_iterations
    }

    pub(super) fn stats(&self) -> &TrainingStats {
        &self.stats
    }

    /// The iteration it continues from; `None` from scratch.
    pub(super) fn resumed_at(&self) -> Option<u64> {
        match &self.from {
            From::Beginning | From::Init { .. } => None,
            From::Newest(ResumedAt { iteration, .. }) | From::File { iteration, .. } => {
                Some(*iteration)
            }
        }
    }

    /// One line for people.
    pub(super) fn describe(&self, config: &Config) -> String {
        let of = config.training.iterations;
        match &self.from {
            From::Beginning => format!("training from scratch, {}", counted(of, "iteration")),
            From::Init { path, report } => format!(
                "training from scratch, {}, initialised from `{}`:\n{report}",
                counted(of, "iteration"),
                path.display()
            ),
            From::Newest(ResumedAt { iteration, name, .. }) => {
                format!("resumed from `{}`, iteration {iteration} of {of}", one_line(name))
            }
            From::File { path, iteration } => {
                format!("resumed from `{}`, iteration {iteration} of {of}", path.display())
            }
        }
    }

    /// The checkpoint it begins with, for scripts.
    pub(super) fn from(&self) -> Json {
        match &self.from {
            From::Beginning => Json::Null,
            From::Init { path, .. } => json!({"init_from": path}),
            From::Newest(ResumedAt { name, skipped, iterations_lost, .. }) => json!({
                "resumed_from": name,
                "iterations_lost": iterations_lost,
                "skipped": skipped.iter().map(|skipped| json!({
                    "name": skipped.name,
                    "reason": skipped.reason.to_string(),
                    "set_aside": skipped.set_aside,
                })).collect::<Vec<_>>(),
            }),
            From::File { path, .. } => json!({"resumed_from": path}),
        }
    }
}

/// Brings the trainer to where training begins.
pub(super) fn begin<G: Game>(
    trainer: &mut Trainer<G>,
    args: &TrainArgs,
    screen: &Screen,
) -> Result<Start, Failure> {
    let listed = trainer.manager().list()?;
    let newest = match &args.resume {
        Some(ResumeFrom::File(path)) => {
            if args.init_from.is_some() {
                return Err(Failure::usage(
                    "`--resume FILE` and `--init-from` cannot be used together",
                    Some("pass one of them".to_owned()),
                ));
            }
            return from_file(trainer, path, &listed, screen);
        }
        Some(ResumeFrom::Never) => false,
        Some(ResumeFrom::Auto) => true,
        None if listed.is_empty() => false,
        None if !ask::is_possible() => true,
        None => ask::resume(trainer, &listed)?,
    };
    if newest && let Some(found) = resume(trainer)? {
        tell_skipped(&found, screen);
        if args.init_from.is_some() {
            screen.warn("`--init-from` is ignored: training resumes from its own checkpoint");
        }
        let stats = trainer.training_stats().clone();
        return Ok(Start { from: From::Newest(found), stats });
    }
    let from = match &args.init_from {
        None => From::Beginning,
        Some(path) => init_from(trainer, path)?,
    };
    warn_of_later(&listed, 0, trainer.config(), screen);
    Ok(Start { from, stats: trainer.training_stats().clone() })
}

/// A directory that checkpoints cannot be written to.
pub(super) fn unusable(error: Error, directory: &str) -> Failure {
    let message = match error {
        Error::Checkpoint(Engine::Io { action, source, .. }) => {
            format!("cannot save checkpoints to `{directory}`: cannot {action}: {source}")
        }
        Error::Checkpoint(error @ Engine::Locked { .. }) => error.to_string(),
        error => return error.into(),
    };
    Failure::usage(message, Some("`--checkpoint-dir DIR` saves them elsewhere".to_owned()))
}

fn resume<G: Game>(trainer: &mut Trainer<G>) -> Result<Option<ResumedAt>, Failure> {
    let directory = PathBuf::from(&trainer.config().checkpoint.directory);
    trainer.resume().map_err(|error| match error {
        Error::Checkpoint(error @ Engine::NothingToResume { .. }) => Failure::usage(
            error.to_string(),
            Some(
                "`--resume FILE` resumes from a copy elsewhere; `--checkpoint-dir DIR` starts \
                 over in a separate directory"
                    .to_owned(),
            ),
        ),
        Error::Checkpoint(Engine::Mismatch { report, .. }) => {
            let newest = trainer.manager().latest().ok().flatten();
            let path = newest.map(|newest| directory.join(newest.name));
            other_network(&report, path.as_deref(), trainer.config())
        }
        error => error.into(),
    })
}

fn from_file<G: Game>(
    trainer: &mut Trainer<G>,
    path: &Path,
    listed: &[Listed],
    screen: &Screen,
) -> Result<Start, Failure> {
    let restored = trainer.load_checkpoint(path, &LoadOptions::default());
    let restored = restored.map_err(|error| cannot_load(error, path, trainer.config()))?;
    let iteration = restored.iteration;
    let own = Path::new(&trainer.config().checkpoint.directory);
    let is_own =
        |listed: &Listed| listed.iteration == iteration && same_file(&own.join(&listed.name), path);
    if listed.iter().any(is_own) {
        go_back(trainer, listed, iteration, screen)?;
    } else {
        warn_of_later(listed, iteration, trainer.config(), screen);
    }
    let from = From::File { path: path.to_owned(), iteration };
    Ok(Start { from, stats: trainer.training_stats().clone() })
}

/// Goes back to an older checkpoint of the run's own directory, on request.
fn go_back<G: Game>(
    trainer: &mut Trainer<G>,
    listed: &[Listed],
    iteration: u64,
    screen: &Screen,
) -> Result<(), Failure> {
    let later = listed.iter().filter(|listed| listed.iteration > iteration && !listed.superseded);
    let count = later.count();
    if count == 0 {
        return Ok(());
    }
    trainer.manager().rollback(iteration)?;
    let directory = &trainer.config().checkpoint.directory;
    screen.warn(&format!(
        "{} superseded in `{directory}`: later resumes ignore superseded checkpoints, and this run \
         replaces them when it saves the same iterations; `scai prune {directory} --superseded` \
         deletes them",
        match count {
            1 => "1 later checkpoint is now".to_owned(),
            count => format!("{count} later checkpoints are now"),
        }
    ));
    Ok(())
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn init_from<G: Game>(trainer: &mut Trainer<G>, path: &Path) -> Result<From, Failure> {
    let options = LoadOptions {
        matching: MatchOptions::default().strictness(Strictness::Partial),
        restore: Restore::Network,
        ..LoadOptions::default()
    };
    let restored = trainer.load_checkpoint(path, &options);
    let restored = restored.map_err(|error| cannot_load(error, path, trainer.config()))?;
    if restored.network.loaded.is_empty() {
        return Err(Failure::usage(
            format!(
                "nothing in `{}` matches the network\n{}",
                path.display(),
                transfer::mismatch(&restored.network)
            ),
            None,
        ));
    }
    let report = transfer::report(&restored, &trainer.parameters());
    Ok(From::Init { path: path.to_owned(), report })
}

fn cannot_load(error: Error, path: &Path, config: &Config) -> Failure {
    let shown = path.display();
    match error {
        _ if path.is_dir() => Failure::usage(
            format!("`{shown}` is a directory, not a checkpoint"),
            Some(format!("to train in that directory, pass `--checkpoint-dir {shown}`")),
        ),
        Error::Checkpoint(Engine::NotFound { .. }) => no_such_file(path),
        Error::Checkpoint(Engine::Mismatch { report, .. }) => {
            other_network(&report, Some(path), config)
        }
        Error::State(what) => Failure::usage(
            format!("`{shown}` does not hold a training state that can be resumed: {what}"),
            None,
        ),
        error => error.into(),
    }
}

/// A checkpoint of another network than in the settings.
fn other_network(report: &LoadReport, path: Option<&Path>, config: &Config) -> Failure {
    let said = path.and_then(|path| {
        let tree = file::open(path, Unprotected::Accept).ok()?.tree().ok()?;
        let said = |key: &str| tree.lookup(&format!("metadata.config.{key}"))?.as_int();
        let game = tree.lookup("metadata.config.game")?.as_str()?;
        Some(format!(
            "  `{}` is for {} with {} blocks of {} channels; the settings ask for {} with {} of \
             {}\n",
            path.display(),
            one_line(game),
            said("model.num_blocks")?,
            said("model.channels")?,
            super::game(config),
            config.model.num_blocks,
            config.model.channels,
        ))
    });
    Failure::usage(
        format!(
            "the checkpoint does not match the network, and nothing was loaded\n{}{}",
            said.unwrap_or_default(),
            transfer::mismatch(report)
        ),
        Some(
            "`--init-from FILE --checkpoint-dir DIR` starts a new run with the tensors that match; \
             or restore the settings of the checkpoint"
                .to_owned(),
        ),
    )
}

fn tell_skipped(found: &ResumedAt, screen: &Screen) {
    for skipped in &found.skipped {
        let kept = match &skipped.set_aside {
            Some(name) => format!("\n  it is kept as `{name}`"),
            None => String::new(),
        };
        screen.warn(&format!("`{}` cannot be used: {}{kept}", skipped.name, skipped.reason));
    }
    if found.iterations_lost > 0 {
        let lost = counted(found.iterations_lost, "iteration");
        screen.warn(&format!("{lost} after `{}` will be trained again", found.name));
    }
}

/// Says what happens to the checkpoints of a directory if training begins before them.
fn warn_of_later(listed: &[Listed], iteration: u64, config: &Config, screen: &Screen) {
    let later = listed.iter().filter(|listed| listed.iteration > iteration && !listed.superseded);
    let later: Vec<&Listed> = later.collect();
    let (Some(first), Some(last)) = (later.first(), later.last()) else { return };
    let what = match later.len() {
        1 => format!(
            "a checkpoint of iteration {}: later resumes use it until this run has passed it; when \
             this run saves that iteration, the existing one is kept under another name",
            last.iteration
        ),
        count => format!(
            "{count} checkpoints of iterations {} to {}: later resumes use the newest of them \
             until this run has passed it; when this run saves the same iterations, the existing \
             ones are kept under other names",
            first.iteration, last.iteration
        ),
    };
    screen.warn(&format!(
        "`{}` already holds {what}\n  to keep the two runs apart, stop now and pass \
         `--checkpoint-dir`",
        config.checkpoint.directory
    ));
}
