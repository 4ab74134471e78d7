//! The committed positions.

use std::collections::{BTreeMap, HashSet};

use scai_games::positions::positions;
use scai_games::solver::Solver;
use scai_games::{ConnectFour, Game};

use crate::make_positions;
use crate::support::planes;

#[test]
fn every_number_of_moves_has_as_many_positions() {
    let mut counts = BTreeMap::new();
    for solved in positions() {
        *counts.entry(solved.position.ply()).or_insert(0) += 1;
    }
    assert_eq!(counts, (6..=30).map(|ply| (ply, 20)).collect());
}

#[test]
fn no_position_is_over_and_none_comes_twice_even_mirrored() {
    let mut seen = HashSet::new();
    for solved in positions() {
        assert_eq!(solved.position.outcome(), None);
        let planes = planes(&solved.position);
        let mut mirrored = planes.clone();
        for row in mirrored.chunks_mut(7) {
            row.reverse();
        }
        assert!(seen.insert(planes.clone()), "\n{}", solved.position);
        assert!(planes == mirrored || seen.insert(mirrored), "\n{}", solved.position);
    }
}

#[test]
fn every_choice_matters_and_every_legal_move_has_a_verdict() {
    for solved in positions() {
        let legal: Vec<_> = solved.position.legal_actions().collect();
        let judged: Vec<_> = (0..7).filter(|&action| solved.verdicts[action].is_some()).collect();
        assert_eq!(judged, legal);
        let optimal = legal.iter().filter(|&&action| solved.is_optimal(action)).count();
        assert!(0 < optimal && optimal < legal.len(), "\n{}", solved.position);
        assert!((0..10).all(|action| legal.contains(&action) || !solved.is_optimal(action)));
    }
}

#[test]
fn a_move_is_optimal_when_it_keeps_the_result_however_late() {
    let mut solved = positions()[0].clone();
    solved.verdicts = vec![Some(1), Some(18), Some(0), Some(-1), None, None, None];
    assert_eq!((0..8).filter(|&action| solved.is_optimal(action)).collect::<Vec<_>>(), [0, 1]);
    solved.verdicts = vec![Some(-3), Some(0), None, Some(0), None, None, None];
    assert_eq!((0..8).filter(|&action| solved.is_optimal(action)).collect::<Vec<_>>(), [1, 3]);
    solved.verdicts = vec![Some(-3), Some(-9), None, None, None, None, None];
    assert_eq!((0..8).filter(|&action| solved.is_optimal(action)).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn late_verdicts_are_found_again() {
    let mut solver = Solver::new();
    let late: Vec<_> = positions().iter().rev().take(20 * 9).step_by(3).collect();
    assert_eq!(late.len(), 60);
    for solved in late {
        assert_eq!(
            solver.verdicts(&solved.position).to_vec(),
            solved.verdicts,
            "\n{}",
            solved.position
        );
    }
}

#[test]
fn the_late_lines_are_those_that_the_example_makes() {
    let text = include_str!("../../src/positions.txt");
    for ply in 26..=30 {
        let committed: Vec<_> = text
            .lines()
            .filter(|line| line.split(' ').next().is_some_and(|moves| moves.len() == ply))
            .collect();
        let made: Vec<_> = make_positions::lines(ply).take(committed.len()).collect();
        assert_eq!(made, committed, "after {ply} moves");
        let first = made[0].split(' ').next().unwrap();
        assert!(ConnectFour::from_moves(first).is_some());
    }
}
