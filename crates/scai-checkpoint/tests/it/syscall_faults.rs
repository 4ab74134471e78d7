//! Every system call of a save fails, once and from then on, in a process of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

use scai_checkpoint::store::Io;
use scai_checkpoint::store::{draft_name, is_draft};
use scai_checkpoint::{CheckpointManager, Error, Options};
use tempfile::TempDir;

use crate::aftermath::Promised;
use crate::child::{Ended, say, wait_to_go};
use crate::crash::{count, prepare, trial};
use crate::strace::{self, Call};
use crate::training::{Save, Size, full, open, save_under, state};

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
/// Those without which there is no save.
const ESSENTIAL: [&str; 4] = ["fallocate", "pwrite64", "fsync", "linkat"];
/// Calls that only look.
const LOOKING: [&str; 5] = ["fcntl", "statx", "newfstatat", "getdents64", "pread64"];

/// What a child does, by its role.
pub(crate) fn child(role: &str, directory: &Path) {
    let options = Promised::new(SIZE, 2)
        .options()
        .threads(if role == "two threads" { 2 } else { 1 })
        .io(if role == "past the page cache" { Io::Direct } else { Io::Buffered });
    save_once(&open(directory, options));
}

/// A child: one save over the older state, and an account of what came of it.
fn save_once(manager: &CheckpointManager) {
    let _ = jiff::Zoned::now();
    let checkpoint = state(NEW, SIZE);
    wait_to_go();
    match manager.save(checkpoint.clone()) {
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
    /// How often each outcome was met: `acknowledged`, or a kind of error.
    outcomes: BTreeMap<String, usize>,
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

/// Errors after which the new file may be there.
const IN_PLACE: [&str; 2] = ["NotDurable", "Damaged"];

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
    let kind = said.split([':', ',']).next().unwrap_or_default();
    let variant = kind.split(' ').next().unwrap_or_default();
    match variant {
        "acknowledged" => promised.acknowledge(NEW),
        // Read errors while retention reads the new file back come without a number.
        "Damaged" if said.contains("cannot be read back: ") && said.contains("os error") => {}
        "DiskFull" if said.contains("bytes are needed, ") => {}
        "Io" | "NotDurable" if kind.contains(' ') => {}
        _ => return Err(format!("an error that does not say what to do: {said}")),
    }
    *faults.outcomes.entry(kind.to_owned()).or_default() += 1;
    if variant != "acknowledged" && !IN_PLACE.contains(&variant) && files(directory) != *before {
        return Err(format!("{said}, and yet something has changed"));
    }
    let mut synced = BTreeSet::new();
    for call in calls.iter().filter(|call| call.name == "fsync" || call.name == "fdatasync") {
        let draft = [".scai-", "(deleted)"].iter().any(|sign| call.arguments.contains(sign));
        if draft && !synced.insert(&call.arguments) {
            return Err(format!("a draft was synced twice: {}", call.arguments));
        }
    }
    faults.drafts += promised.aftermath(directory, NEXT)?.drafts;
    Ok(())
}

/// A test of one child: what is there before it, and what is found after each run.
struct Bench {
    role: String,
    template: TempDir,
    promised: Promised,
    before: BTreeMap<String, Vec<u8>>,
    /// The calls of a run in which nothing fails.
    calls: Vec<Call>,
    faults: Faults,
    start: Instant,
}

impl Bench {
    fn new(role: &str) -> Self {
        let role = format!("syscall faults: {role}");
        let template = tempfile::tempdir().unwrap();
        let promised = prepare(template.path(), SIZE);
        let before = files(template.path());
        let (_, ended, calls) = trial(&role, template.path(), &["-y".to_owned()]);
        assert_eq!(ended.said, ["acknowledged, 0 warnings"]);
        let (faults, start) = (Faults::default(), Instant::now());
        Self { role, template, promised, before, calls, faults, start }
    }

    /// A run with these faults, each in the words of `strace`: `fsync:error=EIO:when=2+`.
    fn run(&mut self, faults: &[String]) -> Vec<String> {
        let names: Vec<&str> = faults.iter().filter_map(|fault| fault.split(':').next()).collect();
        let mut options = vec!["-y".to_owned(), "-e".to_owned()];
        options.push(format!("trace={},fsync,fdatasync", names.join(",")));
        for fault in faults {
            options.extend(["-e".to_owned(), format!("inject={fault}")]);
        }
        let (directory, ended, calls) = trial(&self.role, self.template.path(), &options);
        self.faults.runs += 1;
        let run = (&ended, calls.as_slice());
        let judged = judge(directory.path(), &self.before, &self.promised, run, &mut self.faults);
        if let Err(why) = judged {
            self.faults.bad.push(format!("{faults:?}: {why}"));
        }
        ended.said
    }

    /// Whether a save cannot be acknowledged where this call fails: it puts bytes or a name where
    /// they belong, or makes them durable.
    fn is_essential(&self, name: &str, nth: usize) -> bool {
        // What follows is about `latest.pt` and retention.
        let is_latest =
            |call: &&Call| call.name == "linkat" && !call.arguments.contains("/proc/self/fd/");
        let save = self.calls.iter().take_while(|call| !is_latest(call));
        let call = save.filter(|call| call.name == name).nth(nth - 1);
        ESSENTIAL.contains(&name) && call.is_some_and(|call| !call.arguments.contains(".scai.lock"))
    }

    /// Fails the calls `names` with each of `errors`, once and from then on, each time together
    /// with the faults `also`.
    fn fail(&mut self, names: &[&str], errors: &[&str], also: &[&str]) {
        for (name, times) in count(&self.calls) {
            if !names.contains(&name.as_str()) {
                continue;
            }
            for nth in 1..=times {
                for error in errors {
                    for when in [format!("{nth}"), format!("{nth}+")] {
                        let fault = format!("{name}:error={error}:when={when}");
                        let faults = std::iter::once(fault.clone());
                        let also = also.iter().map(|fault| (*fault).to_owned());
                        let said = self.run(&faults.chain(also).collect::<Vec<_>>());
                        if self.is_essential(&name, nth) && said[0].starts_with("acknowledged") {
                            self.faults.bad.push(format!("{fault}: a false success"));
                        }
                    }
                }
            }
        }
    }

    /// Prints what came of it and holds it to be right.
    fn end(self, what: &str) -> Faults {
        let Faults { runs, outcomes, drafts, bad } = &self.faults;
        let seconds = self.start.elapsed().as_secs_f64();
        println!(
            "{what}: {runs} runs, {outcomes:?}, {drafts} drafts left and swept, {} bad; \
             {seconds:.1} s",
            bad.len()
        );
        assert_eq!(*bad, [""; 0]);
        self.faults
    }
}

#[test]
fn a_save_whose_system_calls_fail_says_so_and_harms_nothing() {
    if strace::missing("failing system calls") {
        return;
    }
    mutating_calls_fail("once", 2);

    let mut bench = Bench::new("once");
    let errors: &[&str] = if full() { &["EIO", "ENOMEM", "EACCES"] } else { &["EIO"] };
    bench.fail(&LOOKING, errors, &[]);
    bench.end("other system calls that fail");
}

#[test]
fn a_save_past_the_page_cache_whose_system_calls_fail_says_so_and_harms_nothing() {
    if strace::missing("failing system calls past the page cache") {
        return;
    }
    // The end of the run of records, less than a page, is a write of its own.
    mutating_calls_fail("past the page cache", 3);
}

/// Fails every mutating call of a save that consists of so many writes.
fn mutating_calls_fail(role: &str, writes: usize) {
    let mut bench = Bench::new(role);
    bench.fail(&MUTATING, &["EIO", "ENOSPC", "EDQUOT", "EFBIG"], &[]);
    if full() {
        bench.fail(&MUTATING, &["EROFS", "EMFILE", "EACCES", "ENOLCK"], &[]);
    }
    let essential = ESSENTIAL.map(|name| (1..9).filter(|n| bench.is_essential(name, *n)).count());
    assert_eq!(essential, [1, writes, 2, 1], "what a save is made of");
    let faults = bench.end(&format!("mutating system calls that fail ({role})"));
    for kind in ["acknowledged", "Io 5", "DiskFull 28", "DiskFull 122", "DiskFull 27"] {
        assert!(faults.outcomes.contains_key(kind), "no run ended with {kind}");
    }
}

#[test]
fn a_device_that_refuses_direct_writes_is_written_through_the_page_cache() {
    if strace::missing("refused direct writes") {
        return;
    }
    let mut bench = Bench::new("past the page cache");
    // The first write signs the lock, the second one is of whole pages; some refuse the opening.
    let mut opened = bench.calls.iter().filter(|call| call.name == "openat");
    let direct = opened.position(|call| call.arguments.contains("O_DIRECT|")).unwrap() + 1;
    for refused in ["pwrite64:error=EINVAL:when=2", &format!("openat:error=EINVAL:when={direct}")] {
        assert_eq!(bench.run(&[refused.to_owned()]), ["acknowledged, 0 warnings"]);
    }
    bench.end("refused direct writes");
}

#[test]
fn a_save_that_fails_and_cannot_clean_up_leaves_a_draft_that_is_swept() {
    if strace::missing("failing system calls") {
        return;
    }
    let mut bench = Bench::new("once");
    let writing = ["fallocate", "pwrite64", "fsync", "linkat", "renameat"];
    bench.fail(&writing, &["EIO"], &["unlinkat:error=EIO:when=1+"]);
    let faults = bench.end("failing system calls, and nothing can be removed");
    assert!(faults.drafts > 0);
}

#[test]
fn a_save_where_no_thread_can_be_started_works_on_one() {
    if strace::missing("failing system calls") {
        return;
    }
    let mut bench = Bench::new("two threads");
    bench.fail(&["clone3"], &["EAGAIN"], &[]);
    let faults = bench.end("threads that cannot be started");
    assert_eq!(faults.outcomes.get("acknowledged"), Some(&faults.runs));
}

#[test]
fn a_draft_that_may_not_be_removed_is_no_obstacle_to_a_save() {
    if strace::missing("failing system calls") {
        return;
    }
    let mut bench = Bench::new("once");
    let draft = bench.template.path().join(draft_name());
    fs::write(&draft, "of a dead process of somebody else").unwrap();
    for error in ["EPERM", "EACCES"] {
        let said = bench.run(&[format!("unlinkat:error={error}:when=1")]);
        assert_eq!(said, ["acknowledged, 0 warnings"]);
    }
    assert_eq!(bench.end("drafts that may not be removed").drafts, 2);
}

#[test]
fn a_disk_that_forgets_what_was_written_is_found_out_before_anything_is_deleted() {
    if strace::missing("writes that are forgotten") {
        return;
    }
    forgotten_writes_are_found_out("once");
    forgotten_writes_are_found_out("past the page cache");
}

fn forgotten_writes_are_found_out(role: &str) {
    let mut bench = Bench::new(role);
    let writes: Vec<Call> =
        bench.calls.iter().filter(|call| call.name == "pwrite64").cloned().collect();
    // The first one signs the lock.
    for (nth, write) in writes.iter().enumerate().skip(1) {
        let forget = format!("pwrite64:retval={}:when={}", write.result, nth + 1);
        let (directory, ended, _) = trial(
            &bench.role,
            bench.template.path(),
            &[
                "-e".to_owned(),
                "trace=pwrite64".to_owned(),
                "-e".to_owned(),
                format!("inject={forget}"),
            ],
        );
        bench.faults.runs += 1;
        let [said] = ended.said.as_slice() else { panic!("{ended:?}") };
        assert!(said.starts_with("Damaged: ") && said.contains("cannot be read back"), "{said}");
        let mut names: Vec<String> = files(directory.path()).into_keys().collect();
        names.sort();
        let expected = [
            "checkpoint_iter_2.pt",
            "checkpoint_iter_3.pt",
            "checkpoint_iter_4.pt.damaged",
            "checkpoint_iter_4.pt.damaged.txt",
            "latest.pt",
        ];
        assert_eq!(names, expected, "{said}");
        let latest = save_under(&open(directory.path(), Options::default()), "latest.pt", SIZE);
        assert_eq!(latest, Ok(Some(Save { iteration: 3, writer: 1 })));
    }
    assert!(bench.faults.runs > 1);
    bench.end("writes that are acknowledged and forgotten");
}
