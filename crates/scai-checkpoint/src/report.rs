//! What a load found: loaded, missing, unexpected and mismatched tensors, with hints.

use std::fmt;

use crate::dtype::DType;

/// What a load did, or would do, with each tensor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Tensors taken from the checkpoint.
    pub loaded: Vec<String>,
    /// Tensors the model has and the checkpoint lacks; they keep their values.
    pub missing: Vec<String>,
    /// Tensors the checkpoint has and the model lacks; they are left out.
    pub unexpected: Vec<String>,
    /// Tensors both have, with another shape or element type; they keep their values.
    pub mismatched: Vec<ShapeMismatch>,
    /// Tensors that are loaded and have another element type in the model, to which they are converted.
    pub cast: Vec<ShapeMismatch>,
    /// What may explain the differences.
    pub hints: Vec<String>,
}

/// A tensor whose shape or element type differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// Its name.
    pub name: String,
    /// Element type and shape in the checkpoint.
    pub checkpoint: (DType, Vec<usize>),
    /// Element type and shape in the model.
    pub model: (DType, Vec<usize>),
}

impl LoadReport {
    /// Whether nothing is missing, unexpected or mismatched.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }
}

/// Names of each kind that are shown; more would hide what follows them.
const SHOWN: usize = 20;

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec![format!("  loaded: {}", self.loaded.len())];
        let mut list = |what: &str, names: Vec<String>| {
            if !names.is_empty() {
                lines.push(format!("  {what}: {}", names.len()));
                lines.extend(names.iter().take(SHOWN).map(|name| format!("    {name}")));
                if names.len() > SHOWN {
                    lines.push(format!("    … and {} more", names.len() - SHOWN));
                }
            }
        };
        list("missing in the checkpoint", self.missing.clone());
        list("unexpected in the checkpoint", self.unexpected.clone());
        list("mismatched", self.mismatched.iter().map(ToString::to_string).collect());
        list(
            "converted to the element type of the model",
            self.cast.iter().map(ToString::to_string).collect(),
        );
        lines.extend(self.hints.iter().map(|hint| format!("  hint: {hint}")));
        f.write_str(&lines.join("\n"))
    }
}

impl fmt::Display for ShapeMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, checkpoint: (theirs, their_shape), model: (ours, our_shape) } = self;
        write!(f, "{name}: {theirs} {their_shape:?} in the checkpoint, ")?;
        write!(f, "{ours} {our_shape:?} in the model")
    }
}
