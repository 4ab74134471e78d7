//! What any [`Directory`] must do.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::thread;

use super::bytes;
use crate::store::{Directory, Synced, draft_name, is_draft};

/// Runs every test against directories that `make` makes, and against a child of each, which is a
/// directory like any other. Returns the number of tests.
///
/// # Panics
/// If the directory breaks its contract.
pub fn check_directory<S: Directory>(make: impl Fn() -> S) -> usize {
    let tests: &[fn(&dyn Directory)] = &[
        a_draft_becomes_a_file_by_sync_and_rename,
        a_draft_for_a_name_has_that_name_or_none_until_it_is_given_one,
        a_draft_without_a_name_is_never_given_a_name_that_is_taken,
        a_draft_without_a_name_that_is_dropped_leaves_nothing,
        a_sweep_spares_a_draft_that_was_just_named,
        a_draft_is_listed_under_a_draft_name_only,
        a_dropped_draft_is_gone,
        an_empty_file_is_a_file,
        writes_may_come_in_any_order_and_from_several_threads,
        what_was_reserved_and_not_written_reads_as_zeros,
        a_reservation_that_cannot_be_had_leaves_nothing,
        reading_past_the_end_is_unexpected_eof,
        rename_replaces_in_one_step,
        renaming_a_file_onto_itself_changes_nothing,
        an_open_file_survives_replacement_and_removal,
        what_does_not_exist_is_not_found,
        a_link_is_a_second_name_for_the_same_file,
        names_are_single_components,
        only_one_writer_holds_the_lock,
        a_sweep_spares_drafts_whose_writer_lives,
        a_sweep_spares_a_synced_draft_until_it_is_renamed,
        a_sweep_touches_nothing_but_drafts,
        a_child_is_a_directory_of_its_own,
        a_child_is_no_file_and_a_file_is_no_child,
        files_and_children_share_their_names,
        only_an_empty_child_is_removed,
        nothing_is_made_in_a_child_that_was_removed,
        a_child_is_renamed_with_all_that_is_in_it_to_a_name_that_is_free,
        an_entered_child_stays_the_same_when_it_is_renamed,
        children_are_exchanged_or_that_is_not_supported,
        a_file_of_others_is_made_durable,
        one_holds_a_directory_at_a_time,
        children_may_have_children,
        a_sweep_of_one_directory_leaves_the_others_alone,
    ];
    for test in tests {
        test(&make());
        let parent = make();
        parent.make_child("child").unwrap();
        test(&*parent.child("child").unwrap());
    }
    tests.len()
}

/// Writes, syncs and renames a file.
fn save(directory: &dyn Directory, name: &str, content: &[u8]) {
    let synced = draft(directory, content);
    directory.rename(synced.name(), name).unwrap();
    directory.sync().unwrap();
}

fn draft(directory: &dyn Directory, content: &[u8]) -> Synced {
    let draft = directory.create(content.len() as u64).unwrap();
    draft.write_at(0, content).unwrap();
    draft.sync().unwrap()
}

fn read(directory: &dyn Directory, name: &str) -> Vec<u8> {
    bytes(&*directory.open(name).unwrap())
}

fn names(directory: &dyn Directory) -> BTreeSet<String> {
    directory.list().unwrap().into_iter().map(|entry| entry.name).collect()
}

fn assert_names<const N: usize>(directory: &dyn Directory, expected: [&str; N]) {
    assert_eq!(names(directory), expected.map(String::from).into(), "the names in the directory");
}

#[track_caller]
fn assert_error<T>(result: io::Result<T>, kind: ErrorKind) {
    match result {
        Ok(_) => panic!("{kind:?} was expected, not success"),
        Err(error) => assert_eq!(error.kind(), kind, "{error}"),
    }
}

fn a_draft_becomes_a_file_by_sync_and_rename(directory: &dyn Directory) {
    save(directory, "a.pt", b"content");
    assert_eq!(read(directory, "a.pt"), b"content");
    let entries = directory.list().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].name.as_str(), entries[0].len), ("a.pt", 7));
}

/// A temporary file for `name`, whether or not it has a name until then.
fn draft_for(directory: &dyn Directory, name: &str, content: &[u8]) -> Synced {
    let draft = directory.create_for(name, content.len() as u64).unwrap();
    draft.write_at(0, content).unwrap();
    draft.sync().unwrap()
}

fn a_draft_for_a_name_has_that_name_or_none_until_it_is_given_one(directory: &dyn Directory) {
    let synced = draft_for(directory, "a.pt", b"content");
    if synced.name().is_empty() {
        assert_names(directory, []);
        directory.name_draft(&synced, "a.pt").unwrap();
    } else {
        assert!(is_draft(synced.name()));
        assert_names(directory, [synced.name()]);
        assert_error(directory.name_draft(&synced, "b.pt"), ErrorKind::InvalidInput);
        directory.rename(synced.name(), "a.pt").unwrap();
    }
    directory.sync().unwrap();
    drop(synced);
    assert_names(directory, ["a.pt"]);
    assert_eq!(read(directory, "a.pt"), b"content");
    for name in ["", "a/b", "..", ".scai.lock"] {
        assert_error(directory.create_for(name, 1), ErrorKind::InvalidInput);
    }
}

fn a_draft_without_a_name_is_never_given_a_name_that_is_taken(directory: &dyn Directory) {
    save(directory, "a.pt", b"old");
    let synced = draft_for(directory, "a.pt", b"newer");
    if synced.name().is_empty() {
        assert_error(directory.name_draft(&synced, "a.pt"), ErrorKind::AlreadyExists);
        assert_eq!(read(directory, "a.pt"), b"old");
        let temporary = draft_name();
        directory.name_draft(&synced, &temporary).unwrap();
        assert_eq!(read(directory, "a.pt"), b"old");
        directory.rename(&temporary, "a.pt").unwrap();
        assert_eq!(read(directory, "a.pt"), b"newer");
        assert_names(directory, ["a.pt"]);
    }
}

fn a_draft_without_a_name_that_is_dropped_leaves_nothing(directory: &dyn Directory) {
    let draft = directory.create_for("a.pt", 3).unwrap();
    draft.write_at(0, b"abc").unwrap();
    let unnamed = draft.name().is_empty();
    drop(draft);
    assert_names(directory, []);
    if unnamed {
        drop(draft_for(directory, "a.pt", b"abc"));
        assert_names(directory, []);
    }
}

fn a_sweep_spares_a_draft_that_was_just_named(directory: &dyn Directory) {
    let synced = draft_for(directory, "a.pt", b"abc");
    if synced.name().is_empty() {
        let temporary = draft_name();
        directory.name_draft(&synced, &temporary).unwrap();
        assert_eq!(directory.sweep().unwrap(), Vec::<String>::new());
        drop(synced);
        assert_eq!(directory.sweep().unwrap(), [temporary]);
    }
    assert_names_are_drafts_or_none(directory);
}

fn assert_names_are_drafts_or_none(directory: &dyn Directory) {
    assert!(names(directory).iter().all(|name| is_draft(name)), "{:?}", names(directory));
}

fn a_draft_is_listed_under_a_draft_name_only(directory: &dyn Directory) {
    let one = directory.create(3).unwrap();
    let two = directory.create(3).unwrap();
    assert!(is_draft(one.name()) && is_draft(two.name()));
    assert_ne!(one.name(), two.name());
    assert_names(directory, [one.name(), two.name()]);
}

fn a_dropped_draft_is_gone(directory: &dyn Directory) {
    let draft = directory.create(3).unwrap();
    draft.write_at(0, b"abc").unwrap();
    drop(draft);
    assert_names(directory, []);
}

fn an_empty_file_is_a_file(directory: &dyn Directory) {
    save(directory, "empty", b"");
    assert_eq!(read(directory, "empty"), b"");
    assert!(directory.open("empty").unwrap().is_empty());
}

fn writes_may_come_in_any_order_and_from_several_threads(directory: &dyn Directory) {
    const PIECE: usize = 1000;
    let content: Vec<u8> = (0..64 * PIECE).map(|at| (at / 7) as u8).collect();
    let draft = directory.create(content.len() as u64).unwrap();
    thread::scope(|scope| {
        for lane in 0..4 {
            let (draft, content) = (&draft, &content);
            scope.spawn(move || {
                let pieces = content.chunks(PIECE).enumerate().rev();
                for (nth, piece) in pieces.filter(|(nth, _)| nth % 4 == lane) {
                    draft.write_at((nth * PIECE) as u64, piece).unwrap();
                }
            });
        }
    });
    let synced = draft.sync().unwrap();
    directory.rename(synced.name(), "a.pt").unwrap();
    assert_eq!(read(directory, "a.pt"), content);
}

fn what_was_reserved_and_not_written_reads_as_zeros(directory: &dyn Directory) {
    let draft = directory.create(10).unwrap();
    draft.write_at(8, b"end!").unwrap();
    let synced = draft.sync().unwrap();
    directory.rename(synced.name(), "a.pt").unwrap();
    assert_eq!(read(directory, "a.pt"), b"\0\0\0\0\0\0\0\0end!");
}

fn a_reservation_that_cannot_be_had_leaves_nothing(directory: &dyn Directory) {
    let error = directory.create(u64::MAX).unwrap_err();
    let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge];
    assert!(full.contains(&error.kind()), "{error:?}");
    assert_names(directory, []);
}

fn reading_past_the_end_is_unexpected_eof(directory: &dyn Directory) {
    save(directory, "a.pt", b"content");
    let file = directory.open("a.pt").unwrap();
    for (offset, len) in [(0, 8), (7, 1), (100, 1)] {
        assert_error(file.read_at(offset, &mut vec![0; len]), ErrorKind::UnexpectedEof);
    }
    file.read_at(7, &mut []).unwrap();
    let mut middle = [0; 3];
    file.forget_cached();
    file.read_at(2, &mut middle).unwrap();
    assert_eq!(&middle, b"nte");
}

fn rename_replaces_in_one_step(directory: &dyn Directory) {
    save(directory, "a.pt", b"old");
    save(directory, "b.pt", b"new!");
    directory.rename("b.pt", "a.pt").unwrap();
    assert_eq!(read(directory, "a.pt"), b"new!");
    assert_names(directory, ["a.pt"]);
}

fn renaming_a_file_onto_itself_changes_nothing(directory: &dyn Directory) {
    save(directory, "a.pt", b"content");
    directory.rename("a.pt", "a.pt").unwrap();
    assert_eq!(read(directory, "a.pt"), b"content");
    if linked(directory, "a.pt", "b.pt") {
        directory.rename("a.pt", "b.pt").unwrap();
        assert_names(directory, ["a.pt", "b.pt"]);
    }
}

fn an_open_file_survives_replacement_and_removal(directory: &dyn Directory) {
    save(directory, "a.pt", b"old");
    let old = directory.open("a.pt").unwrap();
    save(directory, "a.pt", b"newer");
    assert_eq!((bytes(&*old), old.len()), (b"old".to_vec(), 3));
    let newer = directory.open("a.pt").unwrap();
    directory.remove("a.pt").unwrap();
    directory.sync().unwrap();
    assert_eq!(bytes(&*newer), b"newer");
    assert_eq!(bytes(&*old), b"old");
}

fn what_does_not_exist_is_not_found(directory: &dyn Directory) {
    save(directory, "a.pt", b"content");
    assert_error(directory.open("b.pt"), ErrorKind::NotFound);
    assert_error(directory.remove("b.pt"), ErrorKind::NotFound);
    assert_error(directory.rename("b.pt", "a.pt"), ErrorKind::NotFound);
    assert_eq!(read(directory, "a.pt"), b"content");
}

fn a_link_is_a_second_name_for_the_same_file(directory: &dyn Directory) {
    save(directory, "a.pt", b"content");
    save(directory, "taken.pt", b"other");
    if !linked(directory, "a.pt", "b.pt") {
        return;
    }
    assert_error(directory.link("a.pt", "taken.pt"), ErrorKind::AlreadyExists);
    assert_error(directory.link("none.pt", "c.pt"), ErrorKind::NotFound);
    directory.remove("a.pt").unwrap();
    assert_eq!(read(directory, "b.pt"), b"content");
    assert_eq!(read(directory, "taken.pt"), b"other");
    assert_names(directory, ["b.pt", "taken.pt"]);
}

/// Whether the directory has links at all; the only thing a directory may leave out.
fn linked(directory: &dyn Directory, from: &str, to: &str) -> bool {
    match directory.link(from, to) {
        Err(error) if error.kind() == ErrorKind::Unsupported => false,
        result => result.map(|()| true).unwrap(),
    }
}

fn names_are_single_components(directory: &dyn Directory) {
    save(directory, "a.pt", b"content");
    for name in ["", ".", "..", "a/b", "/a", "../a.pt", "a\\b", "a\0b", ".scai.lock"] {
        assert_error(directory.open(name), ErrorKind::InvalidInput);
        assert_error(directory.remove(name), ErrorKind::InvalidInput);
        assert_error(directory.rename("a.pt", name), ErrorKind::InvalidInput);
        assert_error(directory.rename(name, "b.pt"), ErrorKind::InvalidInput);
        let error = directory.link("a.pt", name).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported));
    }
    assert_names(directory, ["a.pt"]);
}

fn only_one_writer_holds_the_lock(directory: &dyn Directory) {
    for _ in 0..2 {
        let lock = directory.lock().unwrap();
        for _ in 0..2 {
            let error = directory.lock().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            assert!(error.to_string().contains("process"), "{error} does not say who");
        }
        drop(lock);
    }
    assert_names(directory, []);
}

fn a_sweep_spares_drafts_whose_writer_lives(directory: &dyn Directory) {
    let draft = directory.create(3).unwrap();
    assert_eq!(directory.sweep().unwrap(), Vec::<String>::new());
    draft.write_at(0, b"abc").unwrap();
    let synced = draft.sync().unwrap();
    directory.rename(synced.name(), "a.pt").unwrap();
    assert_eq!(read(directory, "a.pt"), b"abc");
}

fn a_sweep_spares_a_synced_draft_until_it_is_renamed(directory: &dyn Directory) {
    let synced = draft(directory, b"abc");
    assert_eq!(directory.sweep().unwrap(), Vec::<String>::new());
    directory.rename(synced.name(), "a.pt").unwrap();
    assert_eq!(read(directory, "a.pt"), b"abc");

    let abandoned = draft(directory, b"abc");
    let name = abandoned.name().to_owned();
    drop(abandoned);
    assert_names(directory, ["a.pt", &name]);
    assert_eq!(directory.sweep().unwrap(), [name]);
    assert_names(directory, ["a.pt"]);
}

fn a_sweep_touches_nothing_but_drafts(directory: &dyn Directory) {
    save(directory, "a.pt", b"content");
    save(directory, "scai-1.tmp", b"not ours");
    let lock = directory.lock().unwrap();
    assert_eq!(directory.sweep().unwrap(), Vec::<String>::new());
    assert_error(directory.lock(), ErrorKind::WouldBlock);
    drop(lock);
    assert_names(directory, ["a.pt", "scai-1.tmp"]);
}

fn children(directory: &dyn Directory) -> BTreeSet<String> {
    directory.children().unwrap().into_iter().collect()
}

fn assert_children<const N: usize>(directory: &dyn Directory, expected: [&str; N]) {
    assert_eq!(children(directory), expected.map(String::from).into(), "the children");
}

fn a_child_is_a_directory_of_its_own(directory: &dyn Directory) {
    assert_children(directory, []);
    directory.make_child("run").unwrap();
    directory.sync().unwrap();
    let child = directory.child("run").unwrap();
    assert_names(&*child, []);
    save(&*child, "a.pt", b"in the child");
    save(directory, "a.pt", b"beside it");
    assert_eq!(read(&*child, "a.pt"), b"in the child");
    assert_eq!(read(directory, "a.pt"), b"beside it");
    assert_eq!(read(&*directory.child("run").unwrap(), "a.pt"), b"in the child");
    assert_names(directory, ["a.pt"]);
    assert_children(directory, ["run"]);
    assert_children(&*child, []);
    child.remove("a.pt").unwrap();
    assert_names(directory, ["a.pt"]);
    let expected = std::path::Path::new(&directory.describe()).join("run");
    assert_eq!(std::path::Path::new(&child.describe()), expected, "what it is called");
}

fn a_child_is_no_file_and_a_file_is_no_child(directory: &dyn Directory) {
    save(directory, "a.pt", b"content");
    directory.make_child("run").unwrap();
    assert!(directory.open("run").is_err(), "a child is opened as a file");
    assert!(directory.remove("run").is_err(), "a child is removed as a file");
    assert!(directory.rename("a.pt", "run").is_err(), "a file takes the place of a child");
    assert_error(directory.create_for("run", 1), ErrorKind::InvalidInput);
    assert_error(directory.child("a.pt"), ErrorKind::NotADirectory);
    assert_error(directory.remove_child("a.pt"), ErrorKind::NotADirectory);
    assert_error(directory.rename_child("a.pt", "b.pt"), ErrorKind::NotADirectory);
    for name in ["", ".", "..", "a/b", "/a", ".scai.lock"] {
        assert_error(directory.make_child(name), ErrorKind::InvalidInput);
        assert_error(directory.child(name), ErrorKind::InvalidInput);
        assert_error(directory.remove_child(name), ErrorKind::InvalidInput);
        assert_error(directory.rename_child("run", name), ErrorKind::InvalidInput);
        assert_error(directory.rename_child(name, "b"), ErrorKind::InvalidInput);
    }
    assert_error(directory.child("none"), ErrorKind::NotFound);
    assert_error(directory.remove_child("none"), ErrorKind::NotFound);
    assert_error(directory.rename_child("none", "b"), ErrorKind::NotFound);
    assert_names(directory, ["a.pt"]);
    assert_children(directory, ["run"]);
}

fn files_and_children_share_their_names(directory: &dyn Directory) {
    save(directory, "a.pt", b"content");
    directory.make_child("run").unwrap();
    assert_error(directory.make_child("a.pt"), ErrorKind::AlreadyExists);
    assert_error(directory.make_child("run"), ErrorKind::AlreadyExists);
    if linked(directory, "a.pt", "b.pt") {
        assert_error(directory.link("a.pt", "run"), ErrorKind::AlreadyExists);
    }
    let synced = draft_for(directory, "c.pt", b"abc");
    if synced.name().is_empty() {
        assert_error(directory.name_draft(&synced, "run"), ErrorKind::AlreadyExists);
    }
    assert_children(directory, ["run"]);
}

fn only_an_empty_child_is_removed(directory: &dyn Directory) {
    directory.make_child("run").unwrap();
    let child = directory.child("run").unwrap();
    save(&*child, "a.pt", b"content");
    assert_error(directory.remove_child("run"), ErrorKind::DirectoryNotEmpty);
    assert_eq!(read(&*child, "a.pt"), b"content");
    child.remove("a.pt").unwrap();
    child.make_child("below").unwrap();
    assert_error(directory.remove_child("run"), ErrorKind::DirectoryNotEmpty);
    child.remove_child("below").unwrap();
    directory.remove_child("run").unwrap();
    directory.sync().unwrap();
    assert_children(directory, []);
    directory.make_child("run").unwrap();
    assert_names(&*directory.child("run").unwrap(), []);
}

fn nothing_is_made_in_a_child_that_was_removed(directory: &dyn Directory) {
    directory.make_child("run").unwrap();
    let child = directory.child("run").unwrap();
    directory.remove_child("run").unwrap();
    assert_error(child.create(1), ErrorKind::NotFound);
    assert_error(child.make_child("below"), ErrorKind::NotFound);
    directory.make_child("run").unwrap();
    assert_error(child.create(1), ErrorKind::NotFound);
    assert_names(&*directory.child("run").unwrap(), []);
}

fn a_child_is_renamed_with_all_that_is_in_it_to_a_name_that_is_free(directory: &dyn Directory) {
    save(directory, "a.pt", b"content");
    for name in ["staged", "taken"] {
        directory.make_child(name).unwrap();
    }
    save(&*directory.child("staged").unwrap(), "b.pt", b"inside");
    // Also one that is empty, which POSIX would replace.
    for taken in ["taken", "a.pt", "staged"] {
        assert_error(directory.rename_child("staged", taken), ErrorKind::AlreadyExists);
    }
    assert_children(directory, ["staged", "taken"]);
    directory.rename_child("staged", "run").unwrap();
    directory.sync().unwrap();
    assert_children(directory, ["run", "taken"]);
    assert_eq!(read(&*directory.child("run").unwrap(), "b.pt"), b"inside");
    assert_eq!(read(directory, "a.pt"), b"content");
}

fn an_entered_child_stays_the_same_when_it_is_renamed(directory: &dyn Directory) {
    directory.make_child("staged").unwrap();
    let child = directory.child("staged").unwrap();
    directory.rename_child("staged", "run").unwrap();
    directory.make_child("staged").unwrap();
    save(&*child, "a.pt", b"content");
    assert_eq!(read(&*directory.child("run").unwrap(), "a.pt"), b"content");
    assert_names(&*directory.child("staged").unwrap(), []);
}

fn children_are_exchanged_or_that_is_not_supported(directory: &dyn Directory) {
    save(directory, "a.pt", b"content");
    for name in ["one", "other"] {
        directory.make_child(name).unwrap();
        save(&*directory.child(name).unwrap(), "name.pt", name.as_bytes());
    }
    let name_in = |child: &str| read(&*directory.child(child).unwrap(), "name.pt");
    match directory.exchange_children("one", "other") {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            assert_eq!(name_in("one"), b"one");
            return;
        }
        exchanged => exchanged.unwrap(),
    }
    assert_eq!((name_in("one"), name_in("other")), (b"other".to_vec(), b"one".to_vec()));
    directory.exchange_children("one", "one").unwrap();
    assert_error(directory.exchange_children("one", "none"), ErrorKind::NotFound);
    assert_error(directory.exchange_children("none", "one"), ErrorKind::NotFound);
    assert_error(directory.exchange_children("one", "a.pt"), ErrorKind::NotADirectory);
    assert_error(directory.exchange_children("one", "a/b"), ErrorKind::InvalidInput);
    assert_eq!((name_in("one"), name_in("other")), (b"other".to_vec(), b"one".to_vec()));
    assert_children(directory, ["one", "other"]);
}

fn a_file_of_others_is_made_durable(directory: &dyn Directory) {
    save(directory, "a.pt", b"content");
    match directory.sync_file("a.pt") {
        Err(error) if error.kind() == ErrorKind::Unsupported => return,
        synced => synced.unwrap(),
    }
    assert_error(directory.sync_file("none"), ErrorKind::NotFound);
    assert_error(directory.sync_file("../a.pt"), ErrorKind::InvalidInput);
    assert_eq!(read(directory, "a.pt"), b"content");
}

fn one_holds_a_directory_at_a_time(directory: &dyn Directory) {
    directory.make_child("run").unwrap();
    let (child, again) = (directory.child("run").unwrap(), directory.child("run").unwrap());
    let held = match child.hold() {
        Err(error) if error.kind() == ErrorKind::Unsupported => return,
        held => held.unwrap(),
    };
    assert_error(again.hold(), ErrorKind::WouldBlock);
    // It is of the directory, not of its name, and another thing than its lock.
    directory.rename_child("run", "done").unwrap();
    assert_error(again.hold(), ErrorKind::WouldBlock);
    assert!(again.lock().is_ok());
    assert_names(&*child, []);
    drop(held);
    drop(again.hold().unwrap());
    drop(child.hold().unwrap());
}

fn children_may_have_children(directory: &dyn Directory) {
    directory.make_child("a").unwrap();
    let a = directory.child("a").unwrap();
    a.make_child("b").unwrap();
    let b = a.child("b").unwrap();
    save(&*b, "c.pt", b"content");
    directory.rename_child("a", "d").unwrap();
    let again = directory.child("d").unwrap().child("b").unwrap();
    assert_eq!(read(&*again, "c.pt"), b"content");
    assert_children(&*a, ["b"]);
}

fn a_sweep_of_one_directory_leaves_the_others_alone(directory: &dyn Directory) {
    directory.make_child("run").unwrap();
    let child = directory.child("run").unwrap();
    let below = draft(&*child, b"abc");
    let here = draft(directory, b"abc");
    let names = [&here, &below].map(|draft| draft.name().to_owned());
    drop((below, here));
    assert_eq!(directory.sweep().unwrap(), [names[0].clone()]);
    assert_names(&*child, [&names[1]]);
    assert_eq!(child.sweep().unwrap(), [names[1].clone()]);
    assert_children(directory, ["run"]);
}
