//! The part of Python's pickle format that holds training state.
//!
//! Pickle is a small stack machine. Most of its danger is in two opcodes that look up a function
//! by name and call it. Here a name is looked up in a closed table ([`globals`]); each entry
//! builds one kind of value and runs nothing. What another name would make is not made, but kept as
//! an object ([`foreign`]): a strict read is an error that names it, a lenient one returns the
//! tensors inside. NumPy's arrays and scalars are read as data ([`mod@numpy`]).
//!
//! Reading has two steps: [`machine`] runs the opcodes over an arena of nodes, so that objects
//! referred to before they are complete come out complete; [`build`] turns the arena into a
//! [`crate::Value`], each object once, so that what is shared at every level takes no more memory
//! than it has objects; cycles are refused. [`mod@write`] emits protocol 2 with the opcodes that
//! `torch.load(weights_only=True)` accepts.

pub(super) mod build;
mod foreign;
mod globals;
pub(super) mod keys;
pub(super) mod machine;
mod numpy;
mod op;
mod text;
pub(super) mod write;

pub(in crate::codec) use globals::{class, kept};
