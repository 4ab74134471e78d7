//! What is known about a file once it is written: its root, and the digest of each tensor.

use crate::dtype::DType;

/// The tensors of a planned file, in its order, and where each is in the state tree.
///
/// A key is kept once, however many tensors are below it: what this takes grows with the tree.
#[derive(Debug, Default)]
pub(super) struct Tensors {
    /// The keys of all steps, one after the other.
    keys: String,
    steps: Vec<(Option<Step>, usize)>,
    each: Vec<Planned>,
}

/// A step on the way to a tensor: a key below another step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step(u32);

#[derive(Debug)]
struct Planned {
    path: Option<Step>,
    dtype: DType,
    storage: usize,
}

impl Tensors {
    /// Adds a step below `parent`, whose key `write` appends.
    pub(super) fn step(&mut self, parent: Option<Step>, write: impl FnOnce(&mut String)) -> Step {
        // No tree that is written has 2^32 values.
        let step = Step(self.steps.len() as u32);
        write(&mut self.keys);
        self.steps.push((parent, self.keys.len()));
        step
    }

    /// Adds a tensor at `path`, of the storage with this number.
    pub(super) fn add(&mut self, path: Option<Step>, dtype: DType, storage: usize) {
        self.each.push(Planned { path, dtype, storage });
    }

    /// The path of the first tensor of a storage.
    pub(super) fn of_storage(&self, storage: usize) -> Option<String> {
        self.each.iter().find(|tensor| tensor.storage == storage).map(|tensor| self.path(tensor))
    }

    fn path(&self, tensor: &Planned) -> String {
        let mut keys = Vec::new();
        let mut next = tensor.path;
        while let Some(step) = next {
            let index = step.0 as usize;
            let (parent, end) = self.steps[index];
            let start = index.checked_sub(1).map_or(0, |before| self.steps[before].1);
            keys.push(&self.keys[start..end]);
            next = parent;
        }
        keys.reverse();
        keys.join(".")
    }
}

/// A file as it was written: what a checkpoint of several files, or a record beside it, can refer to.
#[derive(Debug)]
pub struct Written {
    root: u128,
    tensors: Tensors,
    /// One for each storage.
    digests: Vec<u128>,
}

/// A tensor of a file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WrittenTensor {
    /// Its path in the state tree, such as `model_state_dict.conv1.weight`; in a safetensors file
    /// its name.
    pub path: String,
    /// Its element type.
    pub dtype: DType,
    /// The digest of its bytes: XXH3-128 over the XXH3-128 digests of their chunks of
    /// [`CHUNK_SIZE`](crate::CHUNK_SIZE). In a `.pt` file the bytes are those of its whole storage.
    pub digest: u128,
}

impl Written {
    pub(super) fn new(root: u128, tensors: Tensors, digests: Vec<u128>) -> Self {
        Self { root, tensors, digests }
    }

    /// The digest that covers every byte of the file, as it stands in the file itself.
    pub fn root(&self) -> u128 {
        self.root
    }

    /// The tensors in the order of the file. Two of one memory have one digest.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = WrittenTensor> {
        self.tensors.each.iter().map(|tensor| WrittenTensor {
            path: self.tensors.path(tensor),
            dtype: tensor.dtype,
            digest: self.digests.get(tensor.storage).copied().unwrap_or_default(),
        })
    }
}
