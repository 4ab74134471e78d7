//! Notes: a text beside the tree that comes back as it was.

use std::sync::Arc;

use scai_checkpoint::codec::torch::{TorchFile, Unprotected};
use scai_checkpoint::codec::{CheckpointFile, Format, Plan, torch};
use scai_checkpoint::manager::Residency;
use scai_checkpoint::{Checkpoint, CheckpointManager, Dict, Error, Options, Tensor, Value};

use crate::forge::{Archive, Member, records, seal};
use crate::support::{Bytes, in_memory, open};

const NOTES: &str = "{\"training_stats.loss\": \"numpy.float64\"} \u{1f9ea}";

fn tree() -> Value {
    let weight = Tensor::from_vec(vec![3], vec![1.0_f32, 2.0, 3.0]).unwrap();
    Value::Dict([("weight", weight)].into_iter().collect())
}

fn write(notes: Option<&str>) -> Vec<u8> {
    let plan = torch::TorchPlan::with_notes(&tree(), notes).unwrap();
    in_memory(plan.len(), |file| plan.write(2, file)).unwrap()
}

#[test]
fn notes_come_back_with_the_checkpoint_they_were_saved_with() {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    let mut checkpoint = Checkpoint::new(1, Dict::new(), Dict::new());
    manager.save(checkpoint.clone()).unwrap();
    checkpoint.iteration = 2;
    checkpoint.notes = Some(NOTES.to_owned());
    manager.save(checkpoint.clone()).unwrap();
    for residency in [Residency::Memory, Residency::Disk] {
        let notes = |name| manager.load(name, residency).unwrap().notes;
        assert_eq!(notes("checkpoint_iter_1.pt"), None);
        assert_eq!(notes("checkpoint_iter_2.pt").as_deref(), Some(NOTES));
    }
    assert_eq!(manager.resume().unwrap().unwrap().checkpoint.notes.as_deref(), Some(NOTES));
}

#[test]
fn a_file_without_notes_has_no_record_for_them_and_one_with_notes_holds_the_same_tree() {
    let (without, with) = (write(None), write(Some(NOTES)));
    let has_record =
        |file: &[u8]| records(file).iter().any(|(name, _)| name.ends_with(".scai/notes"));
    assert!(!has_record(&without) && has_record(&with));
    let with = open(with, Unprotected::Refuse).unwrap();
    assert_eq!(with.notes().unwrap().as_deref(), Some(NOTES));
    assert_eq!(with.tree().unwrap(), tree());
    assert!(with.verify(2).is_empty());
    assert_eq!(open(without, Unprotected::Refuse).unwrap().notes().unwrap(), None);
    let empty = open(write(Some("")), Unprotected::Refuse).unwrap();
    assert_eq!(empty.notes().unwrap().as_deref(), Some(""));
}

#[test]
fn every_bit_of_the_notes_is_covered() {
    let file = write(Some(NOTES));
    let (_, place) = records(&file).into_iter().find(|(name, _)| name.ends_with("notes")).unwrap();
    for at in place {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        let opened = open(damaged, Unprotected::Refuse).unwrap();
        let message = opened.notes().unwrap_err().to_string();
        assert!(message.contains("notes") && message.contains("checksum"), "{message}");
        assert_eq!(opened.verify(1).len(), 1);
    }
}

#[test]
fn notes_are_kept_in_safetensors_and_those_of_other_programs_are_none() {
    let plan = Plan::with_notes(&tree(), Some(NOTES), Format::Safetensors).unwrap();
    let bytes = in_memory(plan.len(), |file| plan.write(1, file)).unwrap();
    let file = CheckpointFile::open(Arc::new(Bytes(bytes)), Unprotected::Refuse).unwrap();
    assert_eq!(file.notes().unwrap().as_deref(), Some(NOTES));
    assert_eq!(file.tree().unwrap(), tree());

    let mut foreign = crate::forge::honest();
    foreign.members.push(Member::with_descriptor("archive/.scai/notes", NOTES));
    let file = TorchFile::open(Arc::new(Bytes(foreign.bytes())), Unprotected::Refuse).unwrap();
    assert_eq!(file.notes().unwrap(), None);
}

#[test]
fn notes_that_are_no_utf8_are_damaged() {
    let mut file = write(Some(NOTES));
    let (_, place) = records(&file).into_iter().find(|(name, _)| name.ends_with("notes")).unwrap();
    file[place.start] = 0xff;
    let message = open(seal(file), Unprotected::Refuse).unwrap().notes().unwrap_err().to_string();
    assert!(message.contains("UTF-8"), "{message}");
}

/// A sealed file of ours whose notes are `len` bytes long.
fn with_notes_of(len: usize) -> Vec<u8> {
    let short = &write(Some(NOTES));
    let members = |file_size: Option<usize>| {
        let chunks = records(short).into_iter().map(|(name, place)| match name.as_str() {
            name if name.ends_with("notes") => len.div_ceil(65536),
            name if name.ends_with("digests") => 0,
            _ => place.len().div_ceil(65536),
        });
        let chunks: usize = chunks.sum();
        records(short).into_iter().map(move |(name, place)| {
            let data = match name.as_str() {
                name if name.ends_with("notes") => vec![b'x'; len],
                name if name.ends_with("digests") => {
                    let mut table = b"SCAIDIG1".to_vec();
                    table.extend((chunks as u64).to_le_bytes());
                    table.resize(table.len() + 16 * chunks, 0);
                    table
                }
                name if name.ends_with("manifest.json") => {
                    let old = format!("\"file_size\":\"{}\"", short.len());
                    let new = format!("\"file_size\":\"{}\"", file_size.unwrap_or_default());
                    let text = String::from_utf8(short[place.clone()].to_vec()).unwrap();
                    let mut text = text.replace(&old, &new);
                    text.truncate(place.len());
                    format!("{text:0$}", place.len()).into_bytes()
                }
                _ => short[place].to_vec(),
            };
            Member::new(name, data)
        })
    };
    let assemble = |file_size| {
        let mut archive = Archive::new(members(file_size));
        archive.end.comment = short[short.len() - 42..].to_vec();
        archive.bytes()
    };
    let len = assemble(None).len();
    seal(assemble(Some(len)))
}

#[test]
fn notes_beyond_the_limit_are_neither_read_nor_written() {
    let limit = 64 << 20;
    let honest = open(with_notes_of(1000), Unprotected::Refuse).unwrap();
    assert_eq!(honest.notes().unwrap().unwrap().len(), 1000);
    let long = open(with_notes_of(limit + 1), Unprotected::Refuse).unwrap();
    let message = long.notes().unwrap_err().to_string();
    assert!(message.contains("too long"), "{message}");
    let long = "x".repeat(limit + 1);
    let refused = torch::TorchPlan::with_notes(&tree(), Some(&long));
    assert!(matches!(refused, Err(Error::Invalid(_))));
}
