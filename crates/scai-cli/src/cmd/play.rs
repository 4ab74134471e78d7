//! `scai play CHECKPOINT`
use std::io::Write;

use crate::args::PlayArgs;
use crate::exit::{Exit, Failure};

pub(crate) fn run(_args: &PlayArgs, _out: &mut impl Write) -> Result<Exit, Failure> {
    Ok(Exit::Success)
}
