//! Matching a saved state with the model it is loaded into.
//!
//! Everything here is a pure function from names, shapes and types to what would be loaded, so a
//! dry run is a call whose result is not applied, and a strict load that fails has changed nothing.

mod param_names;
mod wrappers;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::LazyLock;

use regex::Regex;

pub use crate::report::{LoadReport, ShapeMismatch};
pub use param_names::{param_names, with_param_names};

use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};
use crate::value::{Dict, Value};

/// A tensor a model has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in the state dict.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// What counts as a match.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strictness {
    /// Every name, shape and element type must match, in both directions.
    #[default]
    Strict,
    /// What matches by name, shape and element type is loaded, the rest is reported.
    Partial,
}

/// How names and tensors are matched.
#[derive(Debug, Clone, Default)]
pub struct MatchOptions {
    strictness: Strictness,
    cast: bool,
    /// Changes made to the saved names, in order: pattern and replacement, where `$1` is the first
    /// group.
    remap: Vec<(Regex, String)>,
}

impl MatchOptions {
    /// What counts as a match.
    #[must_use]
    pub fn strictness(self, strictness: Strictness) -> Self {
        Self { strictness, ..self }
    }

    /// Whether everything must match.
    pub fn is_strict(&self) -> bool {
        self.strictness == Strictness::Strict
    }

    /// Tensors of any two floating-point types match if their shapes do. They are taken with the saved
    /// element type, and whoever loads them converts them.
    #[must_use]
    pub fn cast(self) -> Self {
        Self { cast: true, ..self }
    }

    /// Whether a tensor of one type is loaded into one of another.
    fn allows(&self, saved: DType, model: DType) -> bool {
        saved == model || (self.cast && saved.is_float() && model.is_float())
    }

    /// A remap table from patterns as text.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a pattern that is not a regular expression, or a replacement with a
    /// group that the pattern does not have.
    pub fn with_remap<'a>(
        mut self,
        table: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self> {
        for (pattern, replacement) in table {
            let regex = Regex::new(pattern)
                .map_err(|error| Error::invalid(format!("in the remap table: {error}")))?;
            let replacement = replacement_of(&regex, replacement)?;
            self.remap.push((regex, replacement));
        }
        Ok(self)
    }

    /// What a saved name becomes.
    #[must_use]
    pub fn rename(&self, name: &str) -> String {
        self.remap.iter().fold(name.to_owned(), |name, (pattern, replacement)| {
            pattern.replace_all(&name, replacement).into_owned()
        })
    }
}

/// A replacement with its groups written as `${1}`, from `$1` or Python's `\1` and `\g<1>`.
fn replacement_of(pattern: &Regex, text: &str) -> Result<String> {
    static GROUP: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"\\([0-9]+)|\\g<(\w+)>|\$([A-Za-z0-9_]+)|\$\{(\w+)\}|\$\$").ok()
    });
    let Some(group) = &*GROUP else { return Ok(text.to_owned()) };
    let mut replacement = String::new();
    let mut end = 0;
    for found in group.captures_iter(text) {
        let (Some(whole), name) = (found.get(0), (1..5).find_map(|i| found.get(i))) else {
            continue;
        };
        replacement += &text[end..whole.start()];
        end = whole.end();
        let Some(name) = name.map(|name| name.as_str()) else {
            replacement += "$$";
            continue;
        };
        let is_there = match name.parse::<usize>() {
            Ok(number) => number < pattern.captures_len(),
            Err(_) => pattern.capture_names().flatten().any(|known| known == name),
        };
        if !is_there {
            return Err(Error::invalid(format!(
                "in the remap table: `{}` in the replacement `{text}` is not a group of the pattern \
                 `{pattern}`; the first group is `${{1}}`, and `$$` stands for a dollar",
                whole.as_str()
            )));
        }
        replacement += &format!("${{{name}}}");
    }
    Ok(replacement + &text[end..])
}

/// What a load takes from a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Matched {
    /// The tensors to load, by the model's names and in the model's order.
    pub tensors: Vec<(String, Tensor)>,
    /// What is loaded and what is not.
    pub report: LoadReport,
}

/// Matches a saved state dict with the tensors of a model.
///
/// # Errors
/// [`Error::Mismatch`] with the whole report if [`Strictness::Strict`] does not hold;
/// [`Error::Invalid`] if the saved state is not a mapping of tensors, or the remap table maps two
/// names to one.
///
/// ```
/// use scai_checkpoint::load::{MatchOptions, TensorSpec, match_state};
/// use scai_checkpoint::{DType, Dict, Tensor, Value};
///
/// let saved: Dict = [("module.fc.weight", Tensor::from_vec(vec![2], vec![1.0_f32, 2.0])?)]
///     .into_iter()
///     .collect();
/// let model =
///     [TensorSpec { name: "fc.weight".into(), dtype: DType::Float32, shape: vec![2] }];
///
/// let error = match_state(&Value::Dict(saved.clone()), &model, &MatchOptions::default());
/// assert!(error.unwrap_err().to_string().contains("every saved name begins with `module.`"));
///
/// let options = MatchOptions::default().with_remap([(r"^module\.", "")])?;
/// let matched = match_state(&Value::Dict(saved), &model, &options)?;
/// assert_eq!(matched.report.loaded, ["fc.weight"]);
/// # Ok::<(), scai_checkpoint::Error>(())
/// ```
pub fn match_state(saved: &Value, model: &[TensorSpec], options: &MatchOptions) -> Result<Matched> {
    let Value::Dict(saved) = saved.resolved() else {
        return Err(Error::invalid(format!(
            "the saved state is a {}, not a state dict",
            saved.type_name()
        )));
    };
    let saved: Vec<(String, &Value)> =
        saved.children().into_iter().map(|(name, value)| (options.rename(&name), value)).collect();
    let mut by_name: HashMap<&str, &Value> = HashMap::with_capacity(saved.len());
    for (name, value) in &saved {
        if by_name.insert(name, value).is_some() {
            return Err(Error::invalid(format!(
                "the remap table maps two saved tensors to the name `{name}`"
            )));
        }
    }
    let mut matched = Matched::default();
    let report = &mut matched.report;
    for TensorSpec { name, dtype, shape } in model {
        match by_name.get(name.as_str()).map(|value| value.resolved()) {
            None => report.missing.push(name.clone()),
            Some(Value::Tensor(tensor))
                if tensor.shape() == shape && options.allows(tensor.dtype(), *dtype) =>
            {
                report.loaded.push(name.clone());
                if tensor.dtype() != *dtype {
                    report.cast.push(ShapeMismatch {
                        name: name.clone(),
                        checkpoint: (tensor.dtype(), shape.clone()),
                        model: (*dtype, shape.clone()),
                    });
                }
                matched.tensors.push((name.clone(), tensor.clone()));
            }
            Some(Value::Tensor(tensor)) => report.mismatched.push(ShapeMismatch {
                name: name.clone(),
                checkpoint: (tensor.dtype(), tensor.shape().to_vec()),
                model: (*dtype, shape.clone()),
            }),
            Some(_) => report.missing.push(name.clone()),
        }
    }
    let expected: HashSet<&str> = model.iter().map(|spec| spec.name.as_str()).collect();
    let names = saved.iter().map(|(name, _)| name);
    report.unexpected = names.filter(|name| !expected.contains(name.as_str())).cloned().collect();
    report.hints = hints(report, options.cast);
    if options.is_strict() && !report.is_complete() {
        return Err(Error::mismatch(matched.report));
    }
    Ok(matched)
}

/// How similar two names must be for one to be suggested for the other.
const NEAR: f64 = 0.9;
/// Names that are compared at most: the time grows with the product of the two counts.
const COMPARED: usize = 200;

fn hints(report: &LoadReport, is_cast: bool) -> Vec<String> {
    let (missing, unexpected) = (&report.missing, &report.unexpected);
    let mut hints = Vec::new();
    let same_shape = |found: &ShapeMismatch| found.checkpoint.1 == found.model.1;
    if !report.mismatched.is_empty() && report.mismatched.iter().all(same_shape) {
        let advice = if is_cast {
            "only floating-point types can be converted into each other"
        } else {
            "load with `cast`, which converts floating-point types, or into a model with the saved \
             types"
        };
        hints.push(format!("only the element types differ: {advice}"));
    }
    if missing.is_empty() || unexpected.is_empty() {
        return hints;
    }
    if let Some(hint) = wrappers::hint(missing, unexpected) {
        hints.push(hint);
        return hints;
    }
    let mut taken = HashSet::new();
    for name in missing.iter().take(COMPARED) {
        let near = unexpected
            .iter()
            .take(COMPARED)
            .filter(|other| !taken.contains(other))
            .map(|other| (strsim::jaro_winkler(name, other), other))
            .filter(|(likeness, _)| *likeness >= NEAR)
            .max_by(|(a, _), (b, _)| a.total_cmp(b));
        if let Some((_, other)) = near {
            taken.insert(other);
            hints.push(format!("`{name}` in the model may be `{other}` in the checkpoint"));
        }
        if hints.len() == 5 {
            break;
        }
    }
    hints
}

/// Moves the state of an optimizer to another model, parameter by parameter, by name.
///
/// `saved` and `current` are state dicts as `torch.optim.Optimizer.state_dict()` gives them: a
/// `state` keyed by the parameter's index and `param_groups`. The names are those of the
/// parameters in the order of these indices. The result is `current` with the saved state of every
/// parameter that has the same name, and whose state fits the parameter's shape. The parameters
/// whose state was moved are reported as loaded, the others as missing.
///
/// # Errors
/// [`Error::Invalid`] if either state dict does not have that form.
pub fn transfer_optimizer(
    saved: &Value,
    saved_names: &[String],
    current: &Value,
    model: &[TensorSpec],
    options: &MatchOptions,
) -> Result<(Value, LoadReport)> {
    let saved_state = state_of(saved)?;
    let mut current = match current.resolved() {
        Value::Dict(current) => current.clone(),
        other => return Err(not_an_optimizer(other)),
    };
    let mut moved = match current.get("state").map(Value::resolved) {
        Some(Value::Dict(state)) => state.clone(),
        _ => Dict::new(),
    };
    let by_number: HashMap<i64, &Value> = saved_state
        .entries
        .iter()
        .filter_map(|(key, state)| Some((key.as_int()?, state)))
        .collect();
    let saved_names: Vec<String> = saved_names.iter().map(|name| options.rename(name)).collect();
    let by_name: HashMap<&str, &Value> = (0..)
        .zip(&saved_names)
        .filter_map(|(i, name)| Some((name.as_str(), *by_number.get(&i)?)))
        .collect();
    let mut report = LoadReport::default();
    // By index, so that two transfers of one state are equal entry by entry.
    let mut found: BTreeMap<i64, &Value> = BTreeMap::new();
    for (i, TensorSpec { name, dtype, shape }) in (0..).zip(model) {
        match by_name.get(name.as_str()) {
            None => report.missing.push(name.clone()),
            Some(state) => match misfit(state, shape) {
                Some(tensor) => report.mismatched.push(ShapeMismatch {
                    name: name.clone(),
                    checkpoint: (tensor.dtype(), tensor.shape().to_vec()),
                    model: (*dtype, shape.clone()),
                }),
                None => {
                    found.insert(i, state);
                    report.loaded.push(name.clone());
                }
            },
        }
    }
    moved.entries.retain(|(key, _)| key.as_int().is_none_or(|i| !found.contains_key(&i)));
    moved.entries.extend(found.into_iter().map(|(i, state)| (Value::Int(i), state.clone())));
    let expected: HashSet<&str> = model.iter().map(|spec| spec.name.as_str()).collect();
    report.unexpected =
        saved_names.into_iter().filter(|name| !expected.contains(name.as_str())).collect();
    moved.entries.sort_by_key(|(key, _)| key.as_int());
    current.insert("state", moved);
    Ok((Value::Dict(current), report))
}

fn state_of(optimizer: &Value) -> Result<&Dict> {
    optimizer
        .as_dict()
        .and_then(|dict| dict.get("state"))
        .and_then(Value::as_dict)
        .ok_or_else(|| not_an_optimizer(optimizer))
}

fn not_an_optimizer(value: &Value) -> Error {
    Error::invalid(format!(
        "an optimizer state must be a dict with `state` and `param_groups`, got a {}",
        value.type_name()
    ))
}

/// The first tensor of a parameter's state that is neither a single number, nor of its shape, nor
/// reduced over some of its dimensions.
fn misfit<'a>(state: &'a Value, shape: &[usize]) -> Option<&'a Tensor> {
    let fits = |tensor: &Tensor| {
        let mut sizes = tensor.shape().iter().zip(shape);
        tensor.numel() == 1
            || tensor.shape().len() == shape.len()
                && sizes.all(|(theirs, ours)| theirs == ours || *theirs == 1)
    };
    let mut tensors = state.as_dict()?.entries.iter().filter_map(|(_, value)| value.as_tensor());
    tensors.find(|tensor| !fits(tensor))
}
