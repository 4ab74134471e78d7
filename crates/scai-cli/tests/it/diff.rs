//! `scai diff`

use insta::assert_snapshot;
use scai_checkpoint::{Dict, Tensor, Value};
use serde_json::Value as Json;

use crate::support::{Sandbox, state};

fn pair() -> Sandbox {
    Sandbox::new()
        .file("a.pt", &state(100, 0.5, 0.0))
        .file("b.pt", &state(200, 0.25, 1.0))
        .file("same.pt", &state(100, 0.5, 0.0))
}

#[test]
fn identical_files_are_checked_unless_their_digests_shall_do() {
    let sandbox = pair();
    let runs: [&[&str]; 2] =
        [&["diff", "a.pt", "same.pt"], &["diff", "a.pt", "same.pt", "--digests-only"]];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
    let report = sandbox.json(&["diff", "a.pt", "same.pt", "--json"]);
    assert_eq!((&report["identical"], &report["checked"]), (&true.into(), &true.into()));
    let report = sandbox.json(&["diff", "a.pt", "same.pt", "--json", "--digests-only"]);
    assert_eq!((&report["identical"], &report["checked"]), (&Json::Null, &false.into()));
}

#[test]
fn a_flipped_bit_is_never_called_identical() {
    let len = std::fs::metadata(pair().path("same.pt")).unwrap().len() as usize;
    for at in (0..len).step_by(len / 60).chain([len - 1]) {
        let sandbox = pair().damage("same.pt", |_| at);
        for how in [&[][..], &["--json"], &["--no-values"], &["--ignore", "timestamp"]] {
            let mut args = vec!["diff", "a.pt", "same.pt"];
            args.extend(how);
            let output = sandbox.output(&args);
            assert_eq!(output.status.code(), Some(2), "byte {at}, {how:?}");
            assert!(output.stdout.is_empty(), "byte {at}, {how:?}");
        }
    }
}

#[test]
fn what_was_not_read_has_an_exit_code_of_its_own() {
    let sandbox = pair().damage("same.pt", |bytes| bytes.len() - 6000);
    let digests_only = ["diff", "a.pt", "same.pt", "--digests-only"];
    assert_eq!(sandbox.output(&digests_only).status.code(), Some(6));
    assert_eq!(sandbox.json(&[&digests_only[..], &["--json"]].concat())["identical"], Json::Null);
    // A difference is one, whatever became of the bytes.
    assert_eq!(sandbox.output(&["diff", "a.pt", "b.pt", "--digests-only"]).status.code(), Some(1));
    // Where there are no digests, everything is read after all.
    let torch = pair().golden("checkpoint.pt");
    let same = ["diff", "checkpoint.pt", "checkpoint.pt", "--digests-only"];
    assert_eq!(torch.output(&same).status.code(), Some(0));
}

#[test]
fn what_differs_is_measured() {
    assert_snapshot!(pair().run(&["diff", "a.pt", "b.pt"]));
}

#[test]
fn without_values_no_tensor_is_measured() {
    let sandbox = pair();
    assert_snapshot!(sandbox.run(&["diff", "a.pt", "b.pt", "--no-values"]));
    assert_eq!(sandbox.json(&["diff", "a.pt", "b.pt", "--no-values", "--json"])["bytes_read"], 0);
}

#[test]
fn only_the_chunks_that_differ_are_read() {
    // One element of 80,000 bytes differs: the second chunk, of 14,464 bytes, of each file; the
    // tensor is in the model twice, tied.
    let report = pair().json(&["diff", "a.pt", "b.pt", "--json"]);
    assert_eq!(report["bytes_read"], 2 * 2 * (80_000 - 65_536));
}

#[test]
fn parts_can_be_ignored() {
    let sandbox = pair();
    let ignore = ["iteration", "timestamp", "training_stats", "model_state_dict"];
    let mut args = vec!["diff", "a.pt", "b.pt"];
    args.extend(ignore.iter().flat_map(|path| ["--ignore", path]));
    assert_snapshot!(sandbox.run(&args));
    assert_snapshot!(
        "ignore_nothing",
        sandbox.run(&["diff", "a.pt", "b.pt", "--ignore", "itertion"])
    );
}

#[test]
fn keys_shapes_types_and_lists_are_compared() {
    let tensor = |shape: Vec<usize>| {
        let len = shape.iter().product();
        Tensor::from_vec(shape, vec![1.0_f32; len]).unwrap()
    };
    let list = |n: i64| Value::List((0..n).map(Value::Int).collect());
    let mut a = Dict::new();
    a.insert("gone", tensor(vec![2]));
    a.insert("shape", tensor(vec![2, 3]));
    a.insert("dtype", tensor(vec![2]));
    a.insert("type", 1_i64);
    a.insert("losses", list(100));
    a.insert("betas", Value::Tuple(vec![0.9.into(), 0.999.into()]));
    a.insert("grad", tensor(vec![2]));
    let mut b = Dict::new();
    b.insert("shape", tensor(vec![3, 2]));
    b.insert("dtype", Tensor::from_vec(vec![2], vec![1.0_f64; 2]).unwrap());
    b.insert("type", "1");
    b.insert("losses", list(110));
    b.insert("betas", Value::Tuple(vec![0.9.into(), 0.99.into()]));
    let attributes = scai_checkpoint::tensor::Attributes {
        requires_grad: true,
        ..scai_checkpoint::tensor::Attributes::default()
    };
    b.insert("grad", tensor(vec![2]).with_attributes(attributes));
    b.insert("new", a.clone());
    let sandbox = Sandbox::new().file("a.pt", &Value::Dict(a)).file("b.pt", &Value::Dict(b));
    assert_snapshot!(sandbox.run(&["diff", "a.pt", "b.pt"]));
}

#[test]
fn files_of_torch_are_compared_by_reading_them() {
    let sandbox = Sandbox::new().golden("checkpoint.pt").golden("checkpoint_bytesio.pt");
    assert_snapshot!(sandbox.run(&["diff", "checkpoint.pt", "checkpoint_bytesio.pt"]));
}

#[test]
fn a_damaged_tensor_is_an_error() {
    let sandbox = pair().damage("b.pt", |bytes| bytes.len() - 6000);
    let output = sandbox.output(&["diff", "a.pt", "b.pt"]);
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("tensor `model_state_dict.embed.weight`"), "{message}");
    assert!(message.contains("checksum mismatch"), "{message}");
}

#[test]
fn scripts_get_json() {
    let report = pair().json(&["diff", "a.pt", "b.pt", "--json"]);
    assert_eq!(report["identical"], false);
    let changes = report["changes"].as_array().unwrap();
    let paths: Vec<&str> = changes.iter().map(|change| change["path"].as_str().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "iteration",
            "model_state_dict.embed.weight",
            "model_state_dict.head.weight",
            "training_stats.loss",
            "training_stats.games",
            "timestamp"
        ]
    );
    assert_eq!(changes[1]["kind"], "elements");
    assert_eq!(changes[1]["difference"]["differing"], 1);
    assert_eq!(changes[0]["b"]["value"], 200);
}
