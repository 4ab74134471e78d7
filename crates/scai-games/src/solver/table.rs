//! What the solver knows about positions it has searched.

/// Bits of a key.
const KEY_BITS: u32 = 49;
/// Bits of a key that are its index in the table: 16 Mi entries of four bytes.
const INDEX_BITS: u32 = 24;
/// Bits of a key that are kept in the entry.
const TAG_BITS: u32 = KEY_BITS - INDEX_BITS;
/// Bits of an entry that are the bound: one for its kind, and the score.
const BOUND_BITS: u32 = u32::BITS - TAG_BITS;
/// Marks a score as the lowest possible.
const AT_LEAST: u32 = 1 << (BOUND_BITS - 1);
/// Scores are between -21 and 21; with this added they are positive.
const OFFSET: i32 = 32;
/// An odd number, so that multiplying by it mixes the bits of a key and loses none.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What is known about a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    AtLeast(i32),
    AtMost(i32),
}

/// A table of fixed size; a new entry replaces an old one.
pub(super) struct Table {
    /// The tag, and in the lowest bits the bound. 0 if there is no entry.
    entries: Vec<u32>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { entries: vec![0; 1 << INDEX_BITS] }
    }

    /// What was last put for `key`, unless another key replaced it.
    pub(super) fn get(&self, key: u64) -> Option<Bound> {
        let (index, tag) = place(key);
        let entry = *self.entries.get(index)?;
        if entry == 0 || entry >> BOUND_BITS != tag {
            return None;
        }
        let score = (entry & (AT_LEAST - 1)).cast_signed() - OFFSET;
        Some(if entry & AT_LEAST != 0 { Bound::AtLeast(score) } else { Bound::AtMost(score) })
    }

    /// Keeps `bound` for `key`, a number of at most 49 bits.
    pub(super) fn put(&mut self, key: u64, bound: Bound) {
        let (index, tag) = place(key);
        let (kind, score) = match bound {
            Bound::AtLeast(score) => (AT_LEAST, score),
            Bound::AtMost(score) => (0, score),
        };
        if let Some(entry) = self.entries.get_mut(index) {
            *entry = tag << BOUND_BITS | kind | (score + OFFSET).cast_unsigned();
        }
    }
}

/// The index and the tag of `key`; together they identify the key.
fn place(key: u64) -> (usize, u32) {
    let mixed = key.wrapping_mul(SPREAD) & ((1 << KEY_BITS) - 1);
    ((mixed >> TAG_BITS) as usize, (mixed & ((1 << TAG_BITS) - 1)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_comes_back_for_its_key_alone() {
        let mut table = Table::new();
        for score in -21..=21 {
            for bound in [Bound::AtLeast(score), Bound::AtMost(score)] {
                table.put((1 << 49) - 1, bound);
                assert_eq!(table.get((1 << 49) - 1), Some(bound));
            }
        }
        assert_eq!(table.get(1), None);
    }

    #[test]
    fn a_new_entry_takes_the_place_of_an_old_one() {
        let mut table = Table::new();
        let second = (2..).find(|&key| place(key).0 == place(1).0).unwrap();
        table.put(1, Bound::AtMost(3));
        table.put(second, Bound::AtLeast(-3));
        assert_eq!(table.get(1), None);
        assert_eq!(table.get(second), Some(Bound::AtLeast(-3)));
    }
}
