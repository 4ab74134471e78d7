//! Writes the lines of `src/positions.txt` to stdout; the same lines each time.
//!
//! ```text
//! cargo run --release -p scai-games --example make_positions > positions.txt
//! ```
//!
//! Each line is a position and the verdict on each of its columns, `-` where no disc may be played.
//! The positions come from games in which one move in two is random and the others are those of
//! alpha-beta to a depth of two to four. Positions where every move, or none, keeps the result
//! are left out, and so are mirror images of earlier lines.

use std::collections::HashSet;
use std::io::{self, Write};
use std::ops::RangeInclusive;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use scai_games::solver::Solver;
use scai_games::{AlphaBeta, ConnectFour, Game, Player, Random};

/// Moves played before a position.
const PLIES: RangeInclusive<usize> = 6..=30;
/// Positions for each of these.
const EACH: usize = 20;

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in PLIES.flat_map(|ply| lines(ply).take(EACH)) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Lines of positions after `ply` moves, without end. They depend on nothing but `ply`.
pub(crate) fn lines(ply: usize) -> impl Iterator<Item = String> {
    let mut rng = ChaCha8Rng::seed_from_u64(ply as u64);
    let mut solver = Solver::new();
    let mut seen = HashSet::new();
    std::iter::repeat_with(move || {
        let (moves, position, mirrored) = play(ply, &mut rng)?;
        if !seen.insert(position.key().min(mirrored.key())) {
            return None;
        }
        let verdicts = solver.verdicts(&position);
        choice_matters(&verdicts).then(|| {
            let column = |verdict: &Option<i32>| verdict.map_or("-".to_owned(), |v| v.to_string());
            format!("{moves} {}", verdicts.each_ref().map(column).join(" "))
        })
    })
    .flatten()
}

/// The first `ply` moves of a game, where they lead, and the mirror image of that; `None` if the
/// game is over by then.
fn play(ply: usize, rng: &mut ChaCha8Rng) -> Option<(String, ConnectFour, ConnectFour)> {
    let mut moves = String::new();
    let mut position = ConnectFour::default();
    let mut mirrored = position;
    for _ in 0..ply {
        let action = if rng.random_bool(0.5) {
            Random.choose(&position, rng)
        } else {
            AlphaBeta::new(rng.random_range(2..=4)).choose(&position, rng)
        };
        position.play(action);
        mirrored.play(ConnectFour::action_under(1, action));
        if position.outcome().is_some() {
            return None;
        }
        moves += &ConnectFour::action_name(action);
    }
    Some((moves, position, mirrored))
}

/// Whether some legal moves keep the result and some do not.
fn choice_matters(verdicts: &[Option<i32>]) -> bool {
    let results: HashSet<_> = verdicts.iter().flatten().map(|verdict| verdict.signum()).collect();
    results.len() > 1
}
