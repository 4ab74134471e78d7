//! Settings and statistics: what JSON can say, as values of Python.

use pyo3::IntoPyObjectExt as _;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyList, PyMapping, PyString, PyTuple};
use serde_json::{Map, Number, Value as Json};

/// Settings are mappings in a mapping. More than this is a mapping that contains itself.
const DEEPEST: usize = 8;

/// The settings that a mapping holds. Paths and numbers of NumPy are settings as well.
pub(super) fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Json> {
    convert(value, "", 0)
}

fn convert(value: &Bound<'_, PyAny>, key: &str, depth: usize) -> PyResult<Json> {
    if depth > DEEPEST {
        return Err(PyValueError::new_err(format!("`{key}`: nested deeper than any setting")));
    }
    if value.is_none() {
        return Ok(Json::Null);
    }
    if let Ok(truth) = value.cast::<PyBool>() {
        return Ok(Json::Bool(truth.is_true()));
    }
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(Json::String(text.to_str()?.to_owned()));
    }
    if let Ok(mapping) = value.cast::<PyMapping>() {
        let mut entries = Map::new();
        for entry in mapping.items()?.iter() {
            let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = entry.extract()?;
            let Ok(name) = name.cast::<PyString>() else {
                return Err(unusable(&name, key, "a string as key"));
            };
            let name = name.to_str()?;
            let path = if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
            entries.insert(name.to_owned(), convert(&value, &path, depth + 1)?);
        }
        return Ok(Json::Object(entries));
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        let items = value.try_iter()?.map(|item| convert(&item?, key, depth + 1));
        return Ok(Json::Array(items.collect::<PyResult<_>>()?));
    }
    if value.hasattr("__fspath__")? {
        return convert(&value.call_method0("__fspath__")?, key, depth + 1);
    }
    if let Ok(number) = value.extract::<i64>() {
        return Ok(Json::from(number));
    }
    if let Ok(number) = value.extract::<u64>() {
        return Ok(Json::from(number));
    }
    let Ok(number) = value.extract::<f64>() else {
        return Err(unusable(
            value,
            key,
            "a string, a number, `True`, `False`, a list or a mapping",
        ));
    };
    match Number::from_f64(number) {
        Some(number) => Ok(Json::Number(number)),
        None => Err(PyValueError::new_err(format!("`{key}`: expected a number, found {number}"))),
    }
}

fn unusable(value: &Bound<'_, PyAny>, key: &str, expected: &str) -> PyErr {
    let class = value.get_type();
    let class = class.name().map_or_else(|_| "something else".to_owned(), |name| name.to_string());
    let at = if key.is_empty() { String::new() } else { format!("`{key}`: ") };
    PyTypeError::new_err(format!("{at}expected {expected}, found {class}"))
}

/// A value of JSON as one of Python.
pub(super) fn to_python<'py>(py: Python<'py>, json: &Json) -> PyResult<Bound<'py, PyAny>> {
    match json {
        Json::Null => Ok(py.None().into_bound(py)),
        Json::Bool(truth) => truth.into_bound_py_any(py),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into_bound_py_any(py),
            (None, Some(number)) => number.into_bound_py_any(py),
            (None, None) => number.as_f64().into_bound_py_any(py),
        },
        Json::String(text) => text.into_bound_py_any(py),
        Json::Array(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(to_python(py, item)?)?;
            }
            Ok(list.into_any())
        }
        Json::Object(entries) => {
            let dict = PyDict::new(py);
            for (key, value) in entries {
                dict.set_item(key, to_python(py, value)?)?;
            }
            Ok(dict.into_any())
        }
    }
}
