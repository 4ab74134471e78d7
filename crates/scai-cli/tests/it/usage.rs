//! Help, wrong usage, colours, pipes.

use std::process::Stdio;

use insta::assert_snapshot;

use crate::support::{Sandbox, state};

#[cfg(feature = "train")]
#[test]
fn help_tells_the_commands_and_the_exit_codes() {
    let sandbox = Sandbox::new();
    assert_snapshot!(sandbox.run(&["--help"]));
}

#[test]
fn wrong_usage_has_advice() {
    let sandbox = directory();
    let runs: [&[&str]; 9] = [
        &["shwo", "a.pt"],
        &["show"],
        &["show", "b.pt"],
        &["show", "checkpoint_iter_10.pt"],
        &["show", "."],
        &["list", "none"],
        &["list", "a.pt"],
        &["prune", "."],
        &["prune", ".", "--best", "lss:min"],
    ];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
}

fn directory() -> Sandbox {
    Sandbox::new()
        .file("a.pt", &state(100, 0.5, 0.0))
        .file("checkpoint_iter_100.pt", &state(100, 0.5, 0.0))
}

#[test]
fn what_is_no_checkpoint_is_an_error() {
    let sandbox = Sandbox::new().golden("byteorder_big.pt");
    std::fs::write(sandbox.path("text.pt"), "hello, this is text").unwrap();
    std::fs::write(sandbox.path("empty.pt"), "").unwrap();
    let runs: [&[&str]; 3] =
        [&["show", "text.pt"], &["show", "empty.pt"], &["show", "byteorder_big.pt"]];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
}

#[test]
fn colours_are_used_only_when_asked_for_or_on_a_terminal() {
    let sandbox = directory();
    let coloured = |args: &[&str], no_color: bool| {
        let mut command = sandbox.command(args);
        if no_color {
            command.env("NO_COLOR", "1");
        }
        command.output().unwrap().stdout.contains(&0x1b)
    };
    assert!(!coloured(&["show", "a.pt"], false));
    assert!(coloured(&["show", "a.pt", "--color", "always"], false));
    assert!(coloured(&["show", "a.pt", "--color", "always"], true));
    assert!(!coloured(&["show", "a.pt", "--color", "never"], false));
}

#[test]
fn a_pipe_that_closes_early_is_no_error() {
    let sandbox = directory();
    for args in [&["show", "a.pt"][..], &["completions", "bash"], &["show", "a.pt", "--json"]] {
        let mut command = sandbox.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{args:?}");
    }
}

#[test]
fn completions_are_made_for_every_shell() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = sandbox.output(&["completions", shell]);
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains("no-values"), "{shell}");
    }
}
