//! A cache of evaluated positions.

use std::collections::HashMap;

use scai_games::Game;

use super::{Evaluation, Evaluator};
use crate::error::Result;

/// Evaluates each position once.
///
/// Games that begin alike reach the same positions again and again, and so does one search on
/// several paths. Each searcher has its own cache: then its batches, on which the last bit of an
/// evaluation may depend, are the same whatever other threads do.
pub(crate) struct Cache<'a, G: Game> {
    evaluator: &'a dyn Evaluator<G>,
    known: HashMap<G, Evaluation>,
}

impl<'a, G: Game> Cache<'a, G> {
    /// An empty cache.
    pub(crate) fn new(evaluator: &'a dyn Evaluator<G>) -> Self {
        Self { evaluator, known: HashMap::new() }
    }

    /// Evaluates those of the positions that are not known yet, each once, in one batch.
    pub(crate) fn judge(&mut self, positions: &[G]) -> Result<()> {
        let mut new: Vec<G> = Vec::new();
        for position in positions {
            if !self.known.contains_key(position) && !new.contains(position) {
                new.push(*position);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let evaluations = self.evaluator.evaluate(&new)?;
        self.known.extend(new.into_iter().zip(evaluations));
        Ok(())
    }

    /// The evaluation of a position that was evaluated before.
    pub(crate) fn get(&self, position: &G) -> Option<&Evaluation> {
        self.known.get(position)
    }
}
