//! Storages read into given memory: by several threads, in one pass, and never unchecked.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use scai_checkpoint::codec::{CheckpointFile, Format, Plan, Unprotected};
use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::store::ReadAt;
use scai_checkpoint::tensor::{Destination, Storage, read_into};
use scai_checkpoint::{CHUNK_SIZE, DType, Dict, Error, Tensor, Value};

use crate::forge::{Archive, Member, descriptor, tensor, text};
use crate::support::{Bytes, in_memory};

/// More than two pieces, and no whole number of chunks.
const LONG: usize = (9 << 20) + 12_348;

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn tree() -> Value {
    let storage = |len, seed| {
        let storage = Storage::from_vec(bytes(len, seed));
        Tensor::contiguous(DType::UInt8, vec![len], storage).unwrap()
    };
    let dict: Dict = [
        ("long", storage(LONG, 1)),
        ("short", storage(1000, 2)),
        ("empty", storage(0, 3)),
        ("chunk", storage(CHUNK_SIZE, 4)),
    ]
    .into_iter()
    .collect();
    Value::Dict(dict)
}

/// The tree as torch writes it: a CRC-32 for each record, nothing else.
pub(crate) fn as_torch_writes() -> Vec<u8> {
    let tree = tree();
    let mut pickle = b"\x80\x02}(".to_vec();
    let mut members = vec![Member::with_descriptor("archive/byteorder", "little")];
    for (i, (name, one)) in tree.tensors().into_iter().enumerate() {
        let len = one.nbytes() as i64;
        pickle.extend(text(&name));
        pickle.extend(tensor("ByteStorage", &i.to_string(), len, 0, &[len], &[1]));
        members.push(Member::with_descriptor(format!("archive/data/{i}"), one.to_bytes().unwrap()));
    }
    pickle.extend(b"u.");
    members.insert(0, Member::with_descriptor("archive/data.pkl", pickle));
    Archive::new(members).bytes()
}

fn written(format: Format) -> Vec<u8> {
    let plan = Plan::new(&tree(), format).unwrap();
    in_memory(plan.len(), |file| plan.write(2, file)).unwrap()
}

/// The tree in every form that has checksums.
fn files() -> [(&'static str, Vec<u8>); 3] {
    [
        ("digests of chunks", written(Format::Torch)),
        ("one digest a tensor", written(Format::Safetensors)),
        ("a CRC-32 a record", as_torch_writes()),
    ]
}

/// A file in memory that counts how often each byte was read.
#[derive(Debug)]
pub(crate) struct Counted {
    bytes: Vec<u8>,
    reads: Mutex<Vec<(u64, u64)>>,
}

impl Counted {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { bytes, reads: Mutex::default() })
    }

    /// Bytes read since the last call.
    pub(crate) fn take(&self) -> u64 {
        self.reads.lock().unwrap().drain(..).map(|(_, len)| len).sum()
    }
}

impl ReadAt for Counted {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.reads.lock().unwrap().push((offset, buf.len() as u64));
        let part = self.bytes.get(offset as usize..offset as usize + buf.len());
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn open(file: Arc<dyn ReadAt>) -> CheckpointFile {
    CheckpointFile::open(file, Unprotected::Refuse).unwrap()
}

/// Reads all storages of a tree into memory of their own.
fn read<'o>(
    tree: &Value,
    options: impl Into<ReadOptions<'o>>,
) -> Result<HashMap<String, Vec<u8>>, Error> {
    let storages = tree.storages();
    let mut memory: Vec<Vec<u8>> =
        storages.iter().map(|(_, storage)| vec![0xee; storage.len() as usize]).collect();
    let destinations = storages.iter().zip(&mut memory);
    let destinations = destinations.map(|((name, storage), bytes)| Destination {
        name,
        storage,
        bytes,
        is_new: true,
    });
    read_into(destinations.collect(), options)?;
    Ok(storages.into_iter().map(|(name, _)| name).zip(memory).collect())
}

#[test]
fn every_byte_arrives_whatever_the_format_and_the_number_of_threads() {
    let expected: HashMap<String, Vec<u8>> =
        tree().tensors().into_iter().map(|(name, one)| (name, one.to_bytes().unwrap())).collect();
    for (what, bytes) in files() {
        let len: u64 = expected.values().map(|bytes| bytes.len() as u64).sum();
        for threads in [1, 3] {
            let tree = open(Arc::new(Bytes(bytes.clone()))).tree().unwrap();
            let told = AtomicU64::new(0);
            let progress = |more| {
                told.fetch_add(more, Ordering::Relaxed);
            };
            assert_eq!(
                read(&tree, ReadOptions::from(threads).progress(&progress)).unwrap(),
                expected,
                "{what}"
            );
            assert_eq!(told.into_inner(), len, "{what}");
            assert_eq!(tree.resident(threads).unwrap(), self::tree(), "{what}");
        }
    }
    assert_eq!(read(&tree(), 2).unwrap(), expected, "from memory");
}

#[test]
fn a_byte_is_read_once_whichever_checksum_covers_it() {
    for (what, bytes) in files() {
        let file = Counted::new(bytes);
        let tree = open(Arc::clone(&file) as _).tree().unwrap();
        file.take();
        let len: u64 = tree.storages().iter().map(|(_, storage)| storage.len()).sum();
        read(&tree, 3).unwrap();
        assert_eq!(file.take(), len, "{what}");
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_long_storage_is_an_error_that_names_the_tensor() {
    for (what, bytes) in files() {
        let needle = &self::bytes(LONG, 1)[..64];
        let start = bytes.windows(64).position(|window| window == needle).unwrap();
        for at in [0, CHUNK_SIZE - 1, (4 << 20) - 1, 4 << 20, LONG - 1] {
            let mut damaged = bytes.clone();
            damaged[start + at] ^= 0x10;
            for threads in [1, 3] {
                let tree = open(Arc::new(Bytes(damaged.clone()))).tree().unwrap();
                let error = read(&tree, threads).unwrap_err();
                assert!(matches!(error, Error::Damaged { .. }), "{what}: {error}");
                assert!(error.to_string().contains("long"), "{what}: {error}");
                assert!(tree.resident(threads).is_err(), "{what}");
            }
        }
    }
}

#[test]
fn memory_of_another_length_is_refused_before_anything_is_written() {
    let tree = tree();
    let (name, storage) = tree.storages().remove(0);
    let (mut right, mut wrong) = (vec![7; LONG], vec![7; LONG - 1]);
    let destinations = vec![
        Destination { name: &name, storage, bytes: &mut right, is_new: false },
        Destination { name: &name, storage, bytes: &mut wrong, is_new: false },
    ];
    let error = read_into(destinations, 2).unwrap_err();
    assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains("long"), "{error}");
    assert!(right.iter().chain(&wrong).all(|&byte| byte == 7));
}

#[test]
fn bytes_over_at_the_end_of_a_storage_are_checked_and_left_out() {
    // A storage viewed as float64 that has four bytes more than whole elements.
    let data = bytes(LONG - LONG % 8 + 4, 5);
    let numel = (data.len() / 8) as i64;
    let mut pickle = b"\x80\x02".to_vec();
    pickle.extend(tensor("DoubleStorage", "0", numel, 0, &[numel], &[1]));
    pickle.push(b'.');
    let mut archive = Archive::new([
        Member::with_descriptor("archive/data.pkl", pickle),
        Member::with_descriptor("archive/data/0", data.clone()),
    ]);
    let file = Counted::new(archive.bytes());
    let tree = open(Arc::clone(&file) as _).tree().unwrap();
    file.take();
    let found = read(&tree, 3).unwrap();
    assert_eq!(found[""], data[..data.len() - 4]);
    assert_eq!(file.take(), data.len() as u64);
    let last = data.len() - 1;
    archive.member("data/0").data[last] ^= 1;
    archive.member("data/0").central.crc = Some(crc32fast::hash(&data));
    archive.member("data/0").after =
        descriptor(crc32fast::hash(&data), data.len() as u32, data.len() as u32);
    let tree = open(Arc::new(Bytes(archive.bytes()))).tree().unwrap();
    assert!(matches!(read(&tree, 3), Err(Error::Damaged { .. })));
}

/// A file in memory in which a read of a part waits until another one is under way there.
#[derive(Debug)]
struct Together {
    file: Bytes,
    part: Range<u64>,
    readers: Mutex<usize>,
    changed: Condvar,
}

impl Together {
    fn new(bytes: &[u8]) -> Arc<Self> {
        let needle = &self::bytes(LONG, 1)[..64];
        let start = bytes.windows(64).position(|window| window == needle).unwrap() as u64;
        let part = start..start + LONG as u64;
        Arc::new(Self {
            file: Bytes(bytes.to_vec()),
            part,
            readers: Mutex::new(0),
            changed: Condvar::new(),
        })
    }
}

impl ReadAt for Together {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.part.contains(&offset) {
            let mut readers = self.readers.lock().unwrap();
            *readers += 1;
            self.changed.notify_all();
            let alone = |readers: &mut usize| *readers < 2;
            let patience = Duration::from_secs(20);
            let (readers, waited) =
                self.changed.wait_timeout_while(readers, patience, alone).unwrap();
            drop(readers);
            if waited.timed_out() {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        self.file.read_at(offset, buf)
    }
}

#[test]
fn several_threads_share_one_long_record_when_it_is_read_and_when_it_is_verified() {
    for (what, bytes) in files() {
        let tree = open(Together::new(&bytes)).tree().unwrap();
        assert_eq!(read(&tree, 2).unwrap()["long"], self::bytes(LONG, 1), "{what}");
        let damage = open(Together::new(&bytes)).verify(2);
        assert!(damage.is_empty(), "{what}: {damage:?}");
    }
}
