//! `scai train`

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use insta::assert_snapshot;
use serde_json::Value as Json;

use crate::support::Sandbox;
use crate::train_support::{CONFIG, Training, redacted, sandbox, trained, with_config};

#[test]
fn a_training_is_shown_line_by_line_and_goes_on_when_it_is_made_longer() {
    let sandbox = sandbox();
    let runs: [&[&str]; 3] = [&["train"], &["train"], &["train", "--iterations", "7"]];
    assert_snapshot!(runs.map(|args| redacted(&sandbox.run(args))).join("\n"));
    assert!(sandbox.path("checkpoints/checkpoint_iter_7.pt").exists());
}

#[test]
fn scripts_get_an_object_for_each_event() {
    let sandbox = sandbox();
    let output = sandbox.output(&["train", "--json", "--checkpoint-dir", "elsewhere"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let events: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    assert_eq!(events[0]["event"], "begin");
    assert_eq!(events[0]["from"], Json::Null);
    assert_eq!(of("iteration").len(), 6);
    assert_eq!(of("iteration")[5]["training_stats"]["total_games"], 48);
    assert_eq!(of("self_play").len(), 6 * 9);
    assert_eq!(of("evaluating")[0]["what"], "random");
    let saved: Vec<_> = of("saved").iter().map(|event| event["name"].clone()).collect();
    assert_eq!(saved, [2, 4, 6].map(|n| format!("checkpoint_iter_{n}.pt")));
    for name in ["waited_ms", "plan_ms", "write_ms", "sync_ms", "commit_ms", "gb_per_s"] {
        let value = of("saved")[0][name].as_f64();
        assert!(value.is_some_and(|value| value >= 0.0), "{name}: {value:?}");
    }
    assert_eq!(events[events.len() - 1]["how"], "finished");
    assert!(sandbox.path("elsewhere/checkpoint_iter_6.pt").exists());
}

#[test]
fn a_training_that_chooses_when_to_save_says_how_often() {
    let sandbox = with_config(
        &CONFIG.replace("save_interval: 2", "save_interval: auto, save_overhead: 0.025"),
    );
    let shown = sandbox.run(&["train"]);
    let header = "checkpoints in `checkpoints` as often as a 2.5% overhead allows; metrics in";
    assert!(shown.contains(header), "{shown}");
    let first = shown.lines().find(|line| line.starts_with("saved ")).unwrap();
    assert!(first.starts_with("saved checkpoint_iter_1.pt ("), "{shown}");
    assert!(first.contains("; saving every "), "{shown}");
}

#[test]
fn metrics_are_recorded_of_every_iteration_once() {
    let sandbox = sandbox();
    sandbox.output(&["train", "--iterations", "3"]);
    sandbox.output(&["train"]);
    let text = fs::read_to_string(sandbox.path("logs/metrics.jsonl")).unwrap();
    let records: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let iterations: Vec<u64> =
        records.iter().map(|record| record["iteration"].as_u64().unwrap()).collect();
    assert_eq!(iterations, [1, 2, 3, 4, 5, 6]);
    for name in ["loss/total", "learning_rate", "games/total", "speed/positions_per_second"] {
        assert!(records[5][name].as_f64().is_some_and(|value| value > 0.0), "{name}");
    }
    assert!(records[5]["evaluation/win_rate_random"].is_number());
    let saves = records.iter().filter(|record| record["save/waited_ms"].is_number());
    assert!((2..=4).contains(&saves.count()), "{text}");
    assert!(records[2]["save/interval"].is_number() && records[5]["save/interval"].is_number());
}

#[test]
fn metrics_that_cannot_be_written_are_a_warning() {
    let sandbox = sandbox();
    fs::write(sandbox.path("logs"), "in the way").unwrap();
    let shown = sandbox.run(&["train"]);
    assert_eq!(shown.matches("training continues without metrics").count(), 1, "{shown}");
    assert!(shown.contains("finished: 6 iterations"), "{shown}");
}

#[test]
fn without_settings_the_built_in_ones_are_used_and_said() {
    let sandbox = Sandbox::new();
    let training = Training::start(&sandbox, &["train"]);
    let stderr = || fs::read_to_string(sandbox.path("stderr")).unwrap();
    while !stderr().contains("training from scratch") {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    training.signal("TERM", 1);
    assert_eq!(training.end().code(), Some(143));
    assert_snapshot!(redacted(&format!("--- stderr\n{}", stderr())));
}

#[test]
fn the_first_signal_saves_and_leaves() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let sandbox = endless();
        let mut training = Training::start(&sandbox, &["train"]);
        training.wait_for("iteration    3/");
        training.signal(signal, 1);
        assert_eq!(training.end().code(), Some(code), "{signal}");
        let told = fs::read_to_string(sandbox.path("stderr")).unwrap();
        assert!(told.contains("stopping: finishing the step and saving"), "{told}");
        let at = last_saved(&sandbox);
        assert!(at >= 3, "{told}");
        assert!(told.contains(&format!("stopped: iteration {at} of 5000 is saved")), "{told}");
        let shown = sandbox.run(&["train", "--iterations", &at.to_string()]);
        assert!(shown.contains(&format!("resumed from `checkpoint_iter_{at}.pt`")), "{shown}");
        assert!(shown.contains("the training is complete"), "{shown}");
    }
}

#[test]
fn the_second_signal_leaves_at_once_and_damages_nothing() {
    let sandbox = endless();
    let mut training = Training::start(&sandbox, &["train"]);
    training.wait_for("iteration    3/");
    training.signal("INT", 2);
    assert_eq!(training.end().code(), Some(130));
    assert_eq!(sandbox.output(&["verify", "checkpoints"]).status.code(), Some(0));
}

/// A training that does not end by itself.
fn endless() -> Sandbox {
    with_config(
        &CONFIG.replace("iterations: 6, save_interval: 2", "iterations: 5000, save_interval: 1"),
    )
}

fn last_saved(sandbox: &Sandbox) -> u64 {
    let listed = sandbox.json(&["list", "checkpoints", "--json"]);
    listed.as_array().unwrap().last().unwrap()["iteration"].as_u64().unwrap()
}

#[test]
fn a_file_of_anywhere_is_resumed_from() {
    let sandbox = trained();
    fs::rename(sandbox.path("checkpoints/checkpoint_iter_4.pt"), sandbox.path("kept.pt")).unwrap();
    let elsewhere = sandbox.run(&["train", "--resume", "kept.pt", "--checkpoint-dir", "elsewhere"]);
    let within = sandbox.run(&["train", "--resume", "checkpoints/checkpoint_iter_2.pt"]);
    assert_snapshot!([elsewhere, within].map(|shown| redacted(&shown)).join("\n"));
    let diff = ["diff", "elsewhere/checkpoint_iter_6.pt", "checkpoints/checkpoint_iter_6.pt"];
    let ignored = ["--ignore", "timestamp", "--ignore", "metadata"];
    assert_eq!(sandbox.run(&[&diff[..], &ignored].concat()).lines().count(), 2);
}

#[test]
fn from_the_beginning_says_what_becomes_of_the_checkpoints_that_are_there() {
    let sandbox = trained();
    assert_snapshot!(redacted(&sandbox.run(&["train", "--resume", "never"])));
}

#[test]
fn a_larger_network_begins_with_what_fits_of_a_smaller_one() {
    let sandbox = trained();
    let larger =
        CONFIG.replace("num_blocks: 2", "num_blocks: 3").replace("iterations: 6", "iterations: 1");
    fs::write(sandbox.path("larger.yaml"), larger).unwrap();
    let from = "checkpoints/checkpoint_iter_6.pt";
    let args = ["train", "-c", "larger.yaml", "--init-from", from, "--checkpoint-dir", "larger"];
    let again = sandbox.run(&[&args[..], &["--iterations", "2"]].concat());
    assert_snapshot!([redacted(&again), redacted(&sandbox.run(&args))].join("\n"));
}

#[test]
fn on_a_terminal_it_asks() {
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("skipped: there is no `script` here");
        return;
    }
    let sandbox = sandbox();
    sandbox.output(&["train", "--iterations", "4"]);
    let yes = on_a_terminal(&sandbox, "what\ny\n");
    assert!(yes.contains("iteration 4 of 6, saved 20"), "{yes}");
    assert!(yes.contains("total_games 32"), "{yes}");
    assert!(yes.contains("Resume from the newest checkpoint? [Y/n]"), "{yes}");
    assert!(yes.contains("please answer y or n"), "{yes}");
    assert!(yes.contains("resumed from `checkpoint_iter_4.pt`, iteration 4 of 6"), "{yes}");

    let complete = on_a_terminal(&sandbox, "");
    assert!(complete.contains("the training is complete"), "{complete}");
    assert!(!complete.contains("[Y/n]"), "{complete}");

    let sandbox = sandbox.damage("checkpoints/checkpoint_iter_6.pt", |bytes| bytes.len() / 2);
    let no = on_a_terminal(&sandbox, "n\n");
    assert!(no.contains("checksum"), "{no}");
    assert!(no.contains("checkpoint_iter_4.pt"), "{no}");
    assert!(no.contains("Resume from this checkpoint, the newest sound one? [Y/n]"), "{no}");
    assert!(no.contains("training from scratch"), "{no}");
}

/// What a training shows on a terminal where `typed` is typed.
fn on_a_terminal(sandbox: &Sandbox, typed: &str) -> String {
    let mut command = sandbox.command(&[]);
    let scai = format!("{} train", command.get_program().to_str().unwrap());
    let mut script = Command::new("script");
    script.args(["-qec", &scai, "/dev/null"]).current_dir(command.get_current_dir().unwrap());
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    drop((stdin, command.stdin(Stdio::null())));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
