//! Directories that are distributed checkpoints.

use std::fs;
use std::path::Path;

use insta::assert_snapshot;

use crate::support::{Sandbox, state};

/// A sandbox with a directory that PyTorch wrote, and the same state as a file.
fn stock(name: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/dcp");
    fs::create_dir(sandbox.path(name)).unwrap();
    for entry in fs::read_dir(files.join(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, sandbox.path(name).join(path.file_name().unwrap())).unwrap();
    }
    let file = format!("{name}.pt");
    fs::copy(files.join(&file), sandbox.path(&file)).unwrap();
    sandbox
}

/// With the names that a commit draws replaced.
fn shown(sandbox: &Sandbox, args: &[&str]) -> String {
    let text = sandbox.run(args);
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(c) = rest.chars().next() {
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        if digits == 32 {
            out.push_str("<ATTEMPT>");
            rest = &rest[digits..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

#[test]
fn a_directory_of_pytorch_is_shown_verified_and_listed() {
    let sandbox = stock("two_ranks");
    let runs: [&[&str]; 6] = [
        &["show", "two_ranks"],
        &["show", "two_ranks", "--shards"],
        &["show", "two_ranks", "columns"],
        &["verify", "two_ranks"],
        &["verify", "."],
        &["list", "two_ranks", "--verify"],
    ];
    assert_snapshot!(runs.map(|args| sandbox.run(args)).join("\n"));
    let json = sandbox.json(&["show", "two_ranks", "--shards", "--json"]);
    assert_eq!(json["format"], "dcp");
    assert_eq!(json["distributed"]["world_size"], 2);
    assert_eq!(json["distributed"]["shards"][0]["path"], "iteration");
}

#[test]
fn a_checkpoint_of_shards_in_a_run_is_verified_once() {
    let sandbox = stock("two_ranks");
    fs::create_dir(sandbox.path("run")).unwrap();
    sandbox.run(&["convert", "two_ranks.pt", "run/checkpoint_iter_7/", "--allow-unprotected"]);
    sandbox.run(&["convert", "two_ranks.pt", "run/other/", "--allow-unprotected"]);
    let json = sandbox.json(&["verify", "run", "--json"]);
    let paths: Vec<&str> =
        json.as_array().unwrap().iter().map(|one| one["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["run/checkpoint_iter_7", "run/other"]);
}

#[test]
fn a_directory_of_pytorch_equals_what_pytorch_makes_of_it() {
    for name in ["one_rank", "two_ranks"] {
        let sandbox = stock(name);
        let file = format!("{name}.pt");
        for out in ["out.pt", "out.safetensors"] {
            let output = sandbox.output(&["convert", name, out, "--allow-unprotected"]);
            assert_eq!(
                output.status.code(),
                Some(0),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        for other in ["out.pt", "out.safetensors", name] {
            let output = sandbox.run(&["diff", &file, other]);
            assert!(output.contains("identical bit for bit"), "{output}");
        }
    }
}

#[test]
fn a_file_becomes_a_directory_and_comes_back_equal() {
    let sandbox = Sandbox::new().golden("checkpoint.pt").file("a.pt", &state(100, 0.5, 0.0));
    let runs: [&[&str]; 9] = [
        &["convert", "checkpoint.pt", "directory/"],
        &["show", "directory"],
        &["show", "directory", "--shards"],
        &["verify", "directory"],
        &["list", "directory"],
        &["diff", "checkpoint.pt", "directory"],
        &["convert", "directory", "back.pt"],
        &["diff", "checkpoint.pt", "back.pt"],
        &["convert", "a.pt", "directory", "--format", "dcp"],
    ];
    assert_snapshot!(runs.map(|args| shown(&sandbox, args)).join("\n"));
    let tied = ["convert", "a.pt", "tied", "--format", "dcp"];
    assert_eq!(sandbox.output(&tied).status.code(), Some(0));
    assert!(sandbox.run(&["show", "tied"]).contains("head.weight"));
}

#[test]
fn files_that_do_not_belong_to_a_directory_are_named_and_damage_is_too() {
    let sandbox = Sandbox::new().golden("checkpoint.pt");
    assert_eq!(sandbox.output(&["convert", "checkpoint.pt", "d/"]).status.code(), Some(0));
    let other = format!("d/{}_0_0.distcp", "f".repeat(32));
    fs::write(sandbox.path(&other), b"other").unwrap();
    fs::write(sandbox.path("d/notes.txt"), b"mine").unwrap();
    fs::write(sandbox.path("d/.metadata"), b"stale").unwrap();
    let unbound = shown(&sandbox, &["verify", "d"]);
    let names = fs::read_dir(sandbox.path("d")).unwrap();
    let names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let shard =
        names.iter().find(|name| name.ends_with("_0_0.distcp") && !name.starts_with("ffff"));
    let shard = sandbox.path("d").join(shard.unwrap());
    let mut bytes = fs::read(&shard).unwrap();
    let at = bytes.len() / 3;
    bytes[at] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    let damaged = shown(&sandbox, &["verify", "d"]);
    fs::remove_file(&shard).unwrap();
    let missing = shown(&sandbox, &["verify", "d"]);
    let shown = shown(&sandbox, &["show", "d"]);
    assert_snapshot!([unbound, damaged, missing, shown].join("\n"));
}

#[test]
fn a_directory_and_a_file_with_numbered_parameters_are_compared_by_name() {
    // The directory has the optimizer by name; the file is `optimizer.state_dict()` of the same run.
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/dcp");
    let sandbox = stock("two_ranks");
    fs::copy(files.join("numbered.pt"), sandbox.path("numbered.pt")).unwrap();
    for (a, b) in [("numbered.pt", "two_ranks"), ("two_ranks", "numbered.pt")] {
        let output = sandbox.run(&["diff", a, b]);
        assert!(output.contains("identical bit for bit"), "{output}");
    }
}
