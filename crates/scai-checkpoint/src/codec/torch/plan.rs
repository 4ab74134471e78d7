//! Writing a `.pt` file: first every offset, then the bytes, by several threads.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use twox_hash::XxHash3_128;

use super::manifest::{self, DIGESTS, MANIFEST, MAX_NOTES, Manifest, NOTES, ROOT_LEN, ROOT_PREFIX};
use super::pickle::write;
use super::zip::write::{data_offset, directory, directory_len, local_header};
use super::zip::{Name, Record};
use crate::CHUNK_SIZE;
use crate::codec::Origin;
use crate::codec::buffer::{Buffer, MEMORY, agrees, writers};
use crate::codec::digest::{chunks, combine_crc, fold};
use crate::codec::written::{Tensors, Written};
use crate::error::{Error, Result};
use crate::memory::{check, room_for};
use crate::store::WriteAt;
use crate::tensor::{Divided, PIECE, Storage};
use crate::threads::{held, on_threads};
use crate::value::Value;

/// Where the data of small records begin: a multiple of this, as in torch's own files.
const ALIGN: u64 = 64;
/// Where the data of large records begin: pages can be mapped and shared.
const ALIGN_LARGE: u64 = 4096;
/// From this size on a record is large: the padding then stays below one percent.
const LARGE: u64 = 512 << 10;

/// A file that is ready to be written: every offset is known.
#[derive(Debug)]
pub struct TorchPlan {
    records: Vec<Record<Name>>,
    /// The bytes of each record.
    contents: Vec<Storage>,
    /// The record of the first storage; those of the others follow it.
    first_storage: usize,
    tensors: Tensors,
    directory: u64,
    len: u64,
    memory: u64,
}

/// What a thread takes: neighbouring records that are written whole, or a part of a large one.
enum Task {
    Whole(Range<usize>),
    Part { record: usize, range: Range<u64> },
}

/// A record that is written in parts.
struct Long<'a> {
    content: Divided<'a>,
    /// Where the parts begin that were written, and the CRC-32 of each.
    parts: Mutex<Vec<(u64, crc32fast::Hasher)>>,
}

impl<'a> Long<'a> {
    fn new(content: &'a Storage) -> Self {
        Self { content: Divided::new(content), parts: Mutex::default() }
    }
}

/// What is known about a task once its bytes are written.
struct Done {
    /// The first record, and where in it the bytes begin.
    record: usize,
    start: u64,
    /// The CRC-32 of each record that is written whole with this task.
    crcs: Vec<u32>,
    /// Those of all chunks, in the order of the file.
    digests: Vec<u128>,
}

impl Done {
    fn new(record: usize, start: u64) -> Self {
        Self { record, start, crcs: Vec::new(), digests: Vec::new() }
    }

    /// Adds the chunk that follows, also to the checksum of its record.
    fn add(&mut self, chunk: &[u8], crc: &mut crc32fast::Hasher) {
        crc.update(chunk);
        self.digests.push(XxHash3_128::oneshot(chunk));
    }
}

impl TorchPlan {
    /// Plans the file for a state tree.
    ///
    /// # Errors
    /// [`Error::Conversion`] if a value cannot be loaded by `torch.load(weights_only=True)`, with
    /// its path.
    pub fn new(tree: &Value) -> Result<Self> {
        Self::with_notes(tree, None)
    }

    /// Plans the file for a state tree and notes: a text that [`super::TorchFile::notes`] returns
    /// unchanged and that nothing else reads.
    ///
    /// # Errors
    /// As [`TorchPlan::new`]; [`Error::Invalid`] for notes of more than 64 MiB.
    pub fn with_notes(tree: &Value, notes: Option<&str>) -> Result<Self> {
        Self::converted(tree, notes, Origin::Known)
    }

    /// Plans the file for a state tree that comes from another file, as [`TorchPlan::with_notes`].
    ///
    /// # Errors
    /// As [`TorchPlan::with_notes`].
    pub fn converted(tree: &Value, notes: Option<&str>, origin: Origin) -> Result<Self> {
        if notes.is_some_and(|notes| notes.len() as u64 > MAX_NOTES) {
            return Err(Error::invalid(format!("the notes are longer than {MAX_NOTES} bytes")));
        }
        let pickled = write::write(tree)?;
        let manifest = Manifest::new(tree, origin);
        let mut plan = Self {
            records: Vec::new(),
            contents: Vec::new(),
            first_storage: 0,
            tensors: pickled.tensors,
            directory: 0,
            len: 0,
            memory: MEMORY,
        };
        let mut at = plan.add(Name::Fixed(MANIFEST), 0, Storage::from_vec(manifest.encode(0)));
        at = plan.add(Name::Fixed("data.pkl"), at, Storage::from_vec(pickled.bytes));
        at = plan.add(Name::Fixed("byteorder"), at, Storage::from_vec(b"little".to_vec()));
        plan.first_storage = plan.records.len();
        for (key, storage) in (0..).zip(pickled.storages) {
            at = plan.add(Name::storage(key), at, storage);
        }
        at = plan.add(Name::Fixed("version"), at, Storage::from_vec(b"3\n".to_vec()));
        if let Some(notes) = notes {
            at = plan.add(Name::Fixed(NOTES), at, Storage::from_vec(notes.as_bytes().to_vec()));
        }
        let table = manifest::table_len(plan.records.iter().map(|record| record.size));
        // Its bytes are known last.
        at = plan.place(Name::Fixed(DIGESTS), at, table);
        plan.directory = at;
        plan.len = at + directory_len(&plan.records, at, ROOT_PREFIX.len() + ROOT_LEN) as u64;
        if let Some(first) = plan.contents.first_mut() {
            *first = Storage::from_vec(manifest.encode(plan.len));
        }
        Ok(plan)
    }

    /// Places a record whose header begins at `at`; returns where the next one begins.
    fn add(&mut self, name: Name, at: u64, content: Storage) -> u64 {
        let size = content.len();
        self.contents.push(content);
        self.place(name, at, size)
    }

    /// As [`TorchPlan::add`], for a record of `size` bytes.
    fn place(&mut self, name: Name, at: u64, size: u64) -> u64 {
        let align = if size >= LARGE { ALIGN_LARGE } else { ALIGN };
        let data = data_offset(&name, at, size, align);
        self.records.push(Record { name, header: at, data, size, deflated: None, crc: 0 });
        data + size
    }

    /// The same plan, whose writing may hold `bytes` besides the state; 64 MiB by default. At least
    /// one thread (2 MiB) always writes.
    #[must_use]
    pub fn memory(self, bytes: u64) -> Self {
        Self { memory: bytes, ..self }
    }

    /// The length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Always false: no file is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes all bytes of the file, each once, on `threads` threads.
    ///
    /// Every digest and checksum is computed from the bytes as they are passed to `file`. A storage that
    /// has no [`Source::as_slice`](crate::tensor::Source::as_slice) may change meanwhile: each of its
    /// bytes is read once. Besides the state each thread holds 2 MiB, as far as [`TorchPlan::memory`]
    /// allows. If `file` wants bytes aligned, twice as many threads write: half of them wait for the
    /// device.
    ///
    /// # Errors
    /// The first error of `file` or of a storage, with the path of a tensor of the storage; the others
    /// stop soon.
    pub fn write(mut self, threads: usize, file: &dyn WriteAt) -> Result<Written> {
        let last = self.records.len() - 1;
        let mut done = self.write_tasks(threads, file)?;
        done.sort_unstable_by_key(|done| (done.record, done.start));
        for Done { record, crcs, .. } in &done {
            for (record, crc) in self.records[*record..].iter_mut().zip(crcs) {
                record.crc = *crc;
            }
        }
        let table_len = manifest::table_len(self.records[..last].iter().map(|record| record.size));
        // The digests, the table, and the end of the file with the table in it.
        room_for(table_len as usize * 3, "write the digests")?;
        let digests: Vec<u128> = done.into_iter().flat_map(|done| done.digests).collect();
        let table = manifest::encode_table(&digests);
        self.records[last].crc = crc32fast::hash(&table);
        let headers = self.headers();
        let blank = [ROOT_PREFIX, &[b'0'; ROOT_LEN]].concat();
        let mut tail = directory(&self.records, self.directory, &blank);
        let covered_len = tail.len() - ROOT_LEN;
        let (covered, root) = tail.split_at_mut(covered_len);
        let digest = manifest::root(self.len, headers, &table, covered);
        root.copy_from_slice(&manifest::comment(digest)[ROOT_PREFIX.len()..]);
        let mut header = Vec::new();
        local_header(&self.records[last], self.records[last].crc, &mut header);
        write_at(file, self.records[last].header, &[header, table, tail].concat())?;
        let of_storages = self.digests_of_storages(&digests);
        Ok(Written::new(digest, self.tensors, of_storages))
    }

    /// One digest for each storage, of the digests of its chunks.
    fn digests_of_storages(&self, digests: &[u128]) -> Vec<u128> {
        let mut at = 0;
        let folded = self.records[..self.contents.len()].iter().map(|record| {
            let chunks = chunks(record.size) as usize;
            at += chunks;
            fold(&digests[at - chunks..at])
        });
        folded.skip(self.first_storage).collect()
    }

    /// The bytes of a record from `start` on.
    fn read(&self, record: usize, start: u64, to: &mut [u8]) -> Result<()> {
        self.contents[record].read_at(start, to).map_err(|error| self.at_tensor(record, error))
    }

    fn at_tensor(&self, record: usize, error: Error) -> Error {
        let storage = record.checked_sub(self.first_storage);
        match storage.and_then(|storage| self.tensors.of_storage(storage)) {
            Some(path) => error.at_tensor(path),
            None => error,
        }
    }

    /// XXH3-128 of all local headers, in the order of the file.
    fn headers(&self) -> u128 {
        let mut hasher = XxHash3_128::new();
        let mut header = Vec::new();
        for record in &self.records {
            local_header(record, record.crc, &mut header);
            hasher.write(&header);
        }
        hasher.finish_128()
    }

    /// Divides the records before the digest table into tasks of about [`PIECE`] bytes at most.
    fn tasks(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        let mut run = 0..0;
        for (i, record) in self.records[..self.contents.len()].iter().enumerate() {
            let run_len = record.data + record.size - self.records[run.start].header;
            if is_divided(record) || run_len > PIECE {
                tasks.extend((!run.is_empty()).then(|| Task::Whole(run.clone())));
                run = i..i;
            }
            if is_divided(record) {
                let starts = (0..record.size).step_by(PIECE as usize);
                tasks.extend(starts.map(|start| {
                    let range = start..(start + PIECE).min(record.size);
                    Task::Part { record: i, range }
                }));
                run = i + 1..i + 1;
            } else {
                run.end = i + 1;
            }
        }
        tasks.extend((!run.is_empty()).then_some(Task::Whole(run)));
        tasks
    }

    fn write_tasks(&self, threads: usize, file: &dyn WriteAt) -> Result<Vec<Done>> {
        let tasks = self.tasks();
        let long: Vec<Option<Long<'_>>> = self
            .records
            .iter()
            .zip(&self.contents)
            .map(|(record, content)| is_divided(record).then(|| Long::new(content)))
            .collect();
        let next = AtomicUsize::new(0);
        let outcome = Mutex::new(Ok(Vec::with_capacity(tasks.len())));
        let work = || {
            let mut buffer = Buffer::for_file(self.len);
            while held(&outcome).is_ok() {
                let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                let ready = check("write");
                let result = match task {
                    _ if ready.is_err() => ready.map(|()| Done::new(0, 0)),
                    Task::Whole(run) => self.write_whole(run.clone(), &mut buffer, file),
                    Task::Part { record, range } => match &long[*record] {
                        Some(long) => {
                            self.write_part(*record, long, range.clone(), &mut buffer, file)
                        }
                        None => continue,
                    },
                };
                let mut outcome = held(&outcome);
                match (&mut *outcome, result) {
                    (Ok(all), Ok(done)) => all.push(done),
                    (Ok(_), Err(error)) => *outcome = Err(error),
                    (Err(_), _) => {}
                }
            }
        };
        on_threads(writers(threads, tasks.len(), self.memory, file), work);
        outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes neighbouring records, headers included, in one piece.
    fn write_whole(
        &self,
        run: Range<usize>,
        buffer: &mut Buffer,
        file: &dyn WriteAt,
    ) -> Result<Done> {
        let mut done = Done::new(run.start, 0);
        let records = &self.records[run.clone()];
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Ok(done);
        };
        let at = first.header;
        let bytes = buffer.at(at, (last.data + last.size - at) as usize, file.alignment())?;
        let mut local = Vec::new();
        for (number, record) in run.zip(records) {
            let (header, data) = ((record.header - at) as usize, (record.data - at) as usize);
            let to = &mut bytes[data..data + record.size as usize];
            self.read(number, 0, to)?;
            let mut crc = crc32fast::Hasher::new();
            to.chunks(CHUNK_SIZE).for_each(|chunk| done.add(chunk, &mut crc));
            let crc = crc.finalize();
            done.crcs.push(crc);
            local_header(record, crc, &mut local);
            bytes[header..data].copy_from_slice(&local);
        }
        write_at(file, at, bytes)?;
        Ok(done)
    }

    /// After the last part of a long record, writes its header, and returns the checksum of all.
    fn end_part(
        &self,
        record: &Record<Name>,
        long: &Long<'_>,
        part: (u64, crc32fast::Hasher),
        file: &dyn WriteAt,
    ) -> Result<Option<u32>> {
        let mut parts = held(&long.parts);
        parts.push(part);
        if parts.len() as u64 != record.size.div_ceil(PIECE) {
            return Ok(None);
        }
        parts.sort_unstable_by_key(|(start, _)| *start);
        let crc = combine_crc(parts.iter().map(|(_, crc)| crc));
        let mut header = Vec::new();
        local_header(record, crc, &mut header);
        write_at(file, record.header, &header)?;
        Ok(Some(crc))
    }

    /// Writes a part of a long record, directly from its memory if possible, otherwise from a copy.
    fn write_part(
        &self,
        record: usize,
        long: &Long<'_>,
        range: Range<u64>,
        buffer: &mut Buffer,
        file: &dyn WriteAt,
    ) -> Result<Done> {
        let (len, alignment) = (range.end - range.start, file.alignment());
        let at = self.records[record].data + range.start;
        let mut done = Done::new(record, range.start);
        let mut crc = crc32fast::Hasher::new();
        let lies = self.contents[record]
            .as_slice()
            .and_then(|bytes| bytes.get(range.start as usize..range.end as usize))
            .filter(|bytes| agrees(bytes, at, alignment));
        // Chunk by chunk, so that the bytes are in the cache each time they are read.
        if let Some(bytes) = lies {
            bytes.chunks(CHUNK_SIZE).for_each(|chunk| done.add(chunk, &mut crc));
            write_at(file, at, bytes)?;
        } else {
            let bytes = buffer.at(at, len as usize, alignment)?;
            for (chunk, start) in
                bytes.chunks_mut(CHUNK_SIZE).zip((range.start..).step_by(CHUNK_SIZE))
            {
                long.content.read(start, chunk).map_err(|error| self.at_tensor(record, error))?;
                done.add(chunk, &mut crc);
            }
            write_at(file, at, bytes)?;
        }
        let part = (range.start, crc);
        done.crcs.extend(self.end_part(&self.records[record], long, part, file)?);
        Ok(done)
    }
}

/// Whether a record is written in parts, and its header apart from them.
fn is_divided(record: &Record<Name>) -> bool {
    record.size > PIECE
}

fn write_at(file: &dyn WriteAt, offset: u64, bytes: &[u8]) -> Result<()> {
    file.write_at(offset, bytes).map_err(|error| Error::io("write", error))
}
