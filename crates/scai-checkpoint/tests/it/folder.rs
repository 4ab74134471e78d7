//! Directories that others write files into: committed as one or not at all.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use scai_checkpoint::folder::{self, About, Staging};
use scai_checkpoint::store::{Directory, MemoryDirectory, draft_name, is_draft};
use scai_checkpoint::testing::{
    CrashReport, Effect, Failure, Fault, FaultDirectory, Op, SimulatedDisk, Times, commit_in,
    remove_child_durably, sweep_children, verify_directory,
};
use scai_checkpoint::{Error, Result};

use crate::child::{Process, command, say, wait_to_go};
use crate::training::{Random, full};

const NAME: &str = "checkpoint-10";
const FILES: [&str; 2] = ["model.bin", "state.json"];

/// What a framework does: files that nobody syncs, some of them in a directory below.
fn write_files(inside: &dyn Directory, id: u8) {
    for file in FILES {
        let draft = inside.create(5000).unwrap();
        draft.write_at(0, &[id; 5000]).unwrap();
        inside.rename(draft.name(), file).unwrap();
        draft.forget_sync().unwrap();
    }
}

fn stage(directory: &dyn Directory, id: u8) -> String {
    let staged = draft_name();
    directory.make_child(&staged).unwrap();
    let inside = directory.child(&staged).unwrap();
    write_files(&*inside, id);
    inside.make_child("below").unwrap();
    write_files(&*inside.child("below").unwrap(), id);
    staged
}

fn save(directory: &dyn Directory, id: u8) -> Result<()> {
    save_on(directory, directory, id)
}

/// A save whose files are written to `disk`, and committed through `directory`.
fn save_on(disk: &dyn Directory, directory: &dyn Directory, id: u8) -> Result<()> {
    let staged = stage(disk, id);
    let about = About::default().iteration(id.into());
    commit_in(directory, &staged, NAME, &about, 1).map(drop)
}

/// Which save the checkpoint is of; it is whole or not there.
fn found(directory: &dyn Directory) -> Result<Option<u64>, String> {
    let Ok(child) = directory.child(NAME) else { return Ok(None) };
    match verify_directory(&*child).map_err(|error| error.to_string())? {
        None => Err("it has its name, but no commit".to_owned()),
        Some((commit, wrong)) if wrong.is_empty() && commit.files.len() == 2 * FILES.len() => {
            let id = commit.iteration.unwrap();
            let file = child.child("below").unwrap().open("model.bin").unwrap();
            let mut byte = [0];
            file.read_at(0, &mut byte).unwrap();
            if u64::from(byte[0]) == id { Ok(Some(id)) } else { Err("mixed".to_owned()) }
        }
        Some((commit, wrong)) => Err(format!("{wrong:?}, {} files", commit.files.len())),
    }
}

fn after_a_sweep(directory: &MemoryDirectory) -> Result<Option<u64>, String> {
    sweep_children(directory).map_err(|error| error.to_string())?;
    let left = directory.children().unwrap();
    match left.iter().find(|name| *name != NAME) {
        Some(left) => Err(format!("`{left}` is left")),
        None => found(directory),
    }
}

/// Commits over one name, twice, and what a crash leaves at every step.
fn crashes(disk: &SimulatedDisk, directory: &dyn Directory) -> [CrashReport; 3] {
    let is = |allowed: &'static [Option<u64>]| {
        move |state: &scai_checkpoint::testing::CrashState<'_>| {
            let found = after_a_sweep(&state.directory)?;
            let fits = allowed.contains(&found);
            fits.then_some(()).ok_or_else(|| format!("{found:?}, not one of {allowed:?}"))
        }
    };
    save_on(disk, directory, 1).unwrap();
    let first = disk.crash_everywhere(is(&[None, Some(1)]));
    let begun = disk.steps();
    save_on(disk, directory, 2).unwrap();
    let second = disk.crash_from(begun, is(&[Some(1), Some(2)]));
    let acknowledged = disk.crash_from(disk.steps(), is(&[Some(2)]));
    [first, second, acknowledged]
}

fn no_exchange() -> Fault {
    Fault {
        concerns: |op| matches!(op, Op::ExchangeChildren { .. }),
        after: 0,
        times: Times::FromThenOn,
        effect: Effect::Fail(Failure::Kind(std::io::ErrorKind::Unsupported)),
    }
}

#[test]
fn after_a_power_failure_a_commit_is_whole_or_what_was_before() {
    for exchanges in [true, false] {
        let disk = SimulatedDisk::with_named_drafts();
        let directory = FaultDirectory::new(disk.clone());
        if !exchanges {
            directory.arm(no_exchange());
        }
        for report in crashes(&disk, &directory) {
            println!("exchange: {exchanges}, {report}");
            assert_eq!(report.bad, 0, "{report}");
            assert!(report.states > 0, "{report}");
        }
        assert_eq!(directory.fired(), usize::from(!exchanges));
    }
}

#[test]
fn a_commit_that_skips_one_of_its_steps_is_caught() {
    let skipped: [(&str, fn(&Op) -> bool); 4] = [
        ("the content of a file", |op| matches!(op, Op::SyncFile { .. })),
        (
            "the names in the directory",
            |op| matches!(op, Op::SyncChild { child } if !child.contains('/')),
        ),
        ("the names below it", |op| matches!(op, Op::SyncChild { child } if child.contains('/'))),
        ("its own name", |op| matches!(op, Op::SyncNames)),
    ];
    for (what, concerns) in skipped {
        let disk = SimulatedDisk::with_named_drafts();
        let directory = FaultDirectory::new(disk.clone());
        directory.arm(Fault {
            concerns,
            after: 0,
            times: Times::FromThenOn,
            effect: Effect::Forget,
        });
        let bad: usize = crashes(&disk, &directory).iter().map(|report| report.bad).sum();
        assert!(bad > 0, "that nobody syncs {what} is not noticed");
    }
}

#[test]
fn a_removed_checkpoint_is_whole_or_gone() {
    let disk = SimulatedDisk::with_named_drafts();
    save(&disk, 1).unwrap();
    let begun = disk.steps();
    remove_child_durably(&disk, NAME).unwrap();
    let report = disk.crash_from(begun, |state| after_a_sweep(&state.directory).map(drop));
    assert_eq!(report.bad, 0, "{report}");
    let report = disk.crash_from(disk.steps(), |state| {
        let found = after_a_sweep(&state.directory)?;
        found.map_or(Ok(()), |id| Err(format!("{id} is there again")))
    });
    assert_eq!(report.bad, 0, "{report}");
}

#[test]
fn a_commit_of_which_a_step_fails_says_so_and_harms_nothing() {
    for effect in [Effect::Fail, Effect::FailAfter] {
        for exchanges in [true, false] {
            for after in 0.. {
                let memory = MemoryDirectory::new();
                save(&memory, 1).unwrap();
                let inner = FaultDirectory::new(memory.clone());
                if !exchanges {
                    inner.arm(no_exchange());
                }
                let directory = FaultDirectory::new(inner);
                let staged = stage(&memory, 2);
                let effect = effect(Failure::Os(rustix::io::Errno::IO.raw_os_error()));
                directory.arm(Fault {
                    concerns: Op::is_mutation,
                    after,
                    times: Times::Once,
                    effect,
                });
                let about = About::default().iteration(2);
                let result = commit_in(&directory, &staged, NAME, &about, 1);
                if directory.fired() == 0 {
                    assert!(after > 10, "too few steps");
                    break;
                }
                sweep_children(&memory).unwrap();
                let left = found(&memory).unwrap();
                match result {
                    Ok(_) => assert_eq!(left, Some(2)),
                    Err(Error::NotDurable { .. }) => assert_eq!(left, Some(2)),
                    // An operation may report an error and be done all the same.
                    Err(_) => assert!(left.is_some(), "nothing is left ({after})"),
                }
                save(&memory, 3).unwrap();
                assert_eq!(found(&memory), Ok(Some(3)));
                assert_eq!(memory.children().unwrap(), [NAME]);
            }
        }
    }
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn staged(parent: &Path, content: &str) -> Staging {
    let staging = Staging::begin(parent).unwrap();
    fs::write(staging.path().join("model.bin"), content).unwrap();
    fs::create_dir(staging.path().join("below")).unwrap();
    fs::write(staging.path().join("below/state.bin"), content).unwrap();
    staging
}

#[test]
fn a_directory_is_committed_replaced_verified_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let parent = directory.path().join("runs");
    let about = About::default().iteration(10).note("framework", "none");
    for content in ["one", "another"] {
        let path = staged(&parent, content).commit(NAME, &about).unwrap();
        assert_eq!(path, parent.join(NAME));
        assert_eq!(fs::read_to_string(path.join("below/state.bin")).unwrap(), content);
        assert_eq!(names(&parent), [NAME.to_owned()].into());
        let commit = folder::commit_of(&path).unwrap().unwrap();
        assert_eq!(commit.files.keys().collect::<Vec<_>>(), ["below/state.bin", "model.bin"]);
        assert_eq!(commit.about["framework"], "none");
        assert!(folder::verify(&path, 2).unwrap().is_empty());
    }

    let path = parent.join(NAME);
    fs::write(path.join("more.txt"), "not part of it").unwrap();
    assert!(folder::verify(&path, 2).unwrap().is_empty());
    fs::write(path.join("model.bin"), "anothes").unwrap();
    fs::remove_file(path.join("below/state.bin")).unwrap();
    let wrong = folder::verify(&path, 2).unwrap();
    let texts: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    assert!(texts[0].contains("below/state.bin") && texts[0].contains("missing"), "{texts:?}");
    assert!(texts[1].contains("model.bin") && texts[1].contains("checksum"), "{texts:?}");
    fs::write(path.join("model.bin"), "short").unwrap();
    assert!(folder::verify(&path, 2).unwrap()[1].to_string().contains("5 bytes, not 7"));

    folder::remove(&path).unwrap();
    folder::remove(&path).unwrap();
    assert!(names(&parent).is_empty());
    assert!(matches!(folder::commit_of(&path), Err(Error::NotFound { .. })));
    fs::create_dir(&path).unwrap();
    assert_eq!(folder::commit_of(&path).unwrap(), None);
    assert!(matches!(folder::verify(&path, 1), Err(Error::NotACheckpoint { .. })));
}

#[test]
fn a_directory_that_is_being_written_is_not_swept_and_one_that_was_dropped_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let parent = directory.path();
    let one = staged(parent, "one");
    let other = staged(parent, "other");
    assert_eq!(names(parent).len(), 2);
    drop(other);
    assert_eq!(names(parent).len(), 1);
    // What a process that is gone has left.
    fs::create_dir(parent.join(draft_name())).unwrap();
    fs::create_dir(parent.join(format!(".scai-{}.was-kept", "0".repeat(32)))).unwrap();
    folder::sweep(parent).unwrap();
    assert_eq!(names(parent).len(), 2);
    one.commit(NAME, &About::default()).unwrap();
    assert_eq!(names(parent), [NAME.to_owned(), "kept".to_owned()].into());
}

#[test]
fn a_removal_succeeds_while_others_sweep() {
    let directory = tempfile::tempdir().unwrap();
    let parent = directory.path();
    for _ in 0..if full() { 1000 } else { 100 } {
        let path = staged(parent, "one").commit(NAME, &About::default()).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while path.exists() || !names(parent).is_empty() {
                        folder::sweep(parent).unwrap();
                    }
                });
            }
            folder::remove(&path).unwrap();
        });
    }
}

#[test]
fn a_link_is_removed_and_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "stays").unwrap();
    let parent = directory.path().join("runs");
    let staging = staged(&parent, "content");
    std::os::unix::fs::symlink(&outside, staging.path().join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", staging.path().join("dangling")).unwrap();
    drop(staging);
    assert!(names(&parent).is_empty());
    assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "stays");
}

#[test]
fn what_is_neither_file_nor_directory_is_refused_and_nothing_is_published() {
    let directory = tempfile::tempdir().unwrap();
    let staging = staged(directory.path(), "content");
    std::os::unix::fs::symlink("nowhere", staging.path().join("below/dangling")).unwrap();
    let error = staging.commit(NAME, &About::default()).unwrap_err().to_string();
    assert!(error.contains("below/dangling") && error.contains("neither"), "{error}");
    assert!(names(directory.path()).is_empty());

    // A file in the place of the checkpoint is not replaced by it.
    fs::write(directory.path().join(NAME), "a file").unwrap();
    let result = staged(directory.path(), "content").commit(NAME, &About::default());
    assert!(matches!(result, Err(Error::Io { .. })), "{result:?}");
    assert_eq!(fs::read_to_string(directory.path().join(NAME)).unwrap(), "a file");
    assert_eq!(names(directory.path()).len(), 1);
}

/// A child: commits over one name for ever.
pub(crate) fn child(role: &str, directory: &Path) {
    assert_eq!(role, "writer");
    wait_to_go();
    for id in 1_u64.. {
        let staging = staged(directory, &id.to_string().repeat(20_000));
        say(&format!("begun {id}"));
        staging.commit(NAME, &About::default().iteration(id)).unwrap();
        say(&format!("acknowledged {id}"));
    }
}

#[test]
fn a_process_that_is_killed_leaves_a_whole_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut random = Random(11);
    let (mut saves, mut interrupted) = (0, 0);
    let rounds = if full() { 300 } else { 20 };
    let mut round = 0;
    // On a busy machine more rounds are needed for enough to happen.
    while round < rounds || (round < 10 * rounds && (saves <= rounds || interrupted <= rounds / 4))
    {
        round += 1;
        let mut process = Process::start(command("folder: writer", directory));
        process.wait_until_ready();
        process.go();
        process.hear();
        thread::sleep(Duration::from_micros(random.below(30_000)));
        process.kill();
        let ended = process.end();
        let acknowledged = ended.numbers("acknowledged ").last().copied();
        let begun = ended.numbers("begun ").last().copied();
        saves += ended.numbers("acknowledged ").len();
        interrupted += usize::from(begun > acknowledged);

        folder::sweep(directory).unwrap();
        let left = names(directory);
        assert!(!left.iter().any(|name| is_draft(name)), "{left:?}");
        let path = directory.join(NAME);
        let Some(acknowledged) = acknowledged else {
            assert!(left.is_empty() || folder::verify(&path, 1).unwrap().is_empty());
            continue;
        };
        assert!(folder::verify(&path, 1).unwrap().is_empty());
        let id = folder::commit_of(&path).unwrap().unwrap().iteration.unwrap();
        assert!(id == acknowledged || Some(id) == begun, "{id}, {acknowledged}, {begun:?}");
        let content = fs::read_to_string(path.join("model.bin")).unwrap();
        assert!(content == id.to_string().repeat(20_000), "mixed");
    }
    println!("{saves} commits, {interrupted} interrupted, every one whole");
    assert!(
        saves > rounds && interrupted > rounds / 4,
        "too little happened: {saves}, {interrupted}"
    );
}
