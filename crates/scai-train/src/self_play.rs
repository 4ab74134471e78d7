//! Games of the network against itself.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rand_chacha::ChaCha8Rng;
use scai_games::{Game, Outcome};

use crate::error::{Error, Result};
use crate::network::{Cache, Evaluator};
use crate::random::{Purpose, stream};
use crate::replay::Samples;
use crate::search::{SearchOptions, Tree, dirichlet, draw, expand_roots, most_visited, search};
use crate::stop::Stop;

/// Options of self-play games.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SelfPlayOptions {
    /// Games that search together. The batches depend on it, and so does the last bit of the
    /// network's output.
    pub parallel_games: usize,
    /// The search for each move.
    pub search: SearchOptions,
    /// The concentration of the noise at the root.
    pub dirichlet_alpha: f32,
    /// The share of the noise in the priors of the root.
    pub dirichlet_fraction: f32,
    /// The temperature of the first moves.
    pub temperature: f32,
    /// Moves that are drawn by the temperature; after them the most visited one is played.
    pub temperature_moves: usize,
    /// The seed of all games.
    pub seed: u64,
    /// Threads that play; they do not affect the result.
    pub threads: usize,
}

/// The results of self-play games.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Played {
    /// All positions, game by game.
    pub samples: Samples,
    /// Games.
    pub games: usize,
    /// Games that the first player won.
    pub first_wins: usize,
    /// Games that nobody won.
    pub draws: usize,
}

/// Plays the games of these numbers.
///
/// Each game draws from a stream of random numbers of its own, and games are put into groups by
/// their numbers alone, so the result is the same for any number of threads. `finished` is called
/// each time a game ends.
///
/// # Errors
/// Those of the evaluator; [`Error::Stopped`].
pub fn self_play<G: Game>(
    evaluator: &dyn Evaluator<G>,
    numbers: Range<u64>,
    options: &SelfPlayOptions,
    finished: &(dyn Fn() + Sync),
    stop: &Stop,
) -> Result<Played> {
    let all: Vec<u64> = numbers.collect();
    let groups: Vec<&[u64]> = all.chunks(options.parallel_games.max(1)).collect();
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(group) = groups.get(index) else { break };
            let outcome = play_group(evaluator, group, options, finished, stop);
            let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            outcomes.push((index, outcome));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..options.threads.clamp(1, groups.len().max(1)) {
            // If the system cannot start more threads, fewer play.
            if std::thread::Builder::new().spawn_scoped(scope, || alone(&work)).is_err() {
                break;
            }
        }
        alone(&work);
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(index, _)| *index);
    let mut played = Played::default();
    for (_, group) in outcomes {
        let group = group?;
        played.samples.append(&group.samples);
        played.games += group.games;
        played.first_wins += group.first_wins;
        played.draws += group.draws;
    }
    Ok(played)
}

/// Runs `work` with the network on one thread.
///
/// Burn spreads every operation over the threads of rayon's pool. Groups of games keep all threads
/// busy anyway, and small batches would spend their time waiting for each other.
fn alone(work: &(dyn Fn() + Sync)) {
    match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
        Ok(pool) => pool.install(work),
        Err(_) => work(),
    }
}

/// A game in progress.
struct Play<G> {
    tree: Tree<G>,
    rng: ChaCha8Rng,
    samples: Samples,
}

impl<G: Game> Play<G> {
    fn new(seed: u64, number: u64) -> Self {
        let rng = stream(seed, Purpose::SelfPlay, number);
        Self { tree: Tree::new(G::default()), rng, samples: Samples::default() }
    }

    fn is_over(&self) -> bool {
        self.tree.root().outcome().is_some()
    }

    fn add_noise(&mut self, options: &SelfPlayOptions) {
        let legal = self.tree.root().legal_actions().count();
        let noise = dirichlet(legal, options.dirichlet_alpha, &mut self.rng);
        self.tree.add_noise(&noise, options.dirichlet_fraction);
    }

    /// Records the result of the search and plays a move.
    fn play(&mut self, options: &SelfPlayOptions) {
        let visits = self.tree.visits();
        let root = self.tree.root();
        let start = self.samples.planes.len();
        self.samples.planes.resize(start + G::PLANES.iter().product::<usize>(), 0);
        root.encode(&mut self.samples.planes[start..]);
        let sum: u32 = visits.iter().sum();
        self.samples.policies.extend(visits.iter().map(|&n| n as f32 / sum.max(1) as f32));
        let action = if root.ply() < options.temperature_moves && options.temperature > 0.0 {
            draw(&visits, options.temperature, &mut self.rng)
        } else {
            most_visited(&visits)
        };
        self.tree = self.tree.after(action);
    }

    /// The positions with their results, once the game is over.
    fn finish(mut self, outcome: Outcome) -> Samples {
        let plies = self.tree.root().ply();
        // The player who would move now sees `outcome`; players alternate.
        let value = |ply: usize| match (plies - ply).is_multiple_of(2) {
            true => outcome.value(),
            false => -outcome.value(),
        };
        self.samples.values = (0..plies).map(value).collect();
        self.samples
    }
}

fn play_group<G: Game>(
    evaluator: &dyn Evaluator<G>,
    numbers: &[u64],
    options: &SelfPlayOptions,
    finished: &(dyn Fn() + Sync),
    stop: &Stop,
) -> Result<Played> {
    let mut games: Vec<Play<G>> =
        numbers.iter().map(|&number| Play::new(options.seed, number)).collect();
    let mut cache = Cache::new(evaluator);
    loop {
        let mut active: Vec<&mut Play<G>> =
            games.iter_mut().filter(|game| !game.is_over()).collect();
        if active.is_empty() {
            break;
        }
        expand_roots(&mut trees(&mut active), &mut cache, options.search.exploration, stop)?;
        for game in &mut active {
            game.add_noise(options);
        }
        search(&mut trees(&mut active), &mut cache, options.search, stop)?;
        for game in &mut active {
            game.play(options);
            if game.is_over() {
                finished();
            }
        }
    }
    let mut played = Played::default();
    for game in games {
        let root = *game.tree.root();
        let Some(outcome) = root.outcome() else { return Err(Error::Stopped) };
        played.games += 1;
        match outcome {
            Outcome::Draw => played.draws += 1,
            // The player to move has lost: the other one moved last.
            _ => played.first_wins += root.ply() % 2,
        }
        played.samples.append(&game.finish(outcome));
    }
    Ok(played)
}

fn trees<'a, G>(games: &'a mut [&mut Play<G>]) -> Vec<&'a mut Tree<G>> {
    games.iter_mut().map(|game| &mut game.tree).collect()
}
