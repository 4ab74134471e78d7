//! Files in memory, so that nothing but the engine is measured.

use std::sync::Arc;

use scai_checkpoint::codec::{CheckpointFile, Format, Plan, Unprotected};
use scai_checkpoint::store::{Directory, Draft, MemoryDirectory, ReadAt};
use scai_checkpoint::{Value, testing};

/// What a file is called in its store.
const NAME: &str = "file";

/// A file to be written, and where to.
pub(crate) fn planned(tree: &Value, format: Format) -> (Plan, Box<dyn Draft>) {
    let plan = Plan::new(tree, format).unwrap();
    let draft = MemoryDirectory::new().create(plan.len()).unwrap();
    (plan, draft)
}

/// A file that holds `tree`.
pub(crate) fn written(tree: &Value, format: Format) -> Arc<dyn ReadAt> {
    let (store, plan) = (MemoryDirectory::new(), Plan::new(tree, format).unwrap());
    testing::publish(&store, NAME, plan.len(), |draft| plan.write(1, draft).map(drop)).unwrap();
    store.open(NAME).unwrap()
}

/// Opens a file that this crate wrote.
pub(crate) fn open(file: &Arc<dyn ReadAt>) -> CheckpointFile {
    CheckpointFile::open(Arc::clone(file), Unprotected::Refuse).unwrap()
}
