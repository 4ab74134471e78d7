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
    /// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])`.
    TensorV2,
    /// `_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])`.
    TensorV3,
    /// `_rebuild_parameter(tensor, requires_grad, hooks)`.
    Parameter,
    /// A constructor kept as it was written ([`crate::Call`]).
    Kept(&'static str),
}

/// Constructors that make something the state tree has no form of its own for.
const KEPT: [&str; 7] = [
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch._tensor._rebuild_from_type_v2",
    "torch.storage.TypedStorage",
];

/// Classes that are arguments of kept constructors.
const KEPT_CLASSES: [&str; 2] = ["torch.Tensor", "torch.nn.parameter.Parameter"];

const QSCHEMES: [&str; 5] = [
    "per_tensor_affine",
    "per_tensor_symmetric",
    "per_channel_affine",
    "per_channel_symmetric",
    "per_channel_affine_float_qparams",
];

/// Constructors that are kept where their result has no form of its own, or as arguments.
const SOMETIMES_KEPT: [&str; 3] = [
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
];

/// The name of a global that a [`crate::Call`] may have, where it is one.
pub(in crate::codec) fn kept(name: &str) -> Option<&'static str> {
    let all = KEPT.into_iter().chain(KEPT_CLASSES).chain(SOMETIMES_KEPT);
    all.into_iter().find(|&kept| kept == name)
}

impl Global {
    /// What `module.name` stands for; `None` for anything that is not in the table.
    pub(super) fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("collections", "Counter") => Self::Counter,
            ("__builtin__" | "builtins", "set") => Self::Set,
            ("__builtin__" | "builtins", "complex") => Self::Complex,
            ("__builtin__" | "builtins", "bytearray") => Self::ByteArray,
            ("__builtin__" | "builtins", "bytes") => Self::Bytes,
            ("_codecs", "encode") => Self::Encode,
            ("torch", "Size") => Self::Size,
            ("torch", "device") => Self::Device,
            ("torch.serialization", "_get_layout") => Self::Layout,
            ("torch.storage", "UntypedStorage") | ("torch", "UntypedStorage") => {
                Self::UntypedStorage
            }
            ("torch._utils", "_rebuild_tensor_v2") => Self::TensorV2,
            ("torch._utils", "_rebuild_tensor_v3") => Self::TensorV3,
            ("torch._utils", "_rebuild_parameter") => Self::Parameter,
            ("torch" | "torch.cuda", class) if class.ends_with("Storage") => {
                Self::TypedStorage(DType::from_storage_class(class)?)
            }
            ("torch", name) if QSCHEMES.contains(&name) => {
                Self::QScheme(QSCHEMES.into_iter().find(|&scheme| scheme == name)?)
            }
            ("torch", name) if DType::ALL.iter().any(|dtype| dtype.name() == name) => {
                Self::DType(DType::ALL.iter().copied().find(|dtype| dtype.name() == name)?)
            }
            _ => Self::Kept(KEPT.into_iter().chain(KEPT_CLASSES).find(|kept| {
                kept.strip_prefix(module).and_then(|rest| rest.strip_prefix('.')) == Some(name)
            })?),
        })
    }

    /// Whether it is a class that can only be an argument, not called.
    pub(super) fn is_kept_class(self) -> bool {
        matches!(self, Self::Kept(name) if KEPT_CLASSES.contains(&name))
    }
}

/// What to do about a global that is not in the table.
pub(super) fn advice(module: &str, name: &str) -> &'static str {
    match (module, name) {
        ("numpy.core.multiarray" | "numpy._core.multiarray" | "numpy", _) => {
            "save NumPy arrays and scalars as tensors or plain numbers (`torch.from_numpy(a)`, \
             `x.item()`)"
        }
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
            "only what `torch.load(weights_only=True)` accepts can be read, since anything else \
             may run code; load it where you trust it, and save plain containers and tensors"
        }
    }
}
