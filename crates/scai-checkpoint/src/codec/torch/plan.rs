//! Writing a `.pt` file: first every offset, then the bytes, by several threads.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::manifest::{self, DIGESTS, MANIFEST, MAX_NOTES, Manifest, NOTES, ROOT_LEN, ROOT_PREFIX};
use super::pickle::write;
use super::zip::Record;
use super::zip::write::{data_offset, directory, directory_len, local_header};
use crate::CHUNK_SIZE;
use crate::codec::digest::{chunks, combine_crc, digests};
use crate::error::{Error, Result};
use crate::store::WriteAt;
use crate::tensor::Storage;
use crate::threads::on_threads;
use crate::value::Value;

/// Where the data of small records begin: a multiple of this, as in torch's own files.
const ALIGN: u64 = 64;
/// Where the data of large records begin: pages can be mapped and shared.
const ALIGN_LARGE: u64 = 4096;
/// From this size on a record is large: the padding then stays below one percent.
const LARGE: u64 = 512 << 10;

/// Bytes a thread takes at a time; a multiple of the chunk size.
const PIECE: u64 = 1 << 20;

/// A file that is ready to be written: every offset is known.
#[derive(Debug)]
pub struct Plan {
    records: Vec<Record>,
    contents: Vec<Content>,
    directory: u64,
    len: u64,
}

/// The bytes of a record.
#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>),
    Storage(Storage),
}

/// What a thread takes: neighbouring records that are written whole, or a part of a large one.
enum Task {
    Whole(Range<usize>),
    Part { record: usize, range: Range<u64> },
}

/// What is known of the bytes of a task once they are written.
struct Done {
    record: usize,
    start: u64,
    crc: crc32fast::Hasher,
    digests: Vec<u128>,
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
        let mut at = plan.add(MANIFEST, 0, Content::Bytes(manifest.encode(0)));
        at = plan.add("data.pkl", at, Content::Bytes(pickled.bytes));
        at = plan.add("byteorder", at, Content::Bytes(b"little".to_vec()));
        for (key, storage) in pickled.storages.into_iter().enumerate() {
            at = plan.add(&format!("data/{key}"), at, Content::Storage(storage));
        }
        at = plan.add("version", at, Content::Bytes(b"3\n".to_vec()));
        if let Some(notes) = notes {
            at = plan.add(NOTES, at, Content::Bytes(notes.as_bytes().to_vec()));
        }
        let table = manifest::table_len(plan.records.iter().map(|record| record.size));
        at = plan.add(DIGESTS, at, Content::Bytes(vec![0; table as usize]));
        plan.directory = at;
        plan.len = at + directory_len(&plan.records, at, ROOT_PREFIX.len() + ROOT_LEN) as u64;
        if let Some(first) = plan.contents.first_mut() {
            *first = Content::Bytes(manifest.encode(plan.len));
        }
        Ok(plan)
    }

    /// Places a record whose header begins at `at`; returns where the next one begins.
    fn add(&mut self, name: &str, at: u64, content: Content) -> u64 {
        let size = content.len();
        let align = if size >= LARGE { ALIGN_LARGE } else { ALIGN };
        let data = data_offset(name, at, size, align);
        self.records.push(Record { name: name.to_owned(), header: at, data, size, crc: 0 });
        self.contents.push(content);
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
    /// Every digest and checksum is computed from the bytes as they are handed to `file`.
    ///
    /// # Errors
    /// The first error of `file` or of a storage; the others stop soon.
    pub fn write(mut self, threads: usize, file: &dyn WriteAt) -> Result<()> {
        let last = self.records.len() - 1;
        let mut done = self.write_tasks(&self.tasks(last), threads, file)?;
        done.sort_unstable_by_key(|done| (done.record, done.start));
        for of_record in done.chunk_by(|a, b| a.record == b.record) {
            if let [first, ..] = of_record {
                let crc = combine_crc(of_record.iter().map(|done| &done.crc));
                self.records[first.record].crc = crc;
            }
        }
        for record in &self.records[..last] {
            if record.size >= PIECE {
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
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        for record in &self.records {
            hasher.update(&local_header(record));
        }
        hasher.digest128()
    }

    /// Divides the records before `end` into tasks of about [`PIECE`] bytes.
    fn tasks(&self, end: usize) -> Vec<Task> {
        let mut tasks = Vec::new();
        let mut run = 0..0;
        for (i, record) in self.records[..end].iter().enumerate() {
            if record.size >= PIECE {
                tasks.push(Task::Whole(run));
                run = i + 1..i + 1;
                let starts = (0..record.size).step_by(PIECE as usize);
                tasks.extend(starts.map(|start| {
                    let range = start..(start + PIECE).min(record.size);
                    Task::Part { record: i, range }
                }));
                continue;
            }
            run.end = i + 1;
            if record.data + record.size - self.records[run.start].header >= PIECE {
                tasks.push(Task::Whole(run));
                run = i + 1..i + 1;
            }
        }
        tasks.push(Task::Whole(run));
        tasks
    }

    fn write_tasks(&self, tasks: &[Task], threads: usize, file: &dyn WriteAt) -> Result<Vec<Done>> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let outcome = Mutex::new((Vec::new(), None));
        let work = || {
            let mut buffer = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                let result = match task {
                    Task::Whole(run) => self.write_whole(run.clone(), &mut buffer, file),
                    Task::Part { record, range } => {
                        self.write_part(*record, range.clone(), &mut buffer, file)
                    }
                };
                let mut outcome = outcome.lock().unwrap_or_else(|poison| poison.into_inner());
                match result {
                    Ok(done) => outcome.0.extend(done),
                    Err(error) => {
                        stop.store(true, Ordering::Relaxed);
                        outcome.1.get_or_insert(error);
                    }
                }
            }
        };
        on_threads(threads.min(tasks.len()), work);
        match outcome.into_inner().unwrap_or_else(|poison| poison.into_inner()) {
            (_, Some(error)) => Err(error),
            (done, None) => Ok(done),
        }
    }

    /// Writes neighbouring records, headers included, in one piece.
    fn write_whole(
        &self,
        run: Range<usize>,
        buffer: &mut Vec<u8>,
        file: &dyn WriteAt,
    ) -> Result<Vec<Done>> {
        let Some(first) = self.records[run.clone()].first() else { return Ok(Vec::new()) };
        buffer.clear();
        let mut all = Vec::with_capacity(run.len());
        for i in run {
            let mut record = self.records[i].clone();
            let (header, data) =
                ((record.header - first.header) as usize, (record.data - first.header) as usize);
            buffer.resize(data + record.size as usize, 0);
            self.contents[i].read(0, &mut buffer[data..])?;
            let mut crc = crc32fast::Hasher::new();
            crc.update(&buffer[data..]);
            record.crc = crc.clone().finalize();
            all.push(Done { record: i, start: 0, crc, digests: digests(&buffer[data..]) });
            buffer[header..data].copy_from_slice(&local_header(&record));
        }
        write_at(file, first.header, buffer)?;
        Ok(all)
    }

    fn write_part(
        &self,
        index: usize,
        range: Range<u64>,
        buffer: &mut Vec<u8>,
        file: &dyn WriteAt,
    ) -> Result<Vec<Done>> {
        let bytes = match self.contents[index].slice(&range) {
            Some(bytes) => bytes,
            None => {
                buffer.clear();
                buffer.resize((range.end - range.start) as usize, 0);
                self.contents[index].read(range.start, buffer)?;
                buffer
            }
        };
        // Small steps, so that the bytes are in the cache when they are hashed the second time.
        let mut crc = crc32fast::Hasher::new();
        let mut digests = Vec::with_capacity(chunks(bytes.len() as u64) as usize);
        for chunk in bytes.chunks(CHUNK_SIZE) {
            crc.update(chunk);
            digests.extend(self::digests(chunk));
        }
        write_at(file, self.records[index].data + range.start, bytes)?;
        Ok(vec![Done { record: index, start: range.start, crc, digests }])
    }
}

fn write_at(file: &dyn WriteAt, offset: u64, bytes: &[u8]) -> Result<()> {
    file.write_at(offset, bytes).map_err(|error| Error::io("write", error))
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Storage(storage) => storage.len(),
        }
    }

    fn slice(&self, range: &Range<u64>) -> Option<&[u8]> {
        let bytes = match self {
            Content::Bytes(bytes) => bytes,
            Content::Storage(storage) => storage.as_slice()?,
        };
        bytes.get(range.start as usize..range.end as usize)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match (self, self.slice(&(offset..offset + buf.len() as u64))) {
            (_, Some(bytes)) => buf.copy_from_slice(bytes),
            (Content::Storage(storage), None) => storage.read_at(offset, buf)?,
            (Content::Bytes(_), None) => {}
        }
        Ok(())
    }
}
