//! The contract of all stores, and what is particular to a real directory.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use scai_checkpoint::manager::Timeline;
use scai_checkpoint::store::{
    Directory, DirectoryStore, Entry, Lease, LocalDirectory, LocalStore, Location, MemoryDirectory,
    MemoryStore, Precondition, Publication, ReadAt, Store,
};
use scai_checkpoint::testing::{
    FaultDirectory, Op, SimulatedDisk, check_directory, check_store, lock, point, publish,
    remove_durably, set_aside,
};
use scai_checkpoint::{CheckpointManager, Error, Options, Result};

use crate::payload::{id_under, payload, save};
use crate::support::over;
use crate::training::{Save, Size, state};

#[test]
fn memory_keeps_the_contract() {
    println!("{} tests", check_directory(MemoryDirectory::new));
}

#[test]
fn a_directory_without_faults_keeps_the_contract() {
    check_directory(|| FaultDirectory::new(MemoryDirectory::new()));
}

#[test]
fn the_simulated_disk_keeps_the_contract() {
    check_directory(SimulatedDisk::new);
    check_directory(SimulatedDisk::with_named_drafts);
}

#[test]
fn every_store_keeps_the_contract() {
    println!("{} tests", check_store(MemoryStore::new));
    check_store(|| DirectoryStore::on(SimulatedDisk::new()));
    check_store(|| DirectoryStore::on(SimulatedDisk::with_named_drafts()));
    check_store(|| DirectoryStore::on(FaultDirectory::new(SimulatedDisk::new())));
    check_store(|| Flawed { store: MemoryStore::new(), flaw: None });
    let dir = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    let next = || dir.path().join(count.fetch_add(1, Ordering::Relaxed).to_string());
    check_store(|| LocalStore::create(next()).unwrap());
    check_store(|| DirectoryStore::on(LocalDirectory::create(next()).unwrap().with_named_drafts()));
}

/// A store with the required methods alone, and at most one mistake.
#[derive(Debug)]
struct Flawed {
    store: MemoryStore,
    flaw: Option<Flaw>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    ReplacesWhatIsToBeNew,
    DoesNotAsk,
    AsksTooLate,
    IgnoresWhatWritingSays,
    IgnoresThePrefix,
    RemovesOneOnly,
    LeasesToEverybody,
}

#[derive(Debug)]
struct NoLease;

impl Lease for NoLease {}

impl Store for Flawed {
    fn publish(&self, mut entry: Publication<'_>) -> Result<Timeline> {
        match self.flaw {
            Some(Flaw::ReplacesWhatIsToBeNew) => entry.precondition = Precondition::Any,
            Some(Flaw::DoesNotAsk) => entry.approve = Box::new(|| Ok(())),
            Some(Flaw::AsksTooLate) => {
                let approve = std::mem::replace(&mut entry.approve, Box::new(|| Ok(())));
                let published = self.store.publish(entry);
                return approve().and(published);
            }
            Some(Flaw::IgnoresWhatWritingSays) => {
                let write = entry.write;
                entry.write = Box::new(|to| {
                    let _ = write(to);
                    let _ = to.write_at(3, &[0; 2]);
                    Ok(())
                });
            }
            _ => {}
        }
        self.store.publish(entry)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>> {
        self.store.open(name)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        self.store.list(if self.flaw == Some(Flaw::IgnoresThePrefix) { "" } else { prefix })
    }

    fn remove(&self, names: &[&str]) -> Result<()> {
        let all = self.flaw != Some(Flaw::RemovesOneOnly);
        self.store.remove(if all { names } else { &names[..names.len().min(1)] })
    }

    fn lease(&self) -> Result<Box<dyn Lease>> {
        match self.flaw {
            Some(Flaw::LeasesToEverybody) => Ok(Box::new(NoLease)),
            _ => self.store.lease(),
        }
    }

    fn describe(&self) -> String {
        self.store.describe()
    }
}

#[test]
fn a_store_that_breaks_its_contract_is_caught() {
    for flaw in [
        Flaw::ReplacesWhatIsToBeNew,
        Flaw::DoesNotAsk,
        Flaw::AsksTooLate,
        Flaw::IgnoresWhatWritingSays,
        Flaw::IgnoresThePrefix,
        Flaw::RemovesOneOnly,
        Flaw::LeasesToEverybody,
    ] {
        let checked = std::panic::catch_unwind(|| {
            check_store(|| Flawed { store: MemoryStore::new(), flaw: Some(flaw) })
        });
        assert!(checked.is_err(), "{flaw:?} was not noticed");
    }
}

#[test]
fn a_manager_works_on_a_store_with_the_required_methods_alone() {
    let store = MemoryStore::new();
    let bare = Arc::new(Flawed { store: store.clone(), flaw: None });
    let options = Options::default().retention(scai_checkpoint::Retention::keep_last(2).unwrap());
    let manager = CheckpointManager::with_store(bare, options);
    let save = |iteration| {
        let save = Save { iteration, writer: 1 };
        manager.save(state(save, Size::Small)).unwrap().warnings
    };
    assert!((1..=3).all(|iteration| save(iteration).is_empty()));
    // A file that is damaged stays where it is, and is told of.
    let name = "checkpoint_iter_3.pt";
    let mut bytes = store.directory().get(name).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    store.directory().put(name, bytes.clone());
    let resumed = manager.resume().unwrap().unwrap();
    assert_eq!((resumed.checkpoint.iteration, resumed.skipped.len()), (2, 1));
    assert_eq!(resumed.skipped[0].set_aside, None);
    assert_eq!(store.directory().get(name), Some(bytes));
    let warnings = save(4);
    assert!(matches!(warnings[..], [Error::Damaged { .. }]), "{warnings:?}");
    assert_eq!(manager.resume().unwrap().unwrap().checkpoint.iteration, 4);
}

#[test]
fn a_writer_takes_the_lease_and_sweeps_and_a_reader_does_neither() {
    let directory = FaultDirectory::new(MemoryDirectory::new());
    drop(directory.create(3).unwrap().sync().unwrap());
    let manager = CheckpointManager::with_store(over(directory.clone()), Options::default());
    assert!(manager.list().unwrap().is_empty());
    assert!(manager.latest().unwrap().is_none());
    assert!(manager.resume().unwrap().is_none());
    assert!(!directory.log().contains(&Op::Lock));
    assert_eq!(directory.list().unwrap().len(), 1);
    manager.claim().unwrap();
    assert!(directory.log().contains(&Op::Lock));
    assert_eq!(directory.list().unwrap(), []);
}

#[test]
fn a_location_is_bound_when_it_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let location = Location::new(dir.path().join("run")).unwrap();
    let manager = CheckpointManager::create(location.clone(), Options::default()).unwrap();
    assert_eq!(manager.directory(), dir.path().join("run"));
    CheckpointManager::open(location, Options::default()).unwrap();
    let here = Location::new(".").unwrap();
    assert_eq!(here.to_string(), ".");
    assert_eq!(here.as_path(), Some(env::current_dir().unwrap().join(".").as_path()));
    assert_eq!(LocalStore::open(here).unwrap().describe(), ".");
    let error = CheckpointManager::open("ftp://host/run", Options::default()).unwrap_err();
    assert!(error.to_string().contains("`ftp` is not supported"), "{error}");
}

#[test]
fn a_directory_keeps_the_contract() {
    check_local(&env::temp_dir());
}

#[test]
fn a_directory_in_memory_keeps_the_contract() {
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() {
        println!("SKIPPED: there is no /dev/shm");
        return;
    }
    check_local(shm);
}

fn check_local(parent: &Path) {
    let dir = tempfile::tempdir_in(parent).unwrap();
    let count = AtomicUsize::new(0);
    check_directory(|| {
        let nth = count.fetch_add(1, Ordering::Relaxed);
        LocalDirectory::create(dir.path().join(nth.to_string())).unwrap()
    });
    check_directory(|| {
        let nth = count.fetch_add(1, Ordering::Relaxed);
        LocalDirectory::create(dir.path().join(nth.to_string())).unwrap().with_named_drafts()
    });
}

#[test]
fn a_directory_is_created_with_its_parents_or_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b/c");
    let error = LocalDirectory::open(&deep).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    let store = LocalDirectory::create(&deep).unwrap();
    save(&store, "a.pt", 1).unwrap();
    assert_eq!(id_under(&LocalDirectory::create(&deep).unwrap(), "a.pt"), Ok(1));
    assert_eq!(id_under(&LocalDirectory::open(&deep).unwrap(), "a.pt"), Ok(1));
    assert!(LocalDirectory::create(deep.join("a.pt")).is_err());
    assert!(LocalDirectory::create(deep.join("a.pt/b")).is_err());
}

#[test]
fn a_relative_directory_stays_the_same_one() {
    let store = LocalDirectory::open(".").unwrap();
    assert_eq!(store.path(), env::current_dir().unwrap().join("."));
    assert_eq!(store.describe(), ".");
    assert!(store.list().unwrap().iter().any(|entry| entry.name == "Cargo.toml"));
    assert!(store.free_space().is_some_and(|free| free > 0));
}

#[test]
fn only_regular_files_are_listed() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("directory")).unwrap();
    symlink(path("nowhere"), path("dangling")).unwrap();
    symlink(path("loop"), path("loop")).unwrap();
    fs::write(dir.path().join(OsStr::from_bytes(b"\xff\xfe.pt")), b"x").unwrap();
    fs::write(path("a.pt"), b"four").unwrap();
    symlink(path("a.pt"), path("elsewhere.pt")).unwrap();
    let pipe = Command::new("mkfifo").arg(path("pipe")).status();
    let store = LocalDirectory::open(dir.path()).unwrap();
    let mut entries = store.list().unwrap();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let entry = |name: &str| Entry::file(name, 4);
    assert_eq!(entries, [entry("a.pt"), entry("elsewhere.pt")]);
    // Opened, a pipe would wait for a writer for ever.
    if pipe.is_ok_and(|status| status.success()) {
        assert!(store.open("pipe").is_err());
    }
    assert!(store.open("directory").is_err());
}

#[test]
fn a_new_file_has_the_permissions_of_any_other() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("other"), b"x").unwrap();
    let store = LocalDirectory::open(dir.path()).unwrap();
    save(&store, "a.pt", 1).unwrap();
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode("a.pt"), mode("other"));
}

#[test]
fn latest_is_a_second_name_that_outlives_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = FaultDirectory::new(LocalDirectory::open(dir.path()).unwrap());
    for id in 1..=2 {
        save(&store, "a.pt", id).unwrap();
        for _ in 0..2 {
            point(&store, "latest.pt", "a.pt").unwrap();
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        let inode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().ino();
        assert_eq!(inode("a.pt"), inode("latest.pt"));
    }
    remove_durably(&store, &["a.pt"]).unwrap();
    assert_eq!(id_under(&store, "latest.pt"), Ok(2));
    let aside = set_aside(&store, "latest.pt", "no longer wanted").unwrap();
    let reason = fs::read_to_string(dir.path().join(format!("{aside}.txt"))).unwrap();
    assert_eq!(reason, "no longer wanted");
}

#[test]
fn the_lock_names_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) =
        (LocalDirectory::open(dir.path()).unwrap(), LocalDirectory::open(dir.path()).unwrap());
    let held = lock(&one).unwrap();
    let error = lock(&two).unwrap_err();
    let Error::Locked { holder: Some(holder), .. } = &error else { panic!("{error:?}") };
    assert!(holder.starts_with(&format!("process {} on ", std::process::id())), "{holder}");
    assert!(error.to_string().contains(holder), "{error}");
    drop(held);
    lock(&two).unwrap();
}

#[test]
fn a_sweep_while_others_write_never_harms_them() {
    let dir = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        let path = dir.path();
        let write = move |writer| {
            let store = LocalDirectory::open(path).unwrap();
            for id in 0..100 {
                publish(&store, &format!("{writer}.pt"), 100, |draft| {
                    draft.write_at(0, &payload(id, 100)).unwrap();
                    Ok(())
                })
                .unwrap();
            }
        };
        let writers = [scope.spawn(move || write(0)), scope.spawn(move || write(1))];
        let store = LocalDirectory::open(dir.path()).unwrap();
        let mut sweeps = 0;
        while !writers.iter().all(|writer| writer.is_finished()) {
            store.sweep().unwrap();
            sweeps += 1;
        }
        println!("200 saves beside {sweeps} sweeps");
    });
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_full_disk_is_noticed_before_anything_is_written() {
    let Some(disk) = Tmpfs::mount("size=1m") else { return };
    let store = LocalDirectory::open(&disk.path).unwrap();
    publish(&store, "a.pt", 600_000, |draft| {
        draft.write_at(0, &payload(1, 600_000)).unwrap();
        Ok(())
    })
    .unwrap();
    let error = publish(&store, "a.pt", 600_000, |_| panic!("no room to write to")).unwrap_err();
    let Error::DiskFull { needed: 600_000, free: Some(free), .. } = error else {
        panic!("{error:?}")
    };
    assert!((1..600_000).contains(&free), "{free} bytes free");
    assert_eq!(id_under(&store, "a.pt"), Ok(1));
    assert_eq!(store.list().unwrap().len(), 1);
    // The lock must work on a full disk: room is made under it.
    fs::write(disk.path.join("rest"), vec![0; free as usize]).unwrap_or_default();
    drop(lock(&store).unwrap());
}

/// A small file system of its own, where this process may mount one.
struct Tmpfs {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Tmpfs {
    fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mounted");
        fs::create_dir(&path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).status();
        if !mounted.is_ok_and(|status| status.success()) {
            println!("SKIPPED: a tmpfs cannot be mounted here (needs root)");
            return None;
        }
        Some(Self { path, _dir: dir })
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}

#[test]
fn what_a_killed_writer_leaves_is_swept_and_its_lock_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalDirectory::open(dir.path()).unwrap();
    save(&store, "a.pt", 1).unwrap();
    let mut child = spawn("write for ever", dir.path(), "true");
    wait_until("the child writes", || store.list().unwrap().len() == 2);
    let error = lock(&store).unwrap_err().to_string();
    assert!(error.contains(&format!("process {}", child.id())), "{error}");
    assert_eq!(store.sweep().unwrap(), Vec::<String>::new());

    child.kill().unwrap();
    child.wait().unwrap();
    let _lock = lock(&store).unwrap();
    assert_eq!(store.sweep().unwrap().len(), 1);
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(id_under(&store, "a.pt"), Ok(1));
}

#[test]
fn a_limit_on_the_size_of_files_is_a_full_disk_with_other_advice() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalDirectory::open(dir.path()).unwrap();
    save(&store, "a.pt", 1).unwrap();
    let mut child = spawn("meet a limit", dir.path(), "trap '' XFSZ && ulimit -f 8");
    assert!(child.wait().unwrap().success());
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(id_under(&store, "a.pt"), Ok(1));
}

/// Runs [`child`] in a process of its own.
fn spawn(role: &str, dir: &Path, before: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("{before} && exec \"$0\" \"$@\"")])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "store::child", "--ignored", "--nocapture"])
        .env("SCAI_TEST_ROLE", role)
        .env("SCAI_TEST_DIR", dir)
        // Where the tests write their output to a file, a limit on files would be met by that.
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "run by other tests in a process of its own"]
fn child() {
    let Ok(role) = env::var("SCAI_TEST_ROLE") else { return };
    let store = LocalDirectory::open(env::var_os("SCAI_TEST_DIR").unwrap()).unwrap();
    match role.as_str() {
        "write for ever" => {
            let _lock = lock(&store).unwrap();
            let draft = store.create(1 << 20).unwrap();
            for at in (0..1 << 16).cycle() {
                draft.write_at(at, b"unfinished").unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        }
        "meet a limit" => {
            let error = save(&store, "a.pt", 2).unwrap_err();
            assert!(matches!(error, Error::DiskFull { .. }), "{error:?}");
            assert!(error.to_string().contains("ulimit -f"), "{error}");
        }
        role => panic!("{role}"),
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
