//! The files of a directory that look like checkpoints by their names, but have no iteration in them.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use scai_checkpoint::codec::shards;
use scai_checkpoint::store::{Directory, LocalDirectory, is_draft, is_url};
use scai_checkpoint::{Error, Result};

/// What the name of an index ends in: the shards that it names are one checkpoint.
const INDEX: &str = ".index.json";
/// What the names of other files end in.
const EXTENSIONS: [&str; 6] = ["pt", "pth", "th", "ckpt", "bin", "safetensors"];

/// A file, or an index with its shards.
#[derive(Debug)]
pub(crate) struct Other {
    pub(crate) name: String,
    /// Bytes of the file, or of all shards.
    pub(crate) size: u64,
    /// The files that an index names.
    pub(crate) shards: Vec<String>,
}

/// Whether a file is an index, by its name.
pub(crate) fn is_index(name: &str) -> bool {
    name.ends_with(INDEX)
}

/// The files of `directory`, by name; none in an object store, where others would have to be asked for one
/// by one. Shards that an index names are not files of their own.
pub(crate) fn others(directory: &Path) -> Result<Vec<Other>> {
    if is_url(directory) {
        return Ok(Vec::new());
    }
    let at = |source| Error::io("list", source).at_path(directory);
    let opened = LocalDirectory::open(directory).map_err(at)?;
    let entries = opened.list().map_err(at)?;
    let sizes: BTreeMap<String, u64> =
        entries.into_iter().map(|entry| (entry.name, entry.len)).collect();
    let shards_of = |name: &str| match is_index(name) {
        // Opening an unreadable index reports the error.
        true => opened.open(name).ok().and_then(|file| shards(&*file)).unwrap_or_default(),
        false => Vec::new(),
    };
    let mut found: Vec<Other> = sizes
        .iter()
        .filter(|(name, _)| is_index(name) || is_one(name))
        .map(|(name, &len)| {
            let shards = shards_of(name);
            let size = match shards.as_slice() {
                [] => len,
                shards => shards.iter().filter_map(|shard| sizes.get(shard)).sum(),
            };
            Other { name: name.clone(), size, shards }
        })
        .collect();
    let shards: HashSet<String> =
        found.iter().flat_map(|other| other.shards.iter().cloned()).collect();
    found.retain(|other| !shards.contains(&other.name));
    Ok(found)
}

fn is_one(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    // `latest.pt` is another name of a checkpoint that has its own.
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
        && name != "latest.pt"
        && !name.starts_with("checkpoint_iter_")
        && !is_draft(name)
}
