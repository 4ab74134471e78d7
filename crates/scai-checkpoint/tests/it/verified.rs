//! Checked now and left on disk: a whole state is sound, and takes no memory.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use scai_checkpoint::codec::{CheckpointFile, Format, Plan, Unprotected};
use scai_checkpoint::manager::Residency;
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{
    Checkpoint, CheckpointManager, DType, Dict, Error, Options, Tensor, Value, file,
};

use crate::read_into::{Counted, as_torch_writes};
use crate::support::in_memory;

const LEN: usize = 3 << 20;

/// A state whose tensor is `LEN` times the iteration.
fn state(iteration: u64) -> Checkpoint {
    let storage = Storage::from_vec(vec![iteration as u8; LEN]);
    let tensor = Tensor::contiguous(DType::UInt8, vec![LEN], storage).unwrap();
    let model: Dict = [("weight", tensor)].into_iter().collect();
    Checkpoint::new(iteration, model, Dict::new())
}

fn weight(checkpoint: &Checkpoint) -> &Tensor {
    checkpoint.model_state_dict.lookup("weight").unwrap().as_tensor().unwrap()
}

fn is_on_disk(checkpoint: &Checkpoint) -> bool {
    weight(checkpoint).storage().as_slice().is_none()
}

/// Flips a bit of the file, which stays the same file.
fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// A directory with the iterations 1 and 2.
fn directory() -> (tempfile::TempDir, CheckpointManager) {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    manager.save(state(1)).unwrap();
    manager.save(state(2)).unwrap();
    (directory, manager)
}

#[test]
fn a_resume_without_memory_checks_every_byte_and_falls_back() {
    for residency in [Residency::Verified, Residency::Disk, Residency::Memory] {
        let (directory, manager) = directory();
        let newest = manager.resume_with(residency).unwrap().unwrap();
        assert_eq!(newest.checkpoint.iteration, 2);
        assert_eq!(is_on_disk(&newest.checkpoint), residency != Residency::Memory);

        flip(&directory.path().join("checkpoint_iter_2.pt"), LEN as u64 / 2);
        let older = manager.resume_with(residency).unwrap().unwrap();
        assert_eq!((older.checkpoint.iteration, older.iterations_lost), (1, 1));
        assert_eq!(older.skipped[0].set_aside.as_deref(), Some("checkpoint_iter_2.pt.damaged"));
        let reason = older.skipped[0].reason.to_string();
        assert!(reason.contains("model_state_dict.weight"), "{residency:?}: {reason}");
        assert_eq!(is_on_disk(&older.checkpoint), residency != Residency::Memory);
        assert_eq!(weight(&older.checkpoint).to_bytes().unwrap(), vec![1; LEN]);
    }
}

#[test]
fn a_verified_load_finds_a_flipped_bit_anywhere_in_the_file() {
    let (directory, manager) = directory();
    let (name, path) = ("checkpoint_iter_2.pt", directory.path().join("checkpoint_iter_2.pt"));
    let loaded = manager.load(name, Residency::Verified).unwrap();
    assert!(is_on_disk(&loaded));
    assert_eq!(weight(&loaded).to_bytes().unwrap(), vec![2; LEN]);
    let len = fs::metadata(&path).unwrap().len();
    for at in (0..len).step_by(100_003).chain([len - 1]) {
        flip(&path, at);
        let error = manager.load(name, Residency::Verified).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "byte {at}: {error}");
        flip(&path, at);
    }
    manager.load(name, Residency::Verified).unwrap();
}

#[test]
fn what_was_verified_stays_the_same_file_and_is_checked_again_when_it_is_used() {
    let (directory, manager) = directory();
    let path = directory.path().join("checkpoint_iter_2.pt");
    let resumed = manager.resume_with(Residency::Verified).unwrap().unwrap();
    // Another state under the same name is another file.
    let mut other = state(2);
    other.model_state_dict = state(9).model_state_dict;
    manager.save(other.clone()).unwrap();
    assert_eq!(weight(&resumed.checkpoint).to_bytes().unwrap(), vec![2; LEN]);

    let resumed = manager.resume_with(Residency::Verified).unwrap().unwrap();
    flip(&path, LEN as u64 / 2);
    let error = weight(&resumed.checkpoint).to_bytes().unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[test]
fn a_file_anywhere_is_verified_and_then_read_through_the_same_open_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.pt");
    let plan = Plan::new(&state(3).into_tree().unwrap(), Format::Torch).unwrap();
    file::write(&path, plan, 2).unwrap();
    let file = file::open(&path, Unprotected::Refuse).unwrap();
    fs::write(&path, "something else").unwrap();
    // Written over in place, it is found out; renamed over, it is not touched.
    assert!(!file.verify(2).is_empty());

    let plan = Plan::new(&state(3).into_tree().unwrap(), Format::Torch).unwrap();
    file::write(&path, plan, 2).unwrap();
    let file = file::open(&path, Unprotected::Refuse).unwrap();
    let plan = Plan::new(&state(4).into_tree().unwrap(), Format::Torch).unwrap();
    file::write(&path, plan, 2).unwrap();
    assert!(file.verify(2).is_empty());
    let loaded = Checkpoint::from_tree(file.tree().unwrap()).unwrap();
    assert_eq!((loaded.iteration, is_on_disk(&loaded)), (3, true));
    assert_eq!(weight(&loaded).to_bytes().unwrap(), vec![3; LEN]);
}

#[test]
fn after_a_verification_a_tensor_is_read_without_reading_its_whole_record_again() {
    let tree = state(1).into_tree().unwrap();
    let safetensors = Plan::new(&tree, Format::Safetensors).unwrap();
    let safetensors = in_memory(safetensors.len(), |file| safetensors.write(1, file)).unwrap();
    for bytes in [as_torch_writes(), safetensors] {
        let file = Counted::new(bytes);
        let opened = CheckpointFile::open(Arc::clone(&file) as _, Unprotected::Refuse).unwrap();
        assert!(opened.verify(2).is_empty());
        file.take();
        let tree = opened.tree().unwrap();
        assert!(file.take() < 100_000);
        let storages = tree.storages();
        let (_, longest) = storages.iter().max_by_key(|(_, storage)| storage.len()).unwrap();
        longest.read(100_000..100_010).unwrap();
        assert!(file.take() <= 65536);
    }
}

#[test]
fn any_part_of_a_tensor_is_read_and_checked_by_the_chunks_that_have_it() {
    const CHUNK: u64 = 64 << 10;
    let len = 9 * CHUNK + 1000;
    let bytes: Vec<u8> =
        (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let tensor = Tensor::from_vec(vec![bytes.len()], bytes.clone()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.pt");
    let plan = Plan::new(&Value::Tensor(tensor), Format::Torch).unwrap();
    file::write(&path, plan, 1).unwrap();
    let file = file::open(&path, Unprotected::Refuse).unwrap();
    let tree = file.tree().unwrap();
    let storage = tree.as_tensor().unwrap().storage();

    let damaged = 5 * CHUNK + 77;
    let begin = storage.file_range().unwrap().start;
    let ends = [
        0,
        1,
        CHUNK - 1,
        CHUNK,
        CHUNK + 1,
        5 * CHUNK,
        damaged + 1,
        6 * CHUNK,
        8 * CHUNK,
        len - 1,
        len,
    ];
    for is_damaged in [false, true] {
        if is_damaged {
            flip(&path, begin + damaged);
        }
        for (i, &from) in ends.iter().enumerate() {
            for &to in &ends[i..] {
                let touches = from < to && from < 6 * CHUNK && to > 5 * CHUNK;
                let (read, checked) = (storage.read(from..to), storage.check(from..to));
                if is_damaged && touches {
                    let errors = [read.map(drop).unwrap_err(), checked.unwrap_err()];
                    assert!(errors.iter().all(|error| matches!(error, Error::Damaged { .. })));
                } else {
                    assert!(read.unwrap() == bytes[from as usize..to as usize], "{from}..{to}");
                    checked.unwrap();
                }
            }
        }
    }
    assert!(matches!(storage.check(0..len + 1), Err(Error::Invalid(_))));
}

#[test]
fn damage_is_said_with_the_tensor_also_where_only_records_are_known() {
    let (directory, _) = directory();
    let path = directory.path().join("checkpoint_iter_2.pt");
    flip(&path, LEN as u64 / 2);
    let file = file::open(&path, Unprotected::Refuse).unwrap();
    let damage = file.verify(2);
    assert_eq!(damage.len(), 1);
    assert!(damage[0].to_string().contains("model_state_dict.weight"), "{}", damage[0]);
    assert!(matches!(file.tree(), Ok(Value::Dict(_))));
}
