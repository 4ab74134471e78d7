//! Players that need no network.

use std::collections::HashSet;

use scai_games::solver::Solver;
use scai_games::{AlphaBeta, ConnectFour, Game, Outcome, Player, Random, TicTacToe};

use crate::support::rng;

/// Plays a game and tells how it ended for `first`.
fn play<G: Game>(first: &dyn Player<G>, second: &dyn Player<G>, seed: u64) -> Outcome {
    let mut rng = rng(seed);
    let mut position = G::default();
    loop {
        match position.outcome() {
            None => {}
            Some(Outcome::Draw) => return Outcome::Draw,
            Some(Outcome::Loss) if position.ply() % 2 == 1 => return Outcome::Win,
            Some(_) => return Outcome::Loss,
        }
        let player = if position.ply() % 2 == 0 { first } else { second };
        let action = player.choose(&position, &mut rng);
        assert!(position.is_legal(action), "{} plays {action}\n{position}", player.name());
        position.play(action);
    }
}

/// Every action that `player` chooses in one of 100 trials.
fn chosen<G: Game>(player: impl Player<G>, position: &G) -> HashSet<usize> {
    let mut rng = rng(1);
    (0..100).map(|_| player.choose(position, &mut rng)).collect()
}

fn after(moves: &str) -> ConnectFour {
    ConnectFour::from_moves(moves).unwrap()
}

#[test]
fn perfect_play_of_tic_tac_toe_is_a_draw() {
    let perfect = AlphaBeta::new(9);
    for seed in 0..5 {
        assert_eq!(play::<TicTacToe>(&perfect, &perfect, seed), Outcome::Draw);
    }
}

#[test]
fn a_perfect_player_of_tic_tac_toe_never_loses_to_random_moves() {
    let perfect = AlphaBeta::new(9);
    let mut wins = 0;
    for seed in 0..100 {
        let as_first = play::<TicTacToe>(&perfect, &Random, seed);
        let as_second = play::<TicTacToe>(&Random, &perfect, seed);
        assert_ne!(as_first, Outcome::Loss);
        assert_ne!(as_second, Outcome::Win);
        wins += u32::from(as_first == Outcome::Win) + u32::from(as_second == Outcome::Loss);
    }
    assert!(wins > 150, "{wins} of 200");
}

#[test]
fn a_deeper_search_beats_a_shallower_one() {
    let (deep, shallow) = (AlphaBeta::new(5), AlphaBeta::new(1));
    let won = (0..20)
        .filter(|&seed| match seed % 2 {
            0 => play::<ConnectFour>(&deep, &shallow, seed) == Outcome::Win,
            _ => play::<ConnectFour>(&shallow, &deep, seed) == Outcome::Loss,
        })
        .count();
    assert!(won >= 15, "{won} of 20");
}

#[test]
fn alpha_beta_takes_a_win_in_one() {
    for depth in 1..=6 {
        assert_eq!(chosen(AlphaBeta::new(depth), &after("121212")), [0].into(), "depth {depth}");
        assert_eq!(chosen(AlphaBeta::new(depth), &after("223344")), [0, 4].into());
    }
}

#[test]
fn alpha_beta_blocks_a_loss_in_one() {
    for depth in 2..=6 {
        assert_eq!(chosen(AlphaBeta::new(depth), &after("12131")), [0].into(), "depth {depth}");
    }
}

#[test]
fn alpha_beta_wins_as_soon_and_loses_as_late_as_it_can() {
    let mut solver = Solver::new();
    let mut rng = rng(3);
    let (mut won, mut lost) = (0, 0);
    for _ in 0..2000 {
        let mut position = ConnectFour::default();
        while position.ply() < 32 && position.outcome().is_none() {
            let action = Random.choose(&position, &mut rng);
            position.play(action);
        }
        if position.outcome().is_some() {
            continue;
        }
        let verdicts = solver.verdicts(&position);
        let best = verdicts.iter().flatten().max().copied().unwrap();
        let action = AlphaBeta::new(10).choose(&position, &mut rng);
        assert_eq!(verdicts[action], Some(best), "{verdicts:?}\n{position}");
        let distinct: HashSet<_> = verdicts.iter().flatten().collect();
        won += u32::from(best > 0 && distinct.len() > 1);
        lost += u32::from(best < 0 && distinct.len() > 1);
    }
    assert!(won > 5 && lost > 5, "{won} won, {lost} lost");
}

#[test]
fn equal_moves_are_chosen_at_random() {
    // Nothing distinguishes the corners to a search of the whole game: every first move draws.
    assert_eq!(chosen(AlphaBeta::new(9), &TicTacToe::default()), (0..9).collect());
    assert_eq!(chosen(Random, &ConnectFour::default()), (0..7).collect());
}

#[test]
fn the_same_random_numbers_give_the_same_moves() {
    let player = AlphaBeta::new(2);
    for seed in 0..20 {
        let choose = || player.choose(&ConnectFour::default(), &mut rng(seed));
        assert_eq!(choose(), choose());
    }
}

#[test]
fn a_depth_of_nothing_counts_as_one() {
    assert_eq!(Player::<ConnectFour>::name(&AlphaBeta::new(0)), "alpha-beta 1");
    assert_eq!(Player::<ConnectFour>::name(&Random), "random");
}

#[test]
fn a_position_that_is_over_stops_no_player() {
    let over = after("1212121");
    assert_eq!(Random.choose(&over, &mut rng(1)), 0);
    assert_eq!(AlphaBeta::new(4).choose(&over, &mut rng(1)), 0);
}
