//! `scai verify`

use insta::assert_snapshot;
use scai_checkpoint::folder::{About, Staging};
use scai_checkpoint::{Tensor, Value};

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

/// A model in shards, one of which is also of an older format, as Hugging Face has them.
fn shards() -> Sandbox {
    let sandbox = Sandbox::new()
        .file("model-00001-of-00002.safetensors", &one("a", 1.0))
        .file("model-00002-of-00002.safetensors", &one("b", 2.0))
        .file("training_args.bin", &one("c", 3.0))
        .file("older.th", &one("d", 4.0));
    let shard = |number| format!("model-0000{number}-of-00002.safetensors");
    let map = serde_json::json!({ "a": shard(1), "b": shard(2) });
    let index = serde_json::json!({ "metadata": { "total_size": 8 }, "weight_map": map });
    std::fs::write(sandbox.path("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::write(sandbox.path("config.json"), r#"{"model_type": "bert"}"#).unwrap();
    sandbox
}

fn one(name: &str, number: f32) -> Value {
    let tensor = Tensor::from_vec(vec![1], vec![number]).unwrap();
    Value::Dict([(name, tensor)].into_iter().collect())
}

#[test]
fn an_index_is_one_checkpoint_of_a_directory_and_files_of_all_names_are_found() {
    let sandbox = shards();
    assert_snapshot!([["verify", "."], ["list", "."]].map(|args| sandbox.run(&args)).join("\n"));
    let reports = sandbox.json(&["verify", ".", "--json"]);
    let sizes = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        .map(|name| std::fs::metadata(sandbox.path(name)).unwrap().len());
    assert_eq!(reports[0]["size"], sizes[0] + sizes[1]);
    let listed = sandbox.json(&["list", ".", "--json", "--verify"]);
    assert_eq!(listed[0]["format"], "sharded");
    assert_eq!(listed[0]["shards"].as_array().unwrap().len(), 2);
    assert_eq!(listed[0]["verified"], true);
}

#[test]
fn a_damaged_or_missing_shard_is_told_of_at_its_index_alone() {
    let sandbox = shards().damage("model-00002-of-00002.safetensors", |bytes| bytes.len() - 1);
    assert_snapshot!([["verify", "."], ["list", "."]].map(|args| sandbox.run(&args)).join("\n"));
    std::fs::remove_file(sandbox.path("model-00002-of-00002.safetensors")).unwrap();
    let output = sandbox.output(&["verify", "."]);
    assert_eq!(output.status.code(), Some(2));
    let reports = sandbox.json(&["verify", ".", "--json"]);
    assert_eq!(reports.as_array().unwrap().len(), 3);
    assert_eq!(reports[0]["condition"], "unreadable");
    // An index that was cut off names nothing: its shards are looked at by themselves.
    let index = sandbox.path("model.safetensors.index.json");
    let text = std::fs::read(&index).unwrap();
    std::fs::write(&index, &text[..text.len() / 2]).unwrap();
    let reports = sandbox.json(&["verify", ".", "--json"]);
    assert_eq!(reports.as_array().unwrap().len(), 4);
    assert_eq!(reports[1]["condition"], "damaged", "{reports}");
}

#[test]
fn a_committed_directory_is_verified_as_one_checkpoint() {
    let sandbox = Sandbox::new();
    for step in [20, 100] {
        let staging = Staging::begin(sandbox.path("runs")).unwrap();
        std::fs::create_dir(staging.path().join("more")).unwrap();
        for name in ["model.bin", "more/state.json"] {
            std::fs::write(staging.path().join(name), name.repeat(step)).unwrap();
        }
        let about = About::default().iteration(step as u64);
        staging.commit(&format!("checkpoint-{step}"), &about).unwrap();
    }
    let sound = sandbox.run(&["verify", "runs/checkpoint-100"]);
    std::fs::write(sandbox.path("runs/checkpoint-100/model.bin"), "x".repeat(900)).unwrap();
    std::fs::remove_file(sandbox.path("runs/checkpoint-20/more/state.json")).unwrap();
    let damaged = sandbox.run(&["verify", "runs"]);
    assert_snapshot!([sound, damaged].join("\n"));

    let report = &sandbox.json(&["verify", "runs/checkpoint-100", "--json"])[0];
    assert_eq!(report["iteration"], 100);
    assert_eq!(report["condition"], "damaged");
    assert!(report["damage"][0]["message"].as_str().unwrap().contains("model.bin"));
}
