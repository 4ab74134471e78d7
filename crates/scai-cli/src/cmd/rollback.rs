//! `scai rollback DIR ITERATION`

use std::io::Write;

use scai_checkpoint::{Error, Options};

use crate::args::RollbackArgs;
use crate::exit::{Exit, Failure};
use crate::locate::manager;
use crate::render::counted;

pub(crate) fn run(args: &RollbackArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let manager = manager(&args.directory, Options::default())?;
    manager.rollback(args.iteration).map_err(|error| match error {
        error @ Error::NotFound { .. } => {
            let hint = format!("`scai list {}` lists the checkpoints", args.directory.display());
            Failure::usage(error.to_string(), Some(hint))
        }
        error => error.into(),
    })?;
    let superseded = manager.list()?.into_iter().filter(|listed| listed.superseded).count();
    writeln!(
        out,
        "the next resume starts from iteration {}; {} superseded",
        args.iteration,
        match superseded {
            1 => "1 later checkpoint is".to_owned(),
            count => format!("{} are", counted(count as u64, "later checkpoint")),
        }
    )?;
    Ok(Exit::Success)
}
