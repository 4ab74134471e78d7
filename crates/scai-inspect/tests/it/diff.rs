use std::path::Path;

use proptest::prelude::*;
use scai_checkpoint::codec::{Format, Plan};
use scai_checkpoint::{Dict, Error, Tensor, Value, file};
use scai_inspect::diff::{Change, Depth, Options, What, bytes_to_read};
use scai_inspect::{File, diff};

use crate::naive::{LEN, bytes, dtype, element, elements, is_close, layout, matrix};

fn saved(directory: &Path, name: &str, tensor: &Tensor) -> File {
    let state: Dict = [("x".to_owned(), tensor.clone())].into_iter().collect();
    let path = directory.join(name);
    file::write(&path, Plan::new(&Value::Dict(state), Format::Torch).unwrap(), 1).unwrap();
    File::open(path).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn differences_of_every_dtype_are_the_naive_ones(
        dtype in dtype(),
        [layout, other] in [layout(), layout()],
        a in bytes(LEN),
        changed in prop::collection::vec((0..LEN, any::<u8>()), 0..4),
    ) {
        let mut b = a.clone();
        changed.into_iter().for_each(|(at, byte)| b[at] = byte);
        let (a, b) = (matrix(dtype, layout, &a), matrix(dtype, other, &b));
        let pairs: Vec<_> = elements(&a).into_iter().zip(elements(&b)).collect();
        let differing: Vec<_> = pairs.iter().filter(|(a, b)| a != b).collect();
        let directory = tempfile::tempdir().unwrap();
        let a = saved(directory.path(), "a.pt", &a);
        let b = saved(directory.path(), "b.pt", &b);
        let found = diff(&a, &b, Options::default()).unwrap();
        prop_assert_eq!(found.identical, Some(differing.is_empty()));
        let [Change { what: What::Elements(_, Some(found)), .. }] = &found.changes[..] else {
            prop_assert!(differing.is_empty() && found.changes.is_empty());
            return Ok(());
        };
        prop_assert_eq!(found.differing, differing.len() as u64);
        prop_assert_eq!(found.elements, pairs.len() as u64);
        let (mut max_abs, mut max_rel, mut not_finite) = (0_f64, 0_f64, 0);
        for (a, b) in &differing {
            let (Some(a), Some(b)) = (element(dtype, a), element(dtype, b)) else {
                prop_assert_eq!((found.max_abs, found.max_rel), (None, None));
                return Ok(());
            };
            let distance = a.distance(b);
            if !distance.is_finite() {
                not_finite += 1;
            } else if distance > 0.0 {
                max_abs = max_abs.max(distance);
                max_rel = max_rel.max(distance / a.magnitude().max(b.magnitude()));
            }
        }
        prop_assert_eq!(found.not_finite, not_finite);
        prop_assert!(is_close(found.max_abs.unwrap(), max_abs));
        prop_assert!(is_close(found.max_rel.unwrap(), max_rel));
    }
}

#[test]
fn digests_say_what_was_saved_and_checks_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let tensor = Tensor::from_vec(vec![4096], vec![1.0_f32; 4096]).unwrap();
    let (a, b) =
        (saved(directory.path(), "a.pt", &tensor), saved(directory.path(), "b.pt", &tensor));
    let found = diff(&a, &b, Options::default().depth(Depth::Digests)).unwrap();
    assert_eq!((found.identical, found.by_digest, found.bytes_read), (None, 1, 0));
    assert_eq!(bytes_to_read(&a, &b, Depth::Digests).unwrap(), 2 * 16384);
    let found = diff(&a, &b, Options::default()).unwrap();
    assert_eq!((found.identical, found.checked), (Some(true), true));
    let unknown = ["y".to_owned()];
    let refused = diff(&a, &b, Options::default().ignore(&unknown)).unwrap_err();
    assert!(matches!(refused, Error::Invalid(_)), "{refused}");
}
