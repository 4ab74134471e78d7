//! Objects that only code could make: what they are made of, without making them.
//!
//! A lenient read returns a [`crate::value::Object`] for each: the name of its class, and the data it
//! would have been made from. For a whole `torch.nn.Module` that is its state dict, with the names that
//! `state_dict()` uses.

use super::build::{Builder, check_depth};
use super::globals::Global;
use super::machine::{DictNode, Id, Node, ObjectNode};
use crate::error::Result;
use crate::value::{Dict, DictKind, Object, Value};

/// The result of a call is rarely called itself; names are not followed further.
const MAX_CALLS: usize = 8;

/// What TorchScript puts around a list or dict to say what it holds.
const MARKS_OF_TYPE: [&str; 5] = [
    "torch.jit._pickle.restore_type_tag",
    "torch.jit._pickle.build_intlist",
    "torch.jit._pickle.build_tensorlist",
    "torch.jit._pickle.build_doublelist",
    "torch.jit._pickle.build_boollist",
];

/// How Python makes an object of a class without calling it, in protocols 0 and 1.
const RECONSTRUCTOR: &str = "copyreg._reconstructor";

impl Builder<'_> {
    /// What stands in for an object.
    pub(super) fn object(&mut self, id: Id, object: &ObjectNode, depth: usize) -> Result<Value> {
        let class = self.class_of(object);
        if let Some(marked) = self.marked(object, &class) {
            return self.value(marked, depth + 1);
        }
        if self.open.contains(&id) {
            let entries = vec![(Value::from("…"), Value::from("the object itself"))];
            let content = Dict { entries, ..Dict::new() };
            return Ok(Value::Object(Box::new(Object { class, content })));
        }
        self.charge(class.len())?;
        self.open.push(id);
        let content = self.without_notes(|builder| builder.content(object, depth));
        self.open.pop();
        Ok(Value::Object(Box::new(Object { class, content: content? })))
    }

    /// What is inside a mark of its type.
    fn marked(&self, object: &ObjectNode, class: &str) -> Option<Id> {
        let is_mark = object.state.is_none() && MARKS_OF_TYPE.contains(&class);
        is_mark.then(|| self.tuple(object.args).ok()?.first().copied()).flatten()
    }

    /// A class or function that was not called.
    pub(super) fn foreign_class(&mut self, number: u32) -> Result<Value> {
        let class = self.foreign_name(number);
        self.charge(class.len())?;
        Ok(Value::Object(Box::new(Object { class, content: Dict::new() })))
    }

    fn foreign_name(&self, number: u32) -> String {
        self.foreign.get(number as usize).map(|name| name.to_string()).unwrap_or_default()
    }

    fn class_of(&self, object: &ObjectNode) -> String {
        let mut object = object;
        for _ in 0..MAX_CALLS {
            let callee = match (self.node(object.callee), self.reconstructed(object)) {
                (_, Some(class)) => self.node(class),
                (callee, None) => callee,
            };
            match callee {
                Node::Global(Global::Foreign(number)) => return self.foreign_name(*number),
                Node::Global(global) => return global.name().unwrap_or("object").to_owned(),
                Node::Object(inner) => object = inner,
                _ => break,
            }
        }
        "object".to_owned()
    }

    /// The class of an object that is made without calling its class.
    fn reconstructed(&self, object: &ObjectNode) -> Option<Id> {
        let Node::Global(Global::Foreign(number)) = self.node(object.callee) else { return None };
        if self.foreign.get(*number as usize).is_none_or(|name| &**name != RECONSTRUCTOR) {
            return None;
        }
        self.tuple(object.args).ok()?.first().copied()
    }

    fn content(&mut self, object: &ObjectNode, depth: usize) -> Result<Dict> {
        let mut entries = Vec::new();
        let mut kind = DictKind::Dict;
        let args = self.tuple(object.args)?.to_vec();
        // Class, base class, and what the base class is made of.
        let skip = if self.reconstructed(object).is_some() { 2 } else { 0 };
        let items = object.filled.iter().flat_map(|filled| filled.items.iter());
        for (number, &item) in (0..).zip(args.iter().skip(skip).chain(items)) {
            if !matches!(self.node(item), Node::None) {
                entries.push((Value::Int(number), self.value(item, depth + 1)?));
            }
        }
        if let Some(filled) = &object.filled {
            for &(key, value) in &filled.entries {
                entries.push((self.value(key, depth + 1)?, self.value(value, depth + 1)?));
            }
            if let Some(Node::Dict(named)) = filled.named.map(|named| self.node(named).clone()) {
                self.extend(&mut entries, &named, depth)?;
            }
        }
        match object.state.map(|state| self.node(state).clone()) {
            None => {}
            Some(Node::Dict(state)) if self.is_module(&state) => {
                kind = DictKind::Ordered;
                self.module(&mut entries, &state, "", depth)?;
            }
            Some(Node::Dict(state)) => self.extend(&mut entries, &state, depth)?,
            // The attributes, and those in slots.
            Some(Node::Tuple(parts))
                if parts.len() == 2
                    && parts.iter().all(|&part| {
                        matches!(self.node(part), Node::None | Node::EmptyDict(_) | Node::Dict(_))
                    }) =>
            {
                for &part in &parts {
                    if let Node::Dict(part) = self.node(part).clone() {
                        self.extend(&mut entries, &part, depth)?;
                    }
                }
            }
            Some(Node::None | Node::EmptyDict(_)) => {}
            Some(_) => {
                let state = object.state.map(|state| self.value(state, depth + 1));
                entries.extend(state.transpose()?.map(|state| (Value::from("state"), state)));
            }
        }
        Ok(Dict { kind, entries: self.keep_last_of_equal_keys(entries)?, attributes: None })
    }

    fn extend(
        &mut self,
        entries: &mut Vec<(Value, Value)>,
        dict: &DictNode,
        depth: usize,
    ) -> Result<()> {
        for &(key, value) in &dict.entries {
            entries.push((self.value(key, depth + 1)?, self.value(value, depth + 1)?));
        }
        Ok(())
    }

    /// Whether these are the attributes of a `torch.nn.Module`.
    fn is_module(&self, state: &DictNode) -> bool {
        let has = |name: &str| {
            state.entries.iter().any(|(key, _)| self.text(*key).is_ok_and(|key| key == name))
        };
        has("_parameters") && has("_modules")
    }

    /// The state dict of a module, and what other attributes hold tensors.
    fn module(
        &mut self,
        entries: &mut Vec<(Value, Value)>,
        state: &DictNode,
        prefix: &str,
        depth: usize,
    ) -> Result<()> {
        check_depth(depth)?;
        self.charge(prefix.len())?;
        for &(attribute, value) in &state.entries {
            let Ok(attribute) = self.text(attribute).map(str::to_owned) else { continue };
            match (attribute.as_str(), self.node(value).clone()) {
                ("_parameters" | "_buffers", Node::Dict(tensors)) => {
                    for &(name, tensor) in &tensors.entries {
                        if !matches!(self.node(tensor), Node::None) {
                            let name = format!("{prefix}{}", self.text(name)?);
                            entries.push((Value::from(name), self.value(tensor, depth + 1)?));
                        }
                    }
                }
                ("_modules", Node::Dict(modules)) => {
                    for &(name, module) in &modules.entries {
                        let name = format!("{prefix}{}", self.text(name)?);
                        let below = match self.node(module) {
                            Node::Object(object) if !self.open.contains(&module) => {
                                object.state.map(|state| self.node(state).clone())
                            }
                            _ => None,
                        };
                        match below {
                            Some(Node::Dict(below))
                                if self.is_module(&below) && self.is_shared(module) =>
                            {
                                let value = self.value(module, depth + 1)?;
                                self.again(entries, &value, &name)?;
                            }
                            Some(Node::Dict(below)) if self.is_module(&below) => {
                                self.open.push(module);
                                let done =
                                    self.module(entries, &below, &format!("{name}."), depth + 1);
                                self.open.pop();
                                done?;
                            }
                            _ => self.with_tensors(entries, name, module, depth)?,
                        }
                    }
                }
                ("_parameters" | "_buffers" | "_modules", _) => {}
                (attribute, _) => {
                    self.with_tensors(entries, format!("{prefix}{attribute}"), value, depth)?;
                }
            }
        }
        Ok(())
    }

    /// Adds the state dict of a module that is in the tree under several names.
    fn again(
        &mut self,
        entries: &mut Vec<(Value, Value)>,
        module: &Value,
        name: &str,
    ) -> Result<()> {
        let Value::Object(module) = module.resolved() else { return Ok(()) };
        for (key, value) in &module.content.entries {
            if let Some(key) = key.as_str() {
                let name = format!("{name}.{key}");
                self.charge(size_of::<(Value, Value)>() + name.len())?;
                entries.push((Value::from(name), value.clone()));
            }
        }
        Ok(())
    }

    /// Adds a value if it holds tensors.
    fn with_tensors(
        &mut self,
        entries: &mut Vec<(Value, Value)>,
        name: String,
        id: Id,
        depth: usize,
    ) -> Result<()> {
        let is_plain = matches!(
            self.node(id),
            Node::None | Node::Bool(_) | Node::Int(_) | Node::Float(_) | Node::Str(_)
        );
        if !is_plain {
            let value = self.value(id, depth + 1)?;
            if value.holds_storages() {
                entries.push((Value::from(name), value));
            }
        }
        Ok(())
    }
}
