//! `scai pin FILE` and `scai unpin FILE`

use std::io::Write;

use scai_checkpoint::Options;
use scai_checkpoint::store::is_url;

use crate::args::PinArgs;
use crate::exit::{Exit, Failure};
use crate::locate::{manager, no_such_file, split};
use crate::render::one_line;

/// Which way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pin {
    Set,
    Clear,
}

pub(crate) fn run(args: &PinArgs, pin: Pin, out: &mut impl Write) -> Result<Exit, Failure> {
    if !args.file.is_file() && !is_url(&args.file) {
        return Err(no_such_file(&args.file));
    }
    let (directory, name) = split(&args.file)?;
    let manager = manager(directory, Options::default())?;
    let text = match pin {
        Pin::Set => {
            manager.pin(name)?;
            "is pinned: prune never deletes it"
        }
        Pin::Clear => {
            manager.unpin(name)?;
            "is no longer pinned: prune may delete it"
        }
    };
    writeln!(out, "`{}` {text}", one_line(name))?;
    Ok(Exit::Success)
}
