//! `.metadata`: which part of which value is where, as PyTorch pickles it.
//!
//! The pickle is read by the machine that reads `.pt` files: no class is looked up and nothing is run.

mod decode;
mod encode;

use std::collections::HashMap;

use crate::error::{Error, Place, Result};
pub use crate::store::METADATA;
use crate::store::ReadAt;
use crate::tensor::DType;

/// It is read into memory; a longer one is not read.
const LONGEST: u64 = 1 << 30;

/// What a directory of shards holds, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The files that hold it.
    pub files: Vec<String>,
    /// The values, in the order of the state.
    pub entries: Vec<Entry>,
}

/// A value of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path in the state, from the top.
    pub path: Vec<Key>,
    /// What it is, and where.
    pub content: Stored,
}

/// A step of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// A key of a mapping.
    Name(String),
    /// An index of a list.
    Index(usize),
}

/// What is stored of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// A tensor, in one or several regions.
    Tensor {
        /// The type of its elements.
        dtype: DType,
        /// Its shape as a whole.
        shape: Vec<u64>,
        /// Whether gradients were computed for it.
        requires_grad: bool,
        /// Its regions.
        chunks: Vec<Chunk>,
    },
    /// Another value, as `torch.save` writes it.
    Value(Location),
}

/// A region of a tensor, which an item holds as a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins, in each dimension.
    pub offsets: Vec<u64>,
    /// Its length, in each dimension.
    pub sizes: Vec<u64>,
    /// The item.
    pub at: Location,
}

/// The bytes of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The number of its file in [`Metadata::files`].
    pub file: usize,
    /// Where it begins.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl Entry {
    /// The path as text, with dots: what PyTorch calls the value.
    pub fn name(&self) -> String {
        name(&self.path)
    }

    /// The items that hold it.
    pub fn locations(&self) -> impl Iterator<Item = Location> + '_ {
        let (chunks, value) = match &self.content {
            Stored::Tensor { chunks, .. } => (chunks.as_slice(), None),
            Stored::Value(at) => (&[][..], Some(*at)),
        };
        chunks.iter().map(|chunk| chunk.at).chain(value)
    }
}

/// A path as text, with dots.
pub(super) fn name(path: &[Key]) -> String {
    let parts = path.iter().map(|key| match key {
        Key::Name(name) => name.clone(),
        Key::Index(index) => index.to_string(),
    });
    parts.collect::<Vec<_>>().join(".")
}

impl Metadata {
    /// Reads the metadata of a directory.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the bytes are not a pickle; [`Error::NotACheckpoint`] if they are the pickle of
    /// something else; [`Error::Unsupported`] if the items were compressed by an extension.
    pub fn read(file: &dyn ReadAt) -> Result<Self> {
        Self::decode(&bytes_of(file)?)
    }

    /// As [`Metadata::read`], of the bytes of the file.
    ///
    /// # Errors
    /// As [`Metadata::read`].
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode::decode(bytes)
    }

    /// The bytes of the file, which PyTorch reads.
    pub fn encode(&self) -> Vec<u8> {
        encode::encode(self)
    }

    /// Whether a file begins like one that holds metadata.
    pub(in crate::codec) fn recognise(file: &dyn ReadAt) -> bool {
        const NAME: &[u8] = b"torch.distributed.checkpoint.metadata";
        const START: u64 = 256;
        const PROTO: u8 = 0x80;
        let mut start = vec![0; file.len().min(START) as usize];
        file.read_at(0, &mut start).is_ok()
            && start.first() == Some(&PROTO)
            && start.windows(NAME.len()).any(|window| window == NAME)
    }
}

/// The bytes of a file of metadata.
pub(super) fn bytes_of(file: &dyn ReadAt) -> Result<Vec<u8>> {
    if file.len() > LONGEST {
        return Err(Error::damaged(Place::default(), "the metadata are too long"));
    }
    let mut bytes = crate::memory::zeroed(file.len(), "read the metadata")?.into_vec();
    file.read_at(0, &mut bytes).map_err(|error| Error::io("read", error))?;
    Ok(bytes)
}

/// The numbers of files by their names.
#[derive(Debug, Default)]
struct Files {
    names: Vec<String>,
    numbers: HashMap<String, usize>,
}

impl Files {
    fn number(&mut self, name: &str) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len();
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Metadata {
        let at = |offset| Location { file: 0, offset, len: 7 };
        let key = |name: &str| Key::Name(name.to_owned());
        let chunk = |offset: u64, at| Chunk { offsets: vec![offset, 0], sizes: vec![2, 3], at };
        let tensor = Stored::Tensor {
            dtype: DType::BFloat16,
            shape: vec![4, 3],
            requires_grad: true,
            chunks: vec![
                chunk(0, at(0)),
                chunk(2, Location { file: 1, offset: 1 << 40, len: 300 }),
            ],
        };
        let scalar = Stored::Tensor {
            dtype: DType::Int64,
            shape: Vec::new(),
            requires_grad: false,
            chunks: vec![Chunk { offsets: Vec::new(), sizes: Vec::new(), at: at(64) }],
        };
        let groups = vec![key("optimizer"), key("param_groups"), Key::Index(0), key("lr")];
        Metadata {
            files: vec!["a_0_0.distcp".to_owned(), "a_1_0.distcp".to_owned()],
            entries: vec![
                Entry { path: vec![key("model"), key("Größe")], content: tensor },
                Entry { path: vec![key("step")], content: scalar },
                Entry { path: groups, content: Stored::Value(at(128)) },
            ],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let example = example();
        assert_eq!(Metadata::decode(&example.encode()).unwrap(), example);
        assert_eq!(Metadata::decode(&Metadata::default().encode()).unwrap(), Metadata::default());
    }

    #[test]
    fn no_other_byte_is_a_panic() {
        let bytes = example().encode();
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut other = bytes.clone();
                other[i] ^= 1 << bit;
                let _ = Metadata::decode(&other);
            }
            assert!(Metadata::decode(&bytes[..i]).is_err(), "cut at {i}");
        }
    }
}
