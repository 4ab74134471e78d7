//! Values of the state tree as JSON.

use scai_checkpoint::Value;
use serde_json::{Value as Json, json};

use crate::number::not_finite;
use crate::python::scalar;

/// A value as JSON; a tensor is `{"dtype", "shape"}`. NaN and infinities are strings, and so is
/// whatever else JSON lacks.
pub(crate) fn to_json(value: &Value) -> Json {
    json_of(value, &mut { MAX_SHARED })
}

/// Values within shared ones that are written out; what is shared at many levels occurs too often
/// for any program to read.
const MAX_SHARED: usize = 1 << 20;

fn json_of(value: &Value, room: &mut usize) -> Json {
    if value.shared_id().is_some() {
        *room = room.saturating_sub(value.children().len());
        if *room == 0 {
            return Json::from(value.type_name());
        }
    }
    match value.resolved() {
        Value::None => Json::Null,
        Value::Bool(v) => Json::from(*v),
        Value::Int(v) => Json::from(*v),
        Value::Float(v) => not_finite(*v).map_or_else(|| Json::from(*v), Json::from),
        Value::Str(v) => Json::from(v.as_str()),
        Value::Size(dims) => json!(dims),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
            items.iter().map(|item| json_of(item, room)).collect()
        }
        Value::Dict(dict) => {
            let entries = dict.children().into_iter();
            Json::Object(entries.map(|(k, v)| (k, json_of(v, room))).collect())
        }
        Value::Tensor(tensor) => json!({"dtype": tensor.dtype().name(), "shape": tensor.shape()}),
        Value::Bytes(v) | Value::ByteArray(v) => {
            Json::from(v.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        other => Json::from(scalar(other).unwrap_or_else(|| other.type_name().to_owned())),
    }
}
