//! Every system call of a save fails, once and from then on, in a process of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

use scai_checkpoint::store::is_draft;
use scai_checkpoint::{CheckpointManager, Error};

use crate::aftermath::Promised;
use crate::child::{Ended, say, wait_to_go};
use crate::crash::{count, prepare, trial};
use crate::strace::{self, Call};
use crate::training::{Save, Size, full, open, state};

const SIZE: Size = Size::Medium;
const NEW: Save = Save { iteration: 4, writer: 1 };
const NEXT: Save = Save { iteration: 5, writer: 1 };

/// Calls that change files or make changes durable.
const MUTATING: [&str; 10] = [
    "openat",
    "flock",
    "ftruncate",
    "fallocate",
    "pwrite64",
    "fsync",
    "close",
    "renameat",
    "linkat",
    "unlinkat",
];
/// Calls that only look.
const LOOKING: [&str; 5] = ["fcntl", "statx", "newfstatat", "getdents64", "pread64"];

/// What a child does, by its role.
pub(crate) fn child(role: &str, directory: &Path) {
    let mut options = Promised::new(SIZE, 2).options();
    options.threads = if role == "two threads" { 2 } else { 1 };
    save_once(&open(directory, options));
}

/// A child: one save over the older state, and an account of what came of it.
fn save_once(manager: &CheckpointManager) {
    let _ = jiff::Zoned::now();
    let checkpoint = state(NEW, SIZE);
    wait_to_go();
    match manager.save(&checkpoint) {
        Ok(saved) => say(&format!("acknowledged, {} warnings", saved.warnings.len())),
        Err(error) => say(&format!("{}: {error}", kind(&error))),
    }
}

/// The name of the variant, and the error number where the operating system gave one.
fn kind(error: &Error) -> String {
    let variant = match error {
        Error::DiskFull { .. } => "DiskFull",
        Error::Io { .. } => "Io",
        Error::Locked { .. } => "Locked",
        Error::NotDurable { .. } => "NotDurable",
        Error::Damaged { .. } => "Damaged",
        _ => "another",
    };
    let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    match source.and_then(std::io::Error::raw_os_error) {
        Some(number) => format!("{variant} {number}"),
        None => variant.to_owned(),
    }
}

/// What came of failing calls.
#[derive(Debug, Default)]
struct Faults {
    runs: usize,
    acknowledged: usize,
    /// How often each kind of error was returned.
    errors: BTreeMap<String, usize>,
    drafts: usize,
    bad: Vec<String>,
}

/// The files with a final name, and their bytes.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| !is_draft(name) && name != ".scai.lock")
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .collect()
}

/// What is wrong with a run in which a call was failed.
fn judge(
    directory: &Path,
    before: &BTreeMap<String, Vec<u8>>,
    promised: &Promised,
    (ended, calls): (&Ended, &[Call]),
    faults: &mut Faults,
) -> Result<(), String> {
    let [said] = ended.said.as_slice() else { return Err(format!("it ended with {ended:?}")) };
    if !ended.status.success() {
        return Err(format!("after {said:?} it ended with {}", ended.status));
    }
    let mut promised = promised.clone();
    promised.begun.insert(NEW);
    if said.starts_with("acknowledged") {
        faults.acknowledged += 1;
        promised.acknowledge(NEW);
    } else {
        let kind = said.split(':').next().unwrap_or_default();
        *faults.errors.entry(kind.to_owned()).or_default() += 1;
        let number = kind.split(' ').nth(1);
        if number.is_none() || !["DiskFull", "Io", "NotDurable"].iter().any(|k| kind.starts_with(k))
        {
            return Err(format!("an error that says nothing: {said}"));
        }
        if kind.starts_with("DiskFull") && !said.contains("bytes are needed") {
            return Err(format!("it does not say how much is needed: {said}"));
        }
        if !kind.starts_with("NotDurable") && files(directory) != *before {
            return Err(format!("{said}, and yet something has changed"));
        }
    }
    let mut synced = BTreeSet::new();
    for call in calls.iter().filter(|call| call.name == "fsync" || call.name == "fdatasync") {
        if call.arguments.contains(".scai-") && !synced.insert(&call.arguments) {
            return Err(format!("a draft was synced twice: {}", call.arguments));
        }
    }
    faults.drafts += promised.aftermath(directory, NEXT)?.drafts;
    Ok(())
}

/// Fails the calls `names` with each of `errors`.
fn fail(role: &str, names: &[&str], errors: &[&str], faults: &mut Faults) {
    let role = format!("syscall faults: {role}");
    let template = tempfile::tempdir().unwrap();
    let promised = prepare(template.path(), SIZE);
    let before = files(template.path());
    let (_, ended, calls) = trial(&role, template.path(), &[]);
    assert_eq!(ended.said, ["acknowledged, 0 warnings"]);
    for (name, times) in count(&calls).into_iter().filter(|(name, _)| names.contains(&&**name)) {
        for (nth, error) in (1..=times).flat_map(|nth| errors.iter().map(move |error| (nth, error)))
        {
            for when in [format!("{nth}"), format!("{nth}+")] {
                let inject = format!("inject={name}:error={error}:when={when}");
                let options = ["-y", "-e", &format!("trace={name},fsync,fdatasync"), "-e", &inject];
                let options = options.map(str::to_owned);
                let (directory, ended, calls) = trial(&role, template.path(), &options);
                faults.runs += 1;
                let run = (&ended, calls.as_slice());
                println!("{inject} {:?}", ended.said);
                if let Err(why) = judge(directory.path(), &before, &promised, run, faults) {
                    faults.bad.push(format!("{inject}: {why}"));
                }
            }
        }
    }
}

#[test]
fn a_save_whose_system_calls_fail_says_so_and_harms_nothing() {
    if strace::missing("failing system calls") {
        return;
    }
    let start = Instant::now();
    let mut faults = Faults::default();
    fail("once", &MUTATING, &["EIO", "ENOSPC", "EDQUOT", "EFBIG"], &mut faults);
    fail(
        "once",
        &LOOKING,
        if full() { &["EIO", "ENOMEM", "EACCES"] } else { &["EIO"] },
        &mut faults,
    );
    let Faults { runs, acknowledged, errors, drafts, bad } = &faults;
    println!(
        "{runs} runs with a failing system call: {acknowledged} acknowledged, the others {errors:?}; \
         {drafts} drafts swept; {} bad; {:.1} s",
        bad.len(),
        start.elapsed().as_secs_f64()
    );
    assert_eq!(faults.bad, [""; 0]);
}
