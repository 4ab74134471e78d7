//! Training states that tell which save they are of: every byte follows from two numbers.

use std::path::Path;

use scai_checkpoint::manager::Residency;
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{Checkpoint, CheckpointManager, DType, Dict, Error, Options, Tensor, Value};

/// Which save a state is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Save {
    pub(crate) iteration: u64,
    /// Tells saves of one iteration apart: the process that made it, say.
    pub(crate) writer: u64,
}

/// How large the states of a test are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// About 6 KiB, for thousands of saves in a second.
    Tiny,
    /// About 12 KiB: a simulated disk has states enough with a few pages.
    Small,
    /// About 150 KiB.
    Medium,
    /// About 2.4 MiB, with a tensor that several threads write.
    Large,
}

impl Size {
    fn elements(self) -> usize {
        match self {
            Size::Tiny => 30,
            Size::Small => 400,
            Size::Medium => 11_000,
            Size::Large => (1 << 19) + 30_000,
        }
    }

    /// The numbers of the smaller tensors.
    fn few(self) -> usize {
        self.elements().min(16_000)
    }
}

/// A generator of numbers for tests (splitmix64), the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// The state of a save: a model, Adam's moments, statistics, random state.
pub(crate) fn state(save: Save, size: Size) -> Checkpoint {
    let Save { iteration, writer } = save;
    let mut tensors = 0;
    let mut tensor = |elements: usize| {
        tensors += 1;
        let mut random = Random(iteration << 40 ^ writer << 8 ^ tensors);
        let words: Vec<u64> = (0..elements.div_ceil(2)).map(|_| random.next()).collect();
        Tensor::contiguous(DType::Float32, vec![elements], Storage::from_vec(words)).unwrap()
    };
    let model: Dict = [
        ("stem.weight", tensor(size.few())),
        ("backbone.weight", tensor(size.elements())),
        ("head.weight", tensor(size.few() / 2)),
        ("head.bias", tensor(7)),
    ]
    .into_iter()
    .collect();
    let moments: Dict =
        [("exp_avg", tensor(size.few())), ("exp_avg_sq", tensor(7))].into_iter().collect();
    let optimizer: Dict = [("state", moments)].into_iter().collect();
    let mut checkpoint = Checkpoint::new(iteration, model, optimizer);
    let stats: Dict = [("total_iterations", iteration as i64)].into_iter().collect();
    checkpoint.training_stats = Value::Dict(stats);
    checkpoint.metadata = Value::Dict([("writer", writer as i64)].into_iter().collect());
    checkpoint.parts.insert("rng_state", tensor(50));
    checkpoint
}

/// Which save a state is of, or why it is of none: every value is compared.
pub(crate) fn save_of(checkpoint: &Checkpoint, size: Size) -> Result<Save, String> {
    let writer = checkpoint.metadata.lookup("writer").and_then(Value::as_int);
    let writer = writer.ok_or("the metadata lack the writer")?;
    let save = Save { iteration: checkpoint.iteration, writer: writer as u64 };
    let expected = state(save, size);
    let found = Checkpoint { timestamp: None, ..checkpoint.clone() };
    if found == expected {
        return Ok(save);
    }
    let (found, expected) = (found.into_tree().unwrap(), expected.into_tree().unwrap());
    let differs = expected.tensors().into_iter().find(|(path, tensor)| {
        found.lookup(path).and_then(Value::as_tensor).is_none_or(|found| found != *tensor)
    });
    let what = differs.map_or("something".to_owned(), |(path, _)| format!("tensor `{path}`"));
    Err(format!("it says that it is {save:?}, but {what} is not what that save held"))
}

/// Which save the manager loads under `name`; nothing where there is no such file.
pub(crate) fn save_under(
    manager: &CheckpointManager,
    name: &str,
    size: Size,
) -> Result<Option<Save>, String> {
    match manager.load(name, Residency::Memory) {
        Ok(checkpoint) => save_of(&checkpoint, size).map(Some),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

pub(crate) fn open(directory: &Path, options: Options) -> CheckpointManager {
    CheckpointManager::open(directory, options).unwrap()
}

pub(crate) fn name(iteration: u64) -> String {
    format!("checkpoint_iter_{iteration}.pt")
}

/// The iteration in a checkpoint's name.
pub(crate) fn iteration(name: &str) -> Option<u64> {
    name.strip_prefix("checkpoint_iter_")?.strip_suffix(".pt")?.parse().ok()
}

/// Whether the long versions of the tests are to run: `make proofs`.
pub(crate) fn full() -> bool {
    std::env::var("SCAI_PROOFS").is_ok_and(|proofs| proofs == "full")
}
