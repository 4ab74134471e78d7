//! This test binary as a process of its own, to be killed, traced and starved.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::{env, fs, io};

const ROLE: &str = "SCAI_TEST_ROLE";
const DIRECTORY: &str = "SCAI_TEST_DIRECTORY";
const SAID: &str = "> ";
const READY: &str = "ready";

/// The command that runs `role` in `directory`; [`run`] is what it runs.
pub(crate) fn command(role: &str, directory: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "child::run", "--ignored", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(DIRECTORY, directory);
    command
}

/// A running child.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// A child that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// What it said, in order.
    pub(crate) said: Vec<String>,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        Self { child, stdin, stdout: BufReader::new(stdout) }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the child stands in [`wait_to_go`].
    pub(crate) fn wait_until_ready(&mut self) {
        while self.hear().expect("the child ended before it was ready") != READY {}
    }

    /// The next thing the child says; nothing once it has ended.
    pub(crate) fn hear(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // A line that a kill has cut was not said.
            let said = line.strip_prefix(SAID).and_then(|line| line.strip_suffix('\n'));
            if let Some(said) = said {
                return Some(said.to_owned());
            }
        }
    }

    /// Lets a child go that waits. A call that goes on when a tracer attaches is entered anew: a
    /// child that is killed at that has ended already.
    pub(crate) fn go(&mut self) {
        match self.stdin.as_mut().unwrap().write_all(b"go\n") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.unwrap(),
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits for the end of the child.
    pub(crate) fn end(mut self) -> Ended {
        let said = std::iter::from_fn(|| self.hear()).collect();
        drop(self.stdin.take());
        Ended { status: self.child.wait().unwrap(), said }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Where a test fails, its children go with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The numbers that follow `word` in what was said.
    pub(crate) fn numbers(&self, word: &str) -> Vec<u64> {
        let said = self.said.iter().filter_map(|said| said.strip_prefix(word));
        said.filter_map(|number| number.trim().parse().ok()).collect()
    }
}

/// Tells the parent, in one system call, so that a kill cannot cut it in two.
pub(crate) fn say(what: &str) {
    io::stdout().write_all(format!("\n{SAID}{what}\n").as_bytes()).unwrap();
}

/// Waits until the parent lets this child go.
pub(crate) fn wait_to_go() {
    // The parent's tracer is no ancestor of this process, which some systems want to be asked for.
    let _ = rustix::process::set_ptracer(rustix::process::PTracer::Any);
    say(READY);
    io::stdin().read_exact(&mut [0; 3]).unwrap();
}

#[test]
#[ignore = "run by other tests in a process of its own"]
fn run() {
    let (Ok(role), Some(directory)) = (env::var(ROLE), env::var_os(DIRECTORY)) else { return };
    let directory = PathBuf::from(directory);
    match role.split_once(": ") {
        Some(("crash", role)) => crate::crash::child(role, &directory),
        Some(("disk full", role)) => crate::disk_full::child(role, &directory),
        Some(("folder", role)) => crate::folder::child(role, &directory),
        Some(("places", role)) => crate::places::child(role, &directory),
        Some(("replay", role)) => crate::replay::child(role, &directory),
        Some(("syscall faults", role)) => crate::syscall_faults::child(role, &directory),
        Some(("two processes", role)) => crate::two_processes::child(role, &directory),
        _ => panic!("{role}"),
    }
}

/// Copies the files of a directory, links as links.
pub(crate) fn copy_directory(from: &Path, to: &Path) {
    use std::os::unix::fs::MetadataExt;

    fs::create_dir_all(to).unwrap();
    let mut copied = std::collections::HashMap::new();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match copied.get(&entry.metadata().unwrap().ino()) {
            Some(same) => fs::hard_link(same, &to).unwrap(),
            None => {
                fs::copy(entry.path(), &to).unwrap();
                copied.insert(entry.metadata().unwrap().ino(), to);
            }
        }
    }
}
