//! The search finds what there is to find.

use scai_games::{ConnectFour, Game, TicTacToe};
use scai_train::evaluation::{MatchOptions, Side, best_move, opponent, play_match};
use scai_train::search::{Exploration, SearchOptions};
use scai_train::{Evaluation, Evaluator, Result, Stop};

/// Knows nothing: every move is as likely, and every position even.
struct Ignorant;

impl<G: Game> Evaluator<G> for Ignorant {
    fn evaluate(&self, positions: &[G]) -> Result<Vec<Evaluation>> {
        let even = Evaluation { policy: vec![1.0; G::ACTIONS], value: 0.0 };
        Ok(vec![even; positions.len()])
    }
}

const SEARCH: SearchOptions =
    SearchOptions { simulations: 400, exploration: Exploration { c_puct: 1.5 } };

#[test]
fn a_search_wins_in_one_and_prevents_a_loss_in_one() {
    let best = |moves: &str| {
        let position = ConnectFour::from_moves(moves).unwrap();
        best_move(&position, &Ignorant, SEARCH, &Stop::new()).unwrap()
    };
    let (win, value, _) = best("1122334".get(..6).unwrap());
    assert_eq!(win, 3, "three in a row want a fourth");
    assert!(value > 0.5, "{value}");
    let (defence, _, _) = best("11223".get(..5).unwrap());
    assert_eq!(defence, 3, "the opponent's three in a row are closed");
}

#[test]
fn a_search_alone_does_not_lose_at_tic_tac_toe() {
    let perfect = opponent::<TicTacToe>("alphabeta:9".parse().unwrap());
    let options = MatchOptions { games: 20, drawn_plies: 0, seed: 3 };
    let side = Side::Network(&Ignorant, SearchOptions { simulations: 2000, ..SEARCH });
    let score = play_match(side, Side::Player(&*perfect), options, &Stop::new()).unwrap();
    assert_eq!((score.wins, score.losses), (0, 0), "{score:?}");
    let random = opponent::<TicTacToe>("random".parse().unwrap());
    let score = play_match(side, Side::Player(&*random), options, &Stop::new()).unwrap();
    assert_eq!(score.losses, 0, "{score:?}");
    let turned = play_match(Side::Player(&*random), side, options, &Stop::new()).unwrap();
    assert_eq!(turned.wins, 0, "{turned:?}");
}

#[test]
fn a_match_is_the_same_again() {
    let random = opponent::<ConnectFour>("random".parse().unwrap());
    let side = Side::Network(&Ignorant, SearchOptions { simulations: 10, ..SEARCH });
    let play = |seed| {
        let options = MatchOptions { games: 30, drawn_plies: 2, seed };
        play_match(side, Side::Player(&*random), options, &Stop::new()).unwrap()
    };
    assert_eq!(play(1), play(1));
    assert_eq!(play(1).games(), 30);
}
