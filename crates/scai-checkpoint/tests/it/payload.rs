//! Files that know whether they are complete: stand-ins for checkpoints in tests of the protocol.

use scai_checkpoint::store::{Directory, ReadAt, WriteAt};
use scai_checkpoint::testing::publish;
use scai_checkpoint::{Error, Result};
use xxhash_rust::xxh3::xxh3_128;

/// Not a multiple of what the device takes in one piece.
pub(crate) const LEN: usize = 40_000;
const PIECE: usize = 10_000;

/// The number `id` over and over, and a checksum at the end.
pub(crate) fn payload(id: u64, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = id.to_le_bytes().into_iter().cycle().take(len - 16).collect();
    bytes.extend(xxh3_128(&bytes).to_le_bytes());
    bytes
}

/// Which save a file holds, or why it holds none.
pub(crate) fn id_of(file: &dyn ReadAt) -> Result<u64, String> {
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).map_err(|error| error.to_string())?;
    let (content, checksum) =
        bytes.split_last_chunk::<16>().ok_or_else(|| format!("only {} bytes", bytes.len()))?;
    if xxh3_128(content).to_le_bytes() != *checksum {
        return Err("checksum mismatch".into());
    }
    let id = content.first_chunk().ok_or("no number")?;
    Ok(u64::from_le_bytes(*id))
}

pub(crate) fn id_under(store: &dyn Directory, name: &str) -> Result<u64, String> {
    id_of(&*store.open(name).map_err(|error| error.to_string())?)
}

/// Writes a payload in pieces, last piece first.
pub(crate) fn write(draft: &dyn WriteAt, id: u64, len: usize) -> Result<()> {
    for (nth, piece) in payload(id, len).chunks(PIECE).enumerate().rev() {
        draft.write_at((nth * PIECE) as u64, piece).map_err(|source| Error::Io {
            place: Box::default(),
            action: "write",
            source,
        })?;
    }
    Ok(())
}

pub(crate) fn save(store: &dyn Directory, name: &str, id: u64) -> Result<()> {
    publish(store, name, LEN as u64, |draft| write(draft, id, LEN)).map(drop)
}
