//! Where the elements of a tensor are, in one call: the C exchange API of DLPack (dlpack.h, version
//! 1), which PyTorch has from 2.10 on as `Tensor.__dlpack_c_exchange_api__`.
//!
//! Asked for one by one, shape, strides, layout and device of a tensor cost the interpreter more
//! than a microsecond, and a save asks for those of every tensor.

use std::ffi::{c_int, c_void};
use std::slice;

use pyo3::prelude::*;
use pyo3::types::PyCapsule;

/// The name of the capsule that holds the API.
const CAPSULE: &std::ffi::CStr = c"dlpack_exchange_api";

/// The version of the interface that is known here; others are not used.
const MAJOR: u32 = 1;

/// `kDLCPU`.
const CPU: i32 = 1;

/// `DLTensor`.
#[repr(C)]
struct RawTensor {
    data: *const c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

type FromObject = unsafe extern "C" fn(object: *mut c_void, out: *mut RawTensor) -> c_int;

/// `DLPackExchangeAPI`, as far as it is needed.
#[repr(C)]
struct RawApi {
    major: u32,
    minor: u32,
    previous: *const c_void,
    allocate: *const c_void,
    managed_from_object: *const c_void,
    managed_to_object: *const c_void,
    from_object: Option<FromObject>,
}

/// The function that describes tensors.
#[derive(Clone, Copy)]
pub(crate) struct Exchange(FromObject);

/// Where the elements of a tensor are.
pub(crate) struct Strided {
    /// Where its first element lies; 0 where it has none.
    pub(crate) address: usize,
    pub(crate) shape: Vec<usize>,
    /// In elements.
    pub(crate) strides: Vec<usize>,
    pub(crate) on_cpu: bool,
}

impl Exchange {
    /// That of a class of tensors; `None` where it has none.
    pub(crate) fn of(class: &Bound<'_, PyAny>) -> Option<Self> {
        let capsule = class.getattr("__dlpack_c_exchange_api__").ok()?;
        let capsule = capsule.cast_into::<PyCapsule>().ok()?;
        let api = capsule.pointer_checked(Some(CAPSULE)).ok()?.cast::<RawApi>();
        #[expect(unsafe_code, reason = "a structure of C")]
        // SAFETY: a capsule of this name holds a `DLPackExchangeAPI` that lives as long as the
        // process; the version comes first in all versions, and decides on the rest.
        let api = unsafe { api.as_ref() };
        if api.major == MAJOR { api.from_object.map(Self) } else { None }
    }

    /// Where the elements of a tensor are, of the class that this is of or one derived from it.
    /// `None` where that cannot be said: it is sparse, nested, quantised, without data.
    ///
    /// Its element type has to be asked for: some that PyTorch tells apart are one to DLPack.
    pub(crate) fn place(self, tensor: &Bound<'_, PyAny>) -> Option<Strided> {
        let raw = self.raw(tensor)?;
        let shape = raw.shape()?.collect::<Option<_>>()?;
        let strides = numbers(raw.strides, raw.ndim)?.collect::<Option<_>>()?;
        let on_cpu = raw.device_type == CPU;
        Some(Strided { address: raw.address()?, shape, strides, on_cpu })
    }

    /// Where the elements of such a tensor begin, and how many bytes they are. Makes nothing.
    pub(crate) fn extent(self, tensor: &Bound<'_, PyAny>) -> Option<(usize, usize)> {
        let raw = self.raw(tensor)?;
        let count = raw.shape()?.try_fold(1, |count: usize, dim| count.checked_mul(dim?))?;
        let bits = usize::from(raw.bits) * usize::from(raw.lanes);
        Some((raw.address()?, count.checked_mul(bits)? / 8))
    }

    fn raw(self, tensor: &Bound<'_, PyAny>) -> Option<RawTensor> {
        let mut raw = RawTensor {
            data: std::ptr::null(),
            device_type: 0,
            device_id: 0,
            ndim: 0,
            code: 0,
            bits: 0,
            lanes: 0,
            shape: std::ptr::null(),
            strides: std::ptr::null(),
            byte_offset: 0,
        };
        #[expect(unsafe_code, reason = "a function of C")]
        // SAFETY: the interpreter is held, the object is alive, and `raw` is a `DLTensor`.
        let failed = unsafe { self.0(tensor.as_ptr().cast(), &raw mut raw) } != 0;
        if failed {
            drop(PyErr::take(tensor.py()));
            return None;
        }
        Some(raw)
    }
}

impl RawTensor {
    fn address(&self) -> Option<usize> {
        self.data.addr().checked_add(usize::try_from(self.byte_offset).ok()?)
    }

    fn shape(&self) -> Option<impl Iterator<Item = Option<usize>>> {
        numbers(self.shape, self.ndim)
    }
}

/// The numbers of a description, each `None` where it is negative.
fn numbers<'a>(first: *const i64, count: i32) -> Option<impl Iterator<Item = Option<usize>> + 'a> {
    let count = usize::try_from(count).ok()?;
    let numbers: &[i64] = match count {
        0 => &[],
        _ if first.is_null() => return None,
        #[expect(unsafe_code, reason = "an array of C")]
        // SAFETY: there are as many as the tensor has dimensions, and they stay until the
        // interpreter is let go.
        count => unsafe { slice::from_raw_parts(first, count) },
    };
    Some(numbers.iter().map(|&number| usize::try_from(number).ok()))
}
