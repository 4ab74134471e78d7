//! The description of a run in the metadata of every checkpoint.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use scai_checkpoint::Value;
use scai_checkpoint::value::to_value;
use serde::Serialize;

use crate::config::Config;
use crate::error::Result;

/// The metadata of a checkpoint.
#[derive(Debug, Serialize)]
struct Metadata<'a> {
    game: &'a str,
    notes: &'a str,
    config: &'a Config,
    /// Time spent in training, over all resumes.
    elapsed_seconds: f64,
    /// The commit of the working directory, if it is in a git repository.
    git_commit: Option<&'a str>,
    host: &'a str,
    platform: String,
    scai_version: &'static str,
    backend: &'static str,
}

/// What is known about a run from its beginning.
#[derive(Debug)]
pub(super) struct RunInfo {
    started: Instant,
    /// Time spent before this process.
    before: Duration,
    git_commit: Option<String>,
    host: String,
}

impl RunInfo {
    pub(super) fn new() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { started: Instant::now(), before: Duration::ZERO, git_commit: git_commit(), host }
    }

    /// Adds the time that a checkpoint says was spent before.
    pub(super) fn go_on_from(&mut self, metadata: &Value) {
        let seconds = metadata.as_dict().and_then(|dict| dict.get("elapsed_seconds")?.as_float());
        let before = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        self.before = before.unwrap_or_default();
        self.started = Instant::now();
    }

    pub(super) fn metadata(&self, game: &str, config: &Config) -> Result<Value> {
        Ok(to_value(&Metadata {
            game,
            notes: &config.notes,
            config,
            elapsed_seconds: (self.before + self.started.elapsed()).as_secs_f64(),
            git_commit: self.git_commit.as_deref(),
            host: &self.host,
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            scai_version: env!("CARGO_PKG_VERSION"),
            backend: crate::BACKEND,
        })?)
    }
}

/// The commit of the working directory; `None` without git or outside of a repository.
fn git_commit() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["rev-parse", "HEAD"]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = git.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
