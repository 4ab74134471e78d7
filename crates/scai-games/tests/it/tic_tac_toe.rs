//! Tic-tac-toe in particular.

use scai_games::{Game, Outcome, TicTacToe};

fn after(moves: &[usize]) -> TicTacToe {
    let mut position = TicTacToe::default();
    for &action in moves {
        assert!(position.is_legal(action));
        position.play(action);
    }
    position
}

#[test]
fn there_are_255168_games_and_each_result_is_as_frequent_as_it_should_be() {
    fn count(position: &TicTacToe, results: &mut [u32; 3]) {
        match position.outcome() {
            Some(Outcome::Draw) => results[2] += 1,
            Some(Outcome::Loss) => results[1 - position.ply() % 2] += 1,
            Some(Outcome::Win) => panic!("the player who has just moved cannot have lost"),
            None => {
                for action in position.legal_actions() {
                    let mut next = *position;
                    next.play(action);
                    count(&next, results);
                }
            }
        }
    }
    let mut results = [0; 3];
    count(&TicTacToe::default(), &mut results);
    assert_eq!(results, [131_184, 77_904, 46_080]);
}

#[test]
fn the_board_shows_what_to_type_in_free_cells() {
    assert_eq!(after(&[4, 0, 8]).to_string(), "O 2 3\n4 X 6\n7 8 X");
}

#[test]
fn the_centre_is_open_to_more_lines() {
    assert_eq!(after(&[4]).heuristic(), -4);
    assert_eq!(after(&[0]).heuristic(), -3);
    assert_eq!(after(&[1]).heuristic(), -2);
}
