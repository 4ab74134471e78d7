//! What of PyTorch the conversions know, looked up once.

use std::collections::HashMap;

use pyo3::exceptions::{PyImportError, PyModuleNotFoundError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use rustc_hash::FxHashMap;
use scai_checkpoint::DType;

use crate::dlpack::Exchange;

/// PyTorch's classes, functions and element types.
pub(crate) struct Torch {
    pub(crate) tensor: Py<PyAny>,
    pub(crate) parameter: Py<PyAny>,
    pub(crate) size: Py<PyAny>,
    pub(crate) dtype: Py<PyAny>,
    pub(crate) device: Py<PyAny>,
    pub(crate) layout: Py<PyAny>,
    pub(crate) qscheme: Py<PyAny>,
    pub(crate) untyped_storage: Py<PyAny>,
    pub(crate) typed_storage: Py<PyAny>,
    pub(crate) strided: Py<PyAny>,
    pub(crate) empty: Py<PyAny>,
    pub(crate) empty_strided: Py<PyAny>,
    pub(crate) uint8: Py<PyAny>,
    pub(crate) rebuild_parameter: Py<PyAny>,
    pub(crate) exchange: Option<Exchange>,
    dtypes: FxHashMap<usize, DType>,
    objects: HashMap<DType, Py<PyAny>>,
}

static TORCH: PyOnceLock<Torch> = PyOnceLock::new();

impl Torch {
    /// PyTorch, where the program has imported it already.
    pub(crate) fn loaded(py: Python<'_>) -> PyResult<Option<&'static Self>> {
        if let Some(torch) = TORCH.get(py) {
            return Ok(Some(torch));
        }
        let modules = py.import("sys")?.getattr("modules")?;
        // While it is being imported, it lacks what is looked up here.
        if !modules.contains("torch.optim")? {
            return Ok(None);
        }
        Self::get(py).map(Some)
    }

    /// PyTorch; imported where it is not yet.
    ///
    /// # Errors
    /// `ImportError` where it is not installed.
    pub(crate) fn get(py: Python<'_>) -> PyResult<&'static Self> {
        TORCH.get_or_try_init(py, || {
            let torch = import(py)?;
            let get = |name: &str| torch.getattr(name).map(Bound::unbind);
            let mut dtypes = FxHashMap::default();
            let mut objects = HashMap::new();
            for &dtype in DType::ALL {
                // Older versions of PyTorch lack the newest types.
                if let Ok(object) = torch.getattr(dtype.name()) {
                    dtypes.insert(object.as_ptr().addr(), dtype);
                    objects.insert(dtype, object.unbind());
                }
            }
            Ok(Self {
                exchange: Exchange::of(&torch.getattr("Tensor")?),
                tensor: get("Tensor")?,
                parameter: torch.getattr("nn")?.getattr("Parameter")?.unbind(),
                size: get("Size")?,
                dtype: get("dtype")?,
                device: get("device")?,
                layout: get("layout")?,
                qscheme: get("qscheme")?,
                untyped_storage: get("UntypedStorage")?,
                typed_storage: get("TypedStorage")?,
                strided: get("strided")?,
                empty: get("empty")?,
                empty_strided: get("empty_strided")?,
                uint8: get("uint8")?,
                rebuild_parameter: py
                    .import("torch._utils")?
                    .getattr("_rebuild_parameter")?
                    .unbind(),
                dtypes,
                objects,
            })
        })
    }

    /// The element type that a `torch.dtype` is.
    pub(crate) fn dtype_of(&self, object: &Bound<'_, PyAny>) -> Option<DType> {
        self.dtypes.get(&object.as_ptr().addr()).copied()
    }

    /// The `torch.dtype` of an element type.
    ///
    /// # Errors
    /// `NotImplementedError` where this version of PyTorch does not have it.
    pub(crate) fn dtype_object<'py>(
        &self,
        py: Python<'py>,
        dtype: DType,
    ) -> PyResult<&Bound<'py, PyAny>> {
        match self.objects.get(&dtype) {
            Some(object) => Ok(object.bind(py)),
            None => Err(pyo3::exceptions::PyNotImplementedError::new_err(format!(
                "this version of PyTorch has no torch.{dtype}; use a newer one"
            ))),
        }
    }
}

fn import(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import("torch").map_err(|error| {
        if !error.is_instance_of::<PyModuleNotFoundError>(py) {
            return error;
        }
        let needed = PyImportError::new_err(
            "tensors need PyTorch, which is not installed: pip install torch",
        );
        needed.set_cause(py, Some(error));
        needed
    })
}
