//! Values of the state tree on one line, as Python would write them.

use scai_checkpoint::Value;

use crate::line::one_line;

/// A value that is neither a container nor a tensor, as Python writes it; `None` for others.
pub fn scalar(value: &Value) -> Option<String> {
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
fn float(float: f64) -> String {
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

/// A list or tuple of scalars on one line of about `width` characters; `None` if an item is
/// not a scalar.
pub fn flat_list(value: &Value, width: usize) -> Option<String> {
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
