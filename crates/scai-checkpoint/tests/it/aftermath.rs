//! What must hold in a directory after its writer died, whatever it was doing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use scai_checkpoint::manager::Residency;
use scai_checkpoint::store::is_draft;
use scai_checkpoint::{CheckpointManager, Error, Options, Retention};

use crate::training::{Save, Size, iteration, name, open, save_of, state};

/// What the test knows of the saves in a directory; the engine is not asked.
#[derive(Debug, Clone)]
pub(crate) struct Promised {
    pub(crate) size: Size,
    /// How many checkpoints the writer's retention keeps.
    pub(crate) keep: u64,
    /// Saves that were acknowledged.
    pub(crate) acknowledged: BTreeSet<Save>,
    /// Saves that were begun, whatever became of them.
    pub(crate) begun: BTreeSet<Save>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// What a resume takes.
    pub(crate) newest: Option<Save>,
    /// Drafts of the dead writer.
    pub(crate) drafts: usize,
}

/// What may be found of a checkpoint that retention removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removed {
    /// It is there or not.
    Gone,
    /// After a power loss, its name may be back and its blocks somebody else's.
    MayComeBackAsGarbage,
}

impl Promised {
    pub(crate) fn new(size: Size, keep: u64) -> Self {
        Self { size, keep, acknowledged: BTreeSet::new(), begun: BTreeSet::new() }
    }

    pub(crate) fn options(&self) -> Options {
        Options::default().retention(Retention::keep_last(self.keep).unwrap())
    }

    pub(crate) fn acknowledge(&mut self, save: Save) {
        self.begun.insert(save);
        self.acknowledged.insert(save);
    }

    /// Saves, and promises it.
    pub(crate) fn save(&mut self, manager: &CheckpointManager, save: Save) {
        let saved = manager.save(state(save, self.size)).unwrap();
        assert!(saved.warnings.is_empty(), "{:?}", saved.warnings);
        self.acknowledge(save);
    }

    /// Holds a directory against what was promised, and changes nothing in it.
    pub(crate) fn check(&self, directory: &Path) -> Result<Found, String> {
        let files = fs::read_dir(directory).unwrap();
        let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        self.check_files(&open(directory, Options::default()), files, Removed::Gone)
    }

    /// Holds what a manager finds against what was promised.
    ///
    /// Every file with a final name is a save that was begun, bit by bit; the newest is an
    /// acknowledged one or a later one; and what the retention keeps is there.
    pub(crate) fn check_files(
        &self,
        manager: &CheckpointManager,
        files: Vec<String>,
        removed: Removed,
    ) -> Result<Found, String> {
        let present: BTreeSet<u64> = files.iter().filter_map(|file| iteration(file)).collect();
        let promised = self.acknowledged.iter().map(|save| save.iteration);
        let all: BTreeSet<u64> = promised.chain(present.iter().copied()).collect();
        let kept: BTreeSet<u64> = all.into_iter().rev().take(self.keep as usize).collect();
        if let Some(lost) = kept.difference(&present).next() {
            return Err(format!("`{}` is gone", name(*lost)));
        }
        let mut drafts = 0;
        for file in &files {
            let redundant = iteration(file).is_some_and(|iteration| !kept.contains(&iteration));
            if is_draft(file) {
                drafts += 1;
            } else if iteration(file).is_some() || file == "latest.pt" {
                let may_be_garbage = redundant && removed == Removed::MayComeBackAsGarbage;
                self.check_file(manager, file, may_be_garbage)
                    .map_err(|why| format!("`{file}`: {why}"))?;
            } else if file != ".scai.lock" {
                return Err(format!("there is a file `{file}`"));
            }
        }
        let newest = match manager.resume().map_err(|error| error.to_string())? {
            None => None,
            Some(resumed) if !resumed.skipped.is_empty() => {
                return Err(format!("a resume skipped {:?}", resumed.skipped));
            }
            Some(resumed) => Some(save_of(&resumed.checkpoint, self.size)?),
        };
        let acknowledged = self.acknowledged.last().copied();
        if newest.map(|save| save.iteration) < acknowledged.map(|save| save.iteration) {
            return Err(format!("a resume gives {newest:?}, {acknowledged:?} was acknowledged"));
        }
        if acknowledged.is_some() && !files.iter().any(|file| file == "latest.pt") {
            return Err("`latest.pt` is gone".to_owned());
        }
        Ok(Found { newest, drafts })
    }

    fn check_file(
        &self,
        manager: &CheckpointManager,
        file: &str,
        may_be_garbage: bool,
    ) -> Result<(), String> {
        let checkpoint = match manager.load(file, Residency::Memory) {
            Err(Error::Damaged { .. }) if may_be_garbage => return Ok(()),
            result => result.map_err(|error| error.to_string())?,
        };
        let found = save_of(&checkpoint, self.size)?;
        if iteration(file).is_some_and(|iteration| iteration != found.iteration) {
            return Err(format!("it holds {found:?}"));
        }
        if !self.begun.contains(&found) {
            return Err(format!("it holds {found:?}, a save that was never begun"));
        }
        // Where saves of one iteration were acknowledged, it holds the last of them or a later one.
        let replaced = self
            .acknowledged
            .iter()
            .any(|save| iteration(file) == Some(save.iteration) && save.writer > found.writer);
        if replaced {
            return Err(format!("it holds {found:?}, which was replaced"));
        }
        let verification = manager.verify(file).map_err(|error| error.to_string())?;
        if !verification.is_sound() {
            return Err(format!("it does not verify: {:?}", verification.damage));
        }
        Ok(())
    }

    /// [`Promised::check`], then saves once more as the next process would, and sees that the
    /// directory is as it always is after a save.
    pub(crate) fn aftermath(&mut self, directory: &Path, next: Save) -> Result<Found, String> {
        let found = self.check(directory)?;
        self.go_on(directory, next)?;
        Ok(found)
    }

    fn go_on(&mut self, directory: &Path, save: Save) -> Result<(), String> {
        age_drafts(directory);
        let manager = open(directory, self.options());
        let saved =
            manager.save(state(save, self.size)).map_err(|error| format!("next save: {error}"))?;
        if !saved.warnings.is_empty() {
            return Err(format!("next save: {:?}", saved.warnings));
        }
        self.acknowledge(save);
        drop(manager);
        let found = self.check(directory)?;
        let mut files: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|file| iteration(file).is_some())
            .collect();
        files.sort();
        if found.drafts > 0 || files.len() as u64 > self.keep {
            return Err(format!("after the next save: {} drafts, {files:?}", found.drafts));
        }
        Ok(())
    }
}

/// Makes drafts older than a sweep spares: an empty one could be in the making.
fn age_drafts(directory: &Path) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().is_some_and(is_draft) {
            let old = Timespec { tv_sec: 1, tv_nsec: 0 };
            let times = Timestamps { last_access: old, last_modification: old };
            utimensat(CWD, entry.path(), &times, AtFlags::empty()).unwrap();
        }
    }
}
