//! `scai convert`

use insta::assert_snapshot;
use scai_checkpoint::codec::{Format, Plan, Unprotected};
use scai_checkpoint::{open_file, write_file};

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
        &["convert", "flat.safetensors", "flat.pt"],
        &["convert", "tied.safetensors", "tied.pt"],
        &["show", "tied.pt"],
        &["convert", "legacy_checkpoint.pt", "new.pt"],
        &["convert", "view_small_part.pt", "small.safetensors"],
    ];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
}

#[test]
fn notes_stay_with_a_whole_checkpoint_and_not_with_a_part_of_it() {
    let sandbox = Sandbox::new();
    let plan = Plan::with_notes(&state(100, 0.5, 0.0), Some("a note"), Format::Torch).unwrap();
    write_file(sandbox.path("a.pt"), plan, 1).unwrap();
    let notes = |name: &str| open_file(sandbox.path(name), Unprotected::Refuse).unwrap().notes();
    sandbox.run(&["convert", "a.pt", "whole.pt"]);
    assert_eq!(notes("whole.pt").unwrap().as_deref(), Some("a note"));
    sandbox.run(&["convert", "a.pt", "part.pt", "--part", "model_state_dict"]);
    assert_eq!(notes("part.pt").unwrap(), None);
}
