//! What any [`Store`] must do.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::thread;

use super::bytes;
use crate::error::{Error, Result};
use crate::store::{Publication, Store, is_draft};

/// Runs every test against stores that `make` makes. Returns the number of tests.
///
/// # Panics
/// If the store breaks its contract.
pub fn check_store<S: Store>(make: impl Fn() -> S) -> usize {
    let tests: &[fn(&dyn Store)] = &[
        what_was_published_is_listed_and_opened,
        an_entry_may_be_empty,
        an_entry_replaces_what_has_its_name,
        nothing_is_there_before_it_is_approved,
        what_is_not_approved_is_not_published,
        what_cannot_be_written_is_not_published,
        a_plan_that_is_not_carried_out_is_not_published,
        writes_may_come_in_any_order_and_from_several_threads,
        what_is_to_be_new_replaces_nothing,
        of_many_that_are_to_be_new_one_is_published,
        a_part_of_an_entry_can_be_read,
        an_open_entry_survives_replacement_and_removal,
        what_does_not_exist_is_not_found,
        a_list_has_what_begins_with_the_prefix,
        removing_takes_away_what_is_there_in_order,
        names_are_single_components,
        only_one_writer_has_the_lease,
        readers_need_no_lease,
        an_alias_is_a_further_name,
        what_is_set_aside_is_kept,
    ];
    for test in tests {
        test(&make());
    }
    tests.len()
}

fn save(store: &dyn Store, name: &str, content: &[u8]) {
    store.publish(Publication::of_bytes(name, content)).unwrap();
}

fn read(store: &dyn Store, name: &str) -> Vec<u8> {
    bytes(&*store.open(name).unwrap())
}

fn names(store: &dyn Store, prefix: &str) -> BTreeSet<String> {
    store.list(prefix).unwrap().into_iter().map(|entry| entry.name).collect()
}

#[track_caller]
fn assert_names<const N: usize>(store: &dyn Store, expected: [&str; N]) {
    assert_eq!(names(store, ""), expected.map(String::from).into(), "the names in the store");
}

#[track_caller]
fn assert_not_found<T>(result: Result<T>) {
    match result {
        Ok(_) => panic!("an error was expected, not success"),
        Err(error) => assert!(matches!(error, Error::NotFound { .. }), "{error:?}"),
    }
}

#[track_caller]
fn assert_io<T>(result: Result<T>, kind: ErrorKind) {
    match result {
        Ok(_) => panic!("{kind:?} was expected, not success"),
        Err(Error::Io { source, .. }) => assert_eq!(source.kind(), kind, "{source}"),
        Err(error) => panic!("{kind:?} was expected, not {error:?}"),
    }
}

fn what_was_published_is_listed_and_opened(store: &dyn Store) {
    assert_names(store, []);
    save(store, "a.pt", b"content");
    assert_eq!(read(store, "a.pt"), b"content");
    let entries = store.list("").unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].name.as_str(), entries[0].len), ("a.pt", 7));
    store.check_location().unwrap();
}

fn an_entry_may_be_empty(store: &dyn Store) {
    save(store, "empty", b"");
    assert!(store.open("empty").unwrap().is_empty());
    assert_eq!(store.list("").unwrap()[0].len, 0);
}

fn an_entry_replaces_what_has_its_name(store: &dyn Store) {
    save(store, "a.pt", b"old");
    save(store, "a.pt", b"newer");
    assert_eq!(read(store, "a.pt"), b"newer");
    assert_names(store, ["a.pt"]);
}

fn nothing_is_there_before_it_is_approved(store: &dyn Store) {
    save(store, "a.pt", b"old");
    for name in ["a.pt", "b.pt"] {
        let looks = || {
            assert_eq!(read(store, "a.pt"), b"old");
            assert_names(store, ["a.pt"]);
            Ok(())
        };
        let written = |to: &dyn crate::store::WriteAt| {
            to.write_at(0, b"newer").unwrap();
            looks()
        };
        let refused = || looks().and(Err(Error::Cancelled));
        let entry = Publication::new(name, 5, written).approved_by(refused);
        assert!(store.publish(entry).is_err(), "what was not approved was published");
    }
}

fn what_is_not_approved_is_not_published(store: &dyn Store) {
    save(store, "a.pt", b"old");
    for name in ["a.pt", "b.pt"] {
        let entry = Publication::of_bytes(name, b"newer").approved_by(|| Err(Error::Cancelled));
        let error = store.publish(entry).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error:?}");
    }
    assert_eq!(read(store, "a.pt"), b"old");
    assert_names(store, ["a.pt"]);
}

fn what_cannot_be_written_is_not_published(store: &dyn Store) {
    save(store, "a.pt", b"old");
    for name in ["a.pt", "b.pt"] {
        let entry = Publication::new(name, 5, |to| {
            to.write_at(0, b"new").unwrap();
            Err(Error::Cancelled)
        });
        let entry = entry.approved_by(|| panic!("what was not written is to be approved"));
        let error = store.publish(entry).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error:?}");
    }
    assert_eq!(read(store, "a.pt"), b"old");
    assert_names(store, ["a.pt"]);
}

fn a_plan_that_is_not_carried_out_is_not_published(store: &dyn Store) {
    let short = Publication::new("a.pt", 100, |to| {
        to.write_at(0, &[1; 99]).unwrap();
        Ok(())
    });
    assert!(store.publish(short).is_err(), "fewer bytes than planned were published");
    let long = Publication::new("a.pt", 100, |to| {
        assert!(to.write_at(1, &[1; 100]).is_err(), "more bytes than planned were written");
        Ok(())
    });
    assert!(store.publish(long).is_err(), "nothing was written, and published");
    assert_names(store, []);
}

fn writes_may_come_in_any_order_and_from_several_threads(store: &dyn Store) {
    const PIECE: usize = 1000;
    let content: Vec<u8> = (0..64 * PIECE).map(|at| (at / 7) as u8).collect();
    let entry = Publication::new("a.pt", content.len() as u64, |to| {
        thread::scope(|scope| {
            for lane in 0..4 {
                let content = &content;
                scope.spawn(move || {
                    let pieces = content.chunks(PIECE).enumerate().rev();
                    for (nth, piece) in pieces.filter(|(nth, _)| nth % 4 == lane) {
                        to.write_at((nth * PIECE) as u64, piece).unwrap();
                    }
                });
            }
        });
        Ok(())
    });
    store.publish(entry).unwrap();
    assert_eq!(read(store, "a.pt"), content);
}

fn what_is_to_be_new_replaces_nothing(store: &dyn Store) {
    store.publish(Publication::of_bytes("a.pt", b"first").if_absent()).unwrap();
    assert_eq!(read(store, "a.pt"), b"first");
    let second = Publication::of_bytes("a.pt", b"second").if_absent();
    assert_io(store.publish(second), ErrorKind::AlreadyExists);
    assert_eq!(read(store, "a.pt"), b"first");
    // Another writer may take the name while the bytes are written.
    let raced = Publication::of_bytes("b.pt", b"slow").if_absent();
    let raced = raced.approved_by(|| {
        save(store, "b.pt", b"fast");
        Ok(())
    });
    assert_io(store.publish(raced), ErrorKind::AlreadyExists);
    assert_eq!(read(store, "b.pt"), b"fast");
    assert_names(store, ["a.pt", "b.pt"]);
    store.remove(&["a.pt"]).unwrap();
    store.publish(Publication::of_bytes("a.pt", b"third").if_absent()).unwrap();
    assert_eq!(read(store, "a.pt"), b"third");
}

fn of_many_that_are_to_be_new_one_is_published(store: &dyn Store) {
    let attempt = |writer: u8| {
        let content = vec![writer; 1000];
        store.publish(Publication::of_bytes("a.pt", &content).if_absent()).is_ok()
    };
    let won: Vec<u8> = thread::scope(|scope| {
        let writers: Vec<_> =
            (0..8).map(|writer| (writer, scope.spawn(move || attempt(writer)))).collect();
        let ended = writers.into_iter().map(|(writer, thread)| (writer, thread.join().unwrap()));
        ended.filter(|(_, won)| *won).map(|(writer, _)| writer).collect()
    });
    assert_eq!(won.len(), 1, "those that were told that theirs is there");
    assert_eq!(read(store, "a.pt"), vec![won[0]; 1000]);
    assert_names(store, ["a.pt"]);
}

fn a_part_of_an_entry_can_be_read(store: &dyn Store) {
    save(store, "a.pt", b"content");
    let file = store.open("a.pt").unwrap();
    file.forget_cached();
    let mut middle = [0; 3];
    file.read_at(2, &mut middle).unwrap();
    assert_eq!(&middle, b"nte");
    file.read_at(7, &mut []).unwrap();
    for (offset, len) in [(0, 8), (7, 1), (100, 1)] {
        let error = file.read_at(offset, &mut vec![0; len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
    }
}

fn an_open_entry_survives_replacement_and_removal(store: &dyn Store) {
    save(store, "a.pt", b"old");
    let old = store.open("a.pt").unwrap();
    save(store, "a.pt", b"newer");
    assert_eq!((bytes(&*old), old.len()), (b"old".to_vec(), 3));
    let newer = store.open("a.pt").unwrap();
    if old.stamp().is_some() {
        assert_ne!(old.stamp(), newer.stamp(), "two entries have one stamp");
    }
    store.remove(&["a.pt"]).unwrap();
    assert_eq!(bytes(&*newer), b"newer");
    assert_eq!(bytes(&*old), b"old");
}

fn what_does_not_exist_is_not_found(store: &dyn Store) {
    save(store, "a.pt", b"content");
    assert_not_found(store.open("b.pt"));
    assert_not_found(store.point("latest.pt", "b.pt"));
    assert!(store.set_aside("b.pt", "why").is_err(), "what is not there was set aside");
    store.remove(&["b.pt"]).unwrap();
    store.remove(&[]).unwrap();
    assert_names(store, ["a.pt"]);
}

fn a_list_has_what_begins_with_the_prefix(store: &dyn Store) {
    for name in ["iter_1.pt", "iter_10.pt", "other.pt"] {
        save(store, name, b"content");
    }
    assert_eq!(names(store, "iter_"), ["iter_1.pt", "iter_10.pt"].map(String::from).into());
    assert_eq!(names(store, "iter_10"), ["iter_10.pt".to_owned()].into());
    assert!(names(store, "none").is_empty());
    let entry = Publication::new("iter_2.pt", 3, |to| {
        to.write_at(0, b"abc").unwrap();
        assert_eq!(names(store, "").len(), 3, "what is being written is listed");
        Ok(())
    });
    store.publish(entry).unwrap();
    assert!(names(store, "").iter().all(|name| !is_draft(name)));
}

fn removing_takes_away_what_is_there_in_order(store: &dyn Store) {
    for name in ["a.pt", "b.pt", "c.pt"] {
        save(store, name, b"content");
    }
    store.remove(&["a.pt", "none.pt", "c.pt"]).unwrap();
    assert_names(store, ["b.pt"]);
    save(store, "d.pt", b"content");
    assert!(store.remove(&["b.pt", "a/b", "d.pt"]).is_err(), "a bad name was removed");
    assert_names(store, ["d.pt"]);
}

fn names_are_single_components(store: &dyn Store) {
    save(store, "a.pt", b"content");
    for name in ["", ".", "..", "a/b", "/a", "../a.pt", "a\\b", "a\0b"] {
        assert_io(store.open(name), ErrorKind::InvalidInput);
        assert_io(store.publish(Publication::of_bytes(name, b"x")), ErrorKind::InvalidInput);
        assert_io(store.remove(&[name]), ErrorKind::InvalidInput);
        assert_io(store.point(name, "a.pt"), ErrorKind::InvalidInput);
    }
    assert_names(store, ["a.pt"]);
}

fn only_one_writer_has_the_lease(store: &dyn Store) {
    for _ in 0..2 {
        let lease = store.lease().unwrap();
        for _ in 0..2 {
            let Err(error) = store.lease() else { panic!("two writers have the lease") };
            assert!(matches!(error, Error::Locked { .. }), "{error:?} is not `Error::Locked`");
        }
        save(store, "a.pt", b"content");
        drop(lease);
    }
    assert_names(store, ["a.pt"]);
}

fn readers_need_no_lease(store: &dyn Store) {
    save(store, "a.pt", b"content");
    let _lease = store.lease().unwrap();
    assert_eq!(read(store, "a.pt"), b"content");
    assert_names(store, ["a.pt"]);
    store.sweep_unless_leased().unwrap();
    assert_names(store, ["a.pt"]);
}

fn an_alias_is_a_further_name(store: &dyn Store) {
    save(store, "a.pt", b"first");
    save(store, "b.pt", b"second");
    for _ in 0..2 {
        store.point("latest.pt", "a.pt").unwrap();
        assert_eq!(read(store, "latest.pt"), b"first");
    }
    store.point("latest.pt", "b.pt").unwrap();
    store.remove(&["b.pt"]).unwrap();
    save(store, "a.pt", b"third");
    assert_eq!(read(store, "latest.pt"), b"second");
    assert_names(store, ["a.pt", "latest.pt"]);
}

fn what_is_set_aside_is_kept(store: &dyn Store) {
    save(store, "a.pt", b"damaged");
    match store.set_aside("a.pt", "why") {
        Ok(aside) => {
            assert_not_found(store.open("a.pt"));
            assert_eq!(read(store, &aside), b"damaged");
            save(store, "a.pt", b"again");
            let second = store.set_aside("a.pt", "why").unwrap();
            assert_eq!(read(store, &aside), b"damaged");
            assert_eq!(read(store, &second), b"again");
        }
        Err(error) => {
            assert_io::<()>(Err(error), ErrorKind::Unsupported);
            assert_eq!(read(store, "a.pt"), b"damaged");
        }
    }
}
