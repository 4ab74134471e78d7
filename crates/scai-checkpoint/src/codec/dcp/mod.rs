//! Checkpoints of `torch.distributed.checkpoint` (DCP): a directory of shards, each written by one process.
//!
//! A shard (`….distcp`) holds items one after the other; the file `.metadata` says which item is which part of
//! which tensor. DCP reads an item with `torch.load` from its offset on, so each is a complete file of
//! `torch.save`. Here an item of a tensor is a `.pt` file of this crate with its own digests, and the
//! shard ends with an [`Index`] of its items, which DCP does not read. The root of the index binds every byte of
//! the shard, and `commit.json` binds the roots: whoever reads one item checks the index and that item, not
//! the whole shard.

mod index;
mod plan;

pub use index::{Check, Index, Item};
pub use plan::{Content, ShardPlan};

/// The file that says which item of which shard is which part of which tensor.
pub const METADATA: &str = ".metadata";
