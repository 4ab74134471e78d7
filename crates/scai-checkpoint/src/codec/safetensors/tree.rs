//! The state tree as JSON, with tensors by name.
//!
//! `None`, truth values, integers of 64 bits, finite floats, strings, lists and dicts with string
//! keys are the same in JSON. Anything else is an object whose first key begins with `$`:
//!
//! ```text
//! {"$tensor": name, …}                a tensor that is stored under this name; beside it
//!     "parameter", "requires_grad"      true, if so
//!     "device"                          if it is not `cpu`
//!     "strides"                         if they are not those of row-major order
//! {"$view": name, "dtype": …, "shape": …, "strides": …, "offset": …, …}   a view of that tensor
//! {"$storage": name, "dtype": …}      a storage without a tensor
//! {"$float": 16 hexadecimal digits}   NaN and infinities: the bits
//! {"$int": decimal}                   an integer of more than 64 bits
//! {"$complex": [re, im]}
//! {"$str": hex}, {"$bytes": hex}, {"$bytearray": hex}
//! {"$tuple": […]}, {"$set": […]}, {"$size": […]}
//! {"$dict": [[key, value], …]}        keys that are not strings; likewise "$counter"
//! {"$ordered": {…} or [[key, value], …], "attributes": …}
//! {"$dtype": name}, {"$device": …}, {"$layout": …}, {"$qscheme": …}
//! {"$call": global, "args": […], "state": …}
//! {"$shared": number, "of": value}    a value with several references, at the first
//! {"$same": number}                   that same object, at the others
//! ```

mod decode;
mod encode;

pub(super) use decode::Decoder;
pub(super) use encode::{Encoded, encode};

/// The key of the tree in the metadata.
pub(super) const TREE: &str = "scai.tree";

/// JSON longer than this is not written and not read: memory for it is a multiple of this.
const MAX_TREE: usize = 16 << 20;
/// JSON may nest this deep; its parser stops at 128.
const MAX_JSON_DEPTH: usize = 100;
