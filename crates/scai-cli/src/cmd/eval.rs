//! `scai eval CHECKPOINT`
use std::io::Write;

use crate::args::EvalArgs;
use crate::exit::{Exit, Failure};

pub(crate) fn run(_args: &EvalArgs, _out: &mut impl Write) -> Result<Exit, Failure> {
    Ok(Exit::Success)
}
