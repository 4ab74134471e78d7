//! What any [`Store`] must do, as tests that run against an implementation.
//!
//! Each test gets a fresh, empty store. A violation panics with the sentence that does not hold.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a violated contract is a panic")]

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::thread;

use super::{ReadAt, Store, Synced, is_draft};

/// Runs every test against stores that `make` makes. Returns how many there are.
///
/// # Panics
/// Where the store breaks its contract.
pub fn check<S: Store>(make: impl Fn() -> S) -> usize {
    let tests: &[fn(&dyn Store)] = &[
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
    ];
    for test in tests {
        test(&make());
    }
    tests.len()
}

/// Writes, syncs and renames a file.
fn save(store: &dyn Store, name: &str, content: &[u8]) {
    let synced = draft(store, content);
    store.rename(synced.name(), name).unwrap();
    store.sync().unwrap();
}

fn draft(store: &dyn Store, content: &[u8]) -> Synced {
    let draft = store.create(content.len() as u64).unwrap();
    draft.write_at(0, content).unwrap();
    draft.sync().unwrap()
}

fn bytes(file: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

fn read(store: &dyn Store, name: &str) -> Vec<u8> {
    bytes(&*store.open(name).unwrap())
}

fn names(store: &dyn Store) -> BTreeSet<String> {
    store.list().unwrap().into_iter().map(|entry| entry.name).collect()
}

fn assert_names<const N: usize>(store: &dyn Store, expected: [&str; N]) {
    assert_eq!(names(store), expected.map(String::from).into(), "the names in the store");
}

#[track_caller]
fn assert_error<T>(result: io::Result<T>, kind: ErrorKind) {
    match result {
        Ok(_) => panic!("{kind:?} was expected, not success"),
        Err(error) => assert_eq!(error.kind(), kind, "{error}"),
    }
}

fn a_draft_becomes_a_file_by_sync_and_rename(store: &dyn Store) {
    save(store, "a.pt", b"content");
    assert_eq!(read(store, "a.pt"), b"content");
    let entries = store.list().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].name.as_str(), entries[0].len), ("a.pt", 7));
}

/// A draft that is to be called `name`, whether or not it has a name until then.
fn draft_for(store: &dyn Store, name: &str, content: &[u8]) -> Synced {
    let draft = store.create_for(name, content.len() as u64).unwrap();
    draft.write_at(0, content).unwrap();
    draft.sync().unwrap()
}

fn a_draft_for_a_name_has_that_name_or_none_until_it_is_given_one(store: &dyn Store) {
    let synced = draft_for(store, "a.pt", b"content");
    if synced.name().is_empty() {
        assert_names(store, []);
        store.name_draft(&synced, "a.pt").unwrap();
    } else {
        assert!(is_draft(synced.name()));
        assert_names(store, [synced.name()]);
        assert_error(store.name_draft(&synced, "b.pt"), ErrorKind::InvalidInput);
        store.rename(synced.name(), "a.pt").unwrap();
    }
    store.sync().unwrap();
    drop(synced);
    assert_names(store, ["a.pt"]);
    assert_eq!(read(store, "a.pt"), b"content");
    for name in ["", "a/b", "..", ".scai.lock"] {
        assert_error(store.create_for(name, 1), ErrorKind::InvalidInput);
    }
}

fn a_draft_without_a_name_is_never_given_a_name_that_is_taken(store: &dyn Store) {
    save(store, "a.pt", b"old");
    let synced = draft_for(store, "a.pt", b"newer");
    if synced.name().is_empty() {
        assert_error(store.name_draft(&synced, "a.pt"), ErrorKind::AlreadyExists);
        assert_eq!(read(store, "a.pt"), b"old");
        let temporary = super::draft_name();
        store.name_draft(&synced, &temporary).unwrap();
        assert_eq!(read(store, "a.pt"), b"old");
        store.rename(&temporary, "a.pt").unwrap();
        assert_eq!(read(store, "a.pt"), b"newer");
        assert_names(store, ["a.pt"]);
    }
}

fn a_draft_without_a_name_that_is_dropped_leaves_nothing(store: &dyn Store) {
    let draft = store.create_for("a.pt", 3).unwrap();
    draft.write_at(0, b"abc").unwrap();
    let unnamed = draft.name().is_empty();
    drop(draft);
    assert_names(store, []);
    if unnamed {
        drop(draft_for(store, "a.pt", b"abc"));
        assert_names(store, []);
    }
}

fn a_sweep_spares_a_draft_that_was_just_named(store: &dyn Store) {
    let synced = draft_for(store, "a.pt", b"abc");
    if synced.name().is_empty() {
        let temporary = super::draft_name();
        store.name_draft(&synced, &temporary).unwrap();
        assert_eq!(store.sweep().unwrap(), Vec::<String>::new());
        drop(synced);
        assert_eq!(store.sweep().unwrap(), [temporary]);
    }
    assert_names_are_drafts_or_none(store);
}

fn assert_names_are_drafts_or_none(store: &dyn Store) {
    assert!(names(store).iter().all(|name| is_draft(name)), "{:?}", names(store));
}

fn a_draft_is_listed_under_a_draft_name_only(store: &dyn Store) {
    let one = store.create(3).unwrap();
    let two = store.create(3).unwrap();
    assert!(is_draft(one.name()) && is_draft(two.name()));
    assert_ne!(one.name(), two.name());
    assert_names(store, [one.name(), two.name()]);
}

fn a_dropped_draft_is_gone(store: &dyn Store) {
    let draft = store.create(3).unwrap();
    draft.write_at(0, b"abc").unwrap();
    drop(draft);
    assert_names(store, []);
}

fn an_empty_file_is_a_file(store: &dyn Store) {
    save(store, "empty", b"");
    assert_eq!(read(store, "empty"), b"");
    assert!(store.open("empty").unwrap().is_empty());
}

fn writes_may_come_in_any_order_and_from_several_threads(store: &dyn Store) {
    const PIECE: usize = 1000;
    let content: Vec<u8> = (0..64 * PIECE).map(|at| (at / 7) as u8).collect();
    let draft = store.create(content.len() as u64).unwrap();
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
    store.rename(synced.name(), "a.pt").unwrap();
    assert_eq!(read(store, "a.pt"), content);
}

fn what_was_reserved_and_not_written_reads_as_zeros(store: &dyn Store) {
    let draft = store.create(10).unwrap();
    draft.write_at(8, b"end!").unwrap();
    let synced = draft.sync().unwrap();
    store.rename(synced.name(), "a.pt").unwrap();
    assert_eq!(read(store, "a.pt"), b"\0\0\0\0\0\0\0\0end!");
}

fn a_reservation_that_cannot_be_had_leaves_nothing(store: &dyn Store) {
    let error = store.create(u64::MAX).unwrap_err();
    let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge];
    assert!(full.contains(&error.kind()), "{error:?}");
    assert_names(store, []);
}

fn reading_past_the_end_is_unexpected_eof(store: &dyn Store) {
    save(store, "a.pt", b"content");
    let file = store.open("a.pt").unwrap();
    for (offset, len) in [(0, 8), (7, 1), (100, 1)] {
        assert_error(file.read_at(offset, &mut vec![0; len]), ErrorKind::UnexpectedEof);
    }
    file.read_at(7, &mut []).unwrap();
    let mut middle = [0; 3];
    file.forget_cached();
    file.read_at(2, &mut middle).unwrap();
    assert_eq!(&middle, b"nte");
}

fn rename_replaces_in_one_step(store: &dyn Store) {
    save(store, "a.pt", b"old");
    save(store, "b.pt", b"new!");
    store.rename("b.pt", "a.pt").unwrap();
    assert_eq!(read(store, "a.pt"), b"new!");
    assert_names(store, ["a.pt"]);
}

fn renaming_a_file_onto_itself_changes_nothing(store: &dyn Store) {
    save(store, "a.pt", b"content");
    store.rename("a.pt", "a.pt").unwrap();
    assert_eq!(read(store, "a.pt"), b"content");
    if linked(store, "a.pt", "b.pt") {
        store.rename("a.pt", "b.pt").unwrap();
        assert_names(store, ["a.pt", "b.pt"]);
    }
}

fn an_open_file_survives_replacement_and_removal(store: &dyn Store) {
    save(store, "a.pt", b"old");
    let old = store.open("a.pt").unwrap();
    save(store, "a.pt", b"newer");
    assert_eq!((bytes(&*old), old.len()), (b"old".to_vec(), 3));
    let newer = store.open("a.pt").unwrap();
    store.remove("a.pt").unwrap();
    store.sync().unwrap();
    assert_eq!(bytes(&*newer), b"newer");
    assert_eq!(bytes(&*old), b"old");
}

fn what_does_not_exist_is_not_found(store: &dyn Store) {
    save(store, "a.pt", b"content");
    assert_error(store.open("b.pt"), ErrorKind::NotFound);
    assert_error(store.remove("b.pt"), ErrorKind::NotFound);
    assert_error(store.rename("b.pt", "a.pt"), ErrorKind::NotFound);
    assert_eq!(read(store, "a.pt"), b"content");
}

fn a_link_is_a_second_name_for_the_same_file(store: &dyn Store) {
    save(store, "a.pt", b"content");
    save(store, "taken.pt", b"other");
    if !linked(store, "a.pt", "b.pt") {
        return;
    }
    assert_error(store.link("a.pt", "taken.pt"), ErrorKind::AlreadyExists);
    assert_error(store.link("none.pt", "c.pt"), ErrorKind::NotFound);
    store.remove("a.pt").unwrap();
    assert_eq!(read(store, "b.pt"), b"content");
    assert_eq!(read(store, "taken.pt"), b"other");
    assert_names(store, ["b.pt", "taken.pt"]);
}

/// Whether the store has links at all; the only thing a store may leave out.
fn linked(store: &dyn Store, from: &str, to: &str) -> bool {
    match store.link(from, to) {
        Err(error) if error.kind() == ErrorKind::Unsupported => false,
        result => result.map(|()| true).unwrap(),
    }
}

fn names_are_single_components(store: &dyn Store) {
    save(store, "a.pt", b"content");
    for name in ["", ".", "..", "a/b", "/a", "../a.pt", "a\\b", "a\0b", ".scai.lock"] {
        assert_error(store.open(name), ErrorKind::InvalidInput);
        assert_error(store.remove(name), ErrorKind::InvalidInput);
        assert_error(store.rename("a.pt", name), ErrorKind::InvalidInput);
        assert_error(store.rename(name, "b.pt"), ErrorKind::InvalidInput);
        let error = store.link("a.pt", name).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported));
    }
    assert_names(store, ["a.pt"]);
}

fn only_one_writer_holds_the_lock(store: &dyn Store) {
    for _ in 0..2 {
        let lock = store.lock().unwrap();
        for _ in 0..2 {
            let error = store.lock().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            assert!(error.to_string().contains("process"), "{error} does not say who");
        }
        drop(lock);
    }
    assert_names(store, []);
}

fn a_sweep_spares_drafts_whose_writer_lives(store: &dyn Store) {
    let draft = store.create(3).unwrap();
    assert_eq!(store.sweep().unwrap(), Vec::<String>::new());
    draft.write_at(0, b"abc").unwrap();
    let synced = draft.sync().unwrap();
    store.rename(synced.name(), "a.pt").unwrap();
    assert_eq!(read(store, "a.pt"), b"abc");
}

fn a_sweep_spares_a_synced_draft_until_it_is_renamed(store: &dyn Store) {
    let synced = draft(store, b"abc");
    assert_eq!(store.sweep().unwrap(), Vec::<String>::new());
    store.rename(synced.name(), "a.pt").unwrap();
    assert_eq!(read(store, "a.pt"), b"abc");

    let abandoned = draft(store, b"abc");
    let name = abandoned.name().to_owned();
    drop(abandoned);
    assert_names(store, ["a.pt", &name]);
    assert_eq!(store.sweep().unwrap(), [name]);
    assert_names(store, ["a.pt"]);
}

fn a_sweep_touches_nothing_but_drafts(store: &dyn Store) {
    save(store, "a.pt", b"content");
    save(store, "scai-1.tmp", b"not ours");
    let lock = store.lock().unwrap();
    assert_eq!(store.sweep().unwrap(), Vec::<String>::new());
    assert_error(store.lock(), ErrorKind::WouldBlock);
    drop(lock);
    assert_names(store, ["a.pt", "scai-1.tmp"]);
}
