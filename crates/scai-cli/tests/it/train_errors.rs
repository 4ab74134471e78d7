//! What goes wrong in a training, as a person meets it.

use std::fs;
use std::process::Command;

use insta::assert_snapshot;
use serde_json::Value as Json;

use crate::support::{Sandbox, state};
use crate::train_support::{CONFIG, Training, redacted, sandbox, trained, with_config};

#[test]
fn settings_that_are_wrong_are_named_with_their_line() {
    let sandbox = with_config("seed: 7\ntraining:\n  save_intervall: 2\n  batch_size: many\n");
    let runs: [&[&str]; 3] =
        [&["train"], &["train", "--config", "confg.yaml"], &["train", "--iterations", "0"]];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
    assert!(!sandbox.path("checkpoints").exists());
}

#[test]
fn what_cannot_be_resumed_from_is_said_and_nothing_is_lost() {
    let sandbox = trained().file("other.pt", &state(3, 0.5, 0.0));
    fs::write(sandbox.path("text.pt"), "no checkpoint").unwrap();
    let before = fs::read(sandbox.path("checkpoints/checkpoint_iter_6.pt")).unwrap();
    let runs: [&[&str]; 6] = [
        &["train", "--resume", "text.pt"],
        &["train", "--resume", "txt.pt"],
        &["train", "--resume", "checkpoints"],
        &["train", "--resume", "other.pt"],
        &["train", "--init-from", "other.pt", "--resume", "never"],
        &["train", "--init-from", "other.pt", "--resume", "other.pt"],
    ];
    assert_snapshot!(runs.map(|args| redacted(&sandbox.run(args))).join("\n"));
    assert_eq!(fs::read(sandbox.path("checkpoints/checkpoint_iter_6.pt")).unwrap(), before);
}

#[test]
fn settings_of_another_network_are_said_before_anything_is_touched() {
    let sandbox = trained();
    let other = CONFIG.replace("num_blocks: 2", "num_blocks: 1");
    fs::write(sandbox.path("config.yaml"), other).unwrap();
    assert_snapshot!(redacted(&sandbox.run(&["train"])));
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_at_once() {
    let sandbox = sandbox();
    fs::write(sandbox.path("file"), "in the way").unwrap();
    let shown = sandbox.run(&["train", "--checkpoint-dir", "file"]);
    assert!(
        shown.contains("cannot save checkpoints to `file`: cannot create the directory"),
        "{shown}"
    );
    assert!(shown.contains("exit code 2"), "{shown}");
    // Nobody may write here, root included.
    let shown = sandbox.run(&["train", "--checkpoint-dir", "/proc/self"]);
    assert!(shown.contains("/proc/self") && shown.contains("exit code 2"), "{shown}");
    assert!(!shown.contains("iteration 1/"), "{shown}");
}

#[test]
fn a_damaged_newest_checkpoint_is_passed_over_and_kept() {
    let sandbox = trained().damage("checkpoints/checkpoint_iter_6.pt", |bytes| bytes.len() / 2);
    assert_snapshot!(redacted(&sandbox.run(&["train"])));
    assert!(sandbox.path("checkpoints/checkpoint_iter_6.pt.damaged").exists());
    assert_eq!(sandbox.output(&["verify", "checkpoints"]).status.code(), Some(0));
}

#[test]
fn where_all_are_damaged_nothing_is_begun() {
    let sandbox = [2, 4, 6].into_iter().fold(trained(), |sandbox, n| {
        sandbox.damage(&format!("checkpoints/checkpoint_iter_{n}.pt"), |bytes| bytes.len() / 2)
    });
    let shown = redacted(&sandbox.run(&["train"]));
    // The next start must not take the directory for a new one.
    assert_eq!(redacted(&sandbox.run(&["train"])), shown);
    assert_snapshot!(shown);
    assert!(sandbox.run(&["train", "--resume", "never"]).contains("finished: 6 iterations"));
}

#[test]
fn a_second_training_in_a_directory_is_refused_at_once() {
    let sandbox = with_config(&CONFIG.replace("iterations: 6", "iterations: 5000"));
    let mut first = Training::start(&sandbox, &["train"]);
    first.wait_for("iteration    1/");
    let shown = redacted(&sandbox.run(&["train"]));
    first.signal("TERM", 1);
    assert_eq!(first.end().code(), Some(143));
    assert_snapshot!(shown);
}

#[test]
fn unknown_arguments_have_advice() {
    let sandbox = sandbox();
    let runs: [&[&str]; 2] = [&["train", "--resum", "auto"], &["eval", "x.pt", "--games", "3"]];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
}

/// Mounts a file system of a megabyte at `checkpoints` and fills it, for the shell `then`; `None`
/// where that is not possible.
fn with_full_disk(sandbox: &Sandbox, then: &str) -> Option<String> {
    fs::create_dir(sandbox.path("checkpoints")).unwrap();
    let scai = sandbox.command(&[]);
    let script = format!(
        "mount -t tmpfs -o size=1m tmpfs checkpoints || exit 99
         fill() {{ head -c 2000000 /dev/zero > checkpoints/filler 2> /dev/null; }}
         scai={}
         fill
         {then}",
        scai.get_program().to_str().unwrap()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).current_dir(scai.get_current_dir().unwrap());
    let output = command.output().ok()?;
    let text =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    if output.status.code() == Some(99) || text.contains("unshare: ") {
        eprintln!("skipped: no file system can be mounted here: {text}");
        return None;
    }
    Some(text)
}

#[test]
fn on_a_full_disk_training_goes_on_and_says_what_is_not_saved() {
    let sandbox = sandbox();
    let Some(text) = with_full_disk(&sandbox, "$scai train; echo code $?") else { return };
    for expected in [
        "iteration 2 could not be saved: checkpoint `checkpoints/checkpoint_iter_2.pt`: no space",
        "training continues; the next save will be tried at iteration 4",
        "iteration 6/6",
        "error: the state after iteration 6 could not be saved: checkpoint `checkpoints/",
        "once that is fixed, `scai train` starts over",
        "code 2",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn with_room_again_the_next_save_succeeds() {
    let longer = CONFIG
        .replace("iterations: 6, save_interval: 2", "iterations: 60, save_interval: 1")
        .replace("keep: all", "keep: last:1");
    let sandbox = with_config(&longer);
    let then = "$scai train --json > events &
        while ! grep -q save_failed events; do sleep 0.02; done
        rm checkpoints/filler
        wait $!; echo code $?
        $scai verify checkpoints > /dev/null; echo verified $?";
    let Some(text) = with_full_disk(&sandbox, then) else { return };
    assert!(text.contains("code 0") && text.contains("verified 0"), "{text}");
    let events = fs::read_to_string(sandbox.path("events")).unwrap();
    let kinds: Vec<Json> = events
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).unwrap()["event"].clone())
        .collect();
    let failed = kinds.iter().rposition(|kind| kind == "save_failed").unwrap();
    assert!(kinds[failed..].iter().any(|kind| kind == "saved"));
}
