//! Rounding floating-point tensors to another dtype.

use std::collections::HashMap;
use std::sync::Arc;

use half::{bf16, f16};
use scai_checkpoint::tensor::{Source, Storage};
use scai_checkpoint::value::Call;
use scai_checkpoint::{DType, Dict, Result, Tensor, Value};
use scai_inspect::elements::{Elements, decode};

/// A tree with its floating-point tensors rounded.
#[derive(Debug)]
pub(crate) struct Cast {
    pub(crate) tree: Value,
    /// Tensors that were rounded.
    pub(crate) tensors: usize,
    /// Tensors left as they were because others see their memory as another dtype.
    pub(crate) left: Vec<String>,
}

/// Rounds the floating-point tensors of a tree to `dtype`, to nearest, ties to even, as `Tensor.to`
/// does; tied tensors remain tied. Nothing is read until it is written.
///
/// # Errors
/// None that a valid tree can cause.
pub(crate) fn cast(tree: &Value, dtype: DType) -> Result<Cast> {
    let mut dtypes: HashMap<usize, Option<DType>> = HashMap::new();
    tree.visit(&mut |_, value| {
        let (id, seen_as) = match value {
            Value::Tensor(tensor) => (tensor.storage().id(), Some(tensor.dtype())),
            Value::Storage(storage, _) => (storage.id(), None),
            _ => return,
        };
        let known = dtypes.entry(id).or_insert(seen_as);
        *known = known.filter(|&known| Some(known) == seen_as);
    });
    let mut caster = Caster {
        dtype,
        dtypes,
        storages: HashMap::new(),
        shared: HashMap::new(),
        tensors: 0,
        left: Vec::new(),
    };
    let tree = caster.value("", tree)?;
    Ok(Cast { tree, tensors: caster.tensors, left: caster.left })
}

struct Caster {
    dtype: DType,
    /// The dtype that all tensors of a storage have, if they have the same.
    dtypes: HashMap<usize, Option<DType>>,
    storages: HashMap<usize, Storage>,
    /// The results for shared values.
    shared: HashMap<usize, Value>,
    tensors: usize,
    left: Vec<String>,
}

impl Caster {
    fn value(&mut self, path: &str, value: &Value) -> Result<Value> {
        Ok(match value {
            Value::Shared(shared) => match self.shared.get(&shared.id()) {
                Some(known) => known.clone(),
                None => {
                    let made = self.value(path, shared.get())?.share();
                    self.shared.insert(shared.id(), made.clone());
                    made
                }
            },
            Value::Tensor(tensor) => Value::Tensor(self.tensor(path, tensor)?),
            Value::List(items) => Value::List(self.items(path, items)?),
            Value::Tuple(items) => Value::Tuple(self.items(path, items)?),
            Value::Set(items) => Value::Set(self.items(path, items)?),
            Value::Dict(dict) => {
                let mut entries = Vec::with_capacity(dict.len());
                for ((key, value), (text, _)) in dict.entries.iter().zip(dict.children()) {
                    entries.push((key.clone(), self.value(&format!("{path}.{text}"), value)?));
                }
                let attributes = dict.attributes.clone();
                Value::Dict(Dict { kind: dict.kind, entries, attributes })
            }
            Value::Object(object) => {
                let content = Value::Dict(object.content.clone());
                self.value(path, &content)?
            }
            Value::Call(call) => Value::Call(Box::new(Call {
                global: call.global,
                args: self.items(path, &call.args)?,
                state: call.state.as_ref().map(|state| self.value(path, state)).transpose()?,
            })),
            other => other.clone(),
        })
    }

    fn items(&mut self, path: &str, items: &[Value]) -> Result<Vec<Value>> {
        let items = items.iter().enumerate();
        items.map(|(i, item)| self.value(&format!("{path}.{i}"), item)).collect()
    }

    fn tensor(&mut self, path: &str, tensor: &Tensor) -> Result<Tensor> {
        if !tensor.dtype().is_float() || tensor.dtype() == self.dtype {
            return Ok(tensor.clone());
        }
        let storage = tensor.storage();
        if self.dtypes.get(&storage.id()) != Some(&Some(tensor.dtype())) {
            self.left.push(path.trim_start_matches('.').to_owned());
            return Ok(tensor.clone());
        }
        self.tensors += 1;
        let to = self.dtype;
        let rounded = self.storages.entry(storage.id()).or_insert_with(|| {
            let source = Rounded { storage: storage.clone(), from: tensor.dtype(), to };
            Storage::new(Arc::new(source)).with_location(storage.location())
        });
        let (shape, strides) = (tensor.shape().to_vec(), tensor.strides().to_vec());
        let rounded = Tensor::new(to, shape, strides, tensor.offset(), rounded.clone())?;
        Ok(rounded.with_attributes(tensor.attributes()))
    }
}

/// The elements of a storage as another dtype, computed as they are read.
struct Rounded {
    storage: Storage,
    from: DType,
    to: DType,
}

impl Source for Rounded {
    fn len(&self) -> u64 {
        self.storage.len() / self.from.size() as u64 * self.to.size() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let (from, to) = (self.from.size() as u64, self.to.size() as u64);
        // All elements that the range touches.
        let (first, last) = (offset / to, (offset + buf.len() as u64).div_ceil(to));
        let bytes = self.storage.read(first * from..last * from)?;
        let Some(Elements::Floats(floats)) = decode(self.from, &bytes) else { return Ok(()) };
        let rounded = encode(self.to, &floats);
        let skip = (offset - first * to) as usize;
        buf.copy_from_slice(&rounded[skip..skip + buf.len()]);
        Ok(())
    }
}

/// The bytes of numbers as a floating-point dtype. Like PyTorch, types of 16 bits are rounded
/// from `float32`.
fn encode(dtype: DType, numbers: &[f64]) -> Vec<u8> {
    let singles = || numbers.iter().map(|&x| x as f32);
    match dtype {
        DType::Float16 => singles().flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
        DType::BFloat16 => singles().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        DType::Float32 => singles().flat_map(f32::to_le_bytes).collect(),
        _ => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_halfway_are_rounded_to_even() {
        // 1 + 2^-8 and 1 + 3 * 2^-8 lie between two values of bfloat16.
        let values = vec![1.0 + 2.0_f32.powi(-8), 1.0 + 3.0 * 2.0_f32.powi(-8), f32::INFINITY];
        let tree = Value::Tensor(Tensor::from_vec(vec![3], values).unwrap());
        let cast = cast(&tree, DType::BFloat16).unwrap();
        let bytes = cast.tree.as_tensor().unwrap().to_bytes().unwrap();
        assert_eq!(bytes, [0x80, 0x3f, 0x82, 0x3f, 0x80, 0x7f]);
    }

    #[test]
    fn ties_are_kept_and_any_range_can_be_read() {
        let storage = Storage::from_vec((0..100).map(|i| i as f32).collect());
        let tensor = Tensor::contiguous(DType::Float32, vec![100], storage).unwrap();
        let tree = Value::List(vec![tensor.clone().into(), tensor.into(), Value::Int(1)]);
        let cast = cast(&tree, DType::Float16).unwrap();
        let [(_, a), (_, b)] = &cast.tree.tensors()[..] else { panic!("two tensors") };
        assert!(a.storage().same_as(b.storage()));
        assert_eq!(cast.tensors, 2);
        let all = a.to_bytes().unwrap();
        let mut part = [0; 5];
        a.storage().read_at(31, &mut part).unwrap();
        assert_eq!(part, all[31..36]);
    }
}
