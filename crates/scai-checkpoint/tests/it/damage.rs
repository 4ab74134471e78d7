//! Damage: bits flipped, blocks lost, swapped or stale, files cut and grown. None may be loaded as
//! something else than what was saved, and each error says where.
//!
//! Every case goes through the public API: [`TorchFile::open`], [`TorchFile::tree`], and reading
//! the storages of the tree. A small file is always read whole. Of the 25 MB file a case reads what
//! opening reads, the tree, and every chunk of a storage that has a damaged byte in it; the rest of
//! the file is the same bytes at the same place, which the honest load has read.
//!
//! `SCAI_DAMAGE_FLIPS` sets how many random bits and blocks of the large file are tried.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use scai_checkpoint::codec::torch::{Protection, TorchFile, Unprotected};
use scai_checkpoint::store::ReadAt;
use scai_checkpoint::value::DictKind;
use scai_checkpoint::{CHUNK_SIZE, Dict, Error, Tensor, Value};

use crate::forge::records;
use crate::fuzz_checks::Fingerprint;
use crate::support::{golden, read_file, write};

const BLOCK: usize = 4 << 10;

/// Random numbers that are the same on every run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn floats(&mut self, shape: &[usize]) -> Value {
        let count = shape.iter().product();
        let values = (0..count).map(|_| self.next() as i32 as f32 / 1e9).collect();
        Tensor::from_vec::<f32>(shape.to_vec(), values).unwrap().into()
    }
}

/// The state of a small convolutional network and its AdamW, as a training loop saves it.
/// Another `seed` gives other values in the same places.
fn training_state(seed: u64, layers: &[(&str, &[usize])]) -> Value {
    let mut random = Random(seed);
    let mut model = Dict { kind: DictKind::Ordered, ..Dict::new() };
    let mut moments = Dict::new();
    for (i, (name, shape)) in layers.iter().enumerate() {
        model.insert(*name, random.floats(shape));
        let moment: Dict = [
            ("step", random.floats(&[])),
            ("exp_avg", random.floats(shape)),
            ("exp_avg_sq", random.floats(shape)),
        ]
        .into_iter()
        .collect();
        moments.entries.push((Value::Int(i as i64), moment.into()));
    }
    let batches = Tensor::from_vec(vec![], vec![1000 + seed as i64]).unwrap();
    model.insert("bn1.num_batches_tracked", batches);
    let version: Dict = [("version", Value::Int(1))].into_iter().collect();
    model.attributes = Some(Box::new([("_metadata", version)].into_iter().collect()));
    let group: Dict = [
        ("lr", Value::Float(1e-3)),
        ("betas", Value::Tuple(vec![Value::Float(0.9), Value::Float(0.999)])),
        ("weight_decay", Value::Float(0.01)),
        ("amsgrad", Value::Bool(false)),
        ("params", Value::List((0..layers.len() as i64).map(Value::Int).collect())),
    ]
    .into_iter()
    .collect();
    let optimizer: Dict =
        [("state", Value::from(moments)), ("param_groups", Value::List(vec![group.into()]))]
            .into_iter()
            .collect();
    let stats: Dict = [("loss", Value::Float(random.next() as f64 / 1e20))].into_iter().collect();
    let tree: Dict = [
        ("model_state_dict", Value::from(model)),
        ("optimizer_state_dict", optimizer.into()),
        ("iteration", Value::Int(1000)),
        ("training_stats", stats.into()),
        ("timestamp", "2026-01-01T00:00:00+00:00".into()),
    ]
    .into_iter()
    .collect();
    tree.into()
}

fn small(seed: u64) -> Value {
    let layers: [(&str, &[usize]); 5] = [
        ("conv1.weight", &[8, 3, 3, 3]),
        ("conv1.bias", &[8]),
        ("bn1.weight", &[8]),
        ("fc.weight", &[10, 48]),
        ("fc.bias", &[10]),
    ];
    training_state(seed, &layers)
}

/// About 25 MB: storages of many chunks, of one, and of a part of one.
fn large(seed: u64) -> Vec<u8> {
    let layers: [(&str, &[usize]); 6] = [
        ("embedding.weight", &[4000, 256]),
        ("blocks.0.weight", &[700, 700]),
        ("blocks.1.weight", &[700, 700]),
        ("blocks.1.bias", &[700]),
        ("head.weight", &[128, 700]),
        ("head.bias", &[128]),
    ];
    write(&training_state(seed, &layers)).unwrap()
}

/// A file with a part replaced, without a copy of the rest.
#[derive(Debug)]
struct Patched {
    file: Arc<Vec<u8>>,
    at: usize,
    bytes: Vec<u8>,
    /// A second place, for swaps.
    also: Option<(usize, Vec<u8>)>,
}

impl ReadAt for Patched {
    fn len(&self) -> u64 {
        self.file.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let whole = start.checked_add(buf.len()).and_then(|end| self.file.get(start..end));
        buf.copy_from_slice(whole.ok_or(io::ErrorKind::UnexpectedEof)?);
        let also = self.also.iter().map(|(at, bytes)| (*at, bytes));
        for (at, bytes) in [(self.at, &self.bytes)].into_iter().chain(also) {
            let from = at.max(start);
            let to = (at + bytes.len()).min(start + buf.len());
            if from < to {
                buf[from - start..to - start].copy_from_slice(&bytes[from - at..to - at]);
            }
        }
        Ok(())
    }
}

/// The first bytes of a file, and bytes that follow them.
#[derive(Debug)]
struct Resized {
    file: Arc<Vec<u8>>,
    /// How many bytes of `before` come first, of the file, of `after`.
    before: Arc<Vec<u8>>,
    len: usize,
    after: Arc<Vec<u8>>,
    after_len: usize,
}

impl ReadAt for Resized {
    fn len(&self) -> u64 {
        (self.before.len() + self.len + self.after_len) as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = offset as usize;
        let mut left = buf;
        for part in [&self.before[..], &self.file[..self.len], &self.after[..self.after_len]] {
            let taken = part.len().saturating_sub(at).min(left.len());
            let (now, later) = left.split_at_mut(taken);
            now.copy_from_slice(part.get(at..at + taken).unwrap_or_default());
            at = at.saturating_sub(part.len());
            left = later;
        }
        Ok(())
    }
}

/// What became of a damaged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The load failed and said where.
    Detected,
    /// The load gave what was saved, and a full check found the damage.
    FoundByVerify,
    /// The load gave what was saved, and nothing else is wrong that anyone could see.
    Identical,
    /// The load gave something else: the one thing that must not happen.
    Silent,
    /// The load failed and did not say where.
    Vague,
}

/// Loads a whole file and compares it with what was saved.
fn outcome(file: Arc<dyn ReadAt>, saved: &[u8]) -> Outcome {
    let opened = match TorchFile::open(file, Unprotected::Refuse) {
        Ok(opened) => opened,
        Err(error) => return of_error(&error),
    };
    match opened.tree().and_then(|tree| tree.resident(1)) {
        Err(error) => of_error(&error),
        Ok(tree) if Fingerprint::of(&tree) != saved => Outcome::Silent,
        Ok(_) if opened.verify(1).is_empty() => Outcome::Identical,
        Ok(_) => Outcome::FoundByVerify,
    }
}

/// Whether an error names a record, a tensor, bytes, or the part of the file's structure.
fn of_error(error: &Error) -> Outcome {
    let message = error.to_string();
    let placed = error.place().is_some_and(|place| {
        place.record.is_some() || place.tensor.is_some() || place.bytes.is_some()
    });
    let structure = ["the structure of the file", "part of the manifest is missing"];
    if placed || structure.iter().any(|words| message.contains(words)) {
        Outcome::Detected
    } else {
        println!("says not where: {message}");
        Outcome::Vague
    }
}

/// How often each outcome was seen.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    detected: usize,
    found_by_verify: usize,
    identical: usize,
    silent: usize,
    vague: usize,
}

impl Counts {
    fn add(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Detected => &mut self.detected,
            Outcome::FoundByVerify => &mut self.found_by_verify,
            Outcome::Identical => &mut self.identical,
            Outcome::Silent => &mut self.silent,
            Outcome::Vague => &mut self.vague,
        } += 1;
    }

    /// Prints the counts; fails where anything was loaded differently or an error is vague.
    fn report(self, what: &str) -> Self {
        let Self { detected, found_by_verify, identical, silent, vague } = self;
        let all = detected + found_by_verify + identical + silent + vague;
        println!(
            "{what}: {all} tried, {detected} refused, {found_by_verify} loaded identical and found \
             by verify, {identical} identical, {silent} silently different"
        );
        assert_eq!(silent, 0, "{what}: loaded silently different");
        assert_eq!(vague, 0, "{what}: an error does not say where");
        self
    }

    /// As [`Counts::report`], and everything must have been refused.
    fn report_all_detected(self, what: &str) {
        let counts = self.report(what);
        assert_eq!(counts, Counts { detected: counts.detected, ..Counts::default() }, "{what}");
    }
}

/// Counts the outcomes of the cases `0..count`, on two threads. `None` is no case.
fn count(count: usize, case: impl Fn(usize) -> Option<Outcome> + Sync) -> Counts {
    let next = AtomicUsize::new(0);
    let counts = Mutex::new(Counts::default());
    let work = || {
        loop {
            let start = next.fetch_add(256, Ordering::Relaxed);
            if start >= count {
                break;
            }
            for outcome in (start..count.min(start + 256)).filter_map(&case) {
                counts.lock().unwrap().add(outcome);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    counts.into_inner().unwrap()
}

fn flipped(file: &Arc<Vec<u8>>, bit: usize) -> Patched {
    let byte = file[bit / 8] ^ (1 << (bit % 8));
    Patched { file: Arc::clone(file), at: bit / 8, bytes: vec![byte], also: None }
}

fn load(file: &Arc<Vec<u8>>) -> Vec<u8> {
    let file = Patched { file: Arc::clone(file), at: 0, bytes: vec![], also: None };
    let file = TorchFile::open(Arc::new(file), Unprotected::Refuse).unwrap();
    Fingerprint::of(&file.tree().unwrap().resident(1).unwrap())
}

#[test]
fn every_single_bit_flip_of_a_small_checkpoint_is_refused() {
    let file = Arc::new(write(&small(1)).unwrap());
    let saved = load(&file);
    let bits = file.len() * 8;
    assert!(bits >= 100_000, "{bits} bits");
    let counts = count(bits, |bit| Some(outcome(Arc::new(flipped(&file, bit)), &saved)));
    counts.report_all_detected(&format!("every bit of a file of {} bytes flipped", file.len()));
}

/// Found by the fuzzing of the manager: a resume would have left the file in its place, as one that
/// another program may read.
#[test]
fn a_directory_that_seems_to_speak_of_compression_or_encryption_is_damage() {
    let file = Arc::new(write(&small(1)).unwrap());
    let entry = (0..file.len()).rfind(|&at| file[at..].starts_with(b"PK\x01\x02")).unwrap();
    for (field, bit) in [(8, 0), (10, 3), (10, 0)] {
        let flipped = flipped(&file, (entry + field) * 8 + bit);
        let error = TorchFile::open(Arc::new(flipped), Unprotected::Refuse).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    }
}

#[test]
fn a_bit_flip_in_a_record_of_a_file_torch_wrote_is_found() {
    let path = golden().join("files/torch-2.15.0/checkpoint.pt");
    let file = Arc::new(read_file(&path));
    let saved = load(&file);
    let mut inside: HashSet<usize> = HashSet::new();
    records(&file).into_iter().for_each(|(_, bytes)| inside.extend(bytes));
    let flip = |within: bool| {
        count(file.len() * 8, |bit| {
            let wanted = inside.contains(&(bit / 8)) == within;
            wanted.then(|| outcome(Arc::new(flipped(&file, bit)), &saved))
        })
    };
    let len = file.len();
    flip(true)
        .report_all_detected(&format!("every bit inside the records of {len} bytes by torch"));
    flip(false).report(&format!("every bit outside the records of {len} bytes by torch"));
}

/// An open large file, and where each of its storages lies.
struct Large {
    file: Arc<Vec<u8>>,
    /// In the order of the storages of the tree.
    storages: Vec<Range<usize>>,
}

impl Large {
    fn new(seed: u64) -> Self {
        let file = Arc::new(large(seed));
        let mut storages: Vec<_> = records(&file)
            .into_iter()
            .filter_map(|(name, bytes)| {
                Some((name.strip_prefix("archive/data/")?.parse::<usize>().ok()?, bytes))
            })
            .collect();
        storages.sort_by_key(|(key, _)| *key);
        let large = Self { storages: storages.into_iter().map(|(_, bytes)| bytes).collect(), file };
        // That storage `i` of the tree is the record `data/i` is checked, not assumed.
        let whole = Patched { file: Arc::clone(&large.file), at: 0, bytes: vec![], also: None };
        let opened = TorchFile::open(Arc::new(whole), Unprotected::Refuse).unwrap();
        assert_eq!(opened.protection(), Protection::Digests);
        let tree = opened.tree().unwrap();
        let found = tree.storages();
        assert_eq!(found.len(), large.storages.len());
        for ((_, storage), bytes) in found.iter().zip(&large.storages) {
            assert_eq!(storage.read(0..storage.len()).unwrap(), large.file[bytes.clone()]);
        }
        large
    }

    /// Opens the damaged file, reads its tree, and every chunk of a storage that has a damaged
    /// byte; `None` where the patch changes nothing.
    fn outcome(&self, patch: Patched) -> Option<Outcome> {
        let patched: Vec<_> = [(patch.at, patch.bytes.clone())]
            .into_iter()
            .chain(patch.also.clone())
            .filter(|(at, bytes)| self.file[*at..at + bytes.len()] != *bytes)
            .collect();
        if patched.is_empty() {
            return None;
        }
        let read = || -> Result<(), Error> {
            let tree = TorchFile::open(Arc::new(patch), Unprotected::Refuse)?.tree()?;
            for ((path, storage), place) in tree.storages().into_iter().zip(&self.storages) {
                for (at, bytes) in &patched {
                    let from = (*at).max(place.start);
                    let to = (at + bytes.len()).min(place.end);
                    if from >= to {
                        continue;
                    }
                    let first = (from - place.start) / CHUNK_SIZE * CHUNK_SIZE;
                    let last = (to - place.start).next_multiple_of(CHUNK_SIZE).min(place.len());
                    storage
                        .read(first as u64..last as u64)
                        .map_err(|error| error.at_tensor(&path))?;
                }
            }
            Ok(())
        };
        // A load that succeeds has read every damaged byte, and took it for what was saved.
        Some(match read() {
            Err(error) => of_error(&error),
            Ok(()) => Outcome::Silent,
        })
    }

    fn patch(&self, at: usize, bytes: Vec<u8>) -> Patched {
        Patched { file: Arc::clone(&self.file), at, bytes, also: None }
    }
}

/// How many random cases of the large file are tried.
fn flips() -> usize {
    std::env::var("SCAI_DAMAGE_FLIPS").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000)
}

#[test]
fn random_bit_flips_of_a_large_checkpoint_are_refused() {
    let large = Large::new(1);
    let len = large.file.len();
    assert!(len > 24_000_000, "{len} bytes");
    let mut random = Random(25);
    let bits: Vec<usize> = (0..flips()).map(|_| random.below(len * 8)).collect();
    let counts = count(bits.len(), |i| large.outcome(flipped(&large.file, bits[i])));
    counts.report_all_detected(&format!("random bits of a file of {len} bytes flipped"));
}

#[test]
fn blocks_that_are_lost_swapped_or_stale_are_refused() {
    let (new, old) = (Large::new(1), Large::new(2));
    let len = new.file.len();
    assert_eq!(len, old.file.len(), "the layout is the same");
    let blocks = len / BLOCK;
    let bytes = |file: &[u8], block: usize| file[block * BLOCK..(block + 1) * BLOCK].to_vec();

    let zeroed = count(blocks, |block| new.outcome(new.patch(block * BLOCK, vec![0; BLOCK])));
    zeroed.report_all_detected("4 KiB blocks zeroed");

    let stale =
        count(blocks, |block| new.outcome(new.patch(block * BLOCK, bytes(&old.file, block))));
    stale.report_all_detected("4 KiB blocks of an older checkpoint");

    let mut random = Random(26);
    let pairs: Vec<_> =
        (0..flips()).map(|_| (random.below(blocks), random.below(blocks))).collect();
    let swapped = count(pairs.len(), |i| {
        let (a, b) = pairs[i];
        let mut patch = new.patch(a * BLOCK, bytes(&new.file, b));
        patch.also = Some((b * BLOCK, bytes(&new.file, a)));
        new.outcome(patch)
    });
    swapped.report_all_detected("pairs of 4 KiB blocks swapped");

    let mut random = Random(27);
    let pairs: Vec<_> =
        (0..flips()).map(|_| (random.below(blocks), random.below(blocks))).collect();
    let copied = count(pairs.len(), |i| {
        let (to, from) = pairs[i];
        new.outcome(new.patch(to * BLOCK, bytes(&new.file, from)))
    });
    copied.report_all_detected("4 KiB blocks written to another place");
}

#[test]
fn blocks_of_a_small_checkpoint_that_are_lost_or_stale_are_refused() {
    let (new, old) = (write(&small(1)).unwrap(), write(&small(2)).unwrap());
    assert_eq!(new.len(), old.len(), "the layout is the same");
    let file = Arc::new(new);
    let saved = load(&file);
    // A window of each length is slid over the file, so that it begins and ends anywhere.
    let starts: Vec<_> = [64, 512, BLOCK]
        .into_iter()
        .flat_map(|len| (0..file.len() - len).step_by(64).map(move |at| at..at + len))
        .collect();
    let replaced = |with: &(dyn Fn(Range<usize>) -> Vec<u8> + Sync)| {
        count(starts.len(), |i| {
            let place = starts[i].clone();
            let bytes = with(place.clone());
            let at = place.start;
            let changes = bytes != file[place];
            let patch = Patched { file: Arc::clone(&file), at, bytes, also: None };
            changes.then(|| outcome(Arc::new(patch), &saved))
        })
    };
    replaced(&|place| vec![0; place.len()]).report_all_detected("64 to 4096 bytes zeroed");
    replaced(&|place| vec![0xff; place.len()]).report_all_detected("64 to 4096 bytes set");
    replaced(&|place| old[place].to_vec()).report_all_detected("64 to 4096 bytes left from before");
}

#[test]
fn a_file_that_was_cut_or_has_grown_is_refused() {
    let file = Arc::new(write(&small(1)).unwrap());
    let saved = load(&file);
    let none = Arc::new(Vec::new());
    let resized = |before: &Arc<Vec<u8>>, len: usize, after: &Arc<Vec<u8>>, after_len: usize| {
        let (file, before, after) = (Arc::clone(&file), Arc::clone(before), Arc::clone(after));
        outcome(Arc::new(Resized { file, before, len, after, after_len }), &saved)
    };
    let cut = count(file.len(), |len| Some(resized(&none, len, &none, 0)));
    cut.report_all_detected(&format!("cut at every length of {} bytes", file.len()));

    // Zeros, noise, the file once more, and its own end record.
    let mut random = Random(28);
    let noise: Vec<u8> = (0..64 << 10).map(|_| random.next() as u8).collect();
    let mut end = file[file.len() - 64..].to_vec();
    end.resize(64 << 10, 0);
    let mut again = file.to_vec();
    again.resize(64 << 10, 0);
    let tails = [vec![0; 64 << 10], noise, again, end].map(Arc::new);
    let lengths: Vec<usize> = (1..=512).chain((513..=64 << 10).step_by(509)).collect();
    let lengths: Vec<usize> = lengths.into_iter().chain([file.len(), 64 << 10]).collect();
    let grown = count(tails.len() * lengths.len(), |i| {
        let tail = &tails[i / lengths.len()];
        Some(resized(&none, file.len(), tail, lengths[i % lengths.len()]))
    });
    grown.report_all_detected("1 byte to 64 KiB appended");

    let prefixed = count(tails.len() * lengths.len(), |i| {
        let before = &tails[i / lengths.len()][..lengths[i % lengths.len()]];
        Some(resized(&Arc::new(before.to_vec()), file.len(), &none, 0))
    });
    prefixed.report_all_detected("1 byte to 64 KiB in front");
}
