//! A state tree as the values of a distributed checkpoint, and its shard.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;

use super::directory::{NOTES, SOURCE};
use super::index::Index;
use super::metadata::{Chunk, Entry, Key, Location, METADATA, Metadata, Stored, name};
use super::plan::{Content, ShardPlan};
use super::tree::{FORMS, Form, class, to_json};
use crate::checkpoint::now_iso;
use crate::codec::Origin;
use crate::codec::binding::{Bound, Commit, Kind};
use crate::codec::torch::Manifest;
use crate::error::{Error, Result};
use crate::store::{WriteAt, attempt};
use crate::tensor::{Attributes, Source, Storage, Tensor};
use crate::value::{Dict, DictKind, MAX_DEPTH, Value};

/// A distributed checkpoint of one process that is ready to be written: one shard, the metadata, the commit.
#[derive(Debug)]
pub struct DistributedPlan {
    shard: ShardPlan,
    metadata: Metadata,
    commit: Commit,
    lost: Vec<String>,
}

impl DistributedPlan {
    /// Plans the checkpoint for a state tree, with notes beside it that come from a file of this `origin`.
    ///
    /// As in `torch.distributed.checkpoint`, mappings are flattened, and lists that hold tensors or mappings;
    /// what else there is becomes one item each.
    ///
    /// # Errors
    /// As [`TorchPlan::new`](crate::codec::torch::TorchPlan::new); [`Error::Invalid`] if the tree is not a
    /// mapping, or two values would have one name.
    pub fn new(tree: &Value, notes: Option<&str>, origin: Origin) -> Result<Self> {
        let Some(top) = tree.as_dict() else {
            return Err(Error::invalid(format!(
                "a distributed checkpoint must be a mapping, got {}",
                tree.type_name()
            )));
        };
        let attempt = attempt();
        let mut flattener = Flattener {
            shard: ShardPlan::default(),
            metadata: Metadata {
                files: vec![format!("{attempt}_0_0.distcp")],
                entries: Vec::new(),
            },
            forms: Vec::new(),
            names: HashSet::new(),
            views: HashMap::new(),
            lost: Vec::new(),
        };
        flattener.dict(&mut Vec::new(), top)?;
        let Flattener { shard, metadata, forms, lost, .. } = flattener;

        let manifest = Manifest::new(tree, origin);
        let timestamp = manifest.timestamp.unwrap_or_else(now_iso);
        let mut commit = Commit::new(Kind::Shards, attempt, timestamp, [].into());
        commit.iteration = manifest.iteration.and_then(|iteration| iteration.try_into().ok());
        commit.world_size = Some(1);
        commit.training_stats = manifest.training_stats;
        commit.metadata = manifest.metadata;
        if !forms.is_empty() {
            let forms = serde_json::to_string(&forms).unwrap_or_default();
            commit.about.insert(FORMS.to_owned(), forms);
        }
        if let Some(notes) = notes {
            commit.about.insert(NOTES.to_owned(), notes.to_owned());
        }
        if origin == Origin::Unprotected {
            commit.about.insert(SOURCE.to_owned(), "none".to_owned());
        }
        Ok(Self { shard, metadata, commit, lost })
    }

    /// What the checkpoint does not keep: the paths of mappings whose attributes cannot be described.
    pub fn lost(&self) -> &[String] {
        &self.lost
    }

    /// Bytes of all files, about.
    pub fn len(&self) -> u64 {
        self.shard.len()
    }

    /// Always false: a shard has an index.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name and length of the shard.
    pub(crate) fn shard(&self) -> (String, u64) {
        (self.metadata.files.first().cloned().unwrap_or_default(), self.shard.len())
    }

    /// Writes the shard. Returns what is left to be written: names and bytes, the commit last.
    pub(crate) fn write(
        self,
        threads: usize,
        file: &dyn WriteAt,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let (name, len) = self.shard();
        let index: Index = self.shard.write(threads, file)?;
        let metadata = self.metadata.encode();
        let mut commit = self.commit;
        let bound = format!("{}{METADATA}", commit.attempt);
        let digest = twox_hash::XxHash3_128::oneshot(&metadata);
        commit.files = [
            (name, Bound::shard(len, index.root())),
            (bound.clone(), Bound::whole(metadata.len() as u64, digest)),
        ]
        .into();
        let record = commit.encode();
        Ok(vec![
            (bound, metadata.clone()),
            (METADATA.to_owned(), metadata),
            (crate::codec::COMMIT.to_owned(), record),
        ])
    }
}

/// Two views that are the same have one item.
type View = (usize, usize, Vec<usize>, Vec<usize>, &'static str);

struct Flattener {
    shard: ShardPlan,
    metadata: Metadata,
    forms: Vec<Form>,
    names: HashSet<String>,
    views: HashMap<View, Location>,
    lost: Vec<String>,
}

impl Flattener {
    fn value(&mut self, path: &mut Vec<Key>, value: &Value) -> Result<()> {
        if path.len() > MAX_DEPTH {
            return Err(Error::invalid(format!(
                "containers that are nested deeper than {MAX_DEPTH} levels"
            )));
        }
        match value.resolved() {
            Value::Dict(dict) if is_flattened(dict) => self.dict(path, dict),
            Value::List(items) if !is_terminal(value) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(Key::Index(index));
                    self.value(path, item)?;
                    path.pop();
                }
                Ok(())
            }
            Value::Tensor(tensor) if is_plain(tensor) => self.tensor(path, tensor),
            other => {
                let at = self.add(path, Content::Value(other.clone()))?;
                self.entry(path, Stored::Value(at))
            }
        }
    }

    fn dict(&mut self, path: &mut Vec<Key>, dict: &Dict) -> Result<()> {
        let integers = dict.entries.iter().any(|(key, _)| key.as_int().is_some());
        let attributes = dict.attributes.as_ref().and_then(|attributes| {
            let json = to_json(&Value::Dict((**attributes).clone()));
            if json.is_none() {
                self.lost.push(name(path));
            }
            json
        });
        let class = class(dict.kind).flatten();
        if integers || class.is_some() || attributes.is_some() {
            let class = class.map(str::to_owned);
            self.forms.push(Form {
                path: shown(path),
                integers,
                class,
                attributes,
                parameter: false,
            });
        }
        for (key, value) in &dict.entries {
            path.push(Key::Name(key.key_text()));
            self.value(path, value)?;
            path.pop();
        }
        Ok(())
    }

    fn tensor(&mut self, path: &[Key], tensor: &Tensor) -> Result<()> {
        let attributes = tensor.attributes();
        if attributes.parameter {
            let parameter = true;
            self.forms.push(Form { path: shown(path), parameter, ..Form::default() });
        }
        let view = (
            tensor.storage().id(),
            tensor.offset(),
            tensor.shape().to_vec(),
            tensor.strides().to_vec(),
            tensor.dtype().name(),
        );
        let at = match self.views.get(&view) {
            Some(at) => *at,
            None => {
                let at = self.add(path, Content::Value(Value::Tensor(alone(tensor)?)))?;
                self.views.insert(view, at);
                at
            }
        };
        let shape: Vec<u64> = tensor.shape().iter().map(|&len| len as u64).collect();
        let chunk = Chunk { offsets: vec![0; shape.len()], sizes: shape.clone(), at };
        let (dtype, requires_grad) = (tensor.dtype(), attributes.requires_grad);
        self.entry(path, Stored::Tensor { dtype, shape, requires_grad, chunks: vec![chunk] })
    }

    fn add(&mut self, path: &[Key], content: Content) -> Result<Location> {
        let range = self.shard.add(name(path), content)?;
        Ok(Location { file: 0, offset: range.start, len: range.end - range.start })
    }

    fn entry(&mut self, path: &[Key], content: Stored) -> Result<()> {
        if !self.names.insert(name(path)) {
            return Err(Error::invalid(format!(
                "two values would both be called `{}` in a distributed checkpoint; rename one",
                name(path)
            )));
        }
        self.metadata.entries.push(Entry { path: path.to_vec(), content });
        Ok(())
    }
}

/// A path as JSON.
fn shown(path: &[Key]) -> Vec<serde_json::Value> {
    let key = |key: &Key| match key {
        Key::Name(name) => name.as_str().into(),
        Key::Index(index) => (*index).into(),
    };
    path.iter().map(key).collect()
}

/// Whether the values of a mapping have names of their own: its keys are all text, or all integers.
fn is_flattened(dict: &Dict) -> bool {
    let keys = || dict.entries.iter().map(|(key, _)| key.resolved());
    let is_text = keys().all(|key| matches!(key, Value::Str(_)));
    let are_integers = keys().all(|key| matches!(key, Value::Int(_)));
    !dict.is_empty() && (is_text || are_integers) && dict.kind != DictKind::Counter
}

/// Whether a value is one item, as PyTorch decides it.
fn is_terminal(value: &Value) -> bool {
    match value.resolved() {
        Value::Dict(_) => false,
        Value::List(items) => !items.iter().any(|item| match item.resolved() {
            Value::Tensor(_) => true,
            Value::Dict(_) | Value::List(_) => !is_terminal(item),
            _ => false,
        }),
        _ => true,
    }
}

/// Whether a tensor is no more than its elements.
fn is_plain(tensor: &Tensor) -> bool {
    let Attributes { conjugate, negative, .. } = tensor.attributes();
    !conjugate && !negative && !tensor.repeats_too_much()
}

/// The tensor with a storage that holds nothing else, and without attributes.
fn alone(tensor: &Tensor) -> Result<Tensor> {
    let storage = tensor.storage();
    let plain = tensor.clone().with_attributes(Attributes::default());
    let is_whole = storage.len() == tensor.nbytes() && tensor.offset() == 0;
    if is_whole && storage.location() == "cpu" {
        return Ok(plain);
    }
    let storage = if tensor.is_contiguous() {
        let begin = (tensor.offset() * tensor.dtype().size()) as u64;
        storage.section(begin..begin + tensor.nbytes()).with_location("cpu")
    } else {
        Storage::new(Arc::new(Copied { tensor: plain, kept: std::sync::Mutex::default() }))
    };
    Tensor::contiguous(tensor.dtype(), tensor.shape().to_vec(), storage)
}

/// The elements of a view in row-major order. They are kept until the last one was read.
struct Copied {
    tensor: Tensor,
    kept: std::sync::Mutex<Option<(Vec<u8>, u64)>>,
}

impl Source for Copied {
    fn len(&self) -> u64 {
        self.tensor.nbytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut kept = crate::threads::held(&self.kept);
        let (bytes, read) = match &mut *kept {
            Some(kept) => kept,
            none => none.insert((self.tensor.to_bytes()?, 0)),
        };
        let from = usize::try_from(offset).ok();
        let part = from.and_then(|from| bytes.get(from..from.checked_add(buf.len())?));
        buf.copy_from_slice(part.ok_or_else(|| Error::invalid("a view is too short"))?);
        *read += buf.len() as u64;
        if *read >= self.tensor.nbytes() {
            *kept = None;
        }
        Ok(())
    }
}
