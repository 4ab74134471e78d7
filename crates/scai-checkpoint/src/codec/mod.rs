//! File formats. A codec turns a state tree into bytes at offsets and back; it sees no path and
//! opens no file.

pub mod torch;
