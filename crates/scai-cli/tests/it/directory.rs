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
