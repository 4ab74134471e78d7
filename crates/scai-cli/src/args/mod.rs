//! What can be typed.

#[cfg(feature = "train")]
mod train;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

use scai_checkpoint::{DType, Retention};

#[cfg(feature = "train")]
pub(crate) use train::{EvalArgs, First, PlayArgs, ResumeFrom, TrainArgs};

const EXIT_CODES: &str = "\
Exit codes:
  0  success; no damage found; the two files are identical
  1  damage found; the two files differ
  2  the command failed: wrong usage, no such file, no space
  3  no damage found, but a file has no checksums
  4  no damage found, but a file holds something scai does not read, or that only code could create
  5  no damage found, but a file is not a checkpoint
  6  the digests are identical, and the tensors were not read (`diff --digests-only`)
130  training was stopped by Ctrl-C (SIGINT), 143 by SIGTERM; not saved after a second signal";

/// Train by self-play; inspect, verify, compare, convert and prune training checkpoints.
///
/// Reads files that `torch.save` wrote, scai checkpoints and safetensors. Needs no Python and never
/// runs code from a file.
#[derive(Debug, Parser)]
#[command(name = "scai", version, after_long_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Args {
    /// When to use colours
    #[arg(long, global = true, default_value = "auto", value_name = "WHEN")]
    pub(crate) color: Color,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    pub(crate) fn write_global(self) {
        match self {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a network by self-play, resuming where the last run was stopped or killed
    #[cfg(feature = "train")]
    Train(TrainArgs),
    /// Play against the network of a checkpoint
    #[cfg(feature = "train")]
    Play(PlayArgs),
    /// Measure the playing strength of the networks in checkpoints
    #[cfg(feature = "train")]
    Eval(EvalArgs),
    /// List the checkpoints of a directory by iteration, and other files with tensors
    List(ListArgs),
    /// Show what is in a file
    Show(ShowArgs),
    /// Read every byte and check it against its digest
    Verify(VerifyArgs),
    /// Compare two files
    Diff(DiffArgs),
    /// Convert a file, or a part of it, to another format or dtype
    Convert(ConvertArgs),
    /// Delete checkpoints that no retention rule keeps
    Prune(PruneArgs),
    /// Protect a checkpoint from pruning
    Pin(PinArgs),
    /// Stop protecting a checkpoint from pruning
    Unpin(PinArgs),
    /// Go back to an older checkpoint: the next resume starts from it
    Rollback(RollbackArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ListArgs {
    /// The directory
    #[arg(default_value = "checkpoints")]
    pub(crate) directory: PathBuf,
    /// Statistics to show, separated by commas [default: the first few]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) stats: Vec<String>,
    /// Read every byte of every checkpoint and report which are sound
    #[arg(long)]
    pub(crate) verify: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ShowArgs {
    /// The file, or a directory that is a distributed checkpoint
    #[arg(value_name = "FILE|DIR")]
    pub(crate) file: PathBuf,
    /// The part of it to show, such as `model_state_dict` or `training_stats.loss`
    pub(crate) path: Option<String>,
    /// Read the tensors and show their minimum, maximum, mean, standard deviation, norm, and how
    /// many elements are NaN or infinite
    #[arg(long)]
    pub(crate) stats: bool,
    /// Of a distributed checkpoint, show which rank wrote which part to which file
    #[arg(long)]
    pub(crate) shards: bool,
    /// Levels of the tree to show [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) depth: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DiffArgs {
    /// The first file, or a directory that is a distributed checkpoint
    pub(crate) a: PathBuf,
    /// The second one
    pub(crate) b: PathBuf,
    /// Ignore a part of the tree, such as `timestamp`; may be repeated
    #[arg(long, value_name = "PATH")]
    pub(crate) ignore: Vec<String>,
    /// Only report which tensors differ, not by how much
    #[arg(long)]
    pub(crate) no_values: bool,
    /// Compare the digests that were saved and do not read the tensors: fast, but does not detect
    /// damage. If nothing differs, the exit code is 6
    #[arg(long)]
    pub(crate) digests_only: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ConvertArgs {
    /// The file to read, or a directory that is a distributed checkpoint
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// The file to write; with `/` at its end, a directory: a distributed checkpoint of PyTorch
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// The format to write [default: from the extension of OUT]
    #[arg(long)]
    pub(crate) format: Option<OutputFormat>,
    /// Write only a part of the tree, such as `model_state_dict`
    #[arg(long, value_name = "PATH")]
    pub(crate) part: Option<String>,
    /// Round floating-point tensors to float32, float64, float16 or bfloat16
    #[arg(long, value_parser = float_dtype)]
    pub(crate) dtype: Option<DType>,
    /// Convert a file without checksums, in which damage cannot be detected; OUT is marked
    #[arg(long)]
    pub(crate) allow_unprotected: bool,
    /// Replace OUT if it exists; a directory is never replaced
    #[arg(long, short)]
    pub(crate) force: bool,
    /// Convert even if something is lost, and report what
    #[arg(long)]
    pub(crate) lossy: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum OutputFormat {
    Pt,
    Safetensors,
    /// A directory, as `torch.distributed.checkpoint` writes it
    Dcp,
}

fn float_dtype(text: &str) -> Result<DType, String> {
    match text.parse() {
        Ok(dtype @ (DType::Float32 | DType::Float64 | DType::Float16 | DType::BFloat16)) => {
            Ok(dtype)
        }
        _ => Err("expected float32, float64, float16 or bfloat16".to_owned()),
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct VerifyArgs {
    /// Checkpoints, or directories of them; a distributed checkpoint is one
    #[arg(required = true, value_name = "FILE|DIR")]
    pub(crate) paths: Vec<PathBuf>,
    /// Number of threads that read [default: the number of cores]
    #[arg(long, short, value_name = "N")]
    pub(crate) jobs: Option<std::num::NonZeroUsize>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which checkpoints to keep: each flag keeps some, the rest is deleted.
#[derive(Debug, ClapArgs)]
#[command(after_long_help = "\
The newest sound checkpoint, pinned checkpoints and damaged ones are never deleted. Nothing is
deleted until the checkpoints that remain have been read back from the device and verified.")]
pub(crate) struct PruneArgs {
    /// The directory
    pub(crate) directory: PathBuf,
    /// Retention rules: `last:3, every:1000, within:2d, best:loss:min:2`; `all` keeps everything
    #[arg(long, value_name = "RULES")]
    pub(crate) keep: Vec<String>,
    /// Keep the newest N: `--keep last:N`
    #[arg(long, value_name = "N")]
    pub(crate) keep_last: Option<String>,
    /// Keep checkpoints whose iteration is a multiple of K: `--keep every:K`
    #[arg(long, value_name = "K")]
    pub(crate) every: Option<String>,
    /// Keep the best N (default 1) by a statistic: `loss:min`, `win_rate:max:3`
    #[arg(long, value_name = "STAT:min|max[:N]")]
    pub(crate) best: Vec<String>,
    /// Keep checkpoints saved within this time: `90min`, `12h`, `7d`, `2w`
    #[arg(long, value_name = "TIME")]
    pub(crate) within: Option<String>,
    /// Delete superseded checkpoints instead (see `scai rollback`)
    #[arg(long, conflicts_with_all = ["keep", "keep_last", "every", "best", "within"])]
    pub(crate) superseded: bool,
    /// Delete; without this, only report what would be deleted
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl PruneArgs {
    /// The rules that the flags stand for; `None` if there are none.
    pub(crate) fn retention(&self) -> Result<Option<Retention>, scai_checkpoint::Error> {
        let each = |kind: &'static str| move |value: &String| format!("{kind}:{value}");
        let mut rules = self.keep.clone();
        rules.extend(self.keep_last.iter().map(each("last")));
        rules.extend(self.every.iter().map(each("every")));
        rules.extend(self.within.iter().map(each("within")));
        rules.extend(self.best.iter().map(each("best")));
        (!rules.is_empty()).then(|| Retention::of_rules(&rules)).transpose()
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PinArgs {
    /// The checkpoint
    pub(crate) file: PathBuf,
}

#[derive(Debug, ClapArgs)]
#[command(after_long_help = "\
Checkpoints of later iterations become superseded: they remain and are listed, but no resume uses
them unless asked to, and a save of the same iteration replaces them. `scai prune DIR --superseded`
deletes them. To undo a rollback, roll back to a later iteration.")]
pub(crate) struct RollbackArgs {
    /// The directory
    pub(crate) directory: PathBuf,
    /// The iteration to go back to
    pub(crate) iteration: u64,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_make_sense_to_clap() {
        Args::command().debug_assert();
    }
}
