//! The `scai` command: look at, check, compare, convert and tidy up training checkpoints.
//!
//! In layers: `args` is what was typed, each file in `cmd` does one command, `scai-inspect` collects the
//! data, `render` formats it. Data goes to stdout, messages to stderr. Exit codes are in `exit`.

mod args;
mod cast;
mod cmd;
mod exit;
mod input;
mod locate;
mod progress;
mod render;

use std::ffi::OsString;
use std::io::Write;

use clap::{CommandFactory, Parser};

use args::{Args, Command};
use exit::{Exit, Failure};

/// Runs the command with these arguments, the program's name first, and returns the exit code.
///
/// Errors in the arguments and the help are printed; the process is never ended.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // If the terminal is gone, nobody reads it.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    args.color.write_global();
    let exit = match run(&args.command) {
        Ok(exit) => exit,
        // The reader of the output has closed the pipe.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Exit::Success
        }
        Err(failure) => {
            let _ = failure.report(&mut anstream::stderr().lock());
            failure.exit()
        }
    };
    exit.code()
}

fn run(command: &Command) -> Result<Exit, Failure> {
    let mut out = anstream::stdout().lock();
    let exit = match command {
        #[cfg(feature = "train")]
        Command::Train(args) => {
            // Training threads write to it.
            drop(out);
            return cmd::train::run(args);
        }
        #[cfg(feature = "train")]
        Command::Play(args) => cmd::play::run(args, &mut out),
        #[cfg(feature = "train")]
        Command::Eval(args) => cmd::eval::run(args, &mut out),
        Command::List(args) => cmd::list::run(args, &mut out),
        Command::Verify(args) => cmd::verify::run(args, &mut out),
        Command::Show(args) => cmd::show::run(args, &mut out),
        Command::Diff(args) => cmd::diff::run(args, &mut out),
        Command::Convert(args) => cmd::convert::run(args, &mut out),
        Command::Prune(args) => cmd::prune::run(args, &mut out),
        Command::Pin(args) => cmd::pin::run(args, cmd::pin::Pin::Set, &mut out),
        Command::Unpin(args) => cmd::pin::run(args, cmd::pin::Pin::Clear, &mut out),
        Command::Rollback(args) => cmd::rollback::run(args, &mut out),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "scai", &mut script);
            out.write_all(&script)?;
            Ok(Exit::Success)
        }
    }?;
    out.flush()?;
    Ok(exit)
}
