//! Writing a shard: first the place of every item, then the bytes, by several threads.

use std::io;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use twox_hash::XxHash3_128;

use super::index::{Check, Index, Item};
use crate::codec::buffer::MEMORY;
use crate::codec::torch::TorchPlan;
use crate::error::{Error, Result};
use crate::memory::zeroed;
use crate::store::WriteAt;
use crate::tensor::PIECE;
use crate::threads::{held, on_threads};
use crate::value::Value;

/// Items begin at a multiple of this, or of a page if they are long.
const ALIGN: u64 = 64;
const ALIGN_LONG: u64 = 4096;
/// From this length on an item is long.
const LONG: u64 = 512 << 10;
/// An item from this length on is written by all threads, and otherwise by one of them.
const SHARED: u64 = 16 * PIECE;

/// A shard that is ready to be written.
#[derive(Debug)]
pub struct ShardPlan {
    items: Vec<Planned>,
    end: u64,
    memory: u64,
}

/// What an item holds.
#[derive(Debug)]
#[non_exhaustive]
pub enum Content {
    /// A tensor, or another value, which the item holds as a `.pt` file of this crate.
    Value(Value),
    /// Bytes as they are, such as what `torch.save` wrote.
    Bytes(Vec<u8>),
}

#[derive(Debug)]
struct Planned {
    name: String,
    offset: u64,
    content: Form,
}

#[derive(Debug)]
enum Form {
    File(Box<TorchPlan>),
    Bytes(Vec<u8>),
}

impl Planned {
    fn len(&self) -> u64 {
        match &self.content {
            Form::File(plan) => plan.len(),
            Form::Bytes(bytes) => bytes.len() as u64,
        }
    }

    fn end(&self) -> u64 {
        self.offset + self.len()
    }
}

impl Default for ShardPlan {
    fn default() -> Self {
        Self { items: Vec::new(), end: 0, memory: MEMORY }
    }
}

impl ShardPlan {
    /// Adds an item; returns the bytes of the shard that it will have. Errors call it `name`.
    ///
    /// # Errors
    /// As [`TorchPlan::new`].
    pub fn add(&mut self, name: impl Into<String>, content: Content) -> Result<Range<u64>> {
        let name = name.into();
        let content = match content {
            Content::Value(value) => {
                let plan = TorchPlan::new(&value).map_err(|error| error.at_tensor(&name))?;
                Form::File(Box::new(plan))
            }
            Content::Bytes(bytes) => Form::Bytes(bytes),
        };
        let mut item = Planned { name, offset: 0, content };
        let align = if item.len() >= LONG { ALIGN_LONG } else { ALIGN };
        item.offset = self.end.next_multiple_of(align);
        let range = item.offset..item.end();
        self.end = range.end;
        self.items.push(item);
        Ok(range)
    }

    /// The same plan, whose writing may hold `bytes` besides the state; 64 MiB by default. At least
    /// one thread always writes.
    #[must_use]
    pub fn memory(self, bytes: u64) -> Self {
        Self { memory: bytes, ..self }
    }

    /// The length of the shard in bytes.
    pub fn len(&self) -> u64 {
        self.end + Index::len_of(self.items.len())
    }

    /// Always false: a shard has an index.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes all bytes of the shard, each once, on `threads` threads; returns its index.
    ///
    /// Storages are read as by [`TorchPlan::write`].
    ///
    /// # Errors
    /// The first error of `file` or of a storage, with the name of the item; the others stop soon.
    pub fn write(self, threads: usize, file: &dyn WriteAt) -> Result<Index> {
        let Self { items, end, memory } = self;
        let tasks = tasks(&items);
        let starts: Vec<u64> =
            [0].into_iter().chain(items.iter().map(Planned::end)).take(items.len()).collect();
        let written: Vec<Mutex<Option<Planned>>> =
            items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        let found = Mutex::new(Ok(Vec::with_capacity(written.len())));
        let threads = threads.max(1).min(usize::try_from(memory / 2 / PIECE).unwrap_or(1).max(1));
        let run = |task: &Range<usize>, threads: usize| {
            let take = |i: usize| Some((starts[i], held(&written[i]).take()?));
            let items: Vec<(u64, Planned)> = task.clone().filter_map(take).collect();
            let result = write_items(items, threads, memory, file);
            let mut found = held(&found);
            match (&mut *found, result) {
                (Ok(all), Ok(items)) => all.extend(items),
                (found @ Ok(_), Err(error)) => *found = Err(error),
                (Err(_), _) => {}
            }
        };
        let (shared, alone): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|task| task.is_shared);
        for task in &shared {
            if held(&found).is_ok() {
                run(&task.items, threads);
            }
        }
        let next = AtomicUsize::new(0);
        on_threads(threads.min(alone.len().max(1)), || {
            while held(&found).is_ok()
                && let Some(task) = alone.get(next.fetch_add(1, Ordering::Relaxed))
            {
                run(&task.items, 1);
            }
        });
        let mut items = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)?;
        items.sort_unstable_by_key(|item| item.offset);
        let index = Index { items };
        file.write_at(end, &index.encode()).map_err(|error| Error::io("write", error))?;
        Ok(index)
    }
}

/// Neighbouring items that one thread writes, or a long one that all write.
struct Task {
    items: Range<usize>,
    is_shared: bool,
}

fn tasks(items: &[Planned]) -> Vec<Task> {
    let mut tasks: Vec<Task> = Vec::new();
    let mut begin = 0;
    for (i, item) in items.iter().enumerate() {
        let is_shared = item.len() >= SHARED;
        match tasks.last_mut() {
            Some(last) if !last.is_shared && item.end() - begin <= PIECE => last.items.end = i + 1,
            _ => {
                tasks.push(Task { items: i..i + 1, is_shared });
                begin = item.offset;
            }
        }
    }
    tasks
}

/// Writes neighbouring items, each with the zeros before it, which begin at the number given. Short ones go
/// through memory, in one piece.
fn write_items(
    items: Vec<(u64, Planned)>,
    threads: usize,
    memory: u64,
    file: &dyn WriteAt,
) -> Result<Vec<Item>> {
    let (Some(begin), Some(end)) =
        (items.first().map(|(begin, _)| *begin), items.last().map(|(_, item)| item.end()))
    else {
        return Ok(Vec::new());
    };
    if end - begin > PIECE + ALIGN_LONG {
        return items
            .into_iter()
            .map(|(begin, item)| {
                let gap = (item.offset - begin) as usize;
                write_at(file, begin, &[0; ALIGN_LONG as usize][..gap])?;
                write_item(item, threads, memory, &Shifted { file, by: 0 })
            })
            .collect();
    }
    let bytes = Piece { begin, bytes: Mutex::new(zeroed(end - begin, "write")?) };
    let written = items
        .into_iter()
        .map(|(_, item)| write_item(item, 1, memory, &bytes))
        .collect::<Result<_>>()?;
    write_at(file, begin, &held(&bytes.bytes))?;
    Ok(written)
}

fn write_item(item: Planned, threads: usize, memory: u64, file: &dyn WriteAt) -> Result<Item> {
    let (offset, len) = (item.offset, item.len());
    let (check, digest) = match item.content {
        Form::Bytes(bytes) => {
            write_at(file, offset, &bytes)?;
            (Check::Bytes, XxHash3_128::oneshot(&bytes))
        }
        Form::File(plan) => {
            let written = plan.memory(memory).write(threads, &Shifted { file, by: offset });
            (Check::Root, written.map_err(|error| error.at_tensor(&item.name))?.root())
        }
    };
    Ok(Item { offset, len, check, digest })
}

fn write_at(file: &dyn WriteAt, offset: u64, bytes: &[u8]) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    file.write_at(offset, bytes).map_err(|error| Error::io("write", error))
}

/// A file from an offset on.
#[derive(Debug)]
struct Shifted<'a> {
    file: &'a dyn WriteAt,
    by: u64,
}

impl WriteAt for Shifted<'_> {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(self.by + offset, bytes)
    }

    fn alignment(&self) -> usize {
        let alignment = self.file.alignment();
        if self.by.is_multiple_of(alignment as u64) { alignment } else { 1 }
    }
}

/// A piece of a file in memory.
#[derive(Debug)]
struct Piece {
    begin: u64,
    bytes: Mutex<Box<[u8]>>,
}

impl WriteAt for Piece {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let at = (offset - self.begin) as usize;
        let mut piece = held(&self.bytes);
        match piece.get_mut(at..at + bytes.len()) {
            Some(to) => {
                to.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}
