//! Loading into another network.

use std::path::Path;

use scai_checkpoint::Error as CheckpointError;
use scai_checkpoint::codec::{Plan, torch};
use scai_checkpoint::load::{MatchOptions, Strictness};
use scai_train::{Config, Error, LoadOptions, Restore};

use crate::support::{Small, config, train, tree};

fn with_blocks(directory: &Path, blocks: usize) -> Config {
    let mut config = config(directory);
    config.model.num_blocks = blocks;
    config.training.iterations = 2;
    config
}

fn partial() -> LoadOptions {
    LoadOptions {
        matching: MatchOptions::default().strictness(Strictness::Partial),
        restore: Restore::Network,
        ..LoadOptions::default()
    }
}

#[test]
fn more_blocks_keep_the_parameters_and_moments_of_the_old_ones_by_name() {
    let (small, large) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    train(&mut Small::new(with_blocks(small.path(), 20)).unwrap());
    let path = small.path().join("checkpoint_iter_2.pt");

    let mut trainer = Small::new(with_blocks(large.path(), 25)).unwrap();
    let strict = trainer.load_checkpoint(&path, &LoadOptions::default()).unwrap_err();
    let Error::Checkpoint(CheckpointError::Mismatch { report, .. }) = &strict else {
        panic!("{strict}")
    };
    // Each block has two convolutions and two batch norms of five tensors.
    assert_eq!((report.missing.len(), report.unexpected.len()), (5 * 12, 0));
    let fresh = Small::new(with_blocks(large.path(), 25)).unwrap();
    drop(trainer.save_checkpoint(0).unwrap());
    let untouched = tree(large.path(), 0);
    drop(trainer);
    let mut trainer = fresh;
    trainer.save_checkpoint(0).unwrap();
    assert_eq!(untouched, tree(large.path(), 0), "a strict load that fails touches nothing");

    let report = trainer.load_checkpoint(&path, &partial()).unwrap();
    assert_eq!(report.network.missing.len(), 5 * 12);
    assert_eq!(report.network.loaded.len(), 20 * 12 + 6 + 8 + 10);
    // Of each block the two convolutions and the weights and biases of two batch norms.
    assert_eq!(report.optimizer.missing.len(), 5 * 6);
    assert_eq!(report.optimizer.loaded.len(), 20 * 6 + 3 + 5 + 7);
    trainer.save_checkpoint(0).unwrap();
    let (saved, moved) = (tree(small.path(), 2), tree(large.path(), 0));
    let same = |path: &str, other: &str| {
        let (a, b) = (saved.lookup(path).unwrap(), moved.lookup(other).unwrap());
        assert_eq!(a, b, "{path}");
    };
    for name in [
        "model_state_dict.backbone.blocks.19.conv2.weight",
        "model_state_dict.backbone.blocks.3.bn1.running_var",
        "model_state_dict.value_head.fc1.weight",
    ] {
        same(name, name);
    }
    // The heads' parameters come after the blocks: their indices move by those of five blocks.
    for (index, other) in [(0, 0), (122, 122), (123, 153), (127, 157)] {
        for moment in ["step", "exp_avg", "exp_avg_sq"] {
            same(
                &format!("optimizer_state_dict.state.{index}.{moment}"),
                &format!("optimizer_state_dict.state.{other}.{moment}"),
            );
        }
    }
    assert!(moved.lookup("optimizer_state_dict.state.123.step").is_none());
    trainer.train(&mut |_: &scai_train::Event<'_>| {}, &scai_train::Stop::new()).unwrap();
}

#[test]
fn a_bare_state_dict_is_a_network_to_start_from() {
    let (small, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    train(&mut Small::new(with_blocks(small.path(), 2)).unwrap());
    let tree_of = tree(small.path(), 2);
    let weights = other.path().join("weights.pt");
    let plan = torch::TorchPlan::new(tree_of.lookup("model_state_dict").unwrap()).unwrap();
    scai_checkpoint::file::write(&weights, Plan::Torch(plan), 1).unwrap();

    let mut trainer = Small::new(with_blocks(other.path(), 2)).unwrap();
    let options = LoadOptions { restore: Restore::Network, ..LoadOptions::default() };
    let report = trainer.load_checkpoint(&weights, &options).unwrap();
    assert!(report.network.missing.is_empty() && report.optimizer.loaded.is_empty());
    assert_eq!(trainer.training_stats().total_iterations, 0);
    trainer.save_checkpoint(0).unwrap();
    let path = "model_state_dict.policy_head.fc.weight";
    assert_eq!(tree_of.lookup(path), tree(other.path(), 0).lookup(path));
}
