//! The files of the logs; no other module of the metrics touches the file system.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "logs grow line by line and are not checkpoints; the engine's store has no append"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::MetricsError;

/// A file that grows by whole records.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    /// Bytes of the records that are complete.
    length: u64,
    /// There may be a part of a record after them.
    torn: bool,
}

impl Log {
    /// Opens a file, and creates it if it is missing.
    pub(super) fn append_to(path: &Path) -> Result<Self, MetricsError> {
        Self::open(path, OpenOptions::new().create(true))
    }

    /// Creates a file that must not be there.
    pub(super) fn create(path: &Path) -> Result<Self, MetricsError> {
        Self::open(path, OpenOptions::new().create_new(true))
    }

    fn open(path: &Path, options: &mut OpenOptions) -> Result<Self, MetricsError> {
        let file = options.append(true).open(path).map_err(failed(path, "open it"))?;
        let length = file.metadata().map_err(failed(path, "open it"))?.len();
        Ok(Self { path: path.to_owned(), file, length, torn: false })
    }

    /// Adds a record. If that fails, the next call removes what was written in part.
    pub(super) fn append(&mut self, record: &[u8]) -> Result<(), MetricsError> {
        if self.torn {
            self.file.set_len(self.length).map_err(failed(&self.path, "repair it"))?;
        }
        self.torn = true;
        self.file.write_all(record).map_err(failed(&self.path, "write"))?;
        self.torn = false;
        self.length += record.len() as u64;
        Ok(())
    }

    /// Flushes the records to the device.
    pub(super) fn flush(&mut self) -> Result<(), MetricsError> {
        self.file.sync_data().map_err(failed(&self.path, "sync it"))
    }
}

/// Creates a directory and those above it, if they are missing.
pub(super) fn create_directory(path: &Path) -> Result<(), MetricsError> {
    fs::create_dir_all(path).map_err(failed(path, "create the directory"))
}

/// The names in a directory; those that are not UTF-8 are not ours.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, MetricsError> {
    let names = fs::read_dir(directory).and_then(|entries| {
        let name = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name());
        entries.map(name).collect::<io::Result<Vec<_>>>()
    });
    let names = names.map_err(failed(directory, "list it"))?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// Replaces the content of a file, if there is one, by what `change` makes of it. After a crash
/// there is the old content or the new.
pub(super) fn rewrite(
    path: &Path,
    change: impl FnOnce(&[u8]) -> Vec<u8>,
) -> Result<(), MetricsError> {
    let old = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        old => old.map_err(failed(path, "read"))?,
    };
    let new = change(&old);
    if new == old {
        return Ok(());
    }
    let draft = path.with_extension("jsonl.tmp");
    let replaced = File::create(&draft).and_then(|mut file| {
        file.write_all(&new)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    });
    replaced.map_err(failed(path, "replace"))
}

/// Renames `metrics.jsonl` to `metrics.N.jsonl` with the first free N, if it has any content.
pub(super) fn set_aside(path: &Path) -> Result<(), MetricsError> {
    let empty = match fs::metadata(path) {
        Ok(metadata) => metadata.len() == 0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(failed(path, "look at it")(error)),
    };
    if empty {
        return Ok(());
    }
    let mut number = 1_u64;
    let aside = loop {
        let aside = path.with_extension(format!("{number}.jsonl"));
        if !aside.try_exists().map_err(failed(&aside, "look at it"))? {
            break aside;
        }
        number += 1;
    };
    fs::rename(path, &aside).map_err(failed(path, "set it aside"))
}

fn failed(path: &Path, action: &'static str) -> impl Fn(io::Error) -> MetricsError {
    let path = path.to_owned();
    move |source| MetricsError::Io { path: path.clone(), action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_was_written_in_part_is_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = Log::append_to(&path).unwrap();
        log.append(b"one\n").unwrap();
        // What a write that fails half way leaves behind.
        log.file.write_all(b"tw").unwrap();
        log.torn = true;
        log.append(b"three\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\nthree\n");
    }
}
