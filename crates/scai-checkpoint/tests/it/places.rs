//! Where files go: links, devices, permissions, directories that move, URLs.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use scai_checkpoint::codec::{Format, Plan, Unprotected};
use scai_checkpoint::manager::Residency;
use scai_checkpoint::store::{Directory, LocalDirectory, draft_name, is_draft};
use scai_checkpoint::{CheckpointManager, Dict, Error, Options, Value, file};

use crate::child::{Process, command, say, wait_to_go};
use crate::training::{Save, Size, name, open, state};

const SIZE: Size = Size::Tiny;

fn save(manager: &CheckpointManager, iteration: u64) -> scai_checkpoint::Result<PathBuf> {
    manager.save(state(Save { iteration, writer: 1 }, SIZE)).map(|saved| saved.path)
}

fn write(path: impl AsRef<Path>) -> scai_checkpoint::Result<()> {
    let tree = Value::Dict([("a", 1_i64)].into_iter().collect::<Dict>());
    file::write(path, Plan::new(&tree, Format::Torch)?, 1)
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_file_that_is_replaced_keeps_its_permissions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pt");
    for kept in [0o600, 0o640, 0o666] {
        write(&path).unwrap();
        set_mode(&path, kept);
        write(&path).unwrap();
        assert_eq!(mode(&path), kept);
    }
    let manager = open(directory.path(), Options::default());
    let path = save(&manager, 1).unwrap();
    set_mode(&path, 0o600);
    save(&manager, 1).unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn what_is_written_to_a_symbolic_link_goes_where_it_leads() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("elsewhere")).unwrap();
    symlink("elsewhere/a.pt", at("first.pt")).unwrap();
    symlink("first.pt", at("second.pt")).unwrap();
    // The file need not exist yet.
    for _ in 0..2 {
        write(at("second.pt")).unwrap();
        assert!(at("second.pt").is_symlink() && at("first.pt").is_symlink());
        assert!(!at("elsewhere/a.pt").is_symlink());
        file::open(at("elsewhere/a.pt"), Unprotected::Refuse).unwrap();
    }
    symlink("loop.pt", at("loop.pt")).unwrap();
    assert!(matches!(write(at("loop.pt")).unwrap_err(), Error::Io { .. }));
}

#[test]
fn a_pipe_a_device_and_a_directory_are_never_replaced_by_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("directory.pt")).unwrap();
    let mut places = vec![(at("directory.pt"), "a directory")];
    if Command::new("mkfifo").arg(at("pipe.pt")).status().is_ok_and(|status| status.success()) {
        places.push((at("pipe.pt"), "a pipe"));
    }
    // Only root can make one.
    let device = Command::new("mknod").arg(at("null.pt")).args(["c", "1", "3"]).status();
    if device.is_ok_and(|status| status.success()) {
        places.push((at("null.pt"), "a device"));
        symlink("null.pt", at("link.pt")).unwrap();
        places.push((at("link.pt"), "a device"));
    }
    places.push(("/dev/null".into(), "a device"));
    let kind = |path: &Path| fs::metadata(path).unwrap().file_type();
    for (path, what) in places {
        let before = kind(&path);
        let error = write(&path).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert_eq!(kind(&path), before, "{}", path.display());
    }
    // Nor by a manager.
    let _ = Command::new("mkfifo").arg(at("latest.pt")).status();
    let _ = Command::new("mkfifo").arg(at(&name(2))).status();
    if at("latest.pt").exists() && at(&name(2)).exists() {
        let manager = open(directory.path(), Options::default());
        let saved = manager.save(state(Save { iteration: 1, writer: 1 }, SIZE)).unwrap();
        assert_eq!(saved.warnings.len(), 1, "{:?}", saved.warnings);
        assert!(save(&manager, 2).unwrap_err().to_string().contains("a pipe"));
        for pipe in ["latest.pt", &name(2)] {
            assert!(!kind(&at(pipe)).is_file(), "{pipe}");
        }
    }
}

#[test]
fn whoever_may_write_to_a_directory_may_lock_it() {
    let directory = tempfile::tempdir().unwrap();
    for (directory_mode, writers) in [(0o2775, 0o060), (0o755, 0), (0o777, 0o066)] {
        let path = directory.path().join(format!("{directory_mode:o}"));
        fs::create_dir(&path).unwrap();
        set_mode(&path, directory_mode);
        save(&open(&path, Options::default()), 1).unwrap();
        let lock = mode(path.join(".scai.lock"));
        assert_eq!(lock & writers, writers, "{lock:o} in {directory_mode:o}");
        assert!(writers != 0 || lock & 0o022 == 0, "{lock:o} in {directory_mode:o}");
    }
}

/// What a child does, by its role.
pub(crate) fn child(role: &str, directory: &Path) {
    assert_eq!(role, "the second of a group");
    wait_to_go();
    let manager = open(directory, Options::default());
    match save(&manager, 2) {
        Ok(_) => say("saved"),
        Err(error) => say(&error.to_string()),
    }
}

#[test]
fn the_second_user_of_a_group_can_save_after_the_first() {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let setpriv = Command::new("setpriv").arg("--version").output().is_ok();
    if !is_root || !setpriv {
        println!("SKIPPED: another user needs root and setpriv");
        return;
    }
    // The file that an earlier version has made may be locked too.
    for old_lock in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        set_mode(directory.path(), 0o2775);
        std::os::unix::fs::chown(directory.path(), Some(0), Some(12_345)).unwrap();
        save(&open(directory.path(), Options::default()), 1).unwrap();
        if old_lock {
            set_mode(directory.path().join(".scai.lock"), 0o644);
        }
        let child = command("places: the second of a group", directory.path());
        let mut second = Command::new("setpriv");
        second.args(["--reuid=12346", "--regid=12345", "--clear-groups", "--"]);
        second.arg(child.get_program()).args(child.get_args());
        second.envs(child.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let mut second = Process::start(second);
        second.wait_until_ready();
        second.go();
        assert_eq!(second.end().said, ["saved"], "old lock: {old_lock}");
    }
}

#[test]
fn a_directory_that_was_moved_or_made_anew_is_noticed_and_said() {
    let parent = tempfile::tempdir().unwrap();
    let at = |name: &str| parent.path().join(name);
    for made_anew in [false, true] {
        let manager = CheckpointManager::create(at("run"), Options::default()).unwrap();
        save(&manager, 1).unwrap();
        fs::rename(at("run"), at(&format!("moved-{made_anew}"))).unwrap();
        if made_anew {
            fs::create_dir(at("run")).unwrap();
        }
        for error in [save(&manager, 2).unwrap_err(), manager.list().unwrap_err()] {
            assert!(error.to_string().contains("renamed, or removed"), "{error}");
            assert!(error.to_string().contains(&at("run").display().to_string()), "{error}");
        }
    }
    assert!(!at("moved-true").join(name(2)).exists());
    // A new manager for the path that is meant works.
    save(&CheckpointManager::create(at("run"), Options::default()).unwrap(), 2).unwrap();
    assert!(at("run").join(name(2)).exists());
}

#[test]
fn a_url_is_refused_at_every_door_and_makes_no_directory() {
    let here = std::env::current_dir().unwrap();
    for url in ["ftp://host/run", "hf://a/b", "HTTPS://host/a.pt", "ftp:/host/run"] {
        let errors = [
            CheckpointManager::create(url, Options::default()).unwrap_err(),
            CheckpointManager::open(url, Options::default()).unwrap_err(),
            write(url).unwrap_err(),
            file::open(url, Unprotected::Refuse).unwrap_err(),
            file::verify(url, 1).unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains("not supported"), "{error}");
        }
        assert!(!here.join(url.split('/').next().unwrap()).exists());
    }
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file://{}/a%20b", directory.path().display());
    let manager = CheckpointManager::create(&url, Options::default()).unwrap();
    let path = save(&manager, 1).unwrap();
    assert_eq!(Path::new(&path), directory.path().join("a b").join(name(1)));
    manager.load(name(1), Residency::Memory).unwrap();
}

#[test]
fn a_directory_that_is_a_file_is_called_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = CheckpointManager::create(&path, Options::default()).unwrap_err().to_string();
        assert!(error.contains("is a file, not a directory"), "{error}");
    }
}

#[test]
fn what_a_killed_save_of_a_file_left_is_swept_by_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let drafts = || {
        let names = fs::read_dir(directory.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| is_draft(name)).count()
    };
    fs::write(directory.path().join(draft_name()), "half a file").unwrap();
    write(directory.path().join("a.pt")).unwrap();
    assert_eq!(drafts(), 0);
    // A resume sweeps too, but not what a manager that writes is about to rename.
    let manager = open(directory.path(), Options::default());
    save(&manager, 1).unwrap();
    fs::write(directory.path().join(draft_name()), "half a file").unwrap();
    let store = LocalDirectory::open(directory.path()).unwrap();
    assert!(store.sweep_unless_locked().unwrap().is_empty());
    assert_eq!(drafts(), 1);
    drop(manager);
    open(directory.path(), Options::default()).resume().unwrap().unwrap();
    assert_eq!(drafts(), 0);
}

#[test]
fn a_save_that_ends_in_its_middle_leaves_nothing_where_there_are_unnamed_files() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalDirectory::open(directory.path()).unwrap();
    let draft = store.create_for("a.pt", 1 << 20).unwrap();
    if !draft.name().is_empty() {
        println!("SKIPPED: this file system has no unnamed files");
        return;
    }
    draft.write_at(0, &[1; 1 << 16]).unwrap();
    assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
    // As a kill would end it.
    std::mem::forget(draft);
    assert!(store.sweep().unwrap().is_empty());
    assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
}
