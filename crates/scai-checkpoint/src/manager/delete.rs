//! Deleting one checkpoint, whatever the rules of retention say.

use super::{CheckpointId, CheckpointManager, name};
use crate::error::{Error, Result};

impl CheckpointManager {
    /// Deletes one checkpoint. `latest.pt` then leads to the newest of those that are left, and is
    /// deleted with the last one.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such checkpoint; [`Error::Invalid`] if it is pinned, or the
    /// file is not called like a checkpoint; [`Error::Locked`] if another process writes to the
    /// directory; [`Error::Io`].
    pub fn delete(&self, id: impl Into<CheckpointId>) -> Result<()> {
        self.flush()?;
        let shared = &self.shared;
        let operation = shared.writing.begin(&*shared.store)?;
        let name = shared.checkpoint_at(id.into())?;
        if shared.exists(&name::pin(&name))? {
            return Err(Error::invalid(format!(
                "`{}` is pinned and cannot be deleted; unpin it first",
                shared.path(&name).display()
            )));
        }
        let entries = shared.entries()?;
        let superseded = shared.superseded()?;
        let left = name::checkpoints(&entries)
            .into_iter()
            .rfind(|named| named.name != name && !superseded.contains(&named.name));
        // It never leads to what is about to go.
        match left {
            Some(newest) => drop(shared.move_latest(&newest.name, &operation)?),
            None => shared.drop_latest(&entries)?,
        }
        shared.store.remove(&[&name])?;
        shared.no_longer_superseded(&[&name], &operation)
    }
}
