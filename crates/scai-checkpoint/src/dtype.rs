//! Element types, by the names PyTorch gives them.

use std::fmt;
use std::str::FromStr;

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $size:literal, $storage:expr;)*) => {
        /// The type of a tensor's elements.
        ///
        /// Every type that `torch.save` can write. The names are PyTorch's, without `torch.`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[allow(missing_docs)]
        pub enum DType { $($(#[$doc])* $variant,)* }

        impl DType {
            /// All element types.
            pub const ALL: &'static [DType] = &[$(DType::$variant,)*];

            /// PyTorch's name, such as `float32`.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => $name,)* }
            }

            /// Bytes an element takes.
            pub const fn size(self) -> usize {
                match self { $(DType::$variant => $size,)* }
            }

            /// The class that stands for this type in a pickle (`FloatStorage`), if there is one;
            /// newer types are written with an untyped storage.
            pub(crate) const fn storage_class(self) -> Option<&'static str> {
                match self { $(DType::$variant => $storage,)* }
            }
        }
    };
}

dtypes! {
    Float32 = "float32", 4, Some("FloatStorage");
    Float64 = "float64", 8, Some("DoubleStorage");
    Float16 = "float16", 2, Some("HalfStorage");
    BFloat16 = "bfloat16", 2, Some("BFloat16Storage");
    Int64 = "int64", 8, Some("LongStorage");
    Int32 = "int32", 4, Some("IntStorage");
    Int16 = "int16", 2, Some("ShortStorage");
    Int8 = "int8", 1, Some("CharStorage");
    UInt8 = "uint8", 1, Some("ByteStorage");
    Bool = "bool", 1, Some("BoolStorage");
    Complex64 = "complex64", 8, Some("ComplexFloatStorage");
    Complex128 = "complex128", 16, Some("ComplexDoubleStorage");
    QInt8 = "qint8", 1, Some("QInt8Storage");
    QUInt8 = "quint8", 1, Some("QUInt8Storage");
    QInt32 = "qint32", 4, Some("QInt32Storage");
    QUInt4x2 = "quint4x2", 1, Some("QUInt4x2Storage");
    QUInt2x4 = "quint2x4", 1, Some("QUInt2x4Storage");
    Complex32 = "complex32", 4, None;
    BComplex32 = "bcomplex32", 4, None;
    UInt16 = "uint16", 2, None;
    UInt32 = "uint32", 4, None;
    UInt64 = "uint64", 8, None;
    Float8E4M3Fn = "float8_e4m3fn", 1, None;
    Float8E5M2 = "float8_e5m2", 1, None;
    Float8E4M3FnUz = "float8_e4m3fnuz", 1, None;
    Float8E5M2FnUz = "float8_e5m2fnuz", 1, None;
    Float8E8M0Fnu = "float8_e8m0fnu", 1, None;
    Float4E2M1FnX2 = "float4_e2m1fn_x2", 1, None;
    Int1 = "int1", 1, None;
    Int2 = "int2", 1, None;
    Int3 = "int3", 1, None;
    Int4 = "int4", 1, None;
    Int5 = "int5", 1, None;
    Int6 = "int6", 1, None;
    Int7 = "int7", 1, None;
    UInt1 = "uint1", 1, None;
    UInt2 = "uint2", 1, None;
    UInt3 = "uint3", 1, None;
    UInt4 = "uint4", 1, None;
    UInt5 = "uint5", 1, None;
    UInt6 = "uint6", 1, None;
    UInt7 = "uint7", 1, None;
    Bits1x8 = "bits1x8", 1, None;
    Bits2x4 = "bits2x4", 1, None;
    Bits4x2 = "bits4x2", 1, None;
    Bits8 = "bits8", 1, None;
    Bits16 = "bits16", 2, None;
}

impl DType {
    /// The type that the pickle class `name` (`FloatStorage`) stands for.
    pub(crate) fn from_storage_class(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.storage_class() == Some(name))
    }

    /// Whether the elements are real floating-point numbers.
    pub const fn is_float(self) -> bool {
        use DType::*;
        matches!(
            self,
            Float32
                | Float64
                | Float16
                | BFloat16
                | Float8E4M3Fn
                | Float8E5M2
                | Float8E4M3FnUz
                | Float8E5M2FnUz
                | Float8E8M0Fnu
        )
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A string that does not name an element type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an element type; examples are `float32` and `bfloat16`")]
pub struct UnknownDType(String);

impl FromStr for DType {
    type Err = UnknownDType;

    /// Parses PyTorch's name, with or without `torch.`, and its short names (`half`, `bf16`).
    fn from_str(text: &str) -> Result<Self, UnknownDType> {
        let name = text.strip_prefix("torch.").unwrap_or(text);
        let name = match name {
            "float" | "f32" => "float32",
            "double" | "f64" => "float64",
            "half" | "f16" | "fp16" => "float16",
            "bf16" => "bfloat16",
            "long" | "i64" => "int64",
            "int" | "i32" => "int32",
            "short" | "i16" => "int16",
            "i8" => "int8",
            "u8" => "uint8",
            "cfloat" => "complex64",
            "cdouble" => "complex128",
            name => name,
        };
        let found = Self::ALL.iter().copied().find(|dtype| dtype.name() == name);
        found.ok_or_else(|| UnknownDType(text.to_owned()))
    }
}
