//! `scai convert`

use insta::assert_snapshot;
use scai_checkpoint::codec::{Format, Plan, Unprotected};
use scai_checkpoint::{Tensor, Value, file};

use crate::support::{Sandbox, state};

#[test]
fn a_checkpoint_survives_the_way_to_safetensors_and_back() {
    let sandbox = Sandbox::new().golden("checkpoint.pt");
    let runs: [&[&str]; 4] = [
        &["convert", "checkpoint.pt", "c.safetensors"],
        &["convert", "c.safetensors", "back.pt"],
        &["diff", "checkpoint.pt", "back.pt"],
        &["diff", "c.safetensors", "back.pt"],
    ];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
}

#[test]
fn a_part_is_converted_and_ties_are_named() {
    let sandbox = Sandbox::new().file("a.pt", &state(100, 0.5, 0.0));
    let runs: [&[&str]; 2] = [
        &["convert", "a.pt", "model.safetensors", "--part", "model_state_dict"],
        &["show", "model.safetensors"],
    ];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
}

#[test]
fn tensors_are_rounded() {
    let sandbox = Sandbox::new().file("a.pt", &state(100, 0.5, 0.0));
    let runs: [&[&str]; 3] = [
        &["convert", "a.pt", "half.pt", "--part", "model_state_dict", "--dtype", "bf16"],
        &["show", "half.pt"],
        &["convert", "a.pt", "all.pt", "--dtype", "float16"],
    ];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
}

#[test]
fn an_existing_file_is_replaced_only_by_force() {
    let sandbox = Sandbox::new().golden("checkpoint.pt").file("b.pt", &state(100, 0.5, 0.0));
    let before = std::fs::read(sandbox.path("b.pt")).unwrap();
    assert_snapshot!(sandbox.run(&["convert", "checkpoint.pt", "b.pt"]));
    assert_eq!(std::fs::read(sandbox.path("b.pt")).unwrap(), before);
    assert_eq!(sandbox.output(&["convert", "checkpoint.pt", "b.pt", "-f"]).status.code(), Some(0));
    assert_eq!(sandbox.output(&["diff", "checkpoint.pt", "b.pt"]).status.code(), Some(0));
}

#[test]
fn what_cannot_be_converted_is_said() {
    let sandbox = Sandbox::new().golden("quantized_per_tensor.pt").golden("views.pt");
    let runs: [&[&str]; 5] = [
        &["convert", "quantized_per_tensor.pt", "q.safetensors"],
        &["convert", "views.pt", "views"],
        &["convert", "views.pt", "v.safetensors", "--part", "bse"],
        &["convert", "views.pt", "v.safetensors", "--dtype", "int8"],
        &["convert", "views.pt", "none/v.safetensors"],
    ];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
}

#[test]
fn files_of_other_programs_are_read_with_warnings() {
    let sandbox = Sandbox::new()
        .golden("flat.safetensors")
        .golden("tied.safetensors")
        .golden("legacy_checkpoint.pt")
        .golden("view_small_part.pt");
    let runs: [&[&str]; 5] = [
        &["convert", "flat.safetensors", "flat.pt", "--lossy", "--allow-unprotected"],
        &["convert", "tied.safetensors", "tied.pt", "--allow-unprotected"],
        &["show", "tied.pt"],
        &["convert", "legacy_checkpoint.pt", "new.pt", "--allow-unprotected"],
        &["convert", "view_small_part.pt", "small.safetensors"],
    ];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
}

#[test]
fn a_file_without_checksums_is_converted_on_request_only_and_its_copies_say_so() {
    let sandbox = Sandbox::new()
        .golden("legacy_checkpoint.pt")
        .damage("legacy_checkpoint.pt", |bytes| bytes.len() - 2);
    let runs: [&[&str]; 8] = [
        &["convert", "legacy_checkpoint.pt", "a.pt"],
        &["convert", "legacy_checkpoint.pt", "a.pt", "--allow-unprotected"],
        &["verify", "a.pt"],
        &["show", "a.pt", "iteration"],
        &["convert", "a.pt", "b.safetensors"],
        &["verify", "b.safetensors"],
        &["convert", "b.safetensors", "c.pt", "--part", "model_state_dict"],
        &["show", "c.pt", "--depth", "0"],
    ];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
    for name in ["a.pt", "b.safetensors", "c.pt"] {
        assert_eq!(sandbox.json(&["show", name, "--json"])["source_protection"], "none");
        assert_eq!(sandbox.json(&["verify", name, "--json"])[0]["source_protection"], "none");
    }
    let known = Sandbox::new().golden("checkpoint.pt");
    known.run(&["convert", "checkpoint.pt", "a.pt"]);
    assert!(known.json(&["verify", "a.pt", "--json"])[0]["source_protection"].is_null());
}

#[test]
fn notes_stay_with_a_whole_checkpoint_and_not_with_a_part_of_it() {
    let sandbox = Sandbox::new();
    let plan = Plan::with_notes(&state(100, 0.5, 0.0), Some("a note"), Format::Torch).unwrap();
    file::write(sandbox.path("a.pt"), plan, 1).unwrap();
    let notes = |name: &str| file::open(sandbox.path(name), Unprotected::Refuse).unwrap().notes();
    sandbox.run(&["convert", "a.pt", "whole.pt"]);
    assert_eq!(notes("whole.pt").unwrap().as_deref(), Some("a note"));
    sandbox.run(&["convert", "a.pt", "part.pt", "--part", "model_state_dict"]);
    assert_eq!(notes("part.pt").unwrap(), None);
}

#[test]
fn what_would_be_lost_is_an_error_unless_it_is_accepted() {
    // Metadata was left out with a warning; sparse tensors and tensors without data were converted
    // without one, and other programs found other names or nothing.
    let sandbox =
        Sandbox::new().golden("flat.safetensors").golden("sparse_coo.pt").golden("meta.pt");
    let cases = [
        ("flat.safetensors", "flat.pt", "file metadata, which a `.pt` file cannot hold"),
        ("sparse_coo.pt", "sparse.safetensors", "sparse, quantised or without data"),
        ("meta.pt", "meta.safetensors", "sparse, quantised or without data"),
    ];
    for (input, output, words) in cases {
        let refused = sandbox.run(&["convert", input, output, "--allow-unprotected"]);
        assert!(refused.contains(words) && refused.contains("exit code 2"), "{refused}");
        assert!(!sandbox.path(output).exists(), "{output}");
        let accepted = sandbox.run(&["convert", input, output, "--lossy", "--allow-unprotected"]);
        assert!(accepted.contains(words) && !accepted.contains("exit code"), "{accepted}");
        assert!(sandbox.path(output).exists(), "{output}");
    }
}

#[test]
fn metadata_goes_from_one_safetensors_file_to_another() {
    let sandbox = Sandbox::new().golden("flat.safetensors");
    sandbox.run(&["convert", "flat.safetensors", "again.safetensors", "--allow-unprotected"]);
    let [first, again] =
        ["flat", "again"].map(|name| sandbox.run(&["show", &format!("{name}.safetensors")]));
    let notes = |text: &str| text.lines().filter(|line| line.contains("note = ")).count();
    assert_eq!((notes(&first), notes(&again)), (1, 1), "{again}");
}

#[test]
fn the_shards_of_an_index_are_shown_verified_and_converted_as_one() {
    let sandbox = Sandbox::new();
    let part = |name: &str| {
        let tensor = Tensor::from_vec(vec![2], vec![1_f32, 2.]).unwrap();
        Value::Dict([(name, Value::Tensor(tensor))].into_iter().collect())
    };
    let sandbox = sandbox.file("m-1.safetensors", &part("a")).file("m-2.safetensors", &part("b"));
    let map = r#"{"weight_map": {"b": "m-2.safetensors", "a": "m-1.safetensors"}}"#;
    std::fs::write(sandbox.path("m.safetensors.index.json"), map).unwrap();
    let shown = sandbox.run(&["show", "m.safetensors.index.json"]);
    assert!(shown.contains("4 values in 2 tensors"), "{shown}");
    let verified = sandbox.output(&["verify", "m.safetensors.index.json"]);
    assert_eq!(verified.status.code(), Some(0));
    sandbox.run(&["convert", "m.safetensors.index.json", "m.pt"]);
    let same = sandbox.output(&["diff", "m.safetensors.index.json", "m.pt"]);
    assert_eq!(same.status.code(), Some(0), "{same:?}");
    let sandbox = sandbox.damage("m-2.safetensors", |bytes| bytes.len() - 1);
    let damaged = sandbox.run(&["verify", "m.safetensors.index.json"]);
    assert!(damaged.contains("m-2.safetensors") && damaged.contains("exit code 1"), "{damaged}");
}

#[test]
fn objects_that_need_code_are_left_out_of_a_conversion_if_that_is_accepted() {
    let sandbox = Sandbox::new().golden("refused/module.pt");
    for output in ["out.safetensors", "out.pt"] {
        let refused = sandbox.output(&["convert", "module.pt", output]);
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains("would lose") && said.contains("--lossy"), "{said}");
        let allowed = sandbox.output(&["convert", "module.pt", output, "--lossy"]);
        let said = String::from_utf8(allowed.stderr).unwrap();
        assert_eq!(allowed.status.code(), Some(0), "{said}");
        assert!(said.contains("lost: "), "{said}");
        let report = sandbox.json(&["show", output, "--json"]);
        let names: Vec<&str> = report["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["path"].as_str().unwrap())
            .collect();
        assert!(names.iter().any(|name| name.ends_with("weight")), "{names:?}");
    }
}

#[test]
fn the_tensors_of_a_torch_script_archive_are_converted_by_their_names() {
    let sandbox = Sandbox::new().golden("scripted.jit");
    let runs: [&[&str]; 3] = [
        &["convert", "scripted.jit", "out.safetensors"],
        &["convert", "scripted.jit", "out.safetensors", "--lossy"],
        &["show", "out.safetensors"],
    ];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
}
