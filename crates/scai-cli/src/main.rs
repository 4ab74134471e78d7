//! The `scai` command: look at, check, compare, convert and tidy up training checkpoints.
//!
//! In layers: [`args`] is what was typed, each file in [`cmd`] does one command, [`render`] is how
//! things look. Data go to stdout, messages to stderr. Exit codes are in [`exit`].

mod args;
mod cmd;
mod compute;
mod exit;
mod input;
mod locate;
mod progress;
mod render;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Args, Command};
use exit::{Exit, Failure};

fn main() -> ExitCode {
    let args = Args::parse();
    args.color.write_global();
    let outcome = run(&args.command);
    match outcome {
        Ok(exit) => exit.into(),
        // Whoever reads the output has seen enough.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            Exit::Success.into()
        }
        Err(failure) => {
            let _ = failure.report(&mut anstream::stderr().lock());
            Exit::Error.into()
        }
    }
}

fn run(command: &Command) -> Result<Exit, Failure> {
    let mut out = anstream::stdout().lock();
    let exit = match command {
        #[cfg(feature = "train")]
        Command::Train(args) => {
            // Threads of a training write to it.
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
