//! Values of the state tree on one line, as Python would write them.

use scai_checkpoint::Value;
use serde_json::{Value as Json, json};

use super::text::one_line;
use crate::compute::numbers::as_json;

/// A value that is no container and no tensor.
pub(crate) fn scalar(value: &Value) -> Option<String> {
    Some(match value.resolved() {
        Value::None => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Int(v) => v.to_string(),
        Value::BigInt(v) => v.to_string(),
        Value::Float(v) => float(*v),
        Value::Complex(re, im) => format!("({}{:+}j)", float(*re), im),
        Value::Str(v) => quoted(v),
        Value::Wtf8(v) => quoted(&String::from_utf8_lossy(v)),
        Value::Bytes(v) => bytes("b'", v),
        Value::ByteArray(v) => bytes("bytearray b'", v),
        Value::DType(v) => format!("torch.{v}"),
        Value::Size(dims) => format!("{dims:?}"),
        Value::Device(v) | Value::Layout(v) | Value::QScheme(v) => v.clone(),
        Value::Call(call) if call.args.is_empty() && call.state.is_none() => call.global.to_owned(),
        Value::Object(object) if object.content.is_empty() => one_line(&object.class),
        _ => return None,
    })
}

fn quoted(text: &str) -> String {
    format!("'{}'", one_line(text).replace('\'', "\\'"))
}

fn bytes(start: &str, bytes: &[u8]) -> String {
    let shown: String = bytes
        .iter()
        .take(24)
        .flat_map(|&byte| std::ascii::escape_default(byte))
        .map(char::from)
        .collect();
    let more = if bytes.len() > 24 { "…" } else { "" };
    format!("{start}{shown}{more}'")
}

/// A float as Python writes it: always with a point or an exponent.
pub(crate) fn float(float: f64) -> String {
    if float.is_finite() {
        format!("{float:?}")
    } else if float.is_nan() {
        "nan".to_owned()
    } else if float > 0.0 {
        "inf".to_owned()
    } else {
        "-inf".to_owned()
    }
}

/// A list or tuple of scalars on one line of about `width` characters; `None` where an item is
/// something else.
pub(crate) fn flat_list(value: &Value, width: usize) -> Option<String> {
    let (items, [open, close]) = match value.resolved() {
        Value::List(items) => (items, ["[", "]"]),
        Value::Tuple(items) => (items, ["(", ")"]),
        Value::Set(items) => (items, ["{", "}"]),
        _ => return None,
    };
    let mut text = open.to_owned();
    let mut cut = false;
    for (i, item) in items.iter().enumerate() {
        let item = scalar(item)?;
        if cut {
            continue;
        }
        let separator = if i > 0 { ", " } else { "" };
        if i > 0 && text.chars().count() + item.chars().count() + 4 > width {
            text += &format!("{separator}…");
            cut = true;
            continue;
        }
        text += &format!("{separator}{item}");
    }
    Some(text + close)
}

/// A value as JSON: what is no tensor as JSON has it, a tensor as `{"dtype", "shape"}`. NaN and
/// infinities are strings, and so is whatever else JSON lacks.
pub(crate) fn to_json(value: &Value) -> Json {
    json_of(value, &mut { MAX_SHARED })
}

/// Values within shared ones that are written out; what is shared at many levels has more places
/// than any program could read.
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
        Value::Float(v) => as_json(*v),
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
