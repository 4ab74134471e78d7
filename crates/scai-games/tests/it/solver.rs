//! The solver against published scores and against a search without any of its tricks.

use scai_games::solver::Solver;
use scai_games::{ConnectFour, Game, Outcome, Player, Random};

use crate::support::rng;

fn after(moves: &str) -> ConnectFour {
    ConnectFour::from_moves(moves).unwrap()
}

/// The score by trying every game.
fn brute_force(position: &ConnectFour) -> i32 {
    match position.outcome() {
        Some(Outcome::Draw) => 0,
        Some(Outcome::Loss) => -((44 - position.ply() as i32) / 2),
        Some(Outcome::Win) => panic!("the player who has just moved cannot have lost"),
        None => position
            .legal_actions()
            .map(|action| {
                let mut next = *position;
                next.play(action);
                -brute_force(&next)
            })
            .max()
            .unwrap(),
    }
}

#[test]
fn scores_are_those_that_were_published() {
    // From the test sets of Pons's tutorial, part 2.
    let mut solver = Solver::new();
    for (moves, score) in [
        ("2252576253462244111563365343671351441", -1),
        ("7422341735647741166133573473242566", 1),
        ("23163416124767223154467471272416755633", 0),
        ("43745416472735", -13),
    ] {
        assert_eq!(solver.solve(&after(moves)), score, "{moves}");
    }
}

#[test]
fn late_positions_have_the_score_that_trying_every_game_gives() {
    let mut solver = Solver::new();
    let mut rng = rng(1);
    let mut checked = 0;
    while checked < 300 {
        let mut position = ConnectFour::default();
        while position.ply() < 33 && position.outcome().is_none() {
            let action = Random.choose(&position, &mut rng);
            position.play(action);
        }
        while position.ply() >= 33 {
            assert_eq!(solver.solve(&position), brute_force(&position), "\n{position}");
            checked += 1;
            if position.outcome().is_some() {
                break;
            }
            let action = Random.choose(&position, &mut rng);
            position.play(action);
        }
    }
}

#[test]
fn what_a_solver_remembers_does_not_change_a_score() {
    let mut used = Solver::new();
    let mut rng = rng(2);
    for _ in 0..3 {
        let mut position = ConnectFour::default();
        while position.outcome().is_none() {
            let action = Random.choose(&position, &mut rng);
            position.play(action);
            if position.ply() >= 20 {
                assert_eq!(used.solve(&position), Solver::new().solve(&position), "\n{position}");
            }
        }
    }
}

#[test]
fn the_best_verdict_is_the_score_and_illegal_moves_have_none() {
    let mut solver = Solver::new();
    for moves in ["2252576253462244111563365343671351441", "7422341735647741166133573473242566"] {
        let position = after(moves);
        let verdicts = solver.verdicts(&position);
        assert_eq!(verdicts.iter().flatten().max(), Some(&solver.solve(&position)));
        for (action, verdict) in verdicts.iter().enumerate() {
            assert_eq!(verdict.is_some(), position.is_legal(action));
        }
    }
}

#[test]
fn a_mirror_image_has_the_mirrored_verdicts() {
    let mut solver = Solver::new();
    let moves = "24617524315172127";
    let mirrored: String = moves.bytes().map(|c| char::from(b'8' - c + b'0')).collect();
    let mut verdicts = solver.verdicts(&after(&mirrored));
    verdicts.reverse();
    assert_eq!(solver.verdicts(&after(moves)), verdicts);
}

#[test]
fn a_game_that_is_over_has_the_score_of_its_result() {
    let mut solver = Solver::new();
    assert_eq!(solver.solve(&after("1212121")), -18);
    assert_eq!(solver.verdicts(&after("1212121")), [None; 7]);
    assert_eq!(solver.solve(&after("121212")), 18);
    assert_eq!(solver.solve(&after("121212212121343434434343565656656565777777")), 0);
}
