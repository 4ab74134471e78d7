//! `scai play`, `scai eval`

use std::io::Write;
use std::process::Stdio;

use insta::assert_snapshot;

use crate::support::{Sandbox, state};
use crate::train_support::trained;

/// What a game shows in which this is typed.
fn play(sandbox: &Sandbox, args: &[&str], typed: &str) -> String {
    let args = [&["play", "checkpoints/checkpoint_iter_6.pt"], args].concat();
    let mut command = sandbox.command(&args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_game_is_played_to_its_end() {
    let sandbox = trained();
    // Every cell in turn; those that are taken are passed over.
    let all = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
    for first in ["me", "network"] {
        let shown = play(&sandbox, &["--first", first], all);
        let ends = ["you win", "the network wins", "a draw"];
        assert!(ends.iter().any(|end| shown.trim_end().ends_with(end)), "{shown}");
        assert_eq!(shown.starts_with("you are X"), first == "me");
    }
}

#[test]
fn what_is_typed_is_answered() {
    let sandbox = trained();
    let shown = play(&sandbox, &[], "u\n10\nhello\nq\n");
    assert_snapshot!(shown);
    let taken_back = play(&sandbox, &["--simulations", "4"], "5\nu\nq\n");
    assert_eq!(taken_back.matches("1 2 3\n4 5 6\n7 8 9").count(), 2, "{taken_back}");
    assert!(play(&sandbox, &[], "5\n5\n").contains("cell 5 is full"));
    let explained = play(&sandbox, &["--explain", "--first", "network"], "q\n");
    assert!(explained.contains("it expects "), "{explained}");
    assert!(explained.contains("visits per move  1: "), "{explained}");
}

#[test]
fn looking_at_a_network_writes_nothing() {
    let sandbox = trained();
    std::fs::create_dir(sandbox.path("copy")).unwrap();
    let copy = sandbox.path("copy/checkpoint_iter_6.pt");
    std::fs::copy(sandbox.path("checkpoints/checkpoint_iter_6.pt"), copy).unwrap();
    let eval = ["eval", "copy/checkpoint_iter_6.pt", "--games", "2", "--opponents", "random"];
    assert_eq!(sandbox.output(&eval).status.code(), Some(0));
    assert_eq!(std::fs::read_dir(sandbox.path("copy")).unwrap().count(), 1);
}

#[test]
fn strength_is_a_table_and_networks_play_each_other() {
    let sandbox = trained();
    let files = [2, 4, 6].map(|n| format!("checkpoints/checkpoint_iter_{n}.pt"));
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let eval = [&["eval"], &files[..], &["--games", "4", "--opponents", "random,alphabeta:1"]];
    let shown = sandbox.run(&eval.concat());
    for expected in [
        "CHECKPOINT                        ITERATION  VS RANDOM",
        "VS ALPHABETA:1  W/D/L",
        "checkpoints/checkpoint_iter_4.pt          4  ",
        "ITERATION",
        "each pair played 4 games; a draw counts half",
    ] {
        assert!(shown.contains(expected), "{expected}\n{shown}");
    }
    let json = sandbox.json(&[&eval.concat()[..], &["--json", "--positions"]].concat());
    assert_eq!(json["checkpoints"].as_array().unwrap().len(), 3);
    assert_eq!(json["matches"].as_array().unwrap().len(), 3);
    let score = &json["checkpoints"][2]["against"]["random"];
    let games = ["wins", "draws", "losses"].map(|name| score[name].as_u64().unwrap());
    assert_eq!(games.iter().sum::<u64>(), 4);
    // Tic-tac-toe has no solved positions.
    assert!(json["checkpoints"][0]["optimality"].is_null());
}

#[test]
fn what_holds_no_network_of_ours_is_said() {
    let sandbox = trained().file("other.pt", &state(3, 0.5, 0.0));
    let runs: [&[&str]; 4] = [
        &["play", "other.pt"],
        &["play", "othr.pt"],
        &["eval", "checkpoints"],
        &["eval", "other.pt"],
    ];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
}
