//! `scai show`

use insta::assert_snapshot;
use scai_checkpoint::{Dict, Tensor, Value};

use crate::support::{Sandbox, state};

#[test]
fn a_checkpoint_of_torch_is_shown_as_a_tree() {
    let sandbox = Sandbox::new().golden("checkpoint.pt");
    assert_snapshot!(sandbox.run(&["show", "checkpoint.pt"]));
}

#[test]
fn the_tree_is_cut_at_a_depth_and_tensors_are_measured() {
    let sandbox = Sandbox::new().golden("checkpoint.pt");
    assert_snapshot!(sandbox.run(&["show", "checkpoint.pt", "--depth", "2", "--stats"]));
}

#[test]
fn a_file_may_hold_a_single_value() {
    let sandbox = Sandbox::new().golden("bare_tensor.pt").golden("py_int_root.pt");
    let runs: [&[&str]; 2] = [&["show", "bare_tensor.pt"], &["show", "py_int_root.pt"]];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
}

#[test]
fn ties_and_views_are_noted() {
    let sandbox = Sandbox::new().golden("tied_views.pt");
    assert_snapshot!(sandbox.run(&["show", "tied_views.pt"]));
}

#[test]
fn parts_are_shown_by_path() {
    let sandbox = Sandbox::new().golden("checkpoint.pt");
    let show = |path| sandbox.run(&["show", "checkpoint.pt", path]);
    assert_snapshot!(
        [
            "iteration",
            "timestamp",
            "training_stats.loss",
            "metadata",
            "optimizer_state_dict.state.0.exp_avg",
        ]
        .map(show)
        .join("\n")
    );
}

#[test]
fn a_path_that_is_not_there_has_a_suggestion() {
    let sandbox = Sandbox::new().golden("checkpoint.pt");
    let show = |path| sandbox.run(&["show", "checkpoint.pt", path]);
    assert_snapshot!(
        ["fc.weight", "conv.wieght", "training_stat", "training_stats.los", "zzz"]
            .map(show)
            .join("\n")
    );
}

#[test]
fn numbers_of_every_dtype_are_read() {
    let sandbox = Sandbox::new().golden("flat.safetensors");
    assert_snapshot!(sandbox.run(&["show", "flat.safetensors", "--stats"]));
}

#[test]
fn nan_and_infinities_are_counted() {
    let values = vec![1.0_f32, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -2.0];
    let tree: Dict = [("w", Tensor::from_vec(vec![5], values).unwrap())].into_iter().collect();
    let sandbox = Sandbox::new().file("nan.pt", &Value::Dict(tree));
    assert_snapshot!(sandbox.run(&["show", "nan.pt", "--stats"]));
}

#[test]
fn scripts_get_json() {
    let sandbox = Sandbox::new().file("a.pt", &state(100, f64::NAN, 0.0));
    assert_snapshot!(sandbox.run(&["show", "a.pt", "--json", "--depth", "2"]));
    let stats = sandbox.json(&["show", "a.pt", "model_state_dict.head.bias", "--stats", "--json"]);
    assert_eq!(stats["entries"][0]["tensor"]["stats"]["max"], 2.0);
}

#[test]
fn names_in_a_file_cannot_control_the_terminal() {
    let mut inner = Dict::new();
    inner.insert("evil\u{1b}[2J\u{9b}31m\u{202e}\nname", Value::Str("\u{1b}]0;title\u{7}".into()));
    inner.insert("w\u{1b}[1A", Tensor::from_vec(vec![1], vec![1_u8]).unwrap());
    let mut tree = Dict::new();
    tree.insert("timestamp", "\u{1b}[31mred");
    tree.insert("part", inner);
    let sandbox = Sandbox::new().file("evil.pt", &Value::Dict(tree));
    let runs: [&[&str]; 5] = [
        &["show", "evil.pt"],
        &["show", "evil.pt", "timestamp"],
        &["show", "evil.pt", "--json"],
        &["diff", "evil.pt", "other.pt"],
        &["show", "evil.pt", "w"],
    ];
    let sandbox = sandbox.file("other.pt", &Value::Dict(Dict::new()));
    for args in runs {
        let output = sandbox.output(args);
        for bytes in [output.stdout, output.stderr] {
            let text = String::from_utf8(bytes).unwrap();
            let bad = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(bad), "{args:?}: {text:?}");
        }
    }
    assert_snapshot!(sandbox.run(&["show", "evil.pt"]));
}

#[test]
fn one_foreign_object_does_not_hide_the_tensors() {
    let sandbox = Sandbox::new().golden("refused/mixed_checkpoint.pt").golden("refused/module.pt");
    let output = sandbox.output(&["show", "mixed_checkpoint.pt"]);
    assert_eq!(output.status.code(), Some(0));
    let (shown, said) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
    assert!(said.unwrap().contains("only code could create"));
    assert!(shown.unwrap().contains("float32"));
    let report = sandbox.json(&["show", "module.pt", "--json"]);
    assert!(report["total"]["tensors"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn a_torch_script_archive_is_shown_without_its_code() {
    let sandbox = Sandbox::new().golden("scripted.jit").golden("frozen.jit");
    let runs: [&[&str]; 3] = [
        &["show", "scripted.jit"],
        &["show", "frozen.jit"],
        &["show", "scripted.jit", "backbone.conv1.weight"],
    ];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
    assert_eq!(sandbox.json(&["show", "scripted.jit", "--json"])["format"], "torchscript");
    assert_eq!(sandbox.output(&["verify", "scripted.jit"]).status.code(), Some(5));
}
