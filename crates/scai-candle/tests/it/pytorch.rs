//! The same model in PyTorch, there and back.

use std::path::{Path, PathBuf};
use std::process::Command;

use scai_checkpoint::load::MatchOptions;
use scai_checkpoint::{Dict, Tensor, Value};

use crate::support::{CLASSES, Net, outputs, tokens, train, write};

/// The interpreter that has PyTorch: `SCAI_PYTHON`, or that of `make test-torch`.
fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = std::env::var_os("SCAI_PYTHON")
        .map_or_else(|| root.join(".venv/bin/python"), |python| root.join(python));
    let imports = Command::new(&python).args(["-c", "import torch"]).output();
    imports.is_ok_and(|output| output.status.success()).then_some(python)
}

#[test]
fn py_torch_gives_the_same_outputs_and_what_it_saves_loads_here() {
    let Some(python) = python() else {
        eprintln!("SKIPPED: no Python with PyTorch; `make test-torch` installs one");
        return;
    };
    let net = Net::new(2, 0);
    let mut optimizer = net.adamw();
    train(&net, &mut optimizer, 0..3);

    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (directory.path().join("ours.pt"), directory.path().join("theirs.pt"));
    let inputs: Vec<i64> = tokens(1).into_iter().map(i64::from).collect();
    let mut tree = Dict::new();
    tree.insert("model", net.state());
    tree.insert("optimizer", optimizer.state_dict(&net.vars).unwrap());
    tree.insert("tokens", Tensor::from_vec(vec![8], inputs).unwrap());
    tree.insert("outputs", Tensor::from_vec(vec![8, CLASSES], outputs(&net, 1)).unwrap());
    // One step more: PyTorch does the same.
    train(&net, &mut optimizer, 3..4);
    tree.insert("after", net.state());
    let steps: Vec<i64> = tokens(3).into_iter().map(i64::from).collect();
    tree.insert("step_tokens", Tensor::from_vec(vec![8], steps).unwrap());
    write(&ours, tree.into());

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/torch/check_candle.py");
    let output = Command::new(python).arg(script).args([&ours, &theirs]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("largest differences: {}", String::from_utf8_lossy(&output.stdout).trim());

    // Weights and moments after a step of PyTorch, from an optimizer without names and one with.
    let saved = scai_checkpoint::file::open(&theirs, Default::default()).unwrap().tree().unwrap();
    let strict = MatchOptions::default();
    let part = |name: &str| saved.lookup(name).cloned().unwrap();
    let loaded = Net::new(2, 1);
    let report = scai_candle::load_state_dict(&loaded.vars, &part("model"), &strict).unwrap();
    assert!(report.is_complete());
    let expected: Vec<f32> = part("outputs").as_tensor().unwrap().to_vec().unwrap();
    for (ours, theirs) in outputs(&loaded, 1).iter().zip(&expected) {
        assert!((ours - theirs).abs() < 1e-5, "{ours} {theirs}");
    }
    let unnamed = scai_candle::with_param_names(part("unnamed"), &part("model")).unwrap();
    for state in [unnamed, part("named")] {
        let mut optimizer = loaded.adamw();
        optimizer.load_state_dict(&state, &loaded.vars, &strict).unwrap();
        let ours: Value = optimizer.state_dict(&loaded.vars).unwrap().into();
        assert_eq!(ours.lookup("state"), state.lookup("state"));
        for key in ["lr", "betas", "eps", "weight_decay"] {
            let path = format!("param_groups.0.{key}");
            assert_eq!(ours.lookup(&path), state.lookup(&path), "{key}");
        }
        assert_eq!(ours.lookup("state.0.step").unwrap().whole_number().unwrap(), Some(4));
    }
}
