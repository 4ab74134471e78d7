//! `scai eval CHECKPOINT…`

use std::io::Write;
use std::path::Path;

use scai_games::{ConnectFour, Game, TicTacToe};
use scai_train::config::{Game as Named, Opponent};
use scai_train::evaluation::{
    MatchOptions, Optimality, Score, Side, opponent, optimality, play_match,
};
use scai_train::search::{Exploration, SearchOptions};
use scai_train::{DualResNet, NetworkEvaluator, SavedNetwork, Stop};
use serde_json::{Value as Json, json};

use crate::args::EvalArgs;
use crate::exit::{Exit, Failure};
use crate::input::network;
use crate::progress;
use crate::render::{one_line, table, write_json, write_table};

/// Plies that networks draw by their visits against one another; otherwise all games would be the same.
const DRAWN_PLIES: usize = 4;
/// The seed of a match.
const SEED: u64 = 1;

pub(crate) fn run(args: &EvalArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let mut saved = Vec::new();
    for path in &args.checkpoints {
        saved.push((path.as_path(), network(path)?));
    }
    let Some((first, network)) = saved.first() else { return Ok(Exit::Success) };
    let game = network.config().game;
    if let Some((other, _)) = saved.iter().find(|(_, network)| network.config().game != game) {
        return Err(Failure::usage(
            format!(
                "`{}` and `{}` are checkpoints of different games",
                first.display(),
                other.display()
            ),
            None,
        ));
    }
    match game {
        Named::Connect4 => evaluate::<ConnectFour>(args, &saved, out),
        Named::TicTacToe => evaluate::<TicTacToe>(args, &saved, out),
    }
}

/// A network that is measured.
struct Entrant<'a, G> {
    path: &'a Path,
    iteration: u64,
    evaluator: NetworkEvaluator<G, DualResNet>,
    search: SearchOptions,
}

impl<G: Game> Entrant<'_, G> {
    fn side(&self) -> Side<'_, G> {
        Side::Network(&self.evaluator, self.search)
    }
}

/// The measurements of a network.
struct Strength {
    against: Vec<(Opponent, Score)>,
    optimality: Option<Optimality>,
}

fn evaluate<G: Game>(
    args: &EvalArgs,
    saved: &[(&Path, SavedNetwork)],
    out: &mut impl Write,
) -> Result<Exit, Failure> {
    let entrants = saved
        .iter()
        .map(|&(path, ref saved)| entrant(args, path, saved))
        .collect::<Result<Vec<Entrant<'_, G>>, Failure>>()?;
    let bar = progress::spinner("playing");
    let mut strengths = Vec::new();
    for entrant in &entrants {
        bar.set_message(format!("measuring {}", entrant.path.display()));
        strengths.push(strength(args, entrant)?);
    }
    // Row by row, those before the diagonal.
    let mut matches = Vec::new();
    for (i, first) in entrants.iter().enumerate() {
        for (j, second) in entrants.iter().enumerate().take(i) {
            let (a, b) = (first.path.display(), second.path.display());
            bar.set_message(format!("{a} plays {b}"));
            let drawn_plies = DRAWN_PLIES;
            let options = MatchOptions { games: args.games, drawn_plies, seed: SEED };
            let score = play_match(first.side(), second.side(), options, &Stop::new())?;
            matches.push((i, j, score));
        }
    }
    bar.finish_and_clear();
    if args.json {
        write_json(out, &as_json(&entrants, &strengths, &matches))?;
        return Ok(Exit::Success);
    }
    write_strengths(args, &entrants, &strengths, out)?;
    if !matches.is_empty() {
        writeln!(out)?;
        write_matches(args, &entrants, &matches, out)?;
    }
    Ok(Exit::Success)
}

fn entrant<'a, G: Game>(
    args: &EvalArgs,
    path: &'a Path,
    saved: &SavedNetwork,
) -> Result<Entrant<'a, G>, Failure> {
    let config = saved.config();
    let simulations = args.simulations.unwrap_or(config.evaluation.simulations);
    let exploration = Exploration { c_puct: config.self_play.c_puct as f32 };
    Ok(Entrant {
        path,
        iteration: saved.iteration(),
        evaluator: saved.evaluator()?,
        search: SearchOptions { simulations, exploration },
    })
}

fn strength<G: Game>(args: &EvalArgs, entrant: &Entrant<'_, G>) -> Result<Strength, Failure> {
    let mut against = Vec::new();
    for &rival in args.opponents.iter().flatten() {
        let player = opponent::<G>(rival);
        let options = MatchOptions { games: args.games, drawn_plies: 0, seed: SEED };
        let score = play_match(entrant.side(), Side::Player(&*player), options, &Stop::new())?;
        against.push((rival, score));
    }
    let optimality = match args.positions {
        true => optimality(&entrant.evaluator, entrant.search, &Stop::new())?,
        false => None,
    };
    Ok(Strength { against, optimality })
}

fn write_strengths<G: Game>(
    args: &EvalArgs,
    entrants: &[Entrant<'_, G>],
    strengths: &[Strength],
    out: &mut impl Write,
) -> std::io::Result<()> {
    let mut headings = vec!["CHECKPOINT".to_owned(), ">ITERATION".to_owned()];
    for rival in args.opponents.iter().flatten() {
        headings.push(format!(">VS {}", rival.to_string().to_uppercase()));
        headings.push(">W/D/L".to_owned());
    }
    if args.positions {
        headings.extend([">OPTIMAL", ">POLICY ALONE"].map(str::to_owned));
    }
    let rows = entrants.iter().zip(strengths).map(|(entrant, strength)| {
        let mut cells =
            vec![one_line(&entrant.path.to_string_lossy()), entrant.iteration.to_string()];
        for (_, score) in &strength.against {
            cells.push(percent(score.rate()));
            cells.push(format!("{}/{}/{}", score.wins, score.draws, score.losses));
        }
        if args.positions {
            match strength.optimality {
                Some(found) => {
                    let share = |count: usize| percent(count as f64 / found.positions as f64);
                    cells.extend([share(found.by_search), share(found.by_policy)]);
                }
                // The game has no solved positions.
                None => cells.extend(["-".to_owned(), "-".to_owned()]),
            }
        }
        cells
    });
    write_table(out, &table(&headings, rows.collect()))
}

fn write_matches<G: Game>(
    args: &EvalArgs,
    entrants: &[Entrant<'_, G>],
    matches: &[(usize, usize, Score)],
    out: &mut impl Write,
) -> std::io::Result<()> {
    let iterations: Vec<u64> = entrants.iter().map(|entrant| entrant.iteration).collect();
    let unique = (1..iterations.len()).all(|i| !iterations[..i].contains(&iterations[i]));
    let names: Vec<String> = match unique {
        true => iterations.iter().map(u64::to_string).collect(),
        false => entrants.iter().map(|entrant| one_line(&entrant.path.to_string_lossy())).collect(),
    };
    let what = if unique { "ITERATION" } else { "CHECKPOINT" };
    let mut headings = vec![format!(">{what}")];
    headings.extend(names.iter().map(|name| format!(">VS {name}")));
    let rows = names.iter().enumerate().map(|(row, name)| {
        let cells = (0..names.len()).map(|column| {
            let found = matches.iter().find_map(|&(first, second, score)| match (first, second) {
                pair if pair == (row, column) => Some(score.rate()),
                pair if pair == (column, row) => Some(1.0 - score.rate()),
                _ => None,
            });
            found.map_or_else(|| "-".to_owned(), percent)
        });
        [name.clone()].into_iter().chain(cells).collect()
    });
    write_table(out, &table(&headings, rows.collect()))?;
    writeln!(out, "each pair played {} games; a draw counts half", args.games)
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn as_json<G: Game>(
    entrants: &[Entrant<'_, G>],
    strengths: &[Strength],
    matches: &[(usize, usize, Score)],
) -> Json {
    let score = |score: &Score| {
        json!({
            "wins": score.wins,
            "draws": score.draws,
            "losses": score.losses,
            "rate": score.rate(),
        })
    };
    let checkpoints = entrants.iter().zip(strengths).map(|(entrant, strength)| {
        let against: serde_json::Map<String, Json> = strength
            .against
            .iter()
            .map(|(rival, found)| (rival.to_string(), score(found)))
            .collect();
        json!({
            "path": entrant.path,
            "iteration": entrant.iteration,
            "simulations": entrant.search.simulations,
            "against": against,
            "optimality": strength.optimality.map(|found| json!({
                "positions": found.positions,
                "by_search": found.by_search,
                "by_policy": found.by_policy,
            })),
        })
    });
    let matches = matches.iter().map(|(first, second, found)| {
        let mut played = score(found);
        played["first"] = json!(entrants[*first].path);
        played["second"] = json!(entrants[*second].path);
        played
    });
    json!({
        "checkpoints": checkpoints.collect::<Vec<_>>(),
        "matches": matches.collect::<Vec<_>>(),
    })
}
