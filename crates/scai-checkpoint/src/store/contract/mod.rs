//! What any implementation of the traits must do, as tests that run against it.
//!
//! Each test gets a new, empty one. A violation panics with the sentence that does not hold.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a violated contract is a panic")]

mod directory;
mod entries;

pub use directory::check_directory;
pub use entries::check_store;

use super::ReadAt;

fn bytes(file: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}
