//! `scai list`, `scai prune`, `scai pin`, `scai unpin`

use insta::assert_snapshot;

use crate::support::{Sandbox, state};

fn directory() -> Sandbox {
    [0.75, 0.25, 0.5].into_iter().zip([100, 200, 300]).fold(Sandbox::new(), |sandbox, (loss, n)| {
        sandbox.file(&format!("checkpoint_iter_{n}.pt"), &state(n, loss, 0.0))
    })
}

#[test]
fn checkpoints_are_listed_by_iteration() {
    let sandbox = directory().damage("checkpoint_iter_200.pt", |bytes| bytes.len() / 2);
    sandbox.output(&["pin", "checkpoint_iter_100.pt"]);
    let runs: [&[&str]; 3] =
        [&["list", "."], &["list", ".", "--verify"], &["list", ".", "--stats", "lss"]];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
    let listed = sandbox.json(&["list", ".", "--json"]);
    assert_eq!(listed[0]["pinned"], true);
    assert_eq!(listed[2]["latest"], true);
    assert_eq!(listed[1]["training_stats"]["loss"], 0.25);
}

#[test]
fn pruning_says_why_and_deletes_only_when_told_to() {
    let sandbox = directory();
    let there =
        || [100, 200, 300].map(|n| sandbox.path(&format!("checkpoint_iter_{n}.pt")).exists());
    let prune = ["prune", ".", "--keep-last", "1", "--best", "loss:min"];
    let dry = sandbox.run(&prune);
    assert_eq!(there(), [true; 3]);
    let yes = sandbox.run(&[&prune[..], &["--yes"]].concat());
    assert_eq!(there(), [false, true, true]);
    assert_snapshot!([dry, yes].join("\n"));
}

#[test]
fn pinned_checkpoints_stay() {
    let sandbox = directory();
    let runs: [&[&str]; 4] = [
        &["pin", "checkpoint_iter_100.pt"],
        &["prune", ".", "--keep-last", "1"],
        &["unpin", "checkpoint_iter_100.pt"],
        &["prune", ".", "--keep-last", "1"],
    ];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
}

#[test]
fn a_rollback_supersedes_what_is_above_and_prune_deletes_it_only_if_asked_to() {
    let sandbox = directory();
    let there =
        || [100, 200, 300].map(|n| sandbox.path(&format!("checkpoint_iter_{n}.pt")).exists());
    let said = sandbox.run(&["rollback", ".", "100"]);
    assert!(said.contains("iteration 100; 2 later checkpoints are superseded"), "{said}");
    let listed = sandbox.json(&["list", ".", "--json"]);
    assert_eq!([0, 1, 2].map(|i| listed[i]["superseded"] == true), [false, true, true]);
    assert_eq!(listed[0]["latest"], true);
    assert!(sandbox.run(&["list", "."]).contains("superseded"));
    sandbox.run(&["prune", ".", "--keep-last", "1", "--yes"]);
    assert_eq!(there(), [true; 3]);
    sandbox.run(&["prune", ".", "--superseded"]);
    assert_eq!(there(), [true; 3]);
    sandbox.run(&["prune", ".", "--superseded", "--yes"]);
    assert_eq!(there(), [true, false, false]);
    let missing = sandbox.run(&["rollback", ".", "7"]);
    assert!(missing.contains("checkpoint_iter_7.pt` does not exist"), "{missing}");
}

#[test]
fn an_empty_directory_is_not_verified_with_the_code_of_a_sound_one() {
    let sandbox = Sandbox::new();
    for args in [&["verify", "."][..], &["verify", ".", "--json"]] {
        let output = sandbox.output(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn one_file_that_cannot_be_read_does_not_hide_the_others_from_a_list() {
    let sandbox = directory();
    std::fs::write(sandbox.path("checkpoint_iter_250.pt"), "?").unwrap();
    std::fs::write(sandbox.path("superseded.json"), "?").unwrap();
    let listed = sandbox.json(&["list", ".", "--json"]);
    let iterations: Vec<_> =
        listed.as_array().unwrap().iter().map(|l| l["iteration"].clone()).collect();
    assert_eq!(iterations, [100, 200, 250, 300]);
    assert!(listed[2]["problem"].is_string());
    assert!(listed[3]["problem"].as_str().unwrap().contains("superseded.json"));
}

#[test]
fn a_url_is_no_directory() {
    let sandbox = Sandbox::new();
    for args in [["list", "s3://bucket/run"], ["verify", "s3://bucket/a.pt"]] {
        let output = sandbox.output(&args);
        assert_ne!(output.status.code(), Some(0), "{args:?}");
    }
    assert!(!sandbox.path("s3:").exists());
}

#[test]
fn other_files_are_listed_apart_and_come_before_checkpoints_in_json() {
    let sandbox = directory()
        .file("export.safetensors", &state(300, 0.5, 0.0))
        .golden("refused/namespace.pt");
    assert_snapshot!(sandbox.run(&["list", "."]));
    let listed = sandbox.json(&["list", ".", "--json"]);
    let iterations: Vec<_> =
        listed.as_array().unwrap().iter().map(|row| &row["iteration"]).collect();
    assert_eq!(serde_json::json!(iterations), serde_json::json!([null, null, 100, 200, 300]));
}
