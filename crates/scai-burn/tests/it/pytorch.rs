//! The same model in PyTorch, there and back.

use std::path::{Path, PathBuf};
use std::process::Command;

use burn::module::Module;
use burn::tensor::Device;
use scai_checkpoint::load::MatchOptions;
use scai_checkpoint::{Dict, Tensor, Value};

use crate::support::{
    CLASSES, Size, adamw, autodiff, model_state, optimizer_state, tokens, train, write,
};

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
    let device = autodiff();
    let mut optimizer = adamw();
    let model = train(Size::default().init(0, &device), &mut optimizer, 0..3, &device);
    let outputs = model.valid().forward(tokens(1, &Device::default()));
    let outputs: Vec<f32> = outputs.try_into_vec_as().unwrap();
    let inputs: Vec<i64> = tokens(1, &Device::default()).try_into_vec_as().unwrap();

    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (directory.path().join("ours.pt"), directory.path().join("theirs.pt"));
    let mut tree = Dict::new();
    tree.insert("model", model_state(&model));
    tree.insert("optimizer", optimizer_state(&optimizer, &model));
    tree.insert("tokens", Tensor::from_vec(vec![8, 1], inputs).unwrap());
    tree.insert("outputs", Tensor::from_vec(vec![8, CLASSES], outputs).unwrap());
    write(&ours, tree.into());

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/torch/check_burn.py");
    let output = Command::new(python).arg(script).args([&ours, &theirs]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("largest difference: {}", String::from_utf8_lossy(&output.stdout).trim());

    // Weights and moments after two steps of PyTorch, from an optimizer without names.
    let saved = scai_checkpoint::file::open(&theirs, Default::default()).unwrap().tree().unwrap();
    let strict = MatchOptions::default();
    let part = |name: &str| saved.lookup(name).cloned().unwrap();
    let (loaded, report) = scai_burn::load_state_dict(&model, &part("model"), &strict).unwrap();
    assert!(report.is_complete());
    let named = scai_burn::with_param_names(part("optimizer"), &part("model")).unwrap();
    let mut optimizer = adamw();
    optimizer.load_state_dict(&named, &loaded, &strict).unwrap();
    let outputs: Vec<f32> =
        loaded.valid().forward(tokens(1, &Device::default())).try_into_vec_as().unwrap();
    let expected: Vec<f32> = part("outputs").as_tensor().unwrap().to_vec().unwrap();
    for (ours, theirs) in outputs.iter().zip(&expected) {
        assert!((ours - theirs).abs() < 1e-5, "{ours} {theirs}");
    }
    assert_eq!(part("model").lookup("head.weight"), model_state(&loaded).lookup("head.weight"));
    let state: Value = optimizer_state(&optimizer, &loaded);
    assert_eq!(state.lookup("state.0.exp_avg"), named.lookup("state.0.exp_avg"));
    train(loaded, &mut optimizer, 0..1, &device);
}
