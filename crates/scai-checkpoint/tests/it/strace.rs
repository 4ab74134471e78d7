//! `strace`: which system calls a child makes, and a child whose calls are killed or failed.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::{fs, thread};

use crate::child::{Ended, Process};

/// A system call, as `strace` tells it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) thread: u32,
    pub(crate) name: String,
    pub(crate) arguments: String,
    /// What it returned; empty where it did not.
    pub(crate) result: String,
}

/// Whether processes can be traced here; says so once where they cannot.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let found = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    })
}

/// Prints why a test proves nothing here. Not to be overlooked among the output of others.
pub(crate) fn skipped(what: &str) {
    println!("SKIPPED: {what}");
    eprintln!("SKIPPED: {what}");
}

/// Whether `strace` is missing, which is then said.
pub(crate) fn missing(what: &str) -> bool {
    if !available() {
        skipped(&format!("{what}: there is no strace (`make tools` installs it)"));
    }
    !available()
}

/// Runs a child that waits, traced with `options`, until its end. Counts in the options begin
/// where the child is let go, so that the start of the process does not matter.
pub(crate) fn run(mut process: Process, options: &[String]) -> (Ended, Vec<Call>) {
    process.wait_until_ready();
    let output = tempfile::NamedTempFile::new().unwrap();
    let mut tracer = attach(&process, options, output.path());
    process.go();
    let ended = process.end();
    tracer.wait().unwrap();
    let trace = String::from_utf8_lossy(&fs::read(output.path()).unwrap()).into_owned();
    (ended, parse(&trace))
}

fn attach(process: &Process, options: &[String], output: &Path) -> Child {
    let mut tracer = Command::new("strace")
        .args(["-f", "-p", &process.id().to_string(), "-o"])
        .arg(output)
        .args(options)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(tracer.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("attached") {
        line.clear();
        let read = stderr.read_line(&mut line).unwrap();
        assert!(read > 0 && !line.contains("Operation not permitted"), "no tracing here: {line}");
    }
    // What else it says is of no interest, but must not block it.
    thread::spawn(move || stderr.read_to_end(&mut Vec::new()));
    tracer
}

/// The calls of a trace, in the order in which they began.
fn parse(trace: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let (Ok(thread), rest) = (thread.parse(), rest.trim_start()) else { continue };
        if let Some(rest) = rest.strip_prefix("<... ") {
            let Some((_, rest)) = rest.split_once(" resumed>") else { continue };
            let open = calls.iter_mut().rev().find(|call| call.thread == thread);
            if let Some(call) = open {
                let (arguments, result) = split_result(rest);
                call.arguments.push_str(arguments);
                call.result = result.to_owned();
            }
        } else if let Some((name, rest)) = rest.split_once('(')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            let rest = rest.strip_suffix(" <unfinished ...>").unwrap_or(rest);
            let (arguments, result) = split_result(rest);
            let (name, arguments, result) = (name.into(), arguments.into(), result.into());
            calls.push(Call { thread, name, arguments, result });
        }
    }
    calls
}

/// `arguments) = result` in two.
fn split_result(text: &str) -> (&str, &str) {
    match text.rsplit_once(" = ") {
        Some((arguments, result)) => {
            (arguments.trim_end().strip_suffix(')').unwrap_or(arguments), result.trim())
        }
        None => (text, ""),
    }
}
