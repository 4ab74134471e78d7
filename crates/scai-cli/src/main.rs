//! The binary `scai`.

use std::process::ExitCode;

fn main() -> ExitCode {
    scai_cli::main(std::env::args_os()).into()
}
