//! The system calls of the real store, carried out on the simulated disk.
//!
//! The other tests of power failures run the protocol on a simulated disk. This one shows that the
//! store for real directories makes the very calls that the protocol means, in that order.

use std::collections::HashMap;
use std::path::Path;

use scai_checkpoint::CheckpointManager;
use scai_checkpoint::store::{Directory, Draft, LocalDirectory, Synced, is_draft};
use scai_checkpoint::testing::{Effect, Fault, FaultDirectory, Op, Times};

use crate::aftermath::Promised;
use crate::checkpoint_power_loss::{Bench, KEEP, SIZE, names};
use crate::child::{Process, command, say, wait_to_go};
use crate::strace::{self, Call};
use crate::support::over;
use crate::training::{Save, full, open, state};

/// Calls that neither change files nor make changes durable.
const HARMLESS: [&str; 13] = [
    "read",
    "pread64",
    "fstat",
    "newfstatat",
    "statx",
    "getdents64",
    "lseek",
    "fadvise64",
    "flock",
    "fcntl",
    "readlink",
    "mmap",
    "fstatfs",
];

/// What a child does, by its role: a run of some saves.
pub(crate) fn child(role: &str, directory: &Path) {
    let options = Promised::new(SIZE, KEEP).options().threads(1);
    let manager = match role {
        "run" => open(directory, options),
        "no sync of the file" => {
            // One without a name could not be named without a sync.
            let store =
                FaultDirectory::new(LocalDirectory::open(directory).unwrap().with_named_drafts());
            let concerns = |op: &Op| matches!(op, Op::SyncDraft { .. });
            let effect = Effect::Forget;
            store.arm(Fault { concerns, after: 0, times: Times::FromThenOn, effect });
            CheckpointManager::with_store(over(store), options)
        }
        role => panic!("{role}"),
    };
    wait_to_go();
    for iteration in 1..=if role == "run" { saves() } else { 2 } {
        say(&format!("begun {iteration}"));
        manager.save(state(Save { iteration, writer: 1 }, SIZE)).unwrap();
        say(&format!("acknowledged {iteration}"));
    }
}

fn saves() -> u64 {
    if full() { 12 } else { 4 }
}

/// The calls of a child, and the names it left.
fn trace(role: &str) -> (Vec<Call>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(command(&format!("replay: {role}"), directory.path()));
    let options = ["-x", "-y", "-s", "1000000", "-e", "trace=%file,%desc"].map(str::to_owned);
    let (ended, calls) = strace::run(process, &options);
    assert!(ended.status.success(), "{ended:?}");
    (calls, names(&LocalDirectory::open(directory.path()).unwrap()))
}

/// An argument of a call.
#[derive(Debug, Clone, PartialEq)]
enum Argument {
    /// A file descriptor and what it is open for.
    File(i32, String),
    Text(Vec<u8>),
    Other(String),
}

impl Argument {
    fn text(&self) -> String {
        match self {
            Argument::Text(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn number(&self) -> u64 {
        match self {
            Argument::Other(number) => number.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// The arguments of a call, as far as they are simple.
fn arguments(call: &Call) -> Vec<Argument> {
    let mut rest = call.arguments.as_str();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let argument = if let Some(quoted) = rest.strip_prefix('"') {
            let (bytes, after) = unescape(quoted);
            rest = after;
            Argument::Text(bytes)
        } else {
            let (text, after) = rest.split_once(", ").unwrap_or((rest, ""));
            rest = if after.is_empty() { "" } else { &rest[text.len()..] };
            match text.split_once('<').map(|(fd, path)| (fd.parse(), path)) {
                Some((Ok(fd), path)) => Argument::File(fd, path.trim_end_matches('>').to_owned()),
                _ => Argument::Other(text.to_owned()),
            }
        };
        found.push(argument);
        rest = rest.strip_prefix(", ").unwrap_or(rest);
    }
    found
}

/// The bytes of a quoted string, and what follows it.
fn unescape(quoted: &str) -> (Vec<u8>, &str) {
    let mut bytes = Vec::new();
    let mut rest = quoted.as_bytes();
    loop {
        match rest {
            [b'"', after @ ..] => return (bytes, std::str::from_utf8(after).unwrap()),
            [b'\\', b'x', high, low, after @ ..] => {
                let digit = |digit: u8| char::from(digit).to_digit(16).unwrap() as u8;
                bytes.push(digit(*high) << 4 | digit(*low));
                rest = after;
            }
            [b'\\', b'0'..=b'7', ..] => {
                let digits = rest[1..].iter().take(3);
                let digits: Vec<u8> =
                    digits.copied().take_while(|d| (b'0'..=b'7').contains(d)).collect();
                bytes.push(digits.iter().fold(0, |value, d| value << 3 | (d - b'0')));
                rest = &rest[1 + digits.len()..];
            }
            [b'\\', escaped, after @ ..] => {
                bytes.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'v' => 11,
                    b'f' => 12,
                    b'a' => 7,
                    b'b' => 8,
                    other => *other,
                });
                rest = after;
            }
            [byte, after @ ..] => {
                bytes.push(*byte);
                rest = after;
            }
            [] => panic!("a string without an end"),
        }
    }
}

/// A disk on which system calls are carried out.
struct Replay {
    bench: Bench,
    /// Drafts that are open, by file descriptor, with the name they have in the trace.
    open: HashMap<i32, (String, Box<dyn Draft>)>,
    /// Drafts that were closed without a sync.
    forgotten: Vec<Box<dyn Draft>>,
    /// Drafts that are synced, by the name they have in the trace; what has no name has a number.
    synced: HashMap<String, Synced>,
    /// Further descriptors, and the names in the trace of what they are open for.
    duplicates: HashMap<i32, String>,
    /// The kinds of calls, in order, each once where it comes several times in a row.
    order: Vec<&'static str>,
    writes: usize,
}

impl Replay {
    fn of(calls: &[Call]) -> Self {
        let mut replay = Self {
            bench: Bench::sound(),
            open: HashMap::new(),
            forgotten: Vec::new(),
            synced: HashMap::new(),
            duplicates: HashMap::new(),
            order: Vec::new(),
            writes: 0,
        };
        for call in calls {
            if !call.result.starts_with("-1 ") {
                replay.carry_out(call);
            }
        }
        replay
    }

    fn note(&mut self, kind: &'static str) {
        if self.order.last() != Some(&kind) {
            self.order.push(kind);
        }
    }

    fn carry_out(&mut self, call: &Call) {
        use Argument::{File, Text};

        let arguments = arguments(call);
        match (call.name.as_str(), arguments.as_slice()) {
            ("openat", [_, Text(_), flags, ..]) => self.opened(call, &arguments[1].text(), flags),
            ("fallocate" | "pwrite64" | "ftruncate", [File(_, path), ..])
                if path.ends_with(".scai.lock") => {}
            // What was reserved was reserved when the draft was created, a call before.
            ("fallocate", [File(fd, _), ..]) => assert!(self.open.contains_key(fd), "{call:?}"),
            ("pwrite64", [File(fd, _), Text(bytes), len, at]) => {
                assert_eq!(bytes.len() as u64, len.number(), "the trace has all bytes");
                assert_eq!(call.result, len.number().to_string());
                self.open[fd].1.write_at(at.number(), bytes).unwrap();
                self.writes += 1;
                self.note("write");
            }
            ("fsync", [File(fd, _)]) => match self.open.remove(fd) {
                Some((name, draft)) => {
                    self.synced.insert(name, draft.sync().unwrap());
                    self.note("sync file");
                }
                None => {
                    self.bench.disk.sync().unwrap();
                    self.order.push("sync directory");
                }
            },
            ("renameat", [_, Text(_), _, Text(_)]) => {
                let (from, to) = (arguments[1].text(), arguments[3].text());
                let synced = self.synced.remove(&from);
                let unsynced = self.open.values().find(|(name, _)| *name == from);
                let from = match (&synced, unsynced) {
                    (Some(synced), _) => synced.name(),
                    (None, Some((_, draft))) => draft.name(),
                    (None, None) => &from,
                };
                self.bench.disk.rename(from, &to).unwrap();
                self.note(if to == "latest.pt" { "rename latest" } else { "rename" });
            }
            ("fcntl", [File(_, path), Argument::Other(what), ..])
                if path.ends_with("(deleted)") && what.starts_with("F_DUPFD") =>
            {
                let fd = call.result.split('<').next().unwrap().parse().unwrap();
                self.duplicates.insert(fd, path.clone());
            }
            ("linkat", [_, Text(from), _, Text(_), ..]) if from.starts_with(b"/proc/self/fd/") => {
                let from = arguments[1].text();
                let fd: i32 = from.rsplit('/').next().unwrap().parse().unwrap();
                let synced = &self.synced[&self.duplicates[&fd]];
                self.bench.disk.name_draft(synced, &arguments[3].text()).unwrap();
                self.note("name");
            }
            ("linkat", [_, Text(_), _, Text(_), ..]) => {
                self.bench.disk.link(&arguments[1].text(), &arguments[3].text()).unwrap();
                self.note("link");
            }
            ("unlinkat", [_, Text(_), ..]) => {
                self.bench.disk.remove(&arguments[1].text()).unwrap();
                self.note("unlink");
            }
            ("write", [File(1, _), Text(_), ..]) => self.said(&arguments[1].text()),
            ("close", [File(fd, _)]) => {
                self.forgotten.extend(self.open.remove(fd).map(|(_, draft)| draft));
            }
            (name, _) if HARMLESS.contains(&name) => {}
            _ => panic!("what does this change? {call:?}"),
        }
    }

    fn opened(&mut self, call: &Call, name: &str, flags: &Argument) {
        let Argument::Other(flags) = flags else { panic!("{call:?}") };
        let fd = || call.result.split('<').next().unwrap().parse().unwrap();
        if flags.contains("O_TMPFILE") {
            let path = call.result.split_once('<').unwrap().1.trim_end_matches('>').to_owned();
            let draft = self.bench.disk.create_for("unnamed", 0).unwrap();
            self.open.insert(fd(), (path, draft));
            self.note("create");
        } else if is_draft(name) && flags.contains("O_CREAT") {
            assert!(flags.contains("O_EXCL"), "{call:?}");
            let fd = fd();
            self.open.insert(fd, (name.to_owned(), self.bench.disk.create(0).unwrap()));
            self.note("create");
        } else if name != ".scai.lock" {
            assert!(flags.contains("O_RDONLY"), "{call:?}");
        }
    }

    fn said(&mut self, text: &str) {
        let number = |word: &str| -> Option<u64> { text.trim().strip_prefix(word)?.parse().ok() };
        if let Some(iteration) = number("> begun ") {
            self.bench.begin(Save { iteration, writer: 1 });
        } else if let Some(iteration) = number("> acknowledged ") {
            self.bench.acknowledge(Save { iteration, writer: 1 });
            self.order.push("acknowledge");
        }
    }
}

#[test]
fn the_system_calls_of_real_saves_survive_every_power_failure() {
    if strace::missing("the order of the system calls of a save") {
        return;
    }
    let (calls, mut left) = trace("run");
    let replay = Replay::of(&calls);

    let save = ["create", "write", "sync file", "name", "sync directory"];
    let latest = ["link", "rename latest", "sync directory"];
    let (prune, end) = (["unlink", "sync directory"], ["acknowledge"]);
    let saved = [save.as_slice(), &latest, &end].concat();
    let pruned = [save.as_slice(), &latest, &prune, &end].concat();
    let keep = KEEP as usize;
    let expected = [saved.repeat(keep), pruned.repeat(saves() as usize - keep)].concat();
    assert_eq!(replay.order, expected);
    assert!(replay.writes >= 2 * saves() as usize);

    // The replay is faithful: the same files are there.
    let mut replayed = names(&replay.bench.disk);
    replayed.sort();
    left.sort();
    assert_eq!(replayed, left);
    replay.bench.assert_safe("the system calls of real saves, replayed");
}

#[test]
fn the_system_calls_of_a_writer_that_forgets_to_sync_are_caught() {
    if strace::missing("the system calls of a broken writer") {
        return;
    }
    let (calls, _) = trace("no sync of the file");
    let replay = Replay::of(&calls);
    assert!(!replay.order.contains(&"sync file"));
    replay.bench.assert_caught("no sync of the file, replayed");
}
