//! Properties of any game, checked along games of arbitrary moves.

use std::collections::HashSet;

use proptest::prelude::*;
use scai_games::{ConnectFour, Game, Outcome, TicTacToe};

use crate::support::{Board, Rules, planes};

/// Numbers that choose among the legal moves, enough for a whole game.
fn choices<G: Game>() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), G::MAX_PLIES + 1)
}

/// Calls `see` with every position of the game that `choices` make, and the move that led there.
fn walk<G: Game>(choices: &[prop::sample::Index], mut see: impl FnMut(Option<usize>, &G)) {
    let mut position = G::default();
    see(None, &position);
    for choice in choices {
        let legal: Vec<_> = position.legal_actions().collect();
        if legal.is_empty() {
            break;
        }
        let action = legal[choice.index(legal.len())];
        position.play(action);
        see(Some(action), &position);
    }
    assert!(position.outcome().is_some(), "no game is longer than MAX_PLIES");
}

fn agrees_with_an_array_board<G: Rules>(choices: &[prop::sample::Index]) {
    let mut board = Board::<G>::new();
    walk::<G>(choices, |action, position| {
        if let Some(action) = action {
            board.play(action);
        }
        assert_eq!(position.outcome(), board.outcome(), "\n{position}");
        assert_eq!(position.ply(), board.ply);
        assert!(position.ply() <= G::MAX_PLIES);
        assert_eq!(planes(position), board.planes(), "\n{position}");
        for action in 0..G::ACTIONS + 70 {
            assert_eq!(position.is_legal(action), board.is_legal(action), "{action}\n{position}");
        }
        let legal: Vec<_> = (0..G::ACTIONS).filter(|&action| board.is_legal(action)).collect();
        assert_eq!(position.legal_actions().collect::<Vec<_>>(), legal);
    });
}

fn illegal_moves_change_nothing<G: Game>(choices: &[prop::sample::Index]) {
    walk::<G>(choices, |_, position| {
        for action in (0..G::ACTIONS + 2).chain([usize::MAX]) {
            let mut next = *position;
            next.play(action);
            assert_eq!(next != *position, position.is_legal(action), "{action}\n{position}");
        }
    });
}

fn symmetries_commute_with_everything<G: Game>(choices: &[prop::sample::Index]) {
    let cells = G::PLANES[1] * G::PLANES[2];
    for symmetry in 0..G::SYMMETRIES {
        let mut image = G::default();
        walk::<G>(choices, |action, position| {
            if let Some(action) = action {
                image.play(G::action_under(symmetry, action));
            }
            assert_eq!(image.outcome(), position.outcome());
            assert_eq!(image.heuristic(), position.heuristic());
            assert_eq!(image.ply(), position.ply());
            for action in 0..G::ACTIONS {
                let moved = G::action_under(symmetry, action);
                assert_eq!(image.is_legal(moved), position.is_legal(action));
            }
            let (before, after) = (planes(position), planes(&image));
            for (i, &value) in before.iter().enumerate() {
                let moved = G::cell_under(symmetry, i % cells);
                assert_eq!(after[i / cells * cells + moved], value, "symmetry {symmetry}");
            }
        });
    }
}

fn symmetries_are_distinct_and_lose_nothing<G: Game>() {
    let cells = G::PLANES[1] * G::PLANES[2];
    let image = |symmetry| -> Vec<_> { (0..cells).map(|c| G::cell_under(symmetry, c)).collect() };
    assert_eq!(image(0), (0..cells).collect::<Vec<_>>(), "number 0 is the identity");
    let all: HashSet<_> = (0..G::SYMMETRIES).map(image).collect();
    assert_eq!(all.len(), G::SYMMETRIES);
    for image in &all {
        assert_eq!(image.iter().collect::<HashSet<_>>().len(), cells);
    }
    for symmetry in 0..G::SYMMETRIES {
        let actions: HashSet<_> =
            (0..G::ACTIONS).map(|action| G::action_under(symmetry, action)).collect();
        assert_eq!(actions, (0..G::ACTIONS).collect());
    }
    assert_eq!(G::cell_under(1, cells), cells, "out of range stays as it is");
    assert_eq!(G::action_under(G::SYMMETRIES, 0), 0, "no such symmetry");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn connect_four_agrees_with_an_array_board(choices in choices::<ConnectFour>()) {
        agrees_with_an_array_board::<ConnectFour>(&choices);
    }

    #[test]
    fn tic_tac_toe_agrees_with_an_array_board(choices in choices::<TicTacToe>()) {
        agrees_with_an_array_board::<TicTacToe>(&choices);
    }

    #[test]
    fn an_illegal_move_changes_nothing_and_a_legal_one_does(
        four in choices::<ConnectFour>(),
        three in choices::<TicTacToe>(),
    ) {
        illegal_moves_change_nothing::<ConnectFour>(&four);
        illegal_moves_change_nothing::<TicTacToe>(&three);
    }

    #[test]
    fn symmetries_commute_with_moves_planes_and_outcomes(
        four in choices::<ConnectFour>(),
        three in choices::<TicTacToe>(),
    ) {
        symmetries_commute_with_everything::<ConnectFour>(&four);
        symmetries_commute_with_everything::<TicTacToe>(&three);
    }
}

#[test]
fn each_symmetry_is_another_permutation_of_the_cells() {
    symmetries_are_distinct_and_lose_nothing::<ConnectFour>();
    symmetries_are_distinct_and_lose_nothing::<TicTacToe>();
}

#[test]
fn an_empty_board_is_worth_nothing_to_either_player() {
    assert_eq!(ConnectFour::default().heuristic(), 0);
    assert_eq!(TicTacToe::default().heuristic(), 0);
}

#[test]
fn outcomes_have_the_values_that_a_network_learns() {
    assert_eq!([Outcome::Win, Outcome::Draw, Outcome::Loss].map(Outcome::value), [1.0, 0.0, -1.0]);
}
