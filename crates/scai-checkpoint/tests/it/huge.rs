//! A checkpoint of more than 4 GiB, whose sizes and offsets need ZIP64.

use std::path::PathBuf;
use std::sync::Arc;

use scai_checkpoint::manager::Residency;
use scai_checkpoint::tensor::{Source, Storage};
use scai_checkpoint::{Checkpoint, CheckpointManager, DType, Dict, Options, Result, Tensor};

/// Bytes that follow from their place and are nowhere in memory.
struct Pattern(u64);

impl Source for Pattern {
    fn len(&self) -> u64 {
        self.0
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        for (i, byte) in buf.iter_mut().enumerate() {
            *byte = ((offset + i as u64) / 4096) as u8;
        }
        Ok(())
    }
}

/// Runs with `SCAI_PROOFS=full`, since it writes 4.2 GiB. `SCAI_HUGE` names a folder in which the
/// file is left, for `torch.load` to be tried on it.
#[test]
fn more_than_4_gib_are_written_verified_and_read() {
    if std::env::var_os("SCAI_PROOFS").is_none() {
        println!("SKIPPED: writes 4.2 GiB; run with SCAI_PROOFS=full");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::var_os("SCAI_HUGE").map_or(temporary.path().into(), PathBuf::from);
    let len = (4 << 30) + (200 << 20) + 4096;
    let huge = Storage::new(Arc::new(Pattern(len)));
    let huge = Tensor::contiguous(DType::UInt8, vec![len as usize], huge).unwrap();
    let after = Tensor::from_vec(vec![3], vec![1.0_f32, 2.0, 3.0]).unwrap();
    let model: Dict = [("huge", huge), ("after", after)].into_iter().collect();
    let manager = CheckpointManager::create(&folder, Options::default()).unwrap();
    let saved = manager.save(Checkpoint::new(1, model, Dict::new())).unwrap();
    assert!(saved.size > len && saved.warnings.is_empty());
    let verification = manager.verify(&saved.name).unwrap();
    assert!(verification.is_sound(), "{:?}", verification.damage);
    let loaded = manager.load(&saved.name, Residency::Disk).unwrap();
    let tensor = |name: &str| loaded.model_state_dict.lookup(name).unwrap().as_tensor().unwrap();
    assert_eq!(tensor("after").to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0]);
    let end = tensor("huge").storage().read(len - 2..len).unwrap();
    assert_eq!(end, [((len - 1) / 4096) as u8; 2]);
}
