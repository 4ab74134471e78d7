//! What is in training checkpoints, as plain values that serialise: lists of directories, contents
//! of files, differences, verdicts, statistics of tensors. The command `scai` prints them, as
//! tables or as JSON; nothing here prints.
//!
//! ```
//! use scai_checkpoint::codec::{Format, Plan};
//! use scai_checkpoint::{Dict, Tensor, Value, file};
//! use scai_inspect::{File, diff, show};
//!
//! # let directory = tempfile::tempdir()?;
//! # let (old, new) = (directory.path().join("old.pt"), directory.path().join("new.pt"));
//! for (path, bias) in [(&old, [0.0_f32, 0.5]), (&new, [0.0, 0.25])] {
//!     let tensor = Tensor::from_vec(vec![2], bias.to_vec())?;
//!     let state: Dict = [("bias".to_owned(), tensor)].into_iter().collect();
//!     file::write(path, Plan::new(&Value::Dict(state), Format::Torch)?, 1)?;
//! }
//! let (old, new) = (File::open(&old)?, File::open(&new)?);
//!
//! let summary = show(&new, show::Options::default().with_stats())?;
//! let stats = summary.entries[0].stats.clone().flatten().expect("numbers");
//! assert_eq!(stats.mean, Some(0.125));
//!
//! let difference = diff(&old, &new, diff::Options::default())?;
//! assert_eq!(difference.identical, Some(false));
//! println!("{}", serde_json::to_string_pretty(&difference)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | function | what it makes | JSON of |
//! |---|---|---|
//! | [`list()`] | [`Listing`] of a directory | `scai list --json` |
//! | [`show()`] | [`Summary`] of a file or a part of it | `scai show --json` |
//! | [`diff()`] | [`Difference`] between two files | `scai diff --json` |
//! | [`verify()`] | [`VerifyReport`] of a file | an item of `scai verify --json` |
//! | [`prune_report`] | [`PruneReport`] of each checkpoint | `scai prune --json` |
//! | [`stats()`](fn@stats) | [`Stats`] of a tensor | `stats` in `scai show --stats --json` |
//!
//! JSON has no NaN and no infinities: they are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`.
//! Files without checksums are read, and objects that only code could make are shown as the data
//! they are made of. Errors are those of the engine.

mod by_name;
pub mod diff;
pub mod distributed;
pub mod elements;
mod file;
mod json;
mod line;
pub mod list;
mod number;
mod others;
mod prune;
mod python;
pub mod show;
mod stats;
pub mod text;
mod totals;
pub mod verify;

pub use diff::{Difference, diff};
pub use distributed::Distributed;
pub use file::File;
pub use list::{Listing, list};
pub use number::Number;
pub use prune::{PruneReport, prune_report};
pub use show::{Summary, show};
pub use stats::{Stats, stats};
pub use totals::Totals;
pub use verify::{VerifyReport, verify};
