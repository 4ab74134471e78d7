//! Connect Four positions whose every move is solved, to measure a player against.
//!
//! There are 20 positions for each number of moves from 6 to 30, no two of them equal or mirror
//! images, from games of partly random and partly good moves. In each of them at least one move
//! keeps the result that perfect play has, and at least one does not.
//!
//! The example `make_positions` made them.

use std::sync::LazyLock;

use crate::connect_four::{ConnectFour, bits};
use crate::game::SolvedPosition;

/// A line is the moves played and the verdict on each column, `-` if no disc may be played there.
const TEXT: &str = include_str!("positions.txt");

static POSITIONS: LazyLock<Vec<SolvedPosition<ConnectFour>>> =
    LazyLock::new(|| TEXT.lines().filter_map(parse).collect());

/// The position of a line and the [score](crate::solver#scores) of each column.
fn parse(line: &str) -> Option<SolvedPosition<ConnectFour>> {
    let mut fields = line.split(' ');
    let position = ConnectFour::from_moves(fields.next()?)?;
    let mut verdicts = vec![None; bits::COLUMNS];
    for verdict in &mut verdicts {
        *verdict = match fields.next()? {
            "-" => None,
            score => Some(score.parse().ok()?),
        };
    }
    fields.next().is_none().then_some(SolvedPosition { position, verdicts })
}

/// The 500 positions, those after fewer moves first.
pub fn positions() -> &'static [SolvedPosition<ConnectFour>] {
    &POSITIONS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_position() {
        assert_eq!(TEXT.lines().count(), 500);
        assert_eq!(positions().len(), 500);
    }

    #[test]
    fn a_line_that_is_not_a_position_is_none() {
        assert!(parse("4 1 2 3 4 5 6 7").is_some());
        for line in
            ["", "4", "8 1 2 3 4 5 6 7", "4 1 2 3 4 5 6", "4 1 2 3 4 5 6 7 8", "4 1 2 3 4 5 6 x"]
        {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
