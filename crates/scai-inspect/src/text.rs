//! Values as text for people. What came out of a file must not control the terminal.

pub use crate::line::{one_line, printable, printable_json};
pub use crate::python::{flat_list, scalar};
