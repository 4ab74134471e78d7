//! A game and a network of one's own: the trainer needs nothing else.
//!
//! The game is Nim with one heap: players take one, two or three matches in turn, and who takes the
//! last one wins. A heap of a multiple of four is lost. The network is two linear layers.
//!
//! `cargo run --release -p scai-train --example own_game`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::fmt;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use scai_games::{Game, Outcome};
use scai_train::config::SaveInterval;
use scai_train::search::{Exploration, SearchOptions};
use scai_train::{Config, Event, Network, Stop, Trainer, evaluation};

const HEAP: usize = 21;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Nim {
    heap: usize,
    ply: usize,
}

impl Default for Nim {
    fn default() -> Self {
        Self { heap: HEAP, ply: 0 }
    }
}

impl fmt::Display for Nim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", "|".repeat(self.heap))
    }
}

impl Game for Nim {
    const NAME: &'static str = "nim";
    const ACTIONS: usize = 3;
    const PLANES: [usize; 3] = [1, 1, HEAP];
    const SYMMETRIES: usize = 1;
    const MAX_PLIES: usize = HEAP;

    fn is_legal(&self, action: usize) -> bool {
        action < 3 && action < self.heap
    }

    fn play(&mut self, action: usize) {
        if self.is_legal(action) {
            *self = Self { heap: self.heap - action - 1, ply: self.ply + 1 };
        }
    }

    fn outcome(&self) -> Option<Outcome> {
        // The other player took the last match.
        (self.heap == 0).then_some(Outcome::Loss)
    }

    fn ply(&self) -> usize {
        self.ply
    }

    fn encode(&self, planes: &mut [u8]) {
        for (i, cell) in planes.iter_mut().enumerate() {
            *cell = u8::from(i + 1 == self.heap);
        }
    }

    fn cell_under(_: usize, cell: usize) -> usize {
        cell
    }

    fn action_under(_: usize, action: usize) -> usize {
        action
    }

    fn heuristic(&self) -> i32 {
        0
    }
}

#[derive(Module, Debug)]
struct TwoLayers {
    hidden: Linear,
    policy: Linear,
    value: Linear,
}

impl TwoLayers {
    fn new(device: &Device) -> Self {
        Self {
            hidden: LinearConfig::new(HEAP, 64).init(device),
            policy: LinearConfig::new(64, 3).init(device),
            value: LinearConfig::new(64, 1).init(device),
        }
    }
}

impl Network for TwoLayers {
    fn forward(&self, planes: Tensor<4>) -> (Tensor<2>, Tensor<2>) {
        let hidden = relu(self.hidden.forward(planes.flatten(1, 3)));
        (self.policy.forward(hidden.clone()), self.value.forward(hidden).tanh())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = Config::default();
    config.checkpoint.directory = std::env::temp_dir().join("scai-nim").display().to_string();
    config.training.iterations = 15;
    config.training.save_interval = SaveInterval::Every(5);
    config.training.learning_rate = 0.01;
    config.self_play.simulations = 32;
    config.replay_buffer.min_positions = 200;
    config.evaluation.interval = 0;
    let mut trainer = Trainer::<Nim, TwoLayers>::with_network(config, TwoLayers::new)?;
    if let Some(resumed) = trainer.resume()? {
        println!("going on after iteration {}", resumed.iteration);
    }
    let mut print = |event: &Event<'_>| match event {
        Event::Iteration { stats, .. } => {
            println!("iteration {:>2}: loss {:.3}", stats.total_iterations, stats.loss);
        }
        Event::Saved { saved, .. } => println!("saved {}", saved.path.display()),
        _ => {}
    };
    trainer.train(&mut print, &Stop::new())?;

    let evaluator = trainer.evaluator();
    let options = SearchOptions { simulations: 64, exploration: Exploration { c_puct: 1.5 } };
    let mut right = 0;
    let heaps = (1..=HEAP).filter(|heap| !heap.is_multiple_of(4));
    let all = heaps.clone().count();
    for heap in heaps {
        let position = Nim { heap, ply: 0 };
        let (action, ..) = evaluation::best_move(&position, &evaluator, options, &Stop::new())?;
        right += usize::from((heap - action - 1).is_multiple_of(4));
    }
    println!("{right} of {all} heaps that can be won are played perfectly");
    Ok(())
}
