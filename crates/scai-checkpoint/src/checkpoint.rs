//! A training state, and its form as a state tree.

use crate::error::{Error, Place, Result};
use crate::value::{Dict, Value};

/// The iteration recorded in a state tree, in any form; `None` if there is none.
///
/// # Errors
/// Those of reading a tensor.
pub(crate) fn iteration_in(tree: &Value) -> Result<Option<i64>> {
    let iteration = tree.as_dict().and_then(|top| top.get("iteration"));
    iteration.map_or(Ok(None), Value::whole_number)
}

/// A whole training state.
///
/// In the file each field is a top-level key of the state tree with the same name; the further
/// parts are beside them. The notes are not part of the tree and have their own record.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The iteration the state belongs to.
    pub iteration: u64,
    /// Parameters and buffers of the model by name, as `Module.state_dict()` gives them.
    pub model_state_dict: Value,
    /// The state of the optimizer, as `Optimizer.state_dict()` gives it.
    pub optimizer_state_dict: Value,
    /// Statistics of the training: totals, losses, rates.
    pub training_stats: Value,
    /// Whatever describes the run: configuration, versions, notes.
    pub metadata: Value,
    /// When it was saved, ISO 8601 with offset. Filled in by a save if it is `None`.
    pub timestamp: Option<String>,
    /// Further parts: `rng_state`, `scheduler_state_dict`, `replay_buffer`, …
    pub parts: Dict,
    /// What a binding has to remember about the state besides the tree, such as the types that
    /// plain values had in its language. Saved unchanged; at most 64 MiB.
    pub notes: Option<String>,
}

impl Checkpoint {
    /// The fields a checkpoint must have to be loaded.
    pub const REQUIRED: [&str; 3] = ["iteration", "model_state_dict", "optimizer_state_dict"];

    /// A checkpoint of a model and an optimizer, with nothing else yet.
    pub fn new(iteration: u64, model: impl Into<Value>, optimizer: impl Into<Value>) -> Self {
        Self {
            iteration,
            model_state_dict: model.into(),
            optimizer_state_dict: optimizer.into(),
            training_stats: Value::Dict(Dict::new()),
            metadata: Value::Dict(Dict::new()),
            timestamp: None,
            parts: Dict::new(),
            notes: None,
        }
    }

    /// The state tree of the file, without the notes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a part has the name of a field, or the iteration does not fit into an `i64`.
    pub fn into_tree(self) -> Result<Value> {
        let iteration = i64::try_from(self.iteration)
            .map_err(|_| Error::invalid(format!("iteration {} is too large", self.iteration)))?;
        let mut tree = Dict::new();
        tree.insert("iteration", iteration);
        tree.insert("model_state_dict", self.model_state_dict);
        tree.insert("optimizer_state_dict", self.optimizer_state_dict);
        tree.insert("training_stats", self.training_stats);
        tree.insert("metadata", self.metadata);
        tree.insert("timestamp", self.timestamp.map_or(Value::None, Value::Str));
        for (key, value) in self.parts.entries {
            let Some(name) = key.as_str() else {
                return Err(Error::invalid("the name of a part is not a string"));
            };
            if tree.insert(name, value).is_some() {
                return Err(Error::invalid(format!(
                    "a part cannot be called `{name}`: a field of the checkpoint has that name"
                )));
            }
        }
        Ok(Value::Dict(tree))
    }

    /// The iteration of the checkpoint in a state tree, which must have the fields of every checkpoint.
    ///
    /// # Errors
    /// [`Error::MissingField`] if it lacks `iteration`, `model_state_dict` or
    /// `optimizer_state_dict`; [`Error::NotACheckpoint`] if the iteration is not a whole number.
    pub fn iteration_of(tree: &Value) -> Result<u64> {
        let Some(tree) = tree.as_dict() else {
            return Err(Error::MissingField {
                place: Box::default(),
                field: "iteration".to_owned(),
                present: format!("none (it is a {})", tree.type_name()),
            });
        };
        if let Some(field) = Self::REQUIRED.into_iter().find(|field| tree.get(field).is_none()) {
            let present: Vec<&str> = tree.keys().take(20).collect();
            return Err(Error::MissingField {
                place: Box::default(),
                field: field.to_owned(),
                present: present.join(", "),
            });
        }
        let iteration = tree.get("iteration").unwrap_or(&Value::None);
        let found = match iteration.whole_number()?.map(u64::try_from) {
            Some(Ok(iteration)) => return Ok(iteration),
            Some(Err(_)) => "negative".to_owned(),
            None => format!("of type {}", iteration.type_name()),
        };
        Err(Error::not_a_checkpoint(
            Place::default(),
            format!("`iteration` is {found}, expected an integer of 0 or more"),
            "read the file with `scai show` or `scai.load`, and save it again with an integer",
        ))
    }

    /// The checkpoint in a state tree, without notes.
    ///
    /// # Errors
    /// As [`Checkpoint::iteration_of`].
    pub fn from_tree(tree: Value) -> Result<Self> {
        let iteration = Self::iteration_of(&tree)?;
        let Value::Dict(mut tree) = tree.into_resolved() else {
            return Err(Error::invalid("a checkpoint must be a dict"));
        };
        let mut take = |field: &str| tree.remove(field).unwrap_or(Value::None);
        take("iteration");
        let or_empty = |value| match value {
            Value::None => Value::Dict(Dict::new()),
            value => value,
        };
        Ok(Self {
            iteration,
            model_state_dict: take("model_state_dict"),
            optimizer_state_dict: take("optimizer_state_dict"),
            training_stats: or_empty(take("training_stats")),
            metadata: or_empty(take("metadata")),
            timestamp: take("timestamp").as_str().map(str::to_owned),
            parts: tree,
            notes: None,
        })
    }
}

/// The local time as ISO 8601 with offset, to the microsecond as Python writes it.
pub(crate) fn now_iso() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string()
}
