//! Statistics of the elements of a tensor.

use scai_checkpoint::{Result, Tensor};
use serde::Serialize;
use serde_json::Value as Json;

use super::numbers::{Numbers, as_json, decode, pieces};

/// Statistics over the finite elements; complex ones by their magnitude.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stats {
    /// The smallest element.
    pub(crate) min: Json,
    /// The largest element.
    pub(crate) max: Json,
    pub(crate) mean: Json,
    /// The sample standard deviation, as `torch.std`.
    pub(crate) std: Json,
    /// The Euclidean norm.
    pub(crate) norm: Json,
    /// Elements that are no number.
    pub(crate) nan: u64,
    /// Elements that are infinite.
    pub(crate) inf: u64,
}

/// The statistics of a tensor; `None` where its elements are no numbers.
///
/// # Errors
/// Those of reading the tensor.
pub(crate) fn stats(tensor: &Tensor) -> Result<Option<Stats>> {
    if decode(tensor.dtype(), &[]).is_none() {
        return Ok(None);
    }
    let mut moments = Moments::default();
    pieces(tensor, &mut |bytes| match decode(tensor.dtype(), bytes) {
        Some(Numbers::Floats(floats)) => moments.add(&floats),
        Some(Numbers::Complex(parts)) => {
            moments.add(&parts.iter().map(|[re, im]| re.hypot(*im)).collect::<Vec<f64>>());
        }
        Some(Numbers::Ints(ints)) => {
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
    /// Adds a piece, by the parallel algorithm of Chan, Golub and LeVeque (1979).
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
        let known = |known: bool, x: f64| if known { as_json(x) } else { Json::Null };
        let (min, max) = match (self.ints, self.range) {
            (Some((min, max)), _) => (int(min), int(max)),
            (None, Some((min, max))) => (as_json(min), as_json(max)),
            (None, None) => (Json::Null, Json::Null),
        };
        let any = self.count > 0.0;
        Stats {
            min,
            max,
            mean: known(any, self.mean),
            std: known(self.count > 1.0, (self.spread / (self.count - 1.0)).sqrt()),
            norm: known(any, self.squares.sqrt()),
            nan: self.nan,
            inf: self.inf,
        }
    }
}

fn int(int: i128) -> Json {
    match (i64::try_from(int), u64::try_from(int)) {
        (Ok(int), _) => Json::from(int),
        (_, Ok(int)) => Json::from(int),
        _ => Json::from(int.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use scai_checkpoint::Tensor;

    use super::*;

    #[test]
    fn the_statistics_are_those_of_torch() {
        let values: Vec<f32> = (0..100_000).map(|i| (i as f32 * 0.37).sin() * 3.0 + 1.0).collect();
        let exact: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
        let mean = exact.iter().sum::<f64>() / 1e5;
        let std = (exact.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (1e5 - 1.0)).sqrt();
        let norm = exact.iter().map(|x| x * x).sum::<f64>().sqrt();
        let stats = stats(&Tensor::from_vec(vec![100_000], values).unwrap()).unwrap().unwrap();
        for (found, expected) in [(&stats.mean, mean), (&stats.std, std), (&stats.norm, norm)] {
            assert!((found.as_f64().unwrap() / expected - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn what_is_not_finite_is_counted_apart() {
        let values = vec![1.0_f64, f64::NAN, f64::INFINITY, -2.0];
        let found = stats(&Tensor::from_vec(vec![4], values).unwrap()).unwrap().unwrap();
        assert_eq!((found.nan, found.inf), (1, 1));
        assert_eq!((found.min.as_f64(), found.max.as_f64()), (Some(-2.0), Some(1.0)));
        let found = stats(&Tensor::from_vec(vec![1], vec![i64::MAX]).unwrap()).unwrap().unwrap();
        assert_eq!(found.max.as_i64(), Some(i64::MAX));
        assert!(found.std.is_null());
    }
}
