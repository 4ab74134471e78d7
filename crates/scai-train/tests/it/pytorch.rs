//! The network is the same in PyTorch, there and back.

use std::path::{Path, PathBuf};
use std::process::Command;

use scai_checkpoint::codec::{Plan, torch};
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{DType, Dict, Tensor, Value};
use scai_games::{Game, TicTacToe};
use scai_train::{Evaluator, LoadOptions, Restore};

use crate::support::{Small, config, train, tree};

/// The interpreter that has PyTorch: `SCAI_PYTHON`, or that of `make test-torch`.
fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = std::env::var_os("SCAI_PYTHON")
        .map_or_else(|| root.join(".venv/bin/python"), |python| root.join(python));
    let imports = Command::new(&python).args(["-c", "import torch"]).output();
    imports.is_ok_and(|output| output.status.success()).then_some(python)
}

/// Positions of random games.
fn positions() -> Vec<TicTacToe> {
    let mut positions = Vec::new();
    for game in 0..40_usize {
        let mut position = TicTacToe::default();
        let mut next = game;
        while position.outcome().is_none() {
            positions.push(position);
            let legal: Vec<usize> = position.legal_actions().collect();
            next = next * 31 + 7;
            position.play(legal[next % legal.len()]);
        }
    }
    positions
}

#[test]
fn py_torch_gives_the_same_outputs_and_its_own_networks_train_on() {
    let Some(python) = python() else {
        eprintln!("SKIPPED: no Python with PyTorch; `make test-torch` installs one");
        return;
    };
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut trainer = Small::new(config(directory.path())).unwrap();
    train(&mut trainer);

    let positions = positions();
    let evaluations = trainer.evaluator().evaluate(&positions).unwrap();
    let mut planes = vec![0; positions.len() * 27];
    for (position, planes) in positions.iter().zip(planes.chunks_mut(27)) {
        position.encode(planes);
    }
    let n = positions.len();
    let policies: Vec<f32> = evaluations.iter().flat_map(|e| e.policy.clone()).collect();
    let values: Vec<f32> = evaluations.iter().map(|e| e.value).collect();
    let planes = Tensor::contiguous(DType::UInt8, vec![n, 3, 3, 3], Storage::from_vec(planes));
    let judged: Dict = [
        ("planes", planes.unwrap()),
        ("policies", Tensor::from_vec(vec![n, 9], policies).unwrap()),
        ("values", Tensor::from_vec(vec![n, 1], values).unwrap()),
    ]
    .into_iter()
    .collect();
    let file = |name: &str| directory.path().join(name);
    let plan = Plan::Torch(torch::TorchPlan::new(&Value::Dict(judged)).unwrap());
    scai_checkpoint::file::write(file("judged.pt"), plan, 1).unwrap();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/torch/check_network.py");
    let files = ["checkpoint_iter_6.pt", "judged.pt", "fresh.pt"].map(file);
    let output = Command::new(python).arg(script).args(&files).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    println!("largest difference: {}", String::from_utf8_lossy(&output.stdout).trim());

    // What PyTorch initialised is the network that training starts from.
    let mut trainer = Small::new(config(other.path())).unwrap();
    let options = LoadOptions { restore: Restore::Network, ..LoadOptions::default() };
    let report = trainer.load_checkpoint(&files[2], &options).unwrap();
    assert!(report.network.missing.is_empty() && report.network.unexpected.is_empty());
    trainer.save_checkpoint(0).unwrap();
    let fresh = scai_checkpoint::file::open(&files[2], Default::default()).unwrap().tree().unwrap();
    let started = tree(other.path(), 0);
    for (name, tensor) in fresh.children() {
        assert_eq!(started.lookup(&format!("model_state_dict.{name}")), Some(tensor), "{name}");
    }
    train(&mut trainer);
    assert!(trainer.training_stats().loss.is_finite());
}
