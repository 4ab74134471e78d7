//! Every operation of the protocol fails, once and from then on, in every way.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::io;

use scai_checkpoint::store::{Directory, Entry, Publication, is_draft};
use scai_checkpoint::testing::{
    Effect, Failure, Fault, FaultDirectory, Op, SimulatedDisk, Times, point, publish,
    publish_entry, publish_in_child, remove_durably, set_aside,
};
use scai_checkpoint::{Error, Result};

use crate::payload::{id_of, id_under, write};

const EIO: i32 = 5;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;
const ERRORS: [i32; 4] = [EIO, ENOSPC, EDQUOT, EFBIG];

/// Three pieces, and small enough for tens of thousands of crash states.
const LEN: usize = 21_000;

type Faulty = FaultDirectory<FaultDirectory<SimulatedDisk>>;

/// One action under test: what was there before, what is done, what it promises once it is done.
struct Action {
    name: &'static str,
    links: bool,
    act: fn(&Faulty) -> Result<()>,
    begin: fn(&SimulatedDisk),
    done: fn(&SimulatedDisk),
    /// Operations whose failure the action may outlive.
    may_fail: fn(&Op) -> bool,
    /// Whether the action is done in one step, so that an error means that nothing was done.
    atomic: bool,
}

fn save(store: &dyn Directory, name: &str, id: u64) -> Result<()> {
    publish(store, name, LEN as u64, |draft| write(draft, id, LEN)).map(drop)
}

/// `model.pt` holds 2; 1 is `old.pt` and `latest.pt`.
fn prepare(disk: &SimulatedDisk) {
    for (name, id) in [("old.pt", 1), ("model.pt", 2)] {
        disk.begin(name, id);
        save(disk, name, id).unwrap();
        disk.acknowledge(name, id);
    }
    disk.begin("latest.pt", 1);
    point(disk, "latest.pt", "old.pt").unwrap();
    disk.acknowledge("latest.pt", 1);
}

fn concerns_links(op: &Op) -> bool {
    matches!(op, Op::Link { .. })
}

/// Fails each mutating operation of `action` in each way; returns how many faults were injected
/// and how many crash states were checked.
fn fail_everything(action: &Action) {
    let (mut faults, mut states) = (0, 0);
    let effects: [fn(Failure) -> Effect; 3] = [Effect::Fail, Effect::FailAfter, Effect::Tear];
    for number in ERRORS {
        for times in [Times::Once, Times::FromThenOn] {
            for effect in effects {
                for after in 0.. {
                    let effect = effect(Failure::Os(number));
                    let fault = Fault { concerns: Op::is_mutation, after, times, effect };
                    let disks = [SimulatedDisk::new(), SimulatedDisk::with_named_drafts()];
                    let seen = disks.map(|disk| fail_once(action, disk, fault, number));
                    if seen == [None, None] {
                        break;
                    }
                    faults += seen.iter().flatten().count();
                    states += seen.iter().flatten().sum::<usize>();
                }
            }
        }
    }
    println!("{}: {faults} faults injected, {states} crash states checked", action.name);
    assert!(faults > 0);
}

/// Injects one fault; nothing where the action was over before the fault.
fn fail_once(action: &Action, disk: SimulatedDisk, fault: Fault, number: i32) -> Option<usize> {
    let what = format!("{} with {fault:?}", action.name);
    prepare(&disk);
    let (before, files) = (disk.steps(), content(&disk));
    let links = FaultDirectory::new(disk.clone());
    if !action.links {
        let effect = Effect::Fail(Failure::Kind(io::ErrorKind::Unsupported));
        let times = Times::FromThenOn;
        links.arm(Fault { concerns: concerns_links, after: 0, times, effect });
    }
    let store = FaultDirectory::new(links);
    store.arm(fault);

    (action.begin)(&disk);
    let result = (action.act)(&store);
    let log = store.log();
    let fired = store.fired() > 0;
    if result.is_ok() {
        (action.done)(&disk);
    }
    let mut failed = log.iter().filter(|op| op.is_mutation()).skip(fault.after);
    let hit = failed.clone().next();
    // A persistent fault may be outlived at first; what ended the action is the next failure.
    let cause = match fault.times {
        Times::Once => hit,
        Times::FromThenOn => failed.find(|op| !(action.may_fail)(op)).or(hit),
    };
    match &result {
        Ok(()) if !fired => return None,
        Ok(()) => assert!(hit.is_some_and(action.may_fail), "{what}: Ok, though {hit:?} failed"),
        Err(error) => assert_typed(error, cause, number, &what),
    }

    for name in log.iter().filter_map(|op| match op {
        Op::SyncDraft { name } => Some(name),
        _ => None,
    }) {
        let syncs = log.iter().filter(|op| **op == Op::SyncDraft { name: name.clone() }).count();
        // Drafts without a name cannot be told apart, but for their number.
        let drafts = match is_unnamed(name) {
            true => log.iter().filter(|op| matches!(op, Op::Create { .. })).count(),
            false => 1,
        };
        assert!(syncs <= drafts, "{what}: a draft was synced again");
    }

    store.disarm();
    // A draft is left to the sweep only where its removal failed.
    let removes = matches!(cause, Some(Op::Remove { .. }));
    if matches!(fault.times, Times::Once) && !removes {
        assert!(!has_draft(&disk), "{what}: a draft is left");
    }
    sweep(&disk);
    // A rename that was done and reported as failed is the one error that may leave the new file.
    let done_all_the_same = matches!(fault.effect, Effect::FailAfter(_));
    let renamed = done_all_the_same && cause.is_some_and(gives_its_final_name);
    let undone = !matches!(result, Ok(()) | Err(Error::NotDurable { .. })) && !renamed;
    if action.atomic && undone {
        assert_eq!(content(&disk), files, "{what}: {result:?}, and something has changed");
    }
    // What was promised is there, even if the power fails now, ...
    let report = disk.crash_from(before, |state| state.ledger.check(&state.directory, id_of));
    assert_eq!(report.bad, 0, "{what}: {report}");
    assert!(!has_draft(&disk), "{what}: a draft is left after a sweep");
    // ... and the next save works.
    save(&store, "model.pt", 9).unwrap();
    assert_eq!(id_under(&disk, "model.pt"), Ok(9));
    Some(report.states)
}

/// Whether a draft has no name, in a child or not.
fn is_unnamed(name: &str) -> bool {
    name.is_empty() || name.ends_with('/')
}

fn sweep(directory: &dyn Directory) {
    directory.sweep().unwrap();
    for child in directory.children().unwrap() {
        sweep(&*directory.child(&child).unwrap());
    }
}

fn has_draft(directory: &dyn Directory) -> bool {
    let is_here = directory.list().unwrap().iter().any(|entry| is_draft(&entry.name));
    let mut children = directory.children().unwrap().into_iter();
    is_here || children.any(|child| has_draft(&*directory.child(&child).unwrap()))
}

fn content(directory: &dyn Directory) -> BTreeMap<String, Result<u64, String>> {
    let entries = directory.list().unwrap().into_iter();
    let mut found: BTreeMap<_, _> =
        entries.map(|Entry { name, .. }| (name.clone(), id_under(directory, &name))).collect();
    for child in directory.children().unwrap() {
        let below = content(&*directory.child(&child).unwrap());
        found.extend(below.into_iter().map(|(name, id)| (format!("{child}/{name}"), id)));
    }
    found
}

fn assert_typed(error: &Error, hit: Option<&Op>, number: i32, what: &str) {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let source = source.unwrap_or_else(|| panic!("{what}: {error} lost its source"));
    let from_the_fault = source.raw_os_error() == Some(number);
    assert!(from_the_fault, "{what}: {error} does not carry the error of {hit:?}");
    let full = matches!(error, Error::DiskFull { needed, .. } if *needed > 0);
    match hit {
        Some(Op::Create { .. } | Op::Write { .. } | Op::SyncDraft { .. }) if number != EIO => {
            assert!(full, "{what}: {error:?} for {hit:?}");
        }
        Some(Op::SyncNames | Op::SyncChild { .. }) => assert!(
            matches!(error, Error::NotDurable { .. } | Error::Io { .. }),
            "{what}: {error:?} for {hit:?}"
        ),
        _ if number == EIO => assert!(matches!(error, Error::Io { .. }), "{what}: {error:?}"),
        _ => {
            assert!(matches!(error, Error::Io { .. } | Error::DiskFull { .. }), "{what}: {error:?}")
        }
    }
}

fn gives_its_final_name(op: &Op) -> bool {
    match op {
        Op::Rename { .. } => true,
        Op::Name { to } | Op::Link { to, .. } => !is_draft(to),
        _ => false,
    }
}

/// A name that is taken is refused whether or not the call fails anyway.
fn asks_for_a_taken_name(op: &Op) -> bool {
    matches!(op, Op::Name { to } if !is_draft(to))
}

fn removes_draft(op: &Op) -> bool {
    matches!(op, Op::Remove { name } if is_draft(name))
}

fn never(_: &Op) -> bool {
    false
}

#[test]
fn a_failing_operation_of_a_save_under_a_new_name_loses_nothing() {
    fail_everything(&Action {
        name: "save under a new name",
        atomic: true,
        links: true,
        act: |store| save(store, "new.pt", 3),
        begin: |disk| disk.begin("new.pt", 3),
        done: |disk| disk.acknowledge("new.pt", 3),
        may_fail: never,
    });
}

#[test]
fn a_failing_operation_of_a_save_over_an_old_one_leaves_the_old_or_the_new() {
    fail_everything(&Action {
        name: "save over an old one",
        atomic: true,
        links: true,
        act: |store| save(store, "model.pt", 3),
        begin: |disk| disk.begin("model.pt", 3),
        done: |disk| disk.acknowledge("model.pt", 3),
        may_fail: asks_for_a_taken_name,
    });
}

#[test]
fn a_failing_operation_of_moving_latest_leaves_the_old_or_the_new() {
    fail_everything(&Action {
        name: "point latest, by a link",
        atomic: true,
        links: true,
        act: |store| point(store, "latest.pt", "model.pt"),
        begin: |disk| disk.begin("latest.pt", 2),
        done: |disk| disk.acknowledge("latest.pt", 2),
        // The temporary name that a rename onto the same file leaves; a sweep takes it.
        may_fail: removes_draft,
    });
}

#[test]
fn a_failing_operation_of_moving_latest_without_links_leaves_the_old_or_the_new() {
    fail_everything(&Action {
        name: "point latest, by a copy",
        atomic: true,
        links: false,
        act: |store| point(store, "latest.pt", "model.pt"),
        begin: |disk| disk.begin("latest.pt", 2),
        done: |disk| disk.acknowledge("latest.pt", 2),
        // Without links, a failing link is what every call sees, and it leaves nothing.
        may_fail: |op| concerns_links(op) || removes_draft(op) || asks_for_a_taken_name(op),
    });
}

#[test]
fn a_failing_operation_of_pruning_removes_nothing_else() {
    fail_everything(&Action {
        name: "remove",
        atomic: false,
        links: true,
        act: |store| remove_durably(store, &["old.pt", "latest.pt", "none.pt"]),
        begin: |disk| ["old.pt", "latest.pt"].into_iter().for_each(|name| disk.retire(name)),
        done: |_| {},
        // What is not there need not be removed.
        may_fail: |op| *op == Op::Remove { name: "none.pt".into() },
    });
}

#[test]
fn a_failing_operation_of_setting_aside_loses_nothing() {
    fail_everything(&Action {
        name: "set aside",
        atomic: false,
        links: true,
        act: |store| set_aside(store, "old.pt", "checksum mismatch").map(drop),
        begin: |disk| {
            disk.retire("old.pt");
            disk.begin("old.pt.damaged", 1);
        },
        done: |disk| disk.acknowledge("old.pt.damaged", 1),
        may_fail: never,
    });
}

/// A file that is to be new.
fn save_new(directory: &dyn Directory, name: &str, id: u64) -> Result<()> {
    let entry = Publication::new(name, LEN as u64, move |to| write(to, id, LEN));
    publish_entry(directory, entry.if_absent()).map(drop)
}

#[test]
fn a_failing_operation_of_a_save_that_is_to_be_new_loses_nothing() {
    fail_everything(&Action {
        name: "save what is to be new",
        atomic: true,
        links: true,
        act: |store| save_new(store, "new.pt", 3),
        begin: |disk| disk.begin("new.pt", 3),
        done: |disk| disk.acknowledge("new.pt", 3),
        // The temporary name beside the final one; a sweep takes it.
        may_fail: removes_draft,
    });
}

#[test]
fn a_failing_operation_of_a_save_that_is_to_be_new_without_links_loses_nothing() {
    fail_everything(&Action {
        name: "save what is to be new, without links",
        atomic: true,
        links: false,
        act: |store| save_new(store, "new.pt", 3),
        begin: |disk| disk.begin("new.pt", 3),
        done: |disk| disk.acknowledge("new.pt", 3),
        may_fail: |op| concerns_links(op) || removes_draft(op),
    });
}

const PARTS: [&str; 2] = ["a.pt", "commit"];

fn save_in_child(directory: &dyn Directory, child: &str, id: u64) -> Result<()> {
    let part = |name| Publication::new(name, LEN as u64, move |to| write(to, id, LEN));
    publish_in_child(directory, child, PARTS.map(part))
}

fn begin_child(disk: &SimulatedDisk) {
    PARTS.iter().for_each(|part| disk.begin(&format!("run/{part}"), 3));
}

fn acknowledge_child(disk: &SimulatedDisk) {
    PARTS.iter().for_each(|part| disk.acknowledge(&format!("run/{part}"), 3));
}

#[test]
fn a_failing_operation_of_a_save_in_a_child_loses_nothing() {
    fail_everything(&Action {
        name: "save in a child",
        atomic: false,
        links: true,
        act: |store| save_in_child(store, "run", 3),
        begin: begin_child,
        done: acknowledge_child,
        may_fail: never,
    });
}

#[test]
fn a_failing_operation_of_publishing_a_staged_child_loses_nothing() {
    fail_everything(&Action {
        name: "publish a staged child",
        atomic: false,
        links: true,
        act: |store| {
            save_in_child(store, "staged", 3)?;
            let failed = |source| Error::Io { place: Box::default(), action: "publish", source };
            store.rename_child("staged", "run").map_err(failed)?;
            store.sync().map_err(failed)
        },
        begin: begin_child,
        done: acknowledge_child,
        may_fail: never,
    });
}

#[test]
fn a_failing_operation_of_removing_a_child_loses_nothing_else() {
    fail_everything(&Action {
        name: "remove a child",
        atomic: false,
        links: true,
        act: |store| {
            save_in_child(store, "gone", 3)?;
            let child = "gone";
            let failed = |source| Error::Io { place: Box::default(), action: "remove", source };
            remove_durably(&*store.child(child).map_err(failed)?, &["commit", "a.pt"])?;
            store.remove_child(child).map_err(failed)?;
            store.sync().map_err(failed)
        },
        begin: |_| {},
        done: |_| {},
        may_fail: never,
    });
}

#[test]
fn a_limit_is_named_with_what_to_do_about_it() {
    for (number, advice) in
        [(ENOSPC, "free some space"), (EDQUOT, "raise the quota"), (EFBIG, "ulimit -f")]
    {
        let store = FaultDirectory::new(SimulatedDisk::new());
        let effect = Effect::Fail(Failure::Os(number));
        store.arm(Fault { concerns: Op::is_mutation, after: 0, times: Times::Once, effect });
        let error = save(&store, "a.pt", 1).unwrap_err().to_string();
        assert!(error.contains("`simulated disk/a.pt`"), "{error}");
        assert!(error.contains("21000 bytes are needed"), "{error}");
        assert!(error.contains(advice), "{error}");
    }
}

#[test]
fn nothing_is_removed_before_the_new_save_is_durable() {
    let store = FaultDirectory::new(SimulatedDisk::new());
    for id in 1..=3 {
        save(&store, &format!("{id}.pt"), id).unwrap();
    }
    remove_durably(&store, &["1.pt", "2.pt"]).unwrap();
    let kind = |op: &Op| match op {
        Op::Create { .. } => "create",
        Op::Write { .. } => "write",
        Op::SyncDraft { .. } => "sync",
        Op::Name { .. } => "name",
        Op::Rename { .. } => "rename",
        Op::SyncNames => "sync names",
        Op::Remove { .. } => "remove",
        _ => "else",
    };
    let log = store.log();
    let mut kinds: Vec<&str> = log.iter().map(kind).collect();
    kinds.dedup();
    let save = ["create", "write", "sync", "name", "sync names"];
    let mut expected = save.repeat(3);
    expected.extend(["remove", "sync names"]);
    assert_eq!(kinds, expected);
}

#[test]
fn a_second_name_for_the_same_file_leaves_no_temporary_name() {
    let disk = SimulatedDisk::new();
    save(&disk, "a.pt", 1).unwrap();
    for _ in 0..2 {
        point(&disk, "latest.pt", "a.pt").unwrap();
        let mut names: Vec<String> =
            disk.list().unwrap().into_iter().map(|entry| entry.name).collect();
        names.sort();
        assert_eq!(names, ["a.pt", "latest.pt"]);
    }
}

#[test]
fn pointing_at_nothing_is_not_found_and_changes_nothing() {
    for links in [true, false] {
        let store = FaultDirectory::new(SimulatedDisk::new());
        save(&store, "latest.pt", 1).unwrap();
        if !links {
            let effect = Effect::Fail(Failure::Kind(io::ErrorKind::PermissionDenied));
            let times = Times::FromThenOn;
            store.arm(Fault { concerns: concerns_links, after: 0, times, effect });
        }
        let error = point(&store, "latest.pt", "none.pt").unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
        assert_eq!(id_under(&store, "latest.pt"), Ok(1));
        assert_eq!(store.list().unwrap().len(), 1);
    }
}

#[test]
fn what_is_set_aside_twice_gets_a_number() {
    let disk = SimulatedDisk::new();
    for expected in ["a.pt.damaged", "a.pt.damaged-2", "a.pt.damaged-3"] {
        save(&disk, "a.pt", 1).unwrap();
        assert_eq!(set_aside(&disk, "a.pt", "why").unwrap(), expected);
        assert_eq!(disk.open(&format!("{expected}.txt")).unwrap().len(), 3);
    }
    let error = set_aside(&disk, "a.pt", "why").unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}
