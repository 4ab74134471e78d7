//! Hash maps whose keys come from files: quick, and nobody can choose keys that collide.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

use twox_hash::XxHash3_64;

/// Hashes strings with a number that nobody outside the process knows: XXH3, seeded.
#[derive(Clone, Copy)]
pub(super) struct Secret(u64);

impl Default for Secret {
    fn default() -> Self {
        static SECRET: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));
        Self(*SECRET)
    }
}

impl BuildHasher for Secret {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for Secret {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = XxHash3_64::oneshot_with_seed(self.0, bytes);
    }

    /// The end of a string, which its hash covers.
    fn write_u8(&mut self, _: u8) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
