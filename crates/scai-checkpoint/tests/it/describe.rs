//! The description of a state tree that `fixtures/golden/describe.py` makes of what torch loaded.

use std::collections::HashMap;

use scai_checkpoint::tensor::Storage;
use scai_checkpoint::value::DictKind;
use scai_checkpoint::{Dict, Value};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

pub(crate) fn describe(value: &Value) -> Json {
    let mut describer = Describer { storages: Vec::new(), seen: HashMap::new() };
    let root = describer.node(value);
    json!({ "root": root, "storages": describer.storages })
}

struct Describer {
    storages: Vec<Json>,
    seen: HashMap<usize, usize>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bits(float: f64) -> String {
    format!("{:016x}", float.to_bits())
}

impl Describer {
    fn node(&mut self, value: &Value) -> Json {
        match value.resolved() {
            Value::None => json!({"t": "none"}),
            Value::Bool(v) => json!({"t": "bool", "v": v}),
            Value::Int(v) => json!({"t": "int", "v": v.to_string()}),
            Value::BigInt(v) => json!({"t": "int", "v": v.to_string()}),
            Value::Float(v) => json!({"t": "float", "v": bits(*v)}),
            Value::Complex(re, im) => json!({"t": "complex", "re": bits(*re), "im": bits(*im)}),
            Value::Str(v) => json!({"t": "str", "v": v}),
            Value::Wtf8(v) => json!({"t": "wtf8", "v": hex(v)}),
            Value::Bytes(v) => json!({"t": "bytes", "v": hex(v)}),
            Value::ByteArray(v) => json!({"t": "bytearray", "v": hex(v)}),
            Value::List(items) => json!({"t": "list", "v": self.nodes(items)}),
            Value::Tuple(items) => json!({"t": "tuple", "v": self.nodes(items)}),
            Value::Set(items) => {
                let mut items = self.nodes(items);
                items.sort_by_key(Json::to_string);
                json!({"t": "set", "v": items})
            }
            Value::Dict(dict) => self.dict(dict),
            Value::Tensor(tensor) => {
                let attributes = tensor.attributes();
                let storage = self.storage(tensor.storage());
                json!({
                    "t": "tensor",
                    "dtype": tensor.dtype().name(),
                    "shape": tensor.shape(),
                    "stride": tensor.strides(),
                    "offset": tensor.offset(),
                    "storage": storage,
                    "requires_grad": attributes.requires_grad,
                    "parameter": attributes.parameter,
                    "conj": attributes.conjugate,
                    "neg": attributes.negative,
                })
            }
            Value::Storage(storage, dtype) => json!({
                "t": "storage",
                "dtype": dtype.map_or("uint8", |dtype| dtype.name()),
                "storage": self.storage(storage),
            }),
            Value::Size(dims) => json!({"t": "size", "v": dims}),
            Value::DType(dtype) => json!({"t": "dtype", "v": dtype.name()}),
            Value::Device(v) => json!({"t": "device", "v": v}),
            Value::Layout(v) => json!({"t": "layout", "v": v}),
            Value::QScheme(v) => json!({"t": "qscheme", "v": v}),
            Value::Call(call) if call.args.is_empty() => json!({"t": "global", "v": call.global}),
            Value::Call(call) => json!({
                "t": "call",
                "global": call.global,
                "args": self.nodes(&call.args),
                "state": call.state.as_ref().map(|state| self.node(state)),
            }),
            other => panic!("no description of {other:?}"),
        }
    }

    fn nodes(&mut self, items: &[Value]) -> Vec<Json> {
        items.iter().map(|item| self.node(item)).collect()
    }

    fn dict(&mut self, dict: &Dict) -> Json {
        let entries: Vec<Json> = dict
            .entries
            .iter()
            .map(|(key, value)| json!([self.node(key), self.node(value)]))
            .collect();
        match dict.kind {
            DictKind::Counter => json!({"t": "counter", "v": entries}),
            DictKind::Ordered => json!({
                "t": "odict",
                "v": entries,
                "attrs": dict.attributes.as_ref().map(|attributes| self.dict(attributes)),
            }),
            _ => json!({"t": "dict", "v": entries}),
        }
    }

    fn storage(&mut self, storage: &Storage) -> usize {
        let next = self.storages.len();
        *self.seen.entry(storage.id()).or_insert_with(|| {
            let bytes = storage.read(0..storage.len()).unwrap();
            self.storages
                .push(json!({"nbytes": bytes.len(), "sha256": hex(&Sha256::digest(&bytes))}));
            next
        })
    }
}
