//! From the metadata to a pickle: calls of the constructors of PyTorch's classes.

use super::{Chunk, Key, Location, Metadata, Stored, name};

const CLASSES: &str = "torch.distributed.checkpoint.metadata";

/// The name of a value, the number and place of a region of it, and where that is.
type Item<'a> = (String, Option<(usize, &'a Chunk)>, Location);

/// Writes a pickle of protocol 2.
struct Pickler {
    bytes: Vec<u8>,
    /// The classes that were named so far, whose numbers in the memo are their positions.
    known: Vec<(&'static str, &'static str)>,
}

pub(super) fn encode(metadata: &Metadata) -> Vec<u8> {
    let mut pickler = Pickler { bytes: vec![0x80, 2], known: Vec::new() };
    pickler.metadata(metadata);
    pickler.bytes.push(b'.');
    pickler.bytes
}

impl Pickler {
    fn metadata(&mut self, metadata: &Metadata) {
        self.call(CLASSES, "Metadata", |p| {
            p.dict(&metadata.entries, |p, entry| {
                p.text(&entry.name());
                match &entry.content {
                    Stored::Value(_) => p.call(CLASSES, "BytesStorageMetadata", |_| {}),
                    content => p.tensor(content),
                }
            });
            p.dict(&metadata.entries, |p, entry| {
                p.text(&name(&entry.path));
                p.tuple(|p| {
                    for key in &entry.path {
                        match key {
                            Key::Name(name) => p.text(name),
                            Key::Index(index) => p.int(*index as u64),
                        }
                    }
                });
            });
            let items: Vec<Item<'_>> = metadata
                .entries
                .iter()
                .flat_map(|entry| {
                    let chunks = match &entry.content {
                        Stored::Tensor { chunks, .. } => {
                            chunks.iter().enumerate().map(Some).collect()
                        }
                        Stored::Value(_) => vec![None],
                    };
                    chunks
                        .into_iter()
                        .zip(entry.locations())
                        .map(|(chunk, at)| (entry.name(), chunk, at))
                })
                .collect();
            p.dict(&items, |p, (name, chunk, at)| {
                p.call(CLASSES, "MetadataIndex", |p| {
                    p.text(name);
                    if let Some((number, chunk)) = chunk {
                        p.size(&chunk.offsets);
                        p.int(*number as u64);
                    }
                });
                p.call("torch.distributed.checkpoint.filesystem", "_StorageInfo", |p| {
                    p.text(metadata.files.get(at.file).map_or("", String::as_str));
                    p.int(at.offset);
                    p.int(at.len);
                });
            });
            p.call(CLASSES, "StorageMeta", |_| {});
            p.text("1.0.0");
        });
    }

    fn tensor(&mut self, content: &Stored) {
        let Stored::Tensor { dtype, shape, requires_grad, chunks } = content else { return };
        self.call(CLASSES, "TensorStorageMetadata", |p| {
            p.call(CLASSES, "TensorProperties", |p| {
                p.global("torch", dtype.name());
                p.call("torch.serialization", "_get_layout", |p| p.text("torch.strided"));
                p.bytes.push(if *requires_grad { 0x88 } else { 0x89 });
            });
            p.size(shape);
            p.bytes.extend(b"](");
            for chunk in chunks {
                p.call(CLASSES, "ChunkStorageMetadata", |p| {
                    p.size(&chunk.offsets);
                    p.size(&chunk.sizes);
                });
            }
            p.bytes.push(b'e');
        });
    }

    fn call(&mut self, module: &'static str, class: &'static str, args: impl FnOnce(&mut Self)) {
        self.global(module, class);
        self.tuple(args);
        self.bytes.push(b'R');
    }

    fn tuple(&mut self, items: impl FnOnce(&mut Self)) {
        self.bytes.push(b'(');
        items(self);
        self.bytes.push(b't');
    }

    fn dict<T>(&mut self, entries: &[T], entry: impl Fn(&mut Self, &T)) {
        self.bytes.extend(b"}(");
        entries.iter().for_each(|one| entry(self, one));
        self.bytes.push(b'u');
    }

    fn size(&mut self, dims: &[u64]) {
        self.call("torch", "Size", |p| p.tuple(|p| dims.iter().for_each(|&dim| p.int(dim))));
    }

    /// A class, which is named once.
    fn global(&mut self, module: &'static str, name: &'static str) {
        if let Some(number) = self.known.iter().position(|known| *known == (module, name)) {
            self.bytes.extend([b'h', number as u8]);
            return;
        }
        self.bytes.extend(format!("c{module}\n{name}\n").bytes());
        // The number fits a byte: there are fewer classes and dtypes.
        self.bytes.extend([b'q', self.known.len() as u8]);
        self.known.push((module, name));
    }

    fn text(&mut self, text: &str) {
        self.bytes.push(b'X');
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.bytes());
    }

    fn int(&mut self, int: u64) {
        match (u8::try_from(int), i32::try_from(int)) {
            (Ok(int), _) => self.bytes.extend([b'K', int]),
            (_, Ok(int)) => {
                self.bytes.push(b'J');
                self.bytes.extend(int.to_le_bytes());
            }
            _ => {
                // Nine bytes, so that the sign is positive.
                self.bytes.extend([0x8a, 9]);
                self.bytes.extend(int.to_le_bytes());
                self.bytes.push(0);
            }
        }
    }
}
