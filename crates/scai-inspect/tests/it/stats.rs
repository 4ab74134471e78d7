use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;
use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::{DType, Error, Tensor};
use scai_inspect::elements::{Elements, decode, first};
use scai_inspect::{Number, stats};

use crate::naive::{Element, LEN, bytes, dtype, element, elements, is_close, layout, matrix};

proptest! {
    #[test]
    fn elements_of_every_dtype_are_the_numbers_of_its_definition(
        dtype in dtype(), layout in layout(), bytes in bytes(LEN),
    ) {
        let tensor = matrix(dtype, layout, &bytes);
        let expected: Option<Vec<Element>> =
            elements(&tensor).iter().map(|raw| element(dtype, raw)).collect();
        let found = decode(dtype, &tensor.to_bytes().unwrap()).map(|found| match found {
            Elements::Ints(ints) => ints.into_iter().map(Element::Int).collect::<Vec<_>>(),
            Elements::Floats(floats) => floats.into_iter().map(Element::Float).collect(),
            Elements::Complex(parts) => {
                parts.into_iter().map(|[re, im]| Element::Complex(re, im)).collect()
            }
        });
        // NaN differs from itself, and is written alike.
        prop_assert_eq!(format!("{:?}", &found), format!("{:?}", &expected));
        let few = first(&tensor, 3).unwrap().map(|few| match few {
            Elements::Ints(few) => few.len(),
            Elements::Floats(few) => few.len(),
            Elements::Complex(few) => few.len(),
        });
        prop_assert_eq!(few, expected.map(|_| 3));
    }

    #[test]
    fn statistics_of_every_dtype_are_the_naive_ones(
        dtype in dtype(), layout in layout(), bytes in bytes(LEN),
    ) {
        let tensor = matrix(dtype, layout, &bytes);
        let all: Option<Vec<Element>> =
            elements(&tensor).iter().map(|raw| element(dtype, raw)).collect();
        let found = stats(&tensor, 1).unwrap();
        prop_assert_eq!(found.is_some(), all.is_some());
        let (Some(found), Some(all)) = (found, all) else { return Ok(()) };
        let of = |is: fn(f64) -> bool| all.iter().filter(|x| is(x.real())).count() as u64;
        prop_assert_eq!(found.nan, of(f64::is_nan));
        prop_assert_eq!(found.inf, of(f64::is_infinite));
        let finite: Vec<Element> =
            all.iter().copied().filter(|x| x.real().is_finite()).collect();
        let extreme = |order: std::cmp::Ordering| {
            finite.iter().copied().reduce(|a, b| match (a, b) {
                (Element::Int(x), Element::Int(y)) => if y.cmp(&x) == order { b } else { a },
                _ => if b.real().partial_cmp(&a.real()) == Some(order) { b } else { a },
            })
        };
        let number = |x: Element| match x {
            Element::Int(int) => Number::Int(int),
            other => Number::Float(other.real()),
        };
        prop_assert_eq!(found.min, extreme(std::cmp::Ordering::Less).map(number));
        prop_assert_eq!(found.max, extreme(std::cmp::Ordering::Greater).map(number));
        let reals: Vec<f64> = finite.iter().map(|x| x.real()).collect();
        prop_assert_eq!(found.mean.is_some(), !reals.is_empty());
        prop_assert_eq!(found.norm.is_some(), !reals.is_empty());
        prop_assert_eq!(found.std.is_some(), reals.len() > 1);
        // Squares of larger ones overflow.
        let largest = reals.iter().fold(0.0, |largest, x| x.abs().max(largest));
        if largest > 1e140 || reals.is_empty() {
            return Ok(());
        }
        let n = reals.len() as f64;
        let mean = reals.iter().sum::<f64>() / n;
        let spread = reals.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>();
        let norm = reals.iter().map(|x| x * x).sum::<f64>().sqrt();
        // What cancels is rounded like the largest of them.
        prop_assert!((found.mean.unwrap() - mean).abs() <= 1e-12 * largest);
        prop_assert!(is_close(found.norm.unwrap(), norm));
        if let Some(std) = found.std {
            prop_assert!((std - (spread / (n - 1.0)).sqrt()).abs() <= 1e-7 * largest);
        }
    }

    #[test]
    fn statistics_are_always_valid_json(dtype in dtype(), bytes in bytes(LEN)) {
        let tensor = matrix(dtype, crate::naive::Layout::Contiguous, &bytes);
        let json = serde_json::to_value(stats(&tensor, 1).unwrap()).unwrap();
        for (name, value) in json.as_object().into_iter().flatten() {
            let is_special = ["NaN", "Infinity", "-Infinity"].map(Into::into).contains(value);
            prop_assert!(value.is_null() || value.is_number() || is_special, "{}: {}", name, value);
        }
    }
}

#[test]
fn the_statistics_are_those_of_torch() {
    let values: Vec<f32> = (0..100_000).map(|i| (i as f32 * 0.37).sin() * 3.0 + 1.0).collect();
    let exact: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
    let mean = exact.iter().sum::<f64>() / 1e5;
    let std = (exact.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (1e5 - 1.0)).sqrt();
    let norm = exact.iter().map(|x| x * x).sum::<f64>().sqrt();
    let stats = stats(&Tensor::from_vec(vec![100_000], values).unwrap(), 1).unwrap().unwrap();
    for (found, expected) in [(stats.mean, mean), (stats.std, std), (stats.norm, norm)] {
        assert!((found.unwrap() / expected - 1.0).abs() < 1e-12);
    }
}

#[test]
fn what_is_not_finite_is_counted_apart() {
    let values = vec![1.0_f64, f64::NAN, f64::INFINITY, -2.0];
    let found = stats(&Tensor::from_vec(vec![4], values).unwrap(), 1).unwrap().unwrap();
    assert_eq!((found.nan, found.inf), (1, 1));
    assert_eq!(found.min, Some(Number::Float(-2.0)));
    assert_eq!(found.max.map(Number::as_f64), Some(1.0));
    let found = stats(&Tensor::from_vec(vec![1], vec![i64::MAX]).unwrap(), 1).unwrap().unwrap();
    assert_eq!(found.max, Some(Number::Int(i64::MAX.into())));
    assert!(found.std.is_none());
}

#[test]
fn the_read_is_followed_and_can_be_cancelled() {
    let tensor = Tensor::from_vec(vec![50_000], vec![1.0_f32; 50_000]).unwrap();
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let progress = |bytes| {
        done.fetch_add(bytes, Ordering::Relaxed);
    };
    let options = ReadOptions::default().progress(&progress).cancel(&stop);
    assert_eq!(stats(&tensor, options).unwrap().unwrap().mean, Some(1.0));
    assert_eq!(done.load(Ordering::Relaxed), 200_000);
    stop.store(true, Ordering::Relaxed);
    assert!(matches!(stats(&tensor, options), Err(Error::Cancelled)));
}

#[test]
fn numbers_that_json_lacks_are_strings() {
    let json = |number: Number| serde_json::to_string(&number).unwrap();
    assert_eq!(json(Number::Float(f64::NEG_INFINITY)), r#""-Infinity""#);
    assert_eq!(json(Number::Float(0.5)), "0.5");
    assert_eq!(json(Number::Int(u64::MAX.into())), "18446744073709551615");
    assert_eq!(json(Number::Int(i128::from(u64::MAX) + 1)), r#""18446744073709551616""#);
    assert!(
        stats(&matrix(DType::QInt8, crate::naive::Layout::Contiguous, &[0; LEN]), 1)
            .unwrap()
            .is_none()
    );
}
