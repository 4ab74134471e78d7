//! Connect Four in particular.

use std::collections::HashMap;

use proptest::prelude::*;
use scai_games::{ConnectFour, Game, Outcome};

use crate::support::{Board, planes};

fn after(moves: &str) -> ConnectFour {
    ConnectFour::from_moves(moves).unwrap()
}

#[test]
fn lines_in_every_direction_win() {
    for moves in ["1212121", "1122334", "12233434464", "76655454424"] {
        assert_eq!(after(moves).outcome(), Some(Outcome::Loss), "{moves}\n{}", after(moves));
        assert_eq!(after(&moves[..moves.len() - 1]).outcome(), None, "{moves}");
    }
}

#[test]
fn a_line_does_not_run_on_in_the_next_column() {
    // Three discs at the top of the first column, and one at the bottom of the second.
    let position = after("112117171");
    assert_eq!(position.outcome(), None, "\n{position}");
}

#[test]
fn a_full_board_without_a_line_is_a_draw() {
    let position = after("121212212121343434434343565656656565777777");
    assert_eq!(position.ply(), ConnectFour::MAX_PLIES);
    assert_eq!(position.outcome(), Some(Outcome::Draw), "\n{position}");
    assert_eq!(position.legal_actions().count(), 0);
}

#[test]
fn moves_that_cannot_be_played_are_no_position() {
    for moves in ["0", "8", "x", "44 35", "4444444", "12121212"] {
        assert_eq!(ConnectFour::from_moves(moves), None, "{moves}");
    }
    assert_eq!(ConnectFour::from_moves(""), Some(ConnectFour::default()));
}

#[test]
fn the_board_is_drawn_with_the_first_player_as_x() {
    let board = "1 2 3 4 5 6 7\n\
                 . . . . . . .\n\
                 . . . . . . .\n\
                 . . . . . . .\n\
                 . . . . . . .\n\
                 . . . O . . .\n\
                 . . X X O . .";
    assert_eq!(after("4435").to_string(), board);
    assert_eq!(after("44351").to_string(), board.replace("\n. . X X O", "\nX . X X O"));
}

#[test]
fn the_planes_are_those_of_the_player_to_move() {
    let after_one = planes(&after("1"));
    let ones: Vec<_> = (0..126).filter(|&i| after_one[i] == 1).collect();
    assert_eq!(ones, [42 + 35], "the opponent's disc is in the bottom left corner");
    let start = planes(&ConnectFour::default());
    assert_eq!(start, [[0; 84].as_slice(), &[1; 42]].concat());
}

/// Counts line by line what the position counts with bit operations.
fn naive_heuristic(board: &Board<ConnectFour>) -> i32 {
    let mut worth = 0;
    for row in 0..6_isize {
        for column in 0..7_isize {
            for (down, right) in [(0, 1), (1, 0), (1, 1), (1, -1)] {
                let line: Vec<_> = (0..4)
                    .map(|i| (row + i * down, column + i * right))
                    .filter(|(row, column)| (0..6).contains(row) && (0..7).contains(column))
                    .map(|(row, column)| board.cells[(row * 7 + column) as usize])
                    .collect();
                if line.len() < 4 {
                    continue;
                }
                let count = |player| line.iter().filter(|&&cell| cell == Some(player)).count();
                for (player, sign) in [(board.mover(), 1), (1 - board.mover(), -1)] {
                    if count(1 - player) == 0 {
                        worth += sign * [0, 0, 2, 5, 0][count(player)];
                    }
                }
            }
        }
        let centre = board.cells[row as usize * 7 + 3];
        worth += centre.map_or(0, |player| if player == board.mover() { 3 } else { -3 });
    }
    worth
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn the_heuristic_counts_open_lines_and_the_centre(columns in prop::collection::vec(0..7_usize, 0..42)) {
        let mut board = Board::<ConnectFour>::new();
        let mut position = ConnectFour::default();
        for column in columns {
            if board.is_legal(column) {
                board.play(column);
                position.play(column);
            }
            prop_assert_eq!(position.heuristic(), naive_heuristic(&board), "\n{}", position);
        }
    }
}

#[test]
fn keys_tell_positions_apart() {
    let mut seen = HashMap::new();
    let mut level = vec![ConnectFour::default()];
    for _ in 0..6 {
        let mut next = Vec::new();
        for position in level {
            assert!(position.key() < 1 << 49);
            let before = seen.insert(position.key(), position);
            assert!(before.is_none_or(|before| before == position), "\n{position}");
            next.extend(position.legal_actions().map(|action| {
                let mut child = position;
                child.play(action);
                child
            }));
        }
        level = next;
    }
    assert!(seen.len() > 1000);
}
