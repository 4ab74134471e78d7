//! The binary `scai`.

use std::process::ExitCode;

use scai_checkpoint::memory::{WithReserve, keep_reserve};

#[global_allocator]
static ALLOCATOR: WithReserve = WithReserve;

fn main() -> ExitCode {
    keep_reserve();
    scai_cli::main(std::env::args_os()).into()
}
