//! What must be on a disk, recorded by the test, not by what is tested.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::super::{Directory, ReadAt};

/// Something the test knows at a point in time.
#[derive(Debug, Clone)]
pub(super) enum Note {
    Begin(String, u64),
    Acknowledge(String, u64),
    Retire(String),
}

/// What each name may hold, given the saves that were begun, acknowledged and retired.
///
/// A save has a number that can be read from its files, such as the iteration of a checkpoint.
/// Numbers grow.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    names: BTreeMap<String, Allowed>,
    newest: Option<u64>,
}

#[derive(Debug, Clone)]
struct Allowed {
    /// The numbers a name may hold, `None` for no file at all.
    ids: BTreeSet<Option<u64>>,
    anything: bool,
}

impl Default for Allowed {
    fn default() -> Self {
        Self { ids: [None].into(), anything: false }
    }
}

impl Ledger {
    /// A save of `id` under `name` begins: `name` may hold it.
    pub fn begin(&mut self, name: &str, id: u64) {
        self.names.entry(name.into()).or_default().ids.insert(Some(id));
    }

    /// The save of `id` under `name` was acknowledged: `name` must hold it.
    pub fn acknowledge(&mut self, name: &str, id: u64) {
        let allowed = Allowed { ids: [Some(id)].into(), anything: false };
        self.names.insert(name.into(), allowed);
        self.newest = self.newest.max(Some(id));
    }

    /// `name` is no longer needed: it may be gone, and what it holds means nothing.
    pub fn retire(&mut self, name: &str) {
        self.names.insert(name.into(), Allowed { anything: true, ..Allowed::default() });
    }

    /// The newest save that was acknowledged.
    pub fn newest(&self) -> Option<u64> {
        self.newest
    }

    pub(super) fn note(&mut self, note: &Note) {
        match note {
            Note::Begin(name, id) => self.begin(name, *id),
            Note::Acknowledge(name, id) => self.acknowledge(name, *id),
            Note::Retire(name) => self.retire(name),
        }
    }

    /// Checks the files of a directory against the ledger. A name may be that of a file in a child:
    /// `child/name`.
    ///
    /// Every name must hold one of the saves it may hold, complete, and some name must hold the
    /// newest acknowledged save or a later one. `id_of` returns which save a file holds, or why it
    /// is not a complete one. Files that the ledger does not know are ignored.
    ///
    /// # Errors
    /// The first violation, in words.
    pub fn check(
        &self,
        directory: &dyn Directory,
        id_of: impl Fn(&dyn ReadAt) -> Result<u64, String>,
    ) -> Result<(), String> {
        let mut newest = None;
        for (name, allowed) in &self.names {
            let held = match open(directory, name) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error.to_string()),
                Ok(file) => id_of(&*file).map(Some),
            };
            match held {
                Ok(held) if allowed.anything || allowed.ids.contains(&held) => {
                    newest = newest.max(held);
                }
                Err(_) if allowed.anything => {}
                Ok(None) => return Err(format!("`{name}` is lost; it must hold {allowed}")),
                Ok(Some(held)) => {
                    return Err(format!("`{name}` holds save {held}; it must hold {allowed}"));
                }
                Err(why) => {
                    return Err(format!("`{name}` is damaged ({why}); it must hold {allowed}"));
                }
            }
        }
        if newest < self.newest {
            let newest = newest.map_or("none".into(), |newest| newest.to_string());
            let expected = self.newest.unwrap_or_default();
            return Err(format!("the newest save is {newest}, though {expected} was acknowledged"));
        }
        Ok(())
    }
}

fn open(directory: &dyn Directory, path: &str) -> io::Result<Arc<dyn ReadAt>> {
    match path.split_once('/') {
        Some((child, path)) => open(&*directory.child(child)?, path),
        None => directory.open(path),
    }
}

impl std::fmt::Display for Allowed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids = self.ids.iter().map(|id| match id {
            Some(id) => format!("save {id}"),
            None => "nothing".into(),
        });
        f.write_str(&ids.collect::<Vec<_>>().join(" or "))
    }
}
