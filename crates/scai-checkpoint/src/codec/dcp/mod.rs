//! Checkpoints of `torch.distributed.checkpoint` (DCP): a directory of shards, each written by one process.
//!
//! A shard (`….distcp`) holds items one after the other; the file `.metadata` says which item is which part of
//! which tensor. DCP reads an item with `torch.load` from its offset on, so each is a complete file of
//! `torch.save`. Here an item of a tensor is a `.pt` file of this crate with its own digests, and the
//! shard ends with an [`Index`] of its items, which DCP does not read. The root of the index binds every byte of
//! the shard, and `commit.json` binds the roots: whoever reads one item checks the index and that item, not
//! the whole shard.
//!
//! ```text
//! <attempt>_<rank>_<i>.distcp   items, and an index of them
//! <attempt>.metadata            which item is which part of which tensor: PyTorch's pickle
//! commit.json                   binds the files above by their digests
//! .metadata                     a copy of the metadata for PyTorch, bound by nothing
//! ```
//!
//! [`DistributedCheckpoint`] reads such a directory, and one that PyTorch wrote, as one state tree.

mod directory;
mod flatten;
mod index;
mod item;
mod metadata;
mod plan;
mod region;
mod shards;
mod skeleton;
mod stitched;
mod tree;

pub use directory::{DistributedCheckpoint, Part, peek};
pub use flatten::DistributedPlan;
pub use index::{Check, Index, Item};

pub use metadata::{Chunk, Entry, Key, Location, METADATA, Metadata, Stored};
pub use plan::{Content, ShardPlan};
