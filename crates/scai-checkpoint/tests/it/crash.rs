//! A process that saves is killed: on entry to every system call, and at random moments.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fmt, fs, io, thread};

use scai_checkpoint::CheckpointManager;
use scai_checkpoint::store::Io;
use scai_checkpoint::store::LocalDirectory;
use tempfile::TempDir;

use crate::aftermath::Promised;
use crate::careless::{Careless, Mistake, Overwrite};
use crate::child::{Ended, Process, command, copy_directory, say, wait_to_go};
use crate::strace::{self, Call};
use crate::support::over;
use crate::training::{Random, Save, Size, full, open, save_of, state};

const SIZE: Size = Size::Large;
const KEEP: u64 = 2;
/// Calls that no file can tell of: what is on disk is the same before and after them.
const INWARD: [&str; 16] = [
    "brk",
    "clone3",
    "exit",
    "futex",
    "getpid",
    "gettid",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "rseq",
    "rt_sigprocmask",
    "sched_getaffinity",
    "set_robust_list",
    "sigaltstack",
];

fn save(iteration: u64) -> Save {
    Save { iteration, writer: 1 }
}

/// A directory as a training run leaves it: 2 and 3, `latest.pt`, and the lock file.
pub(crate) fn prepare(directory: &Path, size: Size) -> Promised {
    let mut promised = Promised::new(size, KEEP);
    let manager = open(directory, promised.options());
    for iteration in 1..=3 {
        promised.save(&manager, save(iteration));
    }
    promised
}

/// A child: one save over the older state. The iteration is 4.
pub(crate) fn save_once(manager: &CheckpointManager, size: Size) {
    // The list of time zones is read once in a process, by hundreds of calls.
    let _ = jiff::Zoned::now();
    let checkpoint = state(save(4), size);
    wait_to_go();
    match manager.save(checkpoint.clone()) {
        Ok(saved) => {
            assert!(saved.warnings.is_empty(), "{:?}", saved.warnings);
            say("acknowledged 4");
        }
        Err(error) => say(&format!("failed: {error}")),
    }
}

/// What a child does, by its role.
pub(crate) fn child(role: &str, directory: &Path) {
    let mut options = Promised::new(SIZE, KEEP).options();
    let careless = |options, mistake| {
        let store = Careless { store: LocalDirectory::open(directory).unwrap(), mistake };
        CheckpointManager::with_store(over(store), options)
    };
    match role {
        "for ever" => return save_for_ever(&open(directory, options.io(Io::Direct))),
        "once, two threads" => options = options.threads(2).io(Io::Direct),
        "once, past the page cache" => options = options.threads(1).io(Io::Direct),
        _ => options = options.threads(1).io(Io::Buffered),
    }
    let manager = match role {
        "once, named drafts" => {
            let store = LocalDirectory::open(directory).unwrap().with_named_drafts();
            CheckpointManager::with_store(over(store), options)
        }
        "in place" => careless(options, Mistake::InPlace),
        "delete first" => careless(options, Mistake::DeleteFirst),
        _ => open(directory, options),
    };
    save_once(&manager, SIZE);
}

impl Overwrite for LocalDirectory {
    fn overwrite_with(&self, from: &str, to: &str) -> io::Result<()> {
        fs::copy(self.path().join(from), self.path().join(to)).map(drop)
    }
}

/// What came of killing a writer at many places.
#[derive(Debug, Default)]
struct Kills {
    cases: usize,
    killed: usize,
    acknowledged: usize,
    found_new: usize,
    drafts: usize,
    bad: Vec<String>,
}

impl fmt::Display for Kills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cases, killed, acknowledged, found_new, drafts, bad } = self;
        write!(
            f,
            "{killed} kills in {cases} runs ({acknowledged} runs were acknowledged): {found_new} \
             left the new checkpoint, {} the old one, {drafts} a draft; {} bad",
            cases - found_new - bad.len(),
            bad.len()
        )
    }
}

/// How often each call is made by the thread that makes it most, from the moment a child is let
/// go until it says what came of it.
pub(crate) fn count(calls: &[Call]) -> BTreeMap<String, usize> {
    let said = |call: &Call| call.name == "write" && call.arguments.contains("\\n> ");
    let end = calls.iter().position(said).expect("the save was traced to its end");
    let mut of_threads: BTreeMap<(&str, u32), usize> = BTreeMap::new();
    for call in &calls[..=end] {
        *of_threads.entry((&call.name, call.thread)).or_default() += 1;
    }
    let mut counts = BTreeMap::new();
    for ((name, _), times) in of_threads {
        let most: &mut usize = counts.entry(name.to_owned()).or_default();
        *most = times.max(*most);
    }
    counts
}

/// A run of the child `role` in a copy of the directory `template`.
pub(crate) fn trial(
    role: &str,
    template: &Path,
    options: &[String],
) -> (TempDir, Ended, Vec<Call>) {
    let directory = tempfile::tempdir().unwrap();
    copy_directory(template, directory.path());
    let process = Process::start(command(role, directory.path()));
    let (ended, calls) = strace::run(process, options);
    (directory, ended, calls)
}

/// Kills the child `role` on entry to the system calls it makes, one after the other, where
/// `wanted` says so of the call's name and number.
fn kill_at_every_call(role: &str, wanted: impl Fn(&str, usize) -> bool) -> Kills {
    let template = tempfile::tempdir().unwrap();
    let promised = prepare(template.path(), SIZE);
    let (directory, ended, calls) = trial(role, template.path(), &[]);
    assert_eq!(ended.said, ["acknowledged 4"]);
    let mut unharmed = promised.clone();
    unharmed.acknowledge(save(4));
    unharmed.check(directory.path()).expect("a writer that nobody kills is right");

    let mut kills = Kills::default();
    for (name, times) in count(&calls) {
        for nth in (1..=times).filter(|nth| wanted(&name, *nth)) {
            let inject = format!("inject={name}:signal=KILL:when={nth}");
            let trace = format!("trace={name}");
            let options = ["-e".to_owned(), trace, "-e".to_owned(), inject];
            let (directory, ended, _) = trial(role, template.path(), &options);
            let mut promised = promised.clone();
            promised.begun.insert(save(4));
            if !ended.said.is_empty() {
                promised.acknowledge(save(4));
            }
            kills.cases += 1;
            kills.killed += usize::from(!ended.status.success());
            kills.acknowledged += ended.said.len();
            match promised.aftermath(directory.path(), save(5)) {
                Ok(found) => {
                    kills.found_new += usize::from(found.newest == Some(save(4)));
                    kills.drafts += found.drafts;
                }
                Err(why) => kills.bad.push(format!("{name}, call {nth}: {why}")),
            }
        }
    }
    kills
}

fn assert_harmless(what: &str, wanted: impl Fn(&str, usize) -> bool) {
    let start = Instant::now();
    let kills = kill_at_every_call(&format!("crash: {what}"), wanted);
    let seconds = start.elapsed().as_secs_f64();
    println!("SIGKILL on entry to system calls (save {what}): {kills}; {seconds:.1} s");
    assert_eq!(kills.bad, [""; 0]);
    // Which calls the allocator makes is not quite the same in every run.
    assert!(kills.killed * 10 >= kills.cases * 8, "most runs must end with a kill: {kills}");
    assert!(kills.found_new > 0 && kills.found_new < kills.cases, "too few places: {kills}");
    // Threads meet a kill while they write, when a draft has no name.
    assert!(kills.drafts > 0 || what == "once, two threads", "too few places: {kills}");
}

#[test]
fn a_save_killed_at_any_system_call_loses_nothing() {
    if strace::missing("SIGKILL at every system call") {
        return;
    }
    assert_harmless("once", |name, nth| full() || !INWARD.contains(&name) || nth % 8 == 1);
}

#[test]
fn a_save_where_drafts_have_names_killed_at_any_system_call_loses_nothing() {
    if strace::missing("SIGKILL at every system call, named drafts") {
        return;
    }
    assert_harmless("once, named drafts", |name, nth| !INWARD.contains(&name) || nth % 32 == 1);
}

#[test]
fn a_save_past_the_page_cache_killed_at_any_system_call_loses_nothing() {
    if strace::missing("SIGKILL at every system call past the page cache") {
        return;
    }
    let what = "once, past the page cache";
    assert_harmless(what, |name, nth| full() || !INWARD.contains(&name) || nth % 8 == 1);
}

#[test]
fn a_save_with_two_threads_killed_while_it_writes_loses_nothing() {
    if strace::missing("SIGKILL of a save with two threads") {
        return;
    }
    // Threads count their calls apart: the first that makes so many meets the kill. They share
    // the eleven writes differently in every run, but one of at most four makes three.
    let wanted = |name: &str, nth| match name {
        "clone3" | "exit" | "fsync" => true,
        "pwrite64" => nth <= 3 || full(),
        _ => full(),
    };
    for _ in 0..3 {
        assert_harmless("once, two threads", wanted);
    }
}

#[test]
fn a_writer_in_place_and_one_that_deletes_first_are_caught_by_kills() {
    if strace::missing("SIGKILL of broken writers") {
        return;
    }
    for role in ["in place", "delete first"] {
        let telling = ["copy_file_range", "sendfile", "write", "pwrite64", "renameat", "fsync"];
        let kills =
            kill_at_every_call(&format!("crash: {role}"), |name, _| telling.contains(&name));
        let first = kills.bad.first().map_or("", String::as_str);
        println!("broken writer ({role}): {kills}, first: {first}");
        assert!(!kills.bad.is_empty(), "{role} was not noticed");
    }
}

/// The child: saves one iteration after the other and tells of each.
fn save_for_ever(manager: &CheckpointManager) {
    let resumed = manager.resume().unwrap().expect("a checkpoint");
    let newest = save_of(&resumed.checkpoint, SIZE).unwrap();
    wait_to_go();
    for iteration in newest.iteration + 1.. {
        say(&format!("begun {iteration}"));
        let saved = manager.save(state(save(iteration), SIZE)).unwrap();
        assert!(saved.warnings.is_empty(), "{:?}", saved.warnings);
        say(&format!("acknowledged {iteration}"));
    }
}

#[test]
fn a_run_killed_at_random_moments_always_goes_on_from_its_newest_save() {
    let count = if full() { 5_000 } else { 200 };
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut promised = prepare(directory, SIZE);
    let start = Instant::now();
    let (mut random, mut saves, mut within, mut drafts) = (Random(1), 0, 0, 0);
    let span = time_of_a_save(directory, &mut promised) * 3;
    for kill in 0..count {
        let mut process = Process::start(command("crash: for ever", directory));
        process.wait_until_ready();
        process.go();
        thread::sleep(span.mul_f64(random.below(1 << 20) as f64 / (1 << 20) as f64));
        process.kill();
        let ended = process.end();
        let (begun, acknowledged) = (ended.numbers("begun"), ended.numbers("acknowledged"));
        within += usize::from(begun.len() > acknowledged.len());
        saves += acknowledged.len();
        promised.begun.extend(begun.into_iter().map(save));
        acknowledged.into_iter().for_each(|iteration| promised.acknowledge(save(iteration)));
        let next = save(promised.begun.last().unwrap().iteration + 1);
        let found = promised.aftermath(directory, next);
        drafts += found.unwrap_or_else(|why| panic!("kill {kill}: {why}")).drafts;
    }
    println!(
        "SIGKILL at {count} random moments within {span:?}: {within} within a save, {saves} saves \
         acknowledged, 0 lost, {drafts} drafts swept; {:.1} s",
        start.elapsed().as_secs_f64()
    );
    assert!(within * 2 > count, "too few kills hit a save: {within} of {count}");
}

fn time_of_a_save(directory: &Path, promised: &mut Promised) -> Duration {
    let manager = open(directory, promised.options());
    let start = Instant::now();
    for iteration in 4..8 {
        promised.save(&manager, save(iteration));
    }
    start.elapsed() / 4
}
