//! Objects that only code could make, and trees without them.

use rustc_hash::FxHashMap;

use super::{Call, Dict, Value, join};

/// What stands in for an object that only code could make.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The class or function, such as `argparse.Namespace`.
    pub class: String,
    /// What the object is made of, as far as it is data: arguments and elements by their numbers,
    /// attributes by their names. For a `torch.nn.Module`, its state dict.
    pub content: Dict,
}

impl Value {
    /// All stand-ins for objects that only code could make, with their paths, outermost first.
    pub fn objects(&self) -> Vec<(String, &Object)> {
        let mut found = Vec::new();
        self.visit(&mut |path, value| {
            if let Value::Object(object) = value {
                found.push((path.to_owned(), &**object));
            }
        });
        found
    }

    /// The same tree without [`Object`]s, so that it can be written. An object that holds tensors
    /// becomes a mapping of what it holds; any other is left out. `lost` is called for each, with
    /// its path.
    #[must_use]
    pub fn without_objects(&self, lost: &mut dyn FnMut(&str, &Object)) -> Value {
        Stripper { lost, inside: 0, shared: FxHashMap::default() }
            .value(self, "")
            .unwrap_or(Value::None)
    }
}

/// Takes objects out of a tree.
struct Stripper<'a> {
    lost: &'a mut dyn FnMut(&str, &Object),
    /// How many objects are around the value: what is inside one is lost with it, and not reported again.
    inside: usize,
    /// The results for shared values.
    shared: FxHashMap<usize, Option<Value>>,
}

impl Stripper<'_> {
    fn value(&mut self, value: &Value, path: &str) -> Option<Value> {
        Some(match value {
            Value::Shared(shared) => {
                if let Some(known) = self.shared.get(&shared.id()) {
                    return known.clone();
                }
                let made = self.value(shared.get(), path).map(Value::share);
                self.shared.insert(shared.id(), made.clone());
                return made;
            }
            Value::Object(object) => {
                if self.inside == 0 {
                    (self.lost)(path, object);
                }
                if !value.holds_storages() {
                    return None;
                }
                self.inside += 1;
                let content = self.dict(&object.content, path);
                self.inside -= 1;
                Value::Dict(content)
            }
            Value::List(items) => Value::List(self.items(items, path)),
            Value::Tuple(items) => Value::Tuple(self.items(items, path)),
            Value::Set(items) => Value::Set(self.items(items, path)),
            Value::Dict(dict) => Value::Dict(self.dict(dict, path)),
            Value::Call(call) => Value::Call(Box::new(Call {
                global: call.global,
                args: self.items(&call.args, path),
                state: call.state.as_ref().and_then(|state| self.value(state, path)),
            })),
            other => other.clone(),
        })
    }

    /// In a sequence a lost item becomes `None`, so that the others keep their positions.
    fn items(&mut self, items: &[Value], path: &str) -> Vec<Value> {
        let items = items.iter().enumerate();
        let kept = items.map(|(i, item)| self.value(item, &join(path, &i.to_string())));
        kept.map(|item| item.unwrap_or(Value::None)).collect()
    }

    fn dict(&mut self, dict: &Dict, path: &str) -> Dict {
        let mut entries = Vec::with_capacity(dict.len());
        for (key, value) in &dict.entries {
            let path = join(path, &key.key_text());
            entries.extend(self.value(key, &path).zip(self.value(value, &path)));
        }
        let attributes =
            dict.attributes.as_ref().map(|attributes| Box::new(self.dict(attributes, path)));
        Dict { kind: dict.kind, entries, attributes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DType, Storage, Tensor};

    fn object(class: &str, content: Dict) -> Value {
        Value::Object(Box::new(Object { class: class.to_owned(), content }))
    }

    #[test]
    fn an_object_without_tensors_is_left_out_and_one_with_tensors_becomes_a_mapping() {
        let storage = Storage::from_vec(vec![1.0_f32]);
        let tensor = Tensor::new(DType::Float32, vec![1], vec![1], 0, storage).unwrap();
        let module = [("weight", Value::from(tensor))].into_iter().collect();
        let args = object("argparse.Namespace", [("lr", 0.5)].into_iter().collect());
        let list = Value::List(vec![Value::Int(1), args.clone()]);
        let tree: Dict = [("model", object("Net", module)), ("args", args), ("list", list)]
            .into_iter()
            .collect();
        let mut lost = Vec::new();
        let tree = Value::Dict(tree);
        assert_eq!(tree.objects().len(), 3);
        let kept = tree.without_objects(&mut |path, object| {
            lost.push(format!("{path}: {}", object.class));
        });
        assert_eq!(lost, ["model: Net", "args: argparse.Namespace", "list.1: argparse.Namespace"]);
        assert!(kept.lookup("model.weight").unwrap().as_tensor().is_some());
        assert!(kept.lookup("args").is_none() && kept.objects().is_empty());
        assert_eq!(kept.lookup("list"), Some(&Value::List(vec![Value::Int(1), Value::None])));
    }
}
