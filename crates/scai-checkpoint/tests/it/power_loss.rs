//! What is left after a power failure, in every state that a simulated disk can come back in.

use std::collections::BTreeSet;
use std::sync::Arc;

use scai_checkpoint::store::{Directory, Draft, Publication, is_draft};
use scai_checkpoint::testing::{
    CrashReport, CrashState, Effect, Failure, Fault, FaultDirectory, Op, SimulatedDisk, Times,
    point, publish, publish_in_child, remove_durably, set_aside,
};

use crate::payload::{LEN, id_of, id_under, save, write};

/// What holds after any crash: the promises of the ledger, and no draft after a sweep.
fn check(state: &CrashState<'_>) -> Result<(), String> {
    state.ledger.check(&state.directory, id_of)?;
    state.directory.sweep().map_err(|error| error.to_string())?;
    let left = state.directory.list().map_err(|error| error.to_string())?;
    match left.iter().find(|entry| is_draft(&entry.name)) {
        Some(draft) => Err(format!("the draft `{}` is left", draft.name)),
        None => Ok(()),
    }
}

#[track_caller]
fn assert_safe(what: &str, disk: &SimulatedDisk) -> CrashReport {
    let report = disk.crash_everywhere(check);
    println!("{what}: {report}");
    assert_eq!(report.bad, 0, "{what}: {report}");
    report
}

/// A writer that is known to be wrong must be seen to be wrong.
#[track_caller]
fn assert_caught(what: &str, disk: &SimulatedDisk) {
    let report = disk.crash_everywhere(check);
    let text = report.to_string();
    println!("{what}: {}", text.lines().take(2).collect::<Vec<_>>().join("\n"));
    assert!(report.bad > 0, "{what} was not noticed: {report}");
}

fn name(id: u64) -> String {
    format!("checkpoint_iter_{id}.pt")
}

/// A save with the notes of what it promises.
fn noted(disk: &SimulatedDisk, name: &str, id: u64, save: impl FnOnce(&str)) {
    disk.begin(name, id);
    save(name);
    disk.acknowledge(name, id);
}

#[test]
fn acknowledged_saves_survive_under_new_names() {
    for (what, disk) in disks() {
        for id in 1..=4 {
            noted(&disk, &name(id), id, |name| save(&disk, name, id).unwrap());
        }
        let report = assert_safe(&format!("saves under new names, {what}"), &disk);
        let enough = if what == UNNAMED { 10 } else { 1000 };
        assert!(report.states > enough, "too few states to mean anything: {report}");
    }
}

const UNNAMED: &str = "unnamed drafts";

/// A disk with unnamed files, and one without.
fn disks() -> [(&'static str, SimulatedDisk); 2] {
    [(UNNAMED, SimulatedDisk::new()), ("named drafts", SimulatedDisk::with_named_drafts())]
}

#[test]
fn overwriting_leaves_the_old_save_or_the_new_one() {
    for (what, disk) in disks() {
        for id in 1..=3 {
            noted(&disk, "model.pt", id, |name| save(&disk, name, id).unwrap());
        }
        assert_safe(&format!("saves over one name, {what}"), &disk);
    }
}

#[test]
fn a_run_with_latest_and_pruning_always_has_its_newest_acknowledged_save() {
    for (what, disk) in disks() {
        run(&disk, &disk);
        let report = assert_safe(&format!("run with latest and pruning, {what}"), &disk);
        let enough = if what == UNNAMED { 30 } else { 1000 };
        assert!(report.states > enough, "too few states to mean anything: {report}");
    }
}

#[test]
fn a_run_without_links_is_as_safe() {
    for (what, disk) in disks() {
        let store = FaultDirectory::new(disk.clone());
        store.arm(no_links());
        run(&disk, &store);
        assert!(store.fired() > 0);
        assert_safe(&format!("run with latest as a copy, {what}"), &disk);
    }
}

fn no_links() -> Fault {
    Fault {
        concerns: |op| matches!(op, Op::Link { .. }),
        after: 0,
        times: Times::FromThenOn,
        effect: Effect::Fail(Failure::Kind(std::io::ErrorKind::Unsupported)),
    }
}

/// Save, point `latest.pt` at it, remove all but the two newest.
fn run(disk: &SimulatedDisk, store: &dyn Directory) {
    for id in 1..=5 {
        noted(disk, &name(id), id, |name| save(store, name, id).unwrap());
        noted(disk, "latest.pt", id, |alias| point(store, alias, &name(id)).unwrap());
        if id > 2 {
            disk.retire(&name(id - 2));
            remove_durably(store, &[name(id - 2)]).unwrap();
        }
    }
}

#[test]
fn a_damaged_file_is_never_lost_while_it_is_set_aside() {
    let disk = SimulatedDisk::new();
    save(&disk, "a.pt", 1).unwrap();
    let before = disk.steps();
    let aside = set_aside(&disk, "a.pt", "checksum mismatch").unwrap();
    assert_eq!(aside, "a.pt.damaged");
    let report = disk.crash_from(before, |state| {
        let held = [id_under(&state.directory, "a.pt"), id_under(&state.directory, &aside)];
        let reason = state.directory.get("a.pt.damaged.txt");
        match (held.iter().flatten().count(), reason.as_deref()) {
            (1, None | Some(b"checksum mismatch")) => Ok(()),
            wrong => Err(format!("{wrong:?}")),
        }
    });
    println!("set aside: {report}");
    assert_eq!(report.bad, 0, "{report}");
}

// Writers that are wrong in one way each. The check above must see every one of them.

fn draft(disk: &SimulatedDisk, id: u64) -> Box<dyn Draft> {
    let draft = disk.create(LEN as u64).unwrap();
    write(&*draft, id, LEN).unwrap();
    draft
}

/// Renamed, and not synced before.
fn rename_without_sync(disk: &SimulatedDisk, name: &str, id: u64) {
    let draft = draft(disk, id);
    disk.rename(draft.name(), name).unwrap();
    disk.sync().unwrap();
}

#[test]
fn a_writer_that_does_not_sync_the_file_is_caught() {
    let disk = SimulatedDisk::new();
    for id in 1..=2 {
        noted(&disk, &name(id), id, |name| rename_without_sync(&disk, name, id));
    }
    assert_caught("no sync of the file", &disk);

    let disk = SimulatedDisk::new();
    for id in 1..=2 {
        noted(&disk, "model.pt", id, |name| rename_without_sync(&disk, name, id));
    }
    assert_caught("no sync of the file, over one name", &disk);
}

#[test]
fn a_writer_that_names_an_unnamed_file_before_it_syncs_is_caught() {
    for over in [false, true] {
        let disk = SimulatedDisk::new();
        for id in 1..=2 {
            let file = if over { "model.pt".to_owned() } else { name(id) };
            noted(&disk, &file, id, |file| {
                let draft = disk.create_for(file, LEN as u64).unwrap();
                write(&*draft, id, LEN).unwrap();
                let unsynced = draft.forget_sync().unwrap();
                if disk.name_draft(&unsynced, file).is_err() {
                    disk.name_draft(&unsynced, ".scai-1.tmp").unwrap();
                    disk.rename(".scai-1.tmp", file).unwrap();
                }
                disk.sync().unwrap();
            });
        }
        assert_caught("an unnamed file without a sync", &disk);
    }
}

#[test]
fn a_writer_that_does_not_sync_the_directory_is_caught() {
    for names in [[name(1), name(2)], ["model.pt".into(), "model.pt".into()]] {
        let disk = SimulatedDisk::new();
        for (id, name) in (1..).zip(&names) {
            noted(&disk, name, id, |name| {
                let synced = draft(&disk, id).sync().unwrap();
                disk.rename(synced.name(), name).unwrap();
            });
        }
        assert_caught("no sync of the directory", &disk);
    }
}

#[test]
fn a_writer_in_place_is_caught() {
    let disk = SimulatedDisk::new();
    for id in 1..=2 {
        noted(&disk, "model.pt", id, |name| {
            let file = disk.overwrite(name, LEN as u64).unwrap();
            write(&*file, id, LEN).unwrap();
            file.sync().unwrap();
            disk.sync().unwrap();
        });
    }
    assert_caught("in place", &disk);
}

#[test]
fn a_writer_that_renames_before_it_syncs_is_caught() {
    let disk = SimulatedDisk::new();
    for id in 1..=2 {
        noted(&disk, "model.pt", id, |name| {
            let draft = draft(&disk, id);
            disk.rename(draft.name(), name).unwrap();
            draft.sync().unwrap();
            disk.sync().unwrap();
        });
    }
    assert_caught("rename before sync", &disk);
}

#[test]
fn a_writer_that_deletes_before_the_new_save_is_durable_is_caught() {
    let disk = SimulatedDisk::new();
    noted(&disk, &name(1), 1, |name| save(&disk, name, 1).unwrap());
    noted(&disk, &name(2), 2, |name| {
        let synced = draft(&disk, 2).sync().unwrap();
        disk.rename(synced.name(), name).unwrap();
        disk.retire("checkpoint_iter_1.pt");
        disk.remove("checkpoint_iter_1.pt").unwrap();
        disk.sync().unwrap();
    });
    assert_caught("delete before durable", &disk);
}

#[test]
fn a_disk_that_lies_about_a_sync_is_caught() {
    for concerns in [(|op| matches!(op, Op::SyncDraft { .. })) as fn(&Op) -> bool, |op| {
        matches!(op, Op::SyncNames)
    }] {
        let disk = SimulatedDisk::new();
        let store = FaultDirectory::new(disk.clone());
        store.arm(Fault { concerns, after: 0, times: Times::FromThenOn, effect: Effect::Forget });
        noted(&disk, "model.pt", 1, |name| save(&store, name, 1).unwrap());
        assert_caught("a sync that is forgotten", &disk);
    }
}

#[test]
fn a_plan_that_is_not_carried_out_is_not_published() {
    let disk = SimulatedDisk::new();
    let short = publish(&disk, "a.pt", 100, |draft| {
        draft.write_at(0, &[1; 99]).unwrap();
        Ok(())
    });
    assert!(short.unwrap_err().to_string().contains("99 bytes were written, but 100"));
    let long = publish(&disk, "a.pt", 100, |draft| {
        assert!(draft.write_at(1, &[1; 100]).is_err());
        assert!(draft.write_at(u64::MAX, &[1]).is_err());
        Ok(())
    });
    assert!(long.is_err());
    assert_eq!(disk.list().unwrap(), []);
}

// Children: what is in a child and the child's own name become durable apart.

/// The files of a checkpoint that is a child. The last one stands for all.
const PARTS: [&str; 3] = ["a.pt", "b.pt", "commit"];
/// Three pages.
const PART_LEN: usize = 9000;

fn part(name: &str, id: u64) -> Publication<'_> {
    Publication::new(name, PART_LEN as u64, move |to| write(to, id, PART_LEN))
}

/// Saves a child with the notes of what that promises.
fn noted_child(disk: &SimulatedDisk, child: &str, id: u64, save: impl FnOnce(&str)) {
    PARTS.iter().for_each(|part| disk.begin(&format!("{child}/{part}"), id));
    save(child);
    acknowledge(disk, child, id);
}

fn acknowledge(disk: &SimulatedDisk, child: &str, id: u64) {
    PARTS.iter().for_each(|part| disk.acknowledge(&format!("{child}/{part}"), id));
}

fn child_name(id: u64) -> String {
    format!("checkpoint_iter_{id}")
}

/// What holds after any crash: the promises of the ledger; a child whose last file is whole has all of
/// them, whole and of one save; and no draft after a sweep.
fn check_children(state: &CrashState<'_>) -> Result<(), String> {
    check(state)?;
    let failed = |error: std::io::Error| error.to_string();
    for name in state.directory.children().map_err(failed)? {
        let child = state.directory.child(&name).map_err(failed)?;
        child.sweep().map_err(failed)?;
        let names: BTreeSet<String> =
            child.list().map_err(failed)?.into_iter().map(|entry| entry.name).collect();
        if names.iter().any(|name| is_draft(name)) {
            return Err(format!("a draft is left in `{name}`: {names:?}"));
        }
        // One that is damaged, as what was removed may come back, stands for nothing.
        let Ok(id) = id_under(&*child, "commit") else { continue };
        let ids = PARTS.map(|part| id_under(&*child, part));
        if ids.iter().any(|part| *part != Ok(id)) {
            return Err(format!("`{name}` has its commit, and its files are {ids:?}"));
        }
    }
    Ok(())
}

#[track_caller]
fn assert_children_safe(what: &str, disk: &SimulatedDisk) -> CrashReport {
    let report = disk.crash_everywhere(check_children);
    println!("{what}: {report}");
    assert_eq!(report.bad, 0, "{what}: {report}");
    report
}

#[track_caller]
fn assert_children_caught(what: &str, disk: &SimulatedDisk) {
    // What a running process sees is right; only a crash tells.
    for id in 1..=2 {
        let child = disk.child(&child_name(id)).unwrap();
        assert_eq!(PARTS.map(|part| id_under(&*child, part)), [Ok(id), Ok(id), Ok(id)]);
    }
    let report = disk.crash_everywhere(check_children);
    let text = report.to_string();
    println!("{what}: {}", text.lines().take(2).collect::<Vec<_>>().join("\n"));
    assert!(report.bad > 0, "{what} was not noticed: {report}");
}

#[test]
fn what_was_saved_in_a_child_is_there_after_a_crash() {
    for (what, disk) in disks() {
        for id in 1..=2 {
            noted_child(&disk, &child_name(id), id, |child| {
                publish_in_child(&disk, child, PARTS.map(|name| part(name, id))).unwrap();
            });
        }
        let report = assert_children_safe(&format!("saves in children, {what}"), &disk);
        assert!(report.states > 20, "too few states to mean anything: {report}");
    }
}

#[test]
fn a_staged_child_is_published_by_a_rename() {
    for (what, disk) in disks() {
        for id in 1..=2 {
            noted_child(&disk, &child_name(id), id, |child| {
                publish_in_child(&disk, ".staged", PARTS.map(|name| part(name, id))).unwrap();
                disk.rename_child(".staged", child).unwrap();
                disk.sync().unwrap();
            });
        }
        let report = assert_children_safe(&format!("staged children, {what}"), &disk);
        assert!(report.states > 20, "too few states to mean anything: {report}");
    }
}

#[test]
fn a_child_that_is_renamed_has_one_of_its_names_after_a_crash() {
    let disk = SimulatedDisk::new();
    publish_in_child(&disk, ".staged", PARTS.map(|name| part(name, 1))).unwrap();
    let before = disk.steps();
    disk.rename_child(".staged", "run").unwrap();
    disk.sync().unwrap();
    let mut found = BTreeSet::new();
    let report = disk.crash_from(before, |state| {
        let children = state.directory.children().unwrap();
        let [name] = &children[..] else { return Err(format!("{children:?}")) };
        let child = state.directory.child(name).unwrap();
        found.insert(name.clone());
        match PARTS.map(|part| id_under(&*child, part)) {
            [Ok(1), Ok(1), Ok(1)] => Ok(()),
            ids => Err(format!("the files of `{name}` are {ids:?}")),
        }
    });
    println!("a child is renamed: {report}");
    assert_eq!(report.bad, 0, "{report}");
    assert_eq!(found, [".staged", "run"].map(String::from).into());
}

#[test]
fn removing_a_child_takes_its_commit_first_and_nothing_else() {
    for (what, disk) in disks() {
        for id in 1..=2 {
            noted_child(&disk, &child_name(id), id, |child| {
                publish_in_child(&disk, child, PARTS.map(|name| part(name, id))).unwrap();
            });
        }
        let name = child_name(1);
        PARTS.iter().for_each(|part| disk.retire(&format!("{name}/{part}")));
        let child = disk.child(&name).unwrap();
        for part in ["commit", "b.pt", "a.pt"] {
            remove_durably(&*child, &[part]).unwrap();
        }
        disk.remove_child(&name).unwrap();
        disk.sync().unwrap();
        assert_children_safe(&format!("a child is removed, {what}"), &disk);
        assert_eq!(disk.children().unwrap(), [child_name(2)]);
    }
}

/// What a crash at the end may leave of the child `run`: `None` if it is missing, else its files.
fn left_of_child(disk: &SimulatedDisk) -> BTreeSet<Option<Vec<String>>> {
    let mut left = BTreeSet::new();
    disk.crash_from(disk.steps(), |state| {
        let child = state.directory.child("run").ok();
        let names = child.map(|child| child.list().unwrap());
        let names = names.map(|names| names.into_iter().map(|entry| entry.name).collect());
        left.insert(names);
        Ok(())
    });
    left
}

#[test]
fn a_child_and_what_is_in_it_are_kept_or_lost_apart() {
    let with_file = Some(vec!["a.pt".to_owned()]);
    let empty = Some(Vec::new());
    // Nothing was synced.
    let disk = SimulatedDisk::new();
    disk.make_child("run").unwrap();
    assert_eq!(left_of_child(&disk), [None, empty.clone()].into());
    // The child was, its parent was not: the file is there if the child is.
    let child = disk.child("run").unwrap();
    save(&*child, "a.pt", 1).unwrap();
    assert_eq!(left_of_child(&disk), [None, with_file.clone()].into());
    // Both were.
    disk.sync().unwrap();
    assert_eq!(left_of_child(&disk), [with_file.clone()].into());
    // The parent was, the child was not.
    let disk = SimulatedDisk::new();
    disk.make_child("run").unwrap();
    disk.sync().unwrap();
    let child = disk.child("run").unwrap();
    let synced = draft(&disk, 1).sync().unwrap();
    disk.remove(synced.name()).unwrap();
    let inside = child.create(1).unwrap();
    inside.write_at(0, b"x").unwrap();
    let inside = inside.sync().unwrap();
    child.rename(inside.name(), "a.pt").unwrap();
    let left = left_of_child(&disk);
    assert!(
        left.contains(&empty) && left.contains(&with_file) && !left.contains(&None),
        "{left:?}"
    );
}

/// A file in a child that is durable but for its name.
fn save_without_sync_of_names(directory: &dyn Directory, name: &str, id: u64) {
    let draft = directory.create(PART_LEN as u64).unwrap();
    write(&*draft, id, PART_LEN).unwrap();
    let synced = draft.sync().unwrap();
    directory.rename(synced.name(), name).unwrap();
}

/// Makes a child with all its files. The parent is not synced.
fn make_with_parts(disk: &SimulatedDisk, name: &str, id: u64) {
    disk.make_child(name).unwrap();
    let child = disk.child(name).unwrap();
    for part in PARTS {
        publish(&*child, part, PART_LEN as u64, |to| write(to, id, PART_LEN)).unwrap();
    }
}

/// Makes a child whose files have names that are not durable, as its own is not.
fn make_without_sync_of_names(disk: &SimulatedDisk, name: &str, id: u64) -> Arc<dyn Directory> {
    disk.make_child(name).unwrap();
    let child = disk.child(name).unwrap();
    PARTS.iter().for_each(|part| save_without_sync_of_names(&*child, part, id));
    child
}

/// Makes two children by a writer that is broken on purpose, which has to be seen.
fn broken_writer_is_caught(what: &str, writer: impl Fn(&SimulatedDisk, &str, u64)) {
    let disk = SimulatedDisk::new();
    for id in 1..=2 {
        noted_child(&disk, &child_name(id), id, |name| writer(&disk, name, id));
    }
    assert_children_caught(what, &disk);
}

#[test]
fn a_writer_that_does_not_sync_the_parent_is_caught() {
    broken_writer_is_caught("no sync of the parent", make_with_parts);
}

#[test]
fn a_writer_that_does_not_sync_the_child_is_caught() {
    broken_writer_is_caught("no sync of the child", |disk, name, id| {
        make_without_sync_of_names(disk, name, id);
        disk.sync().unwrap();
    });
}

#[test]
fn a_writer_that_acknowledges_before_the_sync_of_the_parent_is_caught() {
    let disk = SimulatedDisk::new();
    for id in 1..=2 {
        let name = child_name(id);
        PARTS.iter().for_each(|part| disk.begin(&format!("{name}/{part}"), id));
        make_with_parts(&disk, &name, id);
        acknowledge(&disk, &name, id);
        disk.sync().unwrap();
    }
    assert_children_caught("acknowledged before the sync of the parent", &disk);
}

#[test]
fn a_writer_that_syncs_the_parent_before_the_child_is_made_is_caught() {
    broken_writer_is_caught("a sync of the parent that comes too early", |disk, name, id| {
        disk.sync().unwrap();
        make_with_parts(disk, name, id);
    });
}

#[test]
fn a_writer_that_names_its_commit_before_the_other_files_are_durable_is_caught() {
    broken_writer_is_caught("a commit before its files", |disk, name, id| {
        make_without_sync_of_names(disk, name, id).sync().unwrap();
        disk.sync().unwrap();
    });
}

#[test]
fn a_writer_that_does_not_sync_the_rename_of_a_staged_child_is_caught() {
    broken_writer_is_caught("no sync of the rename of a child", |disk, name, id| {
        publish_in_child(disk, ".staged", PARTS.map(|name| part(name, id))).unwrap();
        disk.rename_child(".staged", name).unwrap();
    });
}

#[test]
fn a_disk_that_lies_about_the_sync_of_a_child_or_its_parent_is_caught() {
    for concerns in [(|op| matches!(op, Op::SyncNames)) as fn(&Op) -> bool, |op| {
        matches!(op, Op::SyncChild { .. })
    }] {
        let disk = SimulatedDisk::new();
        let directory = FaultDirectory::new(disk.clone());
        directory.arm(Fault {
            concerns,
            after: 0,
            times: Times::FromThenOn,
            effect: Effect::Forget,
        });
        for id in 1..=2 {
            noted_child(&disk, &child_name(id), id, |child| {
                publish_in_child(&directory, child, PARTS.map(|name| part(name, id))).unwrap();
            });
        }
        assert!(directory.fired() > 0);
        assert_children_caught("a sync of a child or its parent that is forgotten", &disk);
    }
}
