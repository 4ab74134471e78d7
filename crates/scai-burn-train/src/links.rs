//! The names under which burn's own checkpointers find an epoch: `model-3.bpk`, a symbolic link to
//! `epoch-3/model-3.bpk`.
//!
//! They are no part of a checkpoint, and an epoch is complete without them: a file system without
//! symbolic links has none, and what a crash left of them is put right at the next commit.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use scai_checkpoint::store::{Directory, LocalDirectory, draft_name};

use crate::epochs;
use crate::part::Part;

/// Makes the links of the epoch `saved`, which replace what has their names, and puts those of the other
/// `committed` epochs right.
pub(crate) fn update(directory: &LocalDirectory, committed: &[usize], saved: Option<usize>) {
    for &epoch in committed {
        for part in Part::ALL {
            let (name, target) = (part.file(epoch), target(part, epoch));
            let made = symlink(&target, directory.path().join(&name)).is_ok();
            if !made && saved == Some(epoch) && points_to(directory, &name) != Some(target.clone())
            {
                replace(directory, &target, &name);
            }
        }
    }
    // A link that leads nowhere is among these, a link to an epoch that is there is not.
    for name in directory.unopenable().unwrap_or_default() {
        let Some((part, epoch)) = Part::of_file(&name) else { continue };
        if points_to(directory, &name) == Some(target(part, epoch)) {
            let _ = directory.remove(&name);
        }
    }
}

fn target(part: Part, epoch: usize) -> PathBuf {
    Path::new(&epochs::name(epoch)).join(part.file(epoch))
}

/// Where a link leads; `None` if it is something else.
fn points_to(directory: &LocalDirectory, name: &str) -> Option<PathBuf> {
    directory.path().join(name).read_link().ok()
}

/// Whether the file of this name is one that burn's own checkpointers wrote.
pub(crate) fn is_plain(directory: &LocalDirectory, name: &str) -> bool {
    points_to(directory, name).is_none() && directory.open(name).is_ok()
}

fn replace(directory: &LocalDirectory, target: &Path, name: &str) {
    let temporary = draft_name();
    if symlink(target, directory.path().join(&temporary)).is_ok()
        && directory.rename(&temporary, name).is_err()
    {
        let _ = directory.remove(&temporary);
    }
}
