//! The `scai` command.
fn main() {}
