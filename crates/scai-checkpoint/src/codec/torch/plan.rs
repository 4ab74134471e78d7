//! Writing a `.pt` file: first every offset, then the bytes, by several threads.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use twox_hash::XxHash3_128;

use super::manifest::{self, DIGESTS, MANIFEST, MAX_NOTES, Manifest, NOTES, ROOT_LEN, ROOT_PREFIX};
use super::pickle::write;
use super::zip::Record;
use super::zip::write::{data_offset, directory, directory_len, local_header};
use crate::CHUNK_SIZE;
use crate::codec::buffer::{Buffer, agrees, writers};
use crate::codec::digest::{chunks, combine_crc};
use crate::error::{Error, Result};
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
pub struct Plan {
    records: Vec<Record>,
    /// The bytes of each record.
    contents: Vec<Storage>,
    directory: u64,
    len: u64,
}

/// What a thread takes: neighbouring records that are written whole, or a part of a large one.
enum Task {
    Whole(Range<usize>),
    Part { record: usize, range: Range<u64> },
}

/// What is known of a run of bytes of a record once they are written.
struct Done {
    record: usize,
    start: u64,
    crc: crc32fast::Hasher,
    digests: Vec<u128>,
}

impl Done {
    /// Nothing yet, of a run of `len` bytes.
    fn new(record: usize, start: u64, len: u64) -> Self {
        let digests = Vec::with_capacity(chunks(len) as usize);
        Self { record, start, crc: crc32fast::Hasher::new(), digests }
    }

    /// Adds the chunk that follows.
    fn add(&mut self, chunk: &[u8]) {
        self.crc.update(chunk);
        self.digests.push(XxHash3_128::oneshot(chunk));
    }
}

impl Plan {
    /// Plans the file for a state tree.
    ///
    /// # Errors
    /// [`Error::Conversion`] where a value cannot be loaded by `torch.load(weights_only=True)`,
    /// with its path.
    pub fn new(tree: &Value) -> Result<Self> {
        Self::with_notes(tree, None)
    }

    /// Plans the file for a state tree and notes: a text that [`super::TorchFile::notes`] gives
    /// back as it is and that nothing else looks at.
    ///
    /// # Errors
    /// As [`Plan::new`]; [`Error::Invalid`] for notes of more than 64 MiB.
    pub fn with_notes(tree: &Value, notes: Option<&str>) -> Result<Self> {
        if notes.is_some_and(|notes| notes.len() as u64 > MAX_NOTES) {
            return Err(Error::invalid(format!("the notes are longer than {MAX_NOTES} bytes")));
        }
        let pickled = write::write(tree)?;
        let manifest = Manifest::new(tree);
        let mut plan = Self { records: Vec::new(), contents: Vec::new(), directory: 0, len: 0 };
        let mut at = plan.add(MANIFEST, 0, Storage::from_vec(manifest.encode(0)));
        at = plan.add("data.pkl", at, Storage::from_vec(pickled.bytes));
        at = plan.add("byteorder", at, Storage::from_vec(b"little".to_vec()));
        for (key, storage) in pickled.storages.into_iter().enumerate() {
            at = plan.add(&format!("data/{key}"), at, storage);
        }
        at = plan.add("version", at, Storage::from_vec(b"3\n".to_vec()));
        if let Some(notes) = notes {
            at = plan.add(NOTES, at, Storage::from_vec(notes.as_bytes().to_vec()));
        }
        let table = manifest::table_len(plan.records.iter().map(|record| record.size));
        // Its bytes are known last.
        at = plan.place(DIGESTS, at, table);
        plan.directory = at;
        plan.len = at + directory_len(&plan.records, at, ROOT_PREFIX.len() + ROOT_LEN) as u64;
        if let Some(first) = plan.contents.first_mut() {
            *first = Storage::from_vec(manifest.encode(plan.len));
        }
        Ok(plan)
    }

    /// Places a record whose header begins at `at`; returns where the next one begins.
    fn add(&mut self, name: &str, at: u64, content: Storage) -> u64 {
        let size = content.len();
        self.contents.push(content);
        self.place(name, at, size)
    }

    /// As [`Plan::add`], for a record of `size` bytes.
    fn place(&mut self, name: &str, at: u64, size: u64) -> u64 {
        let align = if size >= LARGE { ALIGN_LARGE } else { ALIGN };
        let data = data_offset(name, at, size, align);
        self.records.push(Record { name: name.to_owned(), header: at, data, size, crc: 0 });
        data + size
    }

    /// The length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file has no bytes, which none has.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes all bytes of the file, each once, on `threads` threads.
    ///
    /// Every digest and checksum is computed from the bytes as they are handed to `file`. A storage
    /// that has no [`Source::as_slice`](crate::Source::as_slice) may change meanwhile: each of its
    /// bytes is read once. Beside the state at most 32 MiB are held, and the digests, 16 bytes for
    /// each 64 KiB. Where `file` wants bytes aligned, twice as many threads write: half of them wait
    /// for the device.
    ///
    /// # Errors
    /// The first error of `file` or of a storage; the others stop soon.
    pub fn write(mut self, threads: usize, file: &dyn WriteAt) -> Result<()> {
        let last = self.records.len() - 1;
        let mut done = self.write_tasks(threads, file)?;
        done.sort_unstable_by_key(|done| (done.record, done.start));
        for of_record in done.chunk_by(|a, b| a.record == b.record) {
            if let [first, ..] = of_record {
                let crc = combine_crc(of_record.iter().map(|done| &done.crc));
                self.records[first.record].crc = crc;
            }
        }
        for record in &self.records[..last] {
            if is_divided(record) {
                write_at(file, record.header, &local_header(record))?;
            }
        }
        let table: Vec<u128> = done.into_iter().flat_map(|done| done.digests).collect();
        let table = manifest::encode_table(&table);
        self.records[last].crc = crc32fast::hash(&table);
        let headers = self.headers();
        let blank = [ROOT_PREFIX, &[b'0'; ROOT_LEN]].concat();
        let mut tail = directory(&self.records, self.directory, &blank);
        let covered_len = tail.len() - ROOT_LEN;
        let (covered, root) = tail.split_at_mut(covered_len);
        let digest = manifest::root(self.len, headers, &table, covered);
        root.copy_from_slice(&manifest::comment(digest)[ROOT_PREFIX.len()..]);
        let mut end = local_header(&self.records[last]);
        end.extend(table);
        end.extend(tail);
        write_at(file, self.records[last].header, &end)
    }

    /// XXH3-128 of all local headers, in the order of the file.
    fn headers(&self) -> u128 {
        let mut hasher = XxHash3_128::new();
        for record in &self.records {
            hasher.write(&local_header(record));
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
                tasks.push(Task::Whole(run));
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
        tasks.push(Task::Whole(run));
        tasks
    }

    fn write_tasks(&self, threads: usize, file: &dyn WriteAt) -> Result<Vec<Done>> {
        let tasks = self.tasks();
        let divided: Vec<Option<Divided<'_>>> = self
            .records
            .iter()
            .zip(&self.contents)
            .map(|(record, content)| is_divided(record).then(|| Divided::new(content)))
            .collect();
        let next = AtomicUsize::new(0);
        let outcome = Mutex::new(Ok(Vec::new()));
        let work = || {
            let mut buffer = Buffer::for_file(self.len);
            while held(&outcome).is_ok() {
                let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                let result = match task {
                    Task::Whole(run) => self.write_whole(run.clone(), &mut buffer, file),
                    Task::Part { record, range } => match &divided[*record] {
                        Some(divided) => {
                            self.write_part(*record, divided, range.clone(), &mut buffer, file)
                        }
                        None => Ok(Vec::new()),
                    },
                };
                let mut outcome = held(&outcome);
                match (&mut *outcome, result) {
                    (Ok(all), Ok(done)) => all.extend(done),
                    (Ok(_), Err(error)) => *outcome = Err(error),
                    (Err(_), _) => {}
                }
            }
        };
        on_threads(writers(threads, tasks.len(), file), work);
        outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes neighbouring records, headers included, in one piece.
    fn write_whole(
        &self,
        run: Range<usize>,
        buffer: &mut Buffer,
        file: &dyn WriteAt,
    ) -> Result<Vec<Done>> {
        let records = &self.records[run.clone()];
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Ok(Vec::new());
        };
        let at = first.header;
        let bytes = buffer.at(at, (last.data + last.size - at) as usize, file.alignment());
        let mut all = Vec::with_capacity(run.len());
        for i in run {
            let mut record = self.records[i].clone();
            let (header, data) = ((record.header - at) as usize, (record.data - at) as usize);
            let content = &mut bytes[data..data + record.size as usize];
            self.contents[i].read_at(0, content)?;
            let mut done = Done::new(i, 0, record.size);
            content.chunks(CHUNK_SIZE).for_each(|chunk| done.add(chunk));
            record.crc = done.crc.clone().finalize();
            all.push(done);
            bytes[header..data].copy_from_slice(&local_header(&record));
        }
        write_at(file, at, bytes)?;
        Ok(all)
    }

    /// Writes a part of a long record, from where it lies if that will do, else from a copy.
    fn write_part(
        &self,
        record: usize,
        divided: &Divided<'_>,
        range: Range<u64>,
        buffer: &mut Buffer,
        file: &dyn WriteAt,
    ) -> Result<Vec<Done>> {
        let (len, alignment) = (range.end - range.start, file.alignment());
        let at = self.records[record].data + range.start;
        let mut done = Done::new(record, range.start, len);
        let lies = self.contents[record]
            .as_slice()
            .and_then(|bytes| bytes.get(range.start as usize..range.end as usize))
            .filter(|bytes| agrees(bytes, at, alignment));
        // Chunk by chunk, so that the bytes are in the cache each time they are looked at.
        if let Some(bytes) = lies {
            bytes.chunks(CHUNK_SIZE).for_each(|chunk| done.add(chunk));
            write_at(file, at, bytes)?;
        } else {
            let bytes = buffer.at(at, len as usize, alignment);
            for (chunk, start) in
                bytes.chunks_mut(CHUNK_SIZE).zip((range.start..).step_by(CHUNK_SIZE))
            {
                divided.read(start, chunk)?;
                done.add(chunk);
            }
            write_at(file, at, bytes)?;
        }
        Ok(vec![done])
    }
}

/// Whether a record is written in parts, and its header apart from them.
fn is_divided(record: &Record) -> bool {
    record.size > PIECE
}

fn write_at(file: &dyn WriteAt, offset: u64, bytes: &[u8]) -> Result<()> {
    file.write_at(offset, bytes).map_err(|error| Error::io("write", error))
}
