//! What can be typed to train, to play and to measure.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args as ClapArgs;
use clap::builder::RangedU64ValueParser;
use scai_train::config::Opponent;

/// Which settings, where to begin.
#[derive(Debug, ClapArgs)]
#[command(after_long_help = "\
Ctrl-C or SIGTERM finishes the current step, saves and exits; a second one exits at once. A run may
be killed at any moment: the next one resumes from the newest sound checkpoint and ends with the
same network, bit for bit.")]
pub(crate) struct TrainArgs {
    /// The settings file [default: config.yaml if it exists, otherwise built-in settings]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where to resume from: `auto` for the newest sound checkpoint of the directory, or from scratch
    /// if there is none; `never` to start from scratch; or a checkpoint file. Without this option,
    /// asks on a terminal, and uses `auto` otherwise
    #[arg(long, value_name = "auto|never|FILE")]
    pub(crate) resume: Option<ResumeFrom>,
    /// Initialise the network and the optimizer with the matching tensors of a checkpoint, for
    /// example one with fewer blocks. Ignored if training resumes from a checkpoint of its own
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) init_from: Option<PathBuf>,
    /// Directory of the checkpoints, instead of `checkpoint.directory`
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint_dir: Option<String>,
    /// Iterations of the whole run, instead of `training.iterations`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) iterations: Option<u64>,
    /// Print one JSON object for each event
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where a training goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ResumeFrom {
    /// The newest checkpoint of the directory that is sound.
    Auto,
    /// The beginning.
    Never,
    /// This file.
    File(PathBuf),
}

impl FromStr for ResumeFrom {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "auto" => Self::Auto,
            "never" => Self::Never,
            path => Self::File(path.into()),
        })
    }
}

/// Against which network.
#[derive(Debug, ClapArgs)]
pub(crate) struct PlayArgs {
    /// The checkpoint
    pub(crate) checkpoint: PathBuf,
    /// Search simulations per move of the network [default: `evaluation.simulations` of the settings
    /// it was trained with]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub(crate) simulations: Option<usize>,
    /// Who makes the first move
    #[arg(long, value_name = "WHO", default_value = "me")]
    pub(crate) first: First,
    /// Show what the network thinks
    #[arg(long)]
    pub(crate) explain: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum First {
    Me,
    Network,
}

/// Which networks, against whom.
#[derive(Debug, ClapArgs)]
#[command(after_long_help = "\
A draw counts half. Given several checkpoints, each also plays every other one; the first moves of
those games are sampled from the visit counts of the search, so that no two games are the same.")]
pub(crate) struct EvalArgs {
    /// Checkpoints of the same game
    #[arg(required = true, value_name = "CHECKPOINT")]
    pub(crate) checkpoints: Vec<PathBuf>,
    /// Games per pair, an even number: each side moves first in half of them
    #[arg(long, value_name = "N", default_value = "100", value_parser = even)]
    pub(crate) games: usize,
    /// Search simulations per move [default: `evaluation.simulations` of the settings a network was
    /// trained with]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub(crate) simulations: Option<usize>,
    /// Opponents: `random` and `alphabeta:DEPTH`, separated by commas, or `none`
    #[arg(
        long,
        value_name = "WHO",
        value_delimiter = ',',
        default_value = "random,alphabeta:4",
        value_parser = rival
    )]
    pub(crate) opponents: Vec<Rival>,
    /// Also measure the share of solved positions that are played perfectly
    #[arg(long)]
    pub(crate) positions: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// An opponent, or nobody.
pub(crate) type Rival = Option<Opponent>;

fn rival(text: &str) -> Result<Rival, String> {
    match text {
        "none" => Ok(None),
        text => text.parse().map(Some),
    }
}

fn even(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(games @ 2..) if games % 2 == 0 => Ok(games),
        _ => Err("expected an even number of 2 or more".to_owned()),
    }
}
