//! Small trainings.

use std::path::Path;

use scai_checkpoint::manager::Residency;
use scai_checkpoint::{CheckpointManager, Options, Value};
use scai_games::TicTacToe;
use scai_train::{Config, Ended, Event, Stop, Trainer};

pub(crate) type Small = Trainer<TicTacToe>;

/// A training of seconds: tic-tac-toe, two blocks, six iterations, two groups of games.
pub(crate) fn config(directory: &Path) -> Config {
    let text = "
seed: 7
game: tictactoe
model: { num_blocks: 2, channels: 8 }
self_play: { games_per_iteration: 8, parallel_games: 4, simulations: 8, temperature_moves: 4 }
training: { iterations: 6, save_interval: 2, steps_per_iteration: 3, batch_size: 16, warmup_steps: 4 }
replay_buffer: { capacity: 150, min_positions: 20 }
evaluation: { interval: 3, games: 4, simulations: 8, opponents: [random] }
";
    let mut config = Config::from_yaml(text, "config.yaml").unwrap();
    config.checkpoint.directory = directory.to_str().unwrap().to_owned();
    config.checkpoint.keep = Some("all".parse().unwrap());
    config
}

pub(crate) fn train(trainer: &mut Small) -> Ended {
    trainer.train(&mut |_: &Event<'_>| {}, &Stop::new()).unwrap()
}

/// A checkpoint as a tree, without what depends on the clock.
pub(crate) fn tree(directory: &Path, iteration: u64) -> Value {
    let manager = CheckpointManager::open(directory, Options::default()).unwrap();
    let name = format!("checkpoint_iter_{iteration}.pt");
    let mut checkpoint = manager.load(&name, Residency::Memory).unwrap();
    checkpoint.timestamp = None;
    let Value::Dict(metadata) = &mut checkpoint.metadata else { panic!("no metadata") };
    for clocked in ["elapsed_seconds", "config"] {
        assert!(metadata.remove(clocked).is_some(), "{clocked}");
    }
    checkpoint.into_tree().unwrap()
}

/// Fails with the paths of what differs.
#[track_caller]
pub(crate) fn assert_same(a: &Value, b: &Value) {
    let mut different = Vec::new();
    a.visit(&mut |path, value| {
        let leaf = value.children().is_empty();
        if leaf && b.lookup(path) != Some(value) {
            different.push(path.to_owned());
        }
    });
    assert!(different.is_empty(), "these differ: {different:?}");
    assert!(a == b, "the second has more than the first");
}
