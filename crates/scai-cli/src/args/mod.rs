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
  0  done; nothing is damaged; the two are identical
  1  something is damaged; the two differ
  2  it could not be done: wrong usage, no such file, no space
  3  nothing is damaged as far as can be told, but a file carries no checksums
  4  nothing is damaged, but a file holds what is not read here, or needs code to be run
  5  nothing is damaged, but a file is not a checkpoint
  6  the digests of the two are identical; the tensors were not read (`diff --digests-only`)
130  training was stopped by Ctrl-C (SIGINT), 143 by SIGTERM; with a second signal, at once";

/// Train by self-play; look at, check, compare, convert and tidy up training checkpoints.
///
/// Reads what `torch.save` writes, checkpoints of scai, and safetensors, without Python and
/// without running anything that is in a file.
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
    /// Train a network by self-play; goes on where the last run was stopped or killed
    #[cfg(feature = "train")]
    Train(TrainArgs),
    /// Play against the network of a checkpoint
    #[cfg(feature = "train")]
    Play(PlayArgs),
    /// Measure how strong the networks of checkpoints play
    #[cfg(feature = "train")]
    Eval(EvalArgs),
    /// List the checkpoints of a directory, by iteration, and other files with tensors
    List(ListArgs),
    /// Show what is in a file
    Show(ShowArgs),
    /// Read every byte and check it against its digest
    Verify(VerifyArgs),
    /// Compare two files
    Diff(DiffArgs),
    /// Convert a file to another format, a part of it, or to another dtype
    Convert(ConvertArgs),
    /// Delete what newer checkpoints have made redundant
    Prune(PruneArgs),
    /// Keep a checkpoint from being pruned
    Pin(PinArgs),
    /// Let a checkpoint be pruned again
    Unpin(PinArgs),
    /// Go back to an older checkpoint: the next resume goes on from it
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
    /// Statistics to show, separated by commas; the first few otherwise
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub(crate) stats: Vec<String>,
    /// Read every byte of every checkpoint and say which are sound
    #[arg(long)]
    pub(crate) verify: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ShowArgs {
    /// The file
    pub(crate) file: PathBuf,
    /// A part of it: `model_state_dict`, `training_stats.loss`
    pub(crate) path: Option<String>,
    /// Read the tensors: minimum, maximum, mean, deviation, norm, NaN, infinities
    #[arg(long)]
    pub(crate) stats: bool,
    /// Levels of the tree to show; all otherwise
    #[arg(long, value_name = "N")]
    pub(crate) depth: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DiffArgs {
    /// A file
    pub(crate) a: PathBuf,
    /// Another
    pub(crate) b: PathBuf,
    /// Leave out a part of the tree: `timestamp`; may be given again
    #[arg(long, value_name = "PATH")]
    pub(crate) ignore: Vec<String>,
    /// Only say which tensors differ, not by how much
    #[arg(long)]
    pub(crate) no_values: bool,
    /// Compare what was saved, by its digests, and do not read what is there now: fast, and blind
    /// to damage. Where nothing differs the exit code is 6
    #[arg(long)]
    pub(crate) digests_only: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ConvertArgs {
    /// The file to read
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// The file to write
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// The format to write, where the name of the file does not say it
    #[arg(long)]
    pub(crate) format: Option<OutputFormat>,
    /// Write a part of the tree only: `model_state_dict`
    #[arg(long, value_name = "PATH")]
    pub(crate) part: Option<String>,
    /// Round floating-point tensors: float32, float64, float16 or bfloat16
    #[arg(long, value_parser = float_dtype)]
    pub(crate) dtype: Option<DType>,
    /// Convert a file without checksums, in which damage could not be noticed; OUT says so
    #[arg(long)]
    pub(crate) allow_unprotected: bool,
    /// Replace OUT where it exists
    #[arg(long, short)]
    pub(crate) force: bool,
    /// Convert even if something is lost on the way, and say what
    #[arg(long)]
    pub(crate) lossy: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum OutputFormat {
    Pt,
    Safetensors,
}

fn float_dtype(text: &str) -> Result<DType, String> {
    match text.parse() {
        Ok(dtype @ (DType::Float32 | DType::Float64 | DType::Float16 | DType::BFloat16)) => {
            Ok(dtype)
        }
        _ => Err("it is one of float32, float64, float16 and bfloat16".to_owned()),
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct VerifyArgs {
    /// Checkpoints, or directories of them
    #[arg(required = true, value_name = "FILE|DIR")]
    pub(crate) paths: Vec<PathBuf>,
    /// Threads that read; as many as there are cores otherwise
    #[arg(long, short, value_name = "N")]
    pub(crate) jobs: Option<std::num::NonZeroUsize>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which checkpoints to keep: each flag keeps some, the rest goes.
#[derive(Debug, ClapArgs)]
#[command(after_long_help = "\
The newest sound checkpoint and the pinned ones always stay, and so do those found damaged. Nothing
is deleted before those that stay in its place were read from the device and found right.")]
pub(crate) struct PruneArgs {
    /// The directory
    pub(crate) directory: PathBuf,
    /// Rules of retention: `last:3, every:1000, within:2d, best:loss:min:2`; `all` keeps everything
    #[arg(long, value_name = "RULES")]
    pub(crate) keep: Vec<String>,
    /// Keep the newest N: `--keep last:N`
    #[arg(long, value_name = "N")]
    pub(crate) keep_last: Option<String>,
    /// Keep those whose iteration is a multiple of K: `--keep every:K`
    #[arg(long, value_name = "K")]
    pub(crate) every: Option<String>,
    /// Keep the best N (1 otherwise) by a statistic: `loss:min`, `win_rate:max:3`
    #[arg(long, value_name = "STAT:min|max[:N]")]
    pub(crate) best: Vec<String>,
    /// Keep those saved within this time: `90min`, `12h`, `7d`, `2w`
    #[arg(long, value_name = "TIME")]
    pub(crate) within: Option<String>,
    /// Delete the superseded ones instead, that a run went back behind (see `scai rollback`)
    #[arg(long, conflicts_with_all = ["keep", "keep_last", "every", "best", "within"])]
    pub(crate) superseded: bool,
    /// Delete; otherwise only say what would be deleted
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
The checkpoints of later iterations are superseded from then on: they stay and are listed, no resume
takes them by itself, and a save of the same iteration replaces them. `scai prune DIR --superseded`
deletes them. To take it back, roll back to a later iteration.")]
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
