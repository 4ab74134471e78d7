//! The board of Connect Four as the bits of a `u64`.
//!
//! ```text
//!  6 13 20 27 34 41 48   always clear
//!  5 12 19 26 33 40 47   top row
//!  4 11 18 25 32 39 46
//!  3 10 17 24 31 38 45
//!  2  9 16 23 30 37 44
//!  1  8 15 22 29 36 43
//!  0  7 14 21 28 35 42   bottom row
//! ```
//!
//! The clear bit above each column ends every line that would run from one column into the next,
//! so that lines are found with shifts alone.

pub(crate) const COLUMNS: usize = 7;
pub(crate) const ROWS: usize = 6;
pub(crate) const CELLS: usize = COLUMNS * ROWS;
/// Bits from one column to the next.
const STRIDE: usize = ROWS + 1;

/// The lowest cell of each column.
pub(crate) const BOTTOM: u64 = 0x0000_0408_1020_4081;
/// Every cell.
pub(crate) const BOARD: u64 = BOTTOM * ((1 << ROWS) - 1);

/// The steps along a column, a row and the two diagonals.
const DIRECTIONS: [usize; 4] = [1, STRIDE, STRIDE - 1, STRIDE + 1];

/// The bit of a cell, rows counted from the top.
pub(crate) fn cell(row: usize, column: usize) -> u64 {
    1 << (column * STRIDE + (ROWS - 1 - row))
}

/// The cells of one column.
pub(crate) fn column(column: usize) -> u64 {
    ((1 << ROWS) - 1) << (column * STRIDE)
}

/// The cell on which the next disc lands, in each column that is not full.
pub(crate) fn landings(all: u64) -> u64 {
    (all + BOTTOM) & BOARD
}

/// Whether four of `discs` stand in a line.
pub(crate) fn has_four(discs: u64) -> bool {
    DIRECTIONS.into_iter().any(|step| {
        let pairs = discs & (discs >> step);
        pairs & (pairs >> (2 * step)) != 0
    })
}

/// The empty cells that would complete four of `discs` in a line, whether or not a disc can land
/// there now.
pub(crate) fn threats(discs: u64, all: u64) -> u64 {
    // A line along a column can only be completed at its top.
    let mut threats = (discs << 1) & (discs << 2) & (discs << 3);
    for step in [STRIDE, STRIDE - 1, STRIDE + 1] {
        let above = (discs << step) & (discs << (2 * step));
        let below = (discs >> step) & (discs >> (2 * step));
        // The missing cell is the last, the third, the first or the second of its line.
        threats |= above & (discs << (3 * step));
        threats |= above & (discs >> step);
        threats |= below & (discs >> (3 * step));
        threats |= below & (discs << step);
    }
    threats & BOARD & !all
}

/// A number for each position; it fits in 49 bits and is never 0.
///
/// The highest bit in each column is the first empty cell, which gives the height; the bits below
/// it are the discs of `own`.
pub(crate) fn key(own: u64, all: u64) -> u64 {
    own | (all + BOTTOM)
}

/// How many lines of four cells hold exactly three, and exactly two, of `discs` while their other
/// cells are among `empty`.
pub(crate) fn open_threes_and_twos(discs: u64, empty: u64) -> (i32, i32) {
    let mut threes = 0;
    let mut twos = 0;
    for step in DIRECTIONS {
        let [d0, d1, d2, d3] = [0, 1, 2, 3].map(|i| discs >> (i * step));
        let [e0, e1, e2, e3] = [0, 1, 2, 3].map(|i| empty >> (i * step));
        // Each half of the line: both cells taken, one taken, none taken.
        let (low_both, high_both) = (d0 & d1, d2 & d3);
        let (low_one, high_one) = ((d0 & e1) | (e0 & d1), (d2 & e3) | (e2 & d3));
        let (low_none, high_none) = (e0 & e1, e2 & e3);
        threes += ((low_both & high_one) | (low_one & high_both)).count_ones();
        twos +=
            ((low_both & high_none) | (low_one & high_one) | (low_none & high_both)).count_ones();
    }
    (threes.cast_signed(), twos.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_is_all_cells_and_nothing_else() {
        let mut cells = 0;
        for c in 0..COLUMNS {
            for r in 0..ROWS {
                assert_eq!(cells & cell(r, c), 0);
                assert_ne!(cell(r, c) & column(c), 0);
                cells |= cell(r, c);
            }
        }
        assert_eq!(cells, BOARD);
        assert_eq!((0..COLUMNS).map(|c| cell(ROWS - 1, c)).sum::<u64>(), BOTTOM);
    }

    #[test]
    fn an_empty_board_has_69_lines_and_each_is_counted_once() {
        // Of the 16 ways to fill a line with discs and gaps, four have three discs, six have two.
        let mut lines = 0;
        for step in DIRECTIONS {
            let windows = [0, 1, 2, 3].map(|i| BOARD >> (i * step));
            lines += windows.into_iter().fold(u64::MAX, |a, b| a & b).count_ones();
        }
        assert_eq!(lines, 69);
        assert_eq!(open_threes_and_twos(0, BOARD), (0, 0));
    }
}
