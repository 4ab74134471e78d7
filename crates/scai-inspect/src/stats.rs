//! Statistics of the elements of a tensor.

use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::{Result, Tensor};
use serde::Serialize;

use crate::elements::{Elements, decode, read_in_parts};
use crate::number::{Number, optional_float};

/// Statistics over the finite elements of a tensor; complex ones by their magnitude.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// The smallest element; `None` if none is finite.
    pub min: Option<Number>,
    /// The largest element.
    pub max: Option<Number>,
    /// The mean.
    #[serde(serialize_with = "optional_float")]
    pub mean: Option<f64>,
    /// The sample standard deviation, as `torch.std`; `None` for fewer than two elements.
    #[serde(serialize_with = "optional_float")]
    pub std: Option<f64>,
    /// The Euclidean norm.
    #[serde(serialize_with = "optional_float")]
    pub norm: Option<f64>,
    /// Elements that are NaN, or of which a part is.
    pub nan: u64,
    /// Elements that are infinite.
    pub inf: u64,
}

/// The statistics of a tensor; `None` if its elements are not numbers (quantised, packed). The
/// elements are read a part at a time, on this thread.
///
/// # Errors
/// Those of reading the tensor; [`scai_checkpoint::Error::Cancelled`].
pub fn stats<'o>(tensor: &Tensor, options: impl Into<ReadOptions<'o>>) -> Result<Option<Stats>> {
    if decode(tensor.dtype(), &[]).is_none() {
        return Ok(None);
    }
    let mut moments = Moments::default();
    read_in_parts(tensor, options.into(), &mut |bytes| match decode(tensor.dtype(), bytes) {
        Some(Elements::Floats(floats)) => moments.add(&floats),
        Some(Elements::Complex(parts)) => {
            moments.add(&parts.iter().map(|[re, im]| re.hypot(*im)).collect::<Vec<f64>>());
        }
        Some(Elements::Ints(ints)) => {
            moments.ints = ints.iter().fold(moments.ints, |range, &int| {
                Some(range.map_or((int, int), |(min, max)| (min.min(int), max.max(int))))
            });
            moments.add(&ints.iter().map(|&int| int as f64).collect::<Vec<f64>>());
        }
        None => {}
    })?;
    Ok(Some(moments.finish()))
}

/// Sums over the elements seen so far.
#[derive(Debug, Default)]
struct Moments {
    count: f64,
    mean: f64,
    /// The sum of the squared distances from the mean.
    spread: f64,
    squares: f64,
    range: Option<(f64, f64)>,
    /// Exact, since not every integer is a float.
    ints: Option<(i128, i128)>,
    nan: u64,
    inf: u64,
}

impl Moments {
    /// Adds some, by the parallel algorithm of Chan, Golub and LeVeque (1979).
    fn add(&mut self, numbers: &[f64]) {
        self.nan += numbers.iter().filter(|x| x.is_nan()).count() as u64;
        self.inf += numbers.iter().filter(|x| x.is_infinite()).count() as u64;
        let finite = || numbers.iter().copied().filter(|x| x.is_finite());
        let count = finite().count() as f64;
        if count == 0.0 {
            return;
        }
        let mean = finite().sum::<f64>() / count;
        let spread: f64 = finite().map(|x| (x - mean) * (x - mean)).sum();
        let distance = mean - self.mean;
        let total = self.count + count;
        self.spread += spread + distance * distance * self.count * count / total;
        self.mean += distance * count / total;
        self.count = total;
        self.squares += finite().map(|x| x * x).sum::<f64>();
        let (min, max) = self.range.unwrap_or((f64::INFINITY, f64::NEG_INFINITY));
        self.range = Some(finite().fold((min, max), |(min, max), x| (min.min(x), max.max(x))));
    }

    fn finish(self) -> Stats {
        let range = match (self.ints, self.range) {
            (Some((min, max)), _) => Some((Number::Int(min), Number::Int(max))),
            (None, Some((min, max))) => Some((Number::Float(min), Number::Float(max))),
            (None, None) => None,
        };
        let any = self.count > 0.0;
        Stats {
            min: range.map(|(min, _)| min),
            max: range.map(|(_, max)| max),
            mean: any.then_some(self.mean),
            std: (self.count > 1.0).then(|| (self.spread / (self.count - 1.0)).sqrt()),
            norm: any.then(|| self.squares.sqrt()),
            nan: self.nan,
            inf: self.inf,
        }
    }
}
