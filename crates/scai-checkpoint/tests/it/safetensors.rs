//! safetensors, both ways.

use std::sync::Arc;

use scai_checkpoint::codec::safetensors::{Plan, SafetensorsFile};
use scai_checkpoint::codec::{Protection, Unprotected};
use scai_checkpoint::{Dict, Result, Storage, Tensor, Value};

use crate::describe::describe;
use crate::support::{self, Bytes, golden, in_memory, open, pt_files, read_file};

fn write(tree: &Value) -> Result<Vec<u8>> {
    let plan = Plan::new(tree)?;
    in_memory(plan.len(), |file| plan.write(2, file))
}

fn read(bytes: Vec<u8>, unprotected: Unprotected) -> Result<SafetensorsFile> {
    SafetensorsFile::open(Arc::new(Bytes(bytes)), unprotected)
}

/// What safetensors holds and `torch.load(weights_only=True)` does not accept: an integer of 256
/// bytes, and empty bytes.
const UNWRITABLE: [&str; 2] = ["py_int_long4", "bytes_empty"];

#[test]
fn every_golden_tree_that_the_format_can_hold_survives() {
    let (mut exact, mut apart, mut refused) = (0, Vec::new(), Vec::new());
    for path in pt_files(&golden().join("files")) {
        let Ok(tree) = open(read_file(&path), Unprotected::Accept).and_then(|file| file.tree())
        else {
            continue;
        };
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let plan = match Plan::new(&tree) {
            Ok(plan) => plan,
            Err(error) => {
                refused.push(format!("{name}: {error}"));
                continue;
            }
        };
        let has_parts = !plan.apart().is_empty();
        let bytes = in_memory(plan.len(), |file| plan.write(2, file)).unwrap();
        let file = read(bytes, Unprotected::Refuse).unwrap();
        assert_eq!(file.protection(), Protection::Digests);
        assert!(file.verify(2, &|_| {}).is_empty(), "{name}");
        let back = file.tree().unwrap_or_else(|error| panic!("{name}: {error}"));
        let again = if UNWRITABLE.contains(&name.as_str()) {
            back
        } else {
            let again = open(support::write(&back).unwrap(), Unprotected::Refuse).unwrap();
            again.tree().unwrap()
        };
        if has_parts {
            apart.push(name);
        } else {
            assert_eq!(describe(&again), describe(&tree), "{}", path.display());
            exact += 1;
        }
    }
    println!("{exact} exact\napart: {apart:#?}\nrefused: {refused:#?}");
}
