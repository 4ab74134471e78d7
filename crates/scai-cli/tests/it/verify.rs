//! `scai verify`

use insta::assert_snapshot;

use crate::support::{Sandbox, state};

/// A place in the first large tensor.
fn in_tensor(bytes: &[u8]) -> usize {
    bytes.len() / 2
}

#[test]
fn sound_damaged_and_unprotected_files_are_told_apart() {
    let sandbox = Sandbox::new()
        .golden("checkpoint.pt")
        .golden("legacy_checkpoint.pt")
        .file("ours.pt", &state(100, 0.5, 0.0))
        .file("damaged.pt", &state(100, 0.5, 0.0))
        .damage("damaged.pt", in_tensor)
        .file("damaged.safetensors", &state(100, 0.5, 0.0))
        .damage("damaged.safetensors", |bytes| bytes.len() - 9);
    assert_snapshot!(sandbox.run(&["verify", "."]));
}

#[test]
fn one_file_has_all_answers() {
    let sandbox = Sandbox::new().golden("checkpoint.pt").golden("module_conv_bn.pt");
    let runs: [&[&str]; 2] = [&["verify", "checkpoint.pt"], &["verify", "module_conv_bn.pt"]];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
}

#[test]
fn the_exit_code_is_that_of_the_worst_file() {
    let sandbox = Sandbox::new()
        .golden("checkpoint.pt")
        .golden("legacy_checkpoint.pt")
        .file("damaged.pt", &state(100, 0.5, 0.0))
        .damage("damaged.pt", in_tensor);
    let code = |files: &[&str]| sandbox.output(&[&["verify"], files].concat()).status.code();
    assert_eq!(code(&["checkpoint.pt"]), Some(0));
    assert_eq!(code(&["checkpoint.pt", "damaged.pt", "legacy_checkpoint.pt"]), Some(1));
    assert_eq!(code(&["none.pt"]), Some(2));
    assert_eq!(code(&["checkpoint.pt", "legacy_checkpoint.pt"]), Some(3));
}

#[test]
fn scripts_get_json() {
    let sandbox = Sandbox::new().file("a.pt", &state(100, 0.5, 0.0)).damage("a.pt", in_tensor);
    let report = &sandbox.json(&["verify", "a.pt", "--json", "--jobs", "2"])[0];
    assert_eq!(report["exists"], true);
    assert_eq!(report["readable"], false);
    assert_eq!(report["has_model_state"], true);
    assert_eq!(report["protection"], "digests");
    assert_eq!(report["damage"][0]["tensor"], "model_state_dict.embed.weight");
    assert!(report["damage"][0]["bytes"][0].is_u64());
}

#[test]
fn what_needs_code_and_what_is_no_checkpoint_are_not_called_damaged() {
    let sandbox = Sandbox::new()
        .golden("checkpoint.pt")
        .golden("refused/namespace.pt")
        .file("damaged.pt", &state(100, 0.5, 0.0))
        .damage("damaged.pt", in_tensor);
    std::fs::write(sandbox.path("text.pt"), "hello, this is text").unwrap();
    let code = |files: &[&str]| sandbox.output(&[&["verify"], files].concat()).status.code();
    assert_eq!(code(&["checkpoint.pt", "namespace.pt"]), Some(4));
    assert_eq!(code(&["text.pt"]), Some(5));
    assert_eq!(code(&["namespace.pt", "text.pt", "damaged.pt"]), Some(1));
    let report = &sandbox.json(&["verify", "namespace.pt", "text.pt", "--json"]);
    assert_eq!(report[0]["condition"], "needs_code");
    assert_eq!(report[0]["damage"], serde_json::json!([]));
    assert!(report[0]["obstacle"].as_str().unwrap().contains("Namespace"), "{report}");
    assert_eq!(report[1]["condition"], "not_a_checkpoint");
    assert!(sandbox.run(&["verify", "namespace.pt"]).contains("needs code"));
}
