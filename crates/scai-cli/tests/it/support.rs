//! A directory to work in, and the program run in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use scai_checkpoint::codec::{Format, Plan};
use scai_checkpoint::{Checkpoint, Dict, Tensor, Value, file};
use tempfile::TempDir;

/// A directory that goes away.
pub(crate) struct Sandbox(TempDir);

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// With a golden file of torch 2.15 in it.
    pub(crate) fn golden(self, name: &str) -> Self {
        let golden = repository().join("fixtures/golden/files");
        let folder = match name.rsplit('.').next() {
            Some("safetensors") => "safetensors",
            Some("jit") => "torchscript",
            _ => "torch-2.15.0",
        };
        let source = golden.join(folder).join(name);
        fs::copy(source, self.path(name.rsplit('/').next().unwrap())).unwrap();
        self
    }

    /// With a file that scai wrote.
    pub(crate) fn file(self, name: &str, tree: &Value) -> Self {
        let format =
            if name.ends_with(".safetensors") { Format::Safetensors } else { Format::Torch };
        file::write(self.path(name), Plan::new(tree, format).unwrap(), 1).unwrap();
        self
    }

    /// Changes a byte of a file.
    pub(crate) fn damage(self, name: &str, at: impl Fn(&[u8]) -> usize) -> Self {
        let mut bytes = fs::read(self.path(name)).unwrap();
        let at = at(&bytes);
        bytes[at] ^= 0x40;
        fs::write(self.path(name), bytes).unwrap();
        self
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scai"));
        command.args(args).current_dir(self.0.path()).env_remove("NO_COLOR").env("TZ", "UTC");
        for variable in ["CLICOLOR", "CLICOLOR_FORCE", "COLUMNS"] {
            command.env_remove(variable);
        }
        command
    }

    pub(crate) fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// All that a run shows: the command, stdout, stderr, the exit code where it is not 0.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.output(args);
        let mut shown = format!("$ scai {}\n", args.join(" "));
        shown += &String::from_utf8(stdout).unwrap();
        if !stderr.is_empty() {
            shown += &format!("--- stderr\n{}", String::from_utf8(stderr).unwrap());
        }
        match status.code() {
            Some(0) => {}
            code => shown += &format!("--- exit code {}\n", code.unwrap_or(-1)),
        }
        shown
    }

    /// What a run that is expected to succeed, or to say no, prints as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_slice(&self.output(args).stdout).unwrap()
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A small training state; `shift` is added to one weight of the model.
pub(crate) fn state(iteration: u64, loss: f64, shift: f32) -> Value {
    let weights: Vec<f32> = (0..20_000).map(|i| (i as f32 * 0.01).sin()).collect();
    let mut weights = weights;
    weights[17_000] += shift;
    let weight = Tensor::from_vec(vec![100, 200], weights).unwrap();
    let model: Dict = [
        ("embed.weight", weight.clone()),
        ("head.weight", weight),
        ("head.bias", Tensor::from_vec(vec![3], vec![0.5_f32, -1.0, 2.0]).unwrap()),
    ]
    .into_iter()
    .collect();
    let mut checkpoint = Checkpoint::new(iteration, model, Dict::new());
    let mut stats = Dict::new();
    stats.insert("loss", loss);
    stats.insert("games", iteration as i64 * 10);
    checkpoint.training_stats = Value::Dict(stats);
    checkpoint.timestamp = Some(format!("2026-11-23T0{}:00:00+00:00", iteration / 100));
    checkpoint.into_tree().unwrap()
}
