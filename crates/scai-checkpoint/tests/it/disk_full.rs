//! A disk that is full, at every level, and limits on the size of files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use scai_checkpoint::Error;

use crate::aftermath::Promised;
use crate::child::{Process, command, copy_directory, say, wait_to_go};
use crate::crash::{prepare, save_once};
use crate::strace::{self, skipped};
use crate::training::{Save, Size, full, open, state};

const SIZE: Size = Size::Large;
const NEW: Save = Save { iteration: 4, writer: 1 };
/// Room for the checkpoints that are there and two more.
const ROOM: &str = "size=16m";
const LEVELS: u64 = 50;

/// Runs `command` where it may mount file systems of its own, which nobody else sees and which go
/// with it. `None` where that is not possible, and says so.
fn with_mounts(what: &str, command: &Command) -> Option<Command> {
    let root = rustix::process::geteuid().is_root();
    let flags: &[&str] =
        if root { &["--mount"] } else { &["--mount", "--user", "--map-root-user"] };
    let mount = ["mount", "-t", "tmpfs", "-o", ROOM, "tmpfs", "/mnt"];
    let tried = Command::new("unshare").args(flags).args(mount).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        skipped(&format!("{what}: no file system can be mounted here (needs root or `unshare`)"));
        return None;
    }
    Some(wrap(Command::new("unshare").args(flags), command))
}

/// `wrapper`, run with `command` as its last arguments.
fn wrap(wrapper: &mut Command, command: &Command) -> Command {
    let mut wrapped = Command::new(wrapper.get_program());
    wrapped.args(wrapper.get_args()).arg(command.get_program()).args(command.get_args());
    wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wrapped
}

/// What a child does, by its role.
pub(crate) fn child(role: &str, directory: &Path) {
    let options = Promised::new(SIZE, 2).options().threads(1);
    match role {
        "levels" => mounted(directory, ROOM, levels),
        "levels of writing" => mounted(directory, ROOM, levels_of_writing),
        "no more files" => mounted(directory, "size=16m,nr_inodes=6", no_more_files),
        "once" => save_once(&open(directory, options), SIZE),
        role => panic!("{role}"),
    }
}

fn mounted(directory: &Path, options: &str, test: fn(&Path)) {
    wait_to_go();
    let mount =
        Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(directory).status();
    assert!(mount.unwrap().success());
    test(directory);
}

/// All files and their bytes, but for the lock and what fills the disk.
fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .filter(|(name, _)| name != ".scai.lock" && name != "filler")
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .collect()
}

fn free(directory: &Path) -> u64 {
    let stat = rustix::fs::statvfs(directory).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Leaves `room` bytes free, or up to a page less.
fn fill(directory: &Path, room: u64) {
    let filler = directory.join("filler");
    let _ = fs::remove_file(&filler);
    fs::write(&filler, vec![1; (free(directory) - room) as usize]).unwrap();
    assert!((room.saturating_sub(8192)..=room).contains(&free(directory)));
}

fn size_of_a_checkpoint(directory: &Path) -> u64 {
    fs::metadata(directory.join("checkpoint_iter_3.pt")).unwrap().len()
}

/// A child: a save at each fill level, where the file system can reserve space.
fn levels(directory: &Path) {
    let mut promised = prepare(directory, SIZE);
    let (before, needed) = (files(directory), size_of_a_checkpoint(directory));
    for level in 0..LEVELS {
        fill(directory, needed * level / LEVELS);
        let manager = open(directory, promised.options());
        let error = manager.save(state(NEW, SIZE)).unwrap_err();
        let Error::DiskFull { needed: said, free: Some(free), .. } = error else {
            panic!("level {level}: {error:?}")
        };
        assert!(said >= needed - 64 && said <= needed + 64 && free < said, "{said} {free}");
        let message = error.to_string();
        assert!(
            message.contains(&format!("{said} bytes are needed, {free} are free")),
            "{message}"
        );
        assert!(
            message.contains("checkpoint_iter_4.pt") && message.contains("free some space"),
            "{message}"
        );
        assert!(files(directory) == before, "level {level}: something has changed");
        drop(manager);
        fs::remove_file(directory.join("filler")).unwrap();
        promised.check(directory).unwrap();
        say("level");
    }
    promised.aftermath(directory, NEW).unwrap();
    say("done");
}

/// A child: the same where space cannot be reserved, so that the disk is full in mid-write.
fn levels_of_writing(directory: &Path) {
    let mut promised = prepare(directory, SIZE);
    let (before, needed) = (files(directory), size_of_a_checkpoint(directory));
    let step = if full() { 1 } else { 5 };
    for level in (0..LEVELS).step_by(step) {
        fill(directory, needed * level / LEVELS);
        let process = Process::start(command("disk full: once", directory));
        let inject = ["-e", "trace=fallocate", "-e", "inject=fallocate:error=EOPNOTSUPP"];
        let (ended, calls) = strace::run(process, &inject.map(str::to_owned));
        assert_eq!(calls.len(), 1, "{calls:?}");
        let [said] = ended.said.as_slice() else { panic!("{ended:?}") };
        assert!(said.contains("no space") && said.contains(" bytes are needed, "), "{said}");
        assert!(files(directory) == before, "level {level}: something has changed");
        fs::remove_file(directory.join("filler")).unwrap();
        promised.check(directory).unwrap();
        say("level");
    }
    promised.aftermath(directory, NEW).unwrap();
    say("done");
}

/// A child: there is space and no room for a further file.
fn no_more_files(directory: &Path) {
    let mut promised = Promised::new(SIZE, 2);
    let manager = open(directory, promised.options());
    promised.save(&manager, Save { iteration: 3, writer: 1 });
    let before = files(directory);
    let mut fillers = 0;
    while fs::write(directory.join(format!("filler {fillers}")), "").is_ok() {
        fillers += 1;
    }
    let error = manager.save(state(NEW, SIZE)).unwrap_err();
    let Error::DiskFull { needed, free: Some(free), .. } = &error else { panic!("{error:?}") };
    assert!(needed < free, "{error}");
    assert!(error.to_string().contains("inodes"), "{error}");
    for filler in 0..fillers {
        fs::remove_file(directory.join(format!("filler {filler}"))).unwrap();
    }
    assert!(files(directory) == before);
    drop(manager);
    promised.aftermath(directory, NEW).unwrap();
    say("done");
}

fn run(role: &str) -> Option<usize> {
    let directory = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let command = with_mounts(role, &command(&format!("disk full: {role}"), directory.path()))?;
    let mut process = Process::start(command);
    process.wait_until_ready();
    process.go();
    let ended = process.end();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.said.last().map(String::as_str), Some("done"), "{ended:?}");
    let levels = ended.said.len() - 1;
    println!("disk full ({role}): {levels} levels; {:.1} s", start.elapsed().as_secs_f64());
    Some(levels)
}

#[test]
fn a_disk_full_at_any_level_costs_nothing_and_the_error_says_how_much_is_missing() {
    assert!(run("levels").is_none_or(|levels| levels == LEVELS as usize));
}

#[test]
fn a_disk_that_is_full_in_mid_write_costs_nothing() {
    if !strace::missing("a disk full in mid-write") {
        assert!(run("levels of writing").is_none_or(|levels| levels >= 10));
    }
}

#[test]
fn where_there_is_space_and_no_room_for_a_file_the_error_says_so() {
    run("no more files");
}

#[test]
fn a_limit_on_the_size_of_files_costs_nothing() {
    let template = tempfile::tempdir().unwrap();
    let promised = prepare(template.path(), SIZE);
    let (before, needed) = (files(template.path()), size_of_a_checkpoint(template.path()));
    let start = Instant::now();
    let levels = if full() { 50 } else { 10 };
    for level in 0..levels {
        // Where the signal is not ignored, it ends the process, as a kill would.
        for trap in ["trap '' XFSZ", "true"] {
            let directory = tempfile::tempdir().unwrap();
            copy_directory(template.path(), directory.path());
            // Blocks of 512 bytes, as POSIX has it.
            let blocks = needed * level / levels / 512;
            let script =
                format!("{trap} && ulimit -c 0 && ulimit -f {blocks} && exec \"$0\" \"$@\"");
            let child = command("disk full: once", directory.path());
            let mut process =
                Process::start(wrap(Command::new("sh").args(["-c", &script]), &child));
            process.wait_until_ready();
            process.go();
            let ended = process.end();
            if trap == "true" {
                assert!(!ended.status.success() && ended.said.is_empty(), "{ended:?}");
            } else {
                let [said] = ended.said.as_slice() else { panic!("{ended:?}") };
                assert!(
                    said.contains(" bytes are needed, ") && said.contains("ulimit -f"),
                    "{said}"
                );
                assert!(files(directory.path()) == before, "level {level}: something has changed");
            }
            let mut promised = promised.clone();
            promised.aftermath(directory.path(), NEW).unwrap();
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("limit on the size of files: {levels} levels, twice; {seconds:.1} s");
}
