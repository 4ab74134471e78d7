//! The closed table of names a pickle may refer to.

use crate::tensor::DType;

/// What a name in a pickle stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    Counter,
    Set,
    Complex,
    ByteArray,
    Bytes,
    /// `_codecs.encode`: how protocol 2 writes `bytes`.
    Encode,
    Size,
    Device,
    Layout,
    DType(DType),
    QScheme(&'static str),
    /// A class of typed storages: the element type in a persistent id.
    TypedStorage(DType),
    UntypedStorage,
    /// `_rebuild_tensor(storage, offset, size, stride)`: before PyTorch 0.4.
    TensorV1,
    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])`.
    TensorV2,
    /// `_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])`.
    TensorV3,
    /// `_rebuild_parameter(tensor, requires_grad, hooks)`.
    Parameter,
    /// A constructor kept as it was written ([`crate::value::Call`]), or a class of tensors.
    Kept(&'static str),
    NumPy(NumPy),
    /// One that only code could use: the number of its name in the program.
    Foreign(u32),
}

/// Those of NumPy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NumPy {
    /// `scalar(dtype, bytes)`.
    Scalar,
    /// `_reconstruct(class, shape, kind)`; the state has the rest.
    Reconstruct,
    /// `_frombuffer(bytes, dtype, shape, order)`: how protocol 5 writes arrays.
    FromBuffer,
    /// `dtype(name, align, copy)`; the state has the rest.
    DType,
    /// `ndarray`, `matrix` or `recarray`.
    Array(&'static str),
    /// A class of scalars, such as `float32`.
    Class(&'static str),
}

const KEPT: [&str; 9] = [
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch._utils._rebuild_wrapper_subclass",
    "torch._utils._rebuild_device_tensor_from_numpy",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor",
    "torch._tensor._rebuild_from_type_v2",
    "torch.storage.TypedStorage",
];

/// Classes of tensors.
pub(super) const PARAMETER_CLASS: &str = "torch.nn.parameter.Parameter";
const TENSOR: &str = "torch.Tensor";

macro_rules! tensor_classes {
    ($($name:literal)*) => {
        [$(
            concat!("torch.", $name, "Tensor"),
            concat!("torch.cuda.", $name, "Tensor"),
            concat!("torch.sparse.", $name, "Tensor"),
            concat!("torch.cuda.sparse.", $name, "Tensor"),
        )*]
    };
}

/// Classes of tensors of one element type, from before there were dtypes.
const TENSOR_CLASSES: [&str; 40] = tensor_classes!(
    "Float" "Double" "Half" "BFloat16" "Long" "Int" "Short" "Char" "Byte" "Bool"
);

/// Classes of typed storages, which stand for element types.
const STORAGE_CLASSES: [&str; 17] = [
    "torch.FloatStorage",
    "torch.DoubleStorage",
    "torch.HalfStorage",
    "torch.BFloat16Storage",
    "torch.LongStorage",
    "torch.IntStorage",
    "torch.ShortStorage",
    "torch.CharStorage",
    "torch.ByteStorage",
    "torch.BoolStorage",
    "torch.ComplexFloatStorage",
    "torch.ComplexDoubleStorage",
    "torch.QInt8Storage",
    "torch.QUInt8Storage",
    "torch.QInt32Storage",
    "torch.QUInt4x2Storage",
    "torch.QUInt2x4Storage",
];

const QSCHEMES: [&str; 5] = [
    "per_tensor_affine",
    "per_tensor_symmetric",
    "per_channel_affine",
    "per_channel_symmetric",
    "per_channel_affine_float_qparams",
];

/// Constructors that are kept if their result has no variant of its own, or as arguments.
const SOMETIMES_KEPT: [&str; 4] = [
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
];

/// Classes and functions that may stand in a tree as values.
const VALUES: [(&str, Global); 12] = [
    ("collections.OrderedDict", Global::OrderedDict),
    ("collections.Counter", Global::Counter),
    ("builtins.set", Global::Set),
    ("builtins.complex", Global::Complex),
    ("builtins.bytearray", Global::ByteArray),
    ("builtins.bytes", Global::Bytes),
    ("_codecs.encode", Global::Encode),
    ("torch.Size", Global::Size),
    ("torch.device", Global::Device),
    ("torch.serialization._get_layout", Global::Layout),
    ("torch.storage.UntypedStorage", Global::UntypedStorage),
    ("torch.UntypedStorage", Global::UntypedStorage),
];

const CONSTRUCTORS: [(&str, Global); 4] = [
    ("torch._utils._rebuild_tensor", Global::TensorV1),
    ("torch._utils._rebuild_tensor_v2", Global::TensorV2),
    ("torch._utils._rebuild_tensor_v3", Global::TensorV3),
    ("torch._utils._rebuild_parameter", Global::Parameter),
];

/// Classes of NumPy scalars, which often stand for element types.
const NUMPY_CLASSES: [&str; 33] = [
    "bool_",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "longlong",
    "ulonglong",
    "intc",
    "uintc",
    "float16",
    "float32",
    "float64",
    "longdouble",
    "complex64",
    "complex128",
    "clongdouble",
    "str_",
    "bytes_",
    "void",
    "record",
    "datetime64",
    "timedelta64",
    "number",
    "integer",
    "floating",
    "inexact",
    "generic",
    "complexfloating",
];

/// The name of a global that a [`crate::value::Call`] may have, if it is one.
pub(in crate::codec) fn kept(name: &str) -> Option<&'static str> {
    let all = KEPT.into_iter().chain([TENSOR, PARAMETER_CLASS]).chain(SOMETIMES_KEPT);
    all.into_iter().find(|&kept| kept == name)
}

/// The name of a class or function that may stand in a tree as a value, if it is one.
pub(in crate::codec) fn class(name: &str) -> Option<&'static str> {
    let values = VALUES.into_iter().map(|(name, _)| name);
    let all = values.chain(STORAGE_CLASSES).chain(TENSOR_CLASSES);
    all.into_iter().find(|&class| class == name).or_else(|| kept(name))
}

impl Global {
    /// What `module.name` stands for; `None` for anything that is not in the table.
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        let module = if module == "__builtin__" { "builtins" } else { module };
        // A module's name ends where the name begins, not at another dot.
        let of = |full: &'static str| {
            full.strip_prefix(module).and_then(|rest| rest.strip_prefix('.')) == Some(name)
        };
        if let Some((_, global)) = VALUES.iter().chain(&CONSTRUCTORS).find(|(full, _)| of(full)) {
            return Some(*global);
        }
        if let Some(numpy) = NumPy::find(module, name) {
            return Some(Self::NumPy(numpy));
        }
        Some(match (module, name) {
            ("torch" | "torch.cuda", class) if class.ends_with("Storage") => {
                Self::TypedStorage(DType::from_storage_class(class)?)
            }
            ("torch", name) if QSCHEMES.contains(&name) => {
                Self::QScheme(QSCHEMES.into_iter().find(|&scheme| scheme == name)?)
            }
            ("torch", name) if DType::ALL.iter().any(|dtype| dtype.name() == name) => {
                Self::DType(DType::ALL.iter().copied().find(|dtype| dtype.name() == name)?)
            }
            _ => {
                let classes = [TENSOR, PARAMETER_CLASS].into_iter().chain(TENSOR_CLASSES);
                Self::Kept(KEPT.into_iter().chain(classes).find(|&full| of(full))?)
            }
        })
    }

    /// Whether it is a class of tensors.
    pub(super) fn is_tensor_class(self) -> bool {
        matches!(self, Self::Kept(name) if name == TENSOR
            || name == PARAMETER_CLASS
            || TENSOR_CLASSES.contains(&name))
    }

    /// Its name, if it may stand in a tree as a value.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Kept(name) => Some(name),
            Self::TypedStorage(dtype) => {
                let class = dtype.storage_class()?;
                STORAGE_CLASSES.into_iter().find(|name| &name["torch.".len()..] == class)
            }
            other => {
                let all = VALUES.into_iter().chain(CONSTRUCTORS);
                all.into_iter().find(|(_, global)| *global == other).map(|(name, _)| name)
            }
        }
    }
}

impl NumPy {
    fn find(module: &str, name: &str) -> Option<Self> {
        if !module.starts_with("numpy") {
            return None;
        }
        let class = |classes: &[&'static str]| classes.iter().copied().find(|&class| class == name);
        // `numpy.core` is `numpy._core` since NumPy 2.
        let module = match module.strip_prefix("numpy._core") {
            Some(rest) => format!("numpy.core{rest}"),
            None => module.to_owned(),
        };
        Some(match (module.as_str(), name) {
            ("numpy.core.multiarray", "scalar") => Self::Scalar,
            ("numpy.core.multiarray", "_reconstruct") => Self::Reconstruct,
            ("numpy.core.numeric", "_frombuffer") => Self::FromBuffer,
            ("numpy", "dtype") => Self::DType,
            ("numpy", "ndarray") => Self::Array("ndarray"),
            ("numpy" | "numpy.matrixlib.defmatrix", "matrix") => Self::Array("matrix"),
            ("numpy" | "numpy.rec" | "numpy.core.records", "recarray") => Self::Array("recarray"),
            ("numpy.rec" | "numpy.core.records", "record") => Self::Class("record"),
            ("numpy", _) => Self::Class(class(&NUMPY_CLASSES)?),
            _ => return None,
        })
    }
}

/// What to do about a class or function that would have to be run.
pub(super) fn advice(name: &str) -> &'static str {
    let (module, class) = name.rsplit_once('.').unwrap_or(("", name));
    match (module, class) {
        ("collections", "defaultdict" | "deque") => "save it as a plain `dict` or `list`",
        ("datetime" | "pathlib" | "decimal" | "uuid" | "fractions", _) => {
            "save it as a string or a number"
        }
        ("argparse", _) => "save `vars(args)`",
        (module, _) if module.starts_with("torch.nn.modules") => {
            "the whole module was saved: save `model.state_dict()` instead"
        }
        (module, _) if module.starts_with("torch.optim") => {
            "the whole optimizer was saved: save `optimizer.state_dict()` instead"
        }
        _ => {
            "what `torch.load(weights_only=True)` accepts can be read, and NumPy's values; load it \
             with torch where you trust it, and save plain containers and tensors"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_found_by_its_module_and_name() {
        let find = Global::find;
        assert_eq!(find("__builtin__", "set"), Some(Global::Set));
        assert_eq!(find("torch", "FloatTensor"), Some(Global::Kept("torch.FloatTensor")));
        assert_eq!(
            find("torch.cuda.sparse", "HalfTensor"),
            Some(Global::Kept("torch.cuda.sparse.HalfTensor"))
        );
        assert_eq!(find("numpy._core.multiarray", "scalar"), Some(Global::NumPy(NumPy::Scalar)));
        assert_eq!(find("numpy.core.multiarray.x", "scalar"), None);
        let float = find("torch.cuda", "FloatStorage").and_then(Global::name);
        assert_eq!(float, Some("torch.FloatStorage"));
    }
}
