//! Files in this crate's own format that were changed and then sealed again: every checksum and the
//! root are right, as an attacker can make them.

use std::sync::Arc;

use scai_checkpoint::codec::torch::{TorchFile, Unprotected};

use super::{Cases, Expect};
use crate::forge::{honest, records, seal, seal_outside};
use crate::support::{Bytes, write};

/// The honest state in this crate's own format.
fn ours() -> Vec<u8> {
    let file = Arc::new(Bytes(honest().bytes()));
    let file = TorchFile::open(file, Unprotected::Refuse).unwrap();
    write(&file.tree().unwrap()).unwrap()
}

/// The file with `from` replaced by `to`, of the same length, in the record `name`, and sealed.
fn with(name: &str, from: &str, to: &str) -> Vec<u8> {
    let mut file = ours();
    let all = records(&file);
    let (_, place) = all.iter().find(|(found, _)| found.ends_with(name)).unwrap();
    let record = &mut file[place.clone()];
    let at = record.windows(from.len()).position(|bytes| bytes == from.as_bytes()).unwrap();
    record[at..at + to.len()].copy_from_slice(to.as_bytes());
    assert_eq!(from.len(), to.len());
    seal(file)
}

/// The file with the whole content of the manifest replaced, and sealed.
fn with_manifest(start: &str, repeated: &str) -> Vec<u8> {
    let mut file = ours();
    let (_, place) = records(&file).remove(0);
    let bytes = start.bytes().chain(repeated.bytes().cycle());
    file[place.clone()].iter_mut().zip(bytes).for_each(|(old, new)| *old = new);
    seal(file)
}

pub(super) fn add(cases: &mut Cases) {
    cases.add("sealed: nothing changed", Expect::Same, || seal(ours()));
    cases.add("sealed: another program wrote it", Expect::Same, || {
        with("manifest.json", "\"writer\":\"scai", "\"writer\":\"scaj")
    });
    let lies: [(&str, &str, &str, &str, &str); 9] = [
        ("a newer version", "manifest.json", "\"version\":1", "\"version\":9", "version 9"),
        (
            "a negative version",
            "manifest.json",
            "\"version\":1,",
            "\"version\":-,",
            "unknown format version",
        ),
        ("another hash", "manifest.json", "xxh3-128", "xxh3-064", "format version 1"),
        ("no chunks", "manifest.json", "\"chunk_size\":65536", "\"chunk_size\":00000", ""),
        ("other chunks", "manifest.json", "\"chunk_size\":65536", "\"chunk_size\":65537", ""),
        ("another length", "manifest.json", "\"file_size\":\"", "\"file_size\":\"9", ""),
        ("no table", "digests", "SCAIDIG1", "SCAIDIG2", "digest table"),
        ("another byte order", "byteorder", "little", "bigger", "big-endian"),
        ("an unknown global", "data.pkl", "OrderedDict", "OrderedDicu", "OrderedDicu"),
    ];
    for (what, record, from, to, words) in lies {
        // The length of the file is one digit more where a digit is put in front.
        let (from, to) = match what {
            "another length" => (from.to_owned() + &digit(), to.to_owned()),
            _ => (from.to_owned(), to.to_owned()),
        };
        cases.refused(format!("sealed: {what}"), words, move || with(record, &from, &to));
    }
    cases.refused("sealed: a manifest that nests without end", "unknown format version", || {
        with_manifest("", "[")
    });
    cases.refused("sealed: a manifest that is no JSON", "unknown format version", || {
        with_manifest("", "\0")
    });
    cases.refused("sealed: a manifest of another shape", "unknown format version", || {
        with_manifest("{\"format\":[]}", " ")
    });
    cases.refused("sealed: an empty manifest", "unknown format version", || {
        with_manifest("{}", " ")
    });
    cases.refused("sealed: the root in capitals", "structure", || {
        let mut file = seal(ours());
        let at = file.len() - 32;
        file[at..].make_ascii_uppercase();
        file
    });
    cases.refused("sealed: the root of another file", "structure", || {
        let mut file = ours();
        let other = with("manifest.json", "\"writer\":\"scai", "\"writer\":\"scaj");
        let at = file.len() - 32;
        file[at..].copy_from_slice(&other[at..]);
        file
    });
    cases.refused("sealed: the count of the table", "digest table", || {
        let mut file = ours();
        let (_, table) = records(&file).pop().unwrap();
        file[table.start + 8..table.start + 16].copy_from_slice(&u64::MAX.to_le_bytes());
        seal_outside(file)
    });
    cases.refused("sealed: a digest of the table", "checksum mismatch", || {
        let mut file = ours();
        let (_, table) = records(&file).pop().unwrap();
        file[table.start + 16] ^= 1;
        seal_outside(file)
    });
    cases.refused("sealed: a record left out of the directory", "", || {
        let mut file = ours();
        let at = file.windows(4).rposition(|four| four == b"PK\x01\x02").unwrap();
        file[at + 1] = b'X';
        seal_outside(file)
    });
    cases.refused("the root is taken away", "part of the manifest is missing", || {
        let mut file = ours();
        let at = file.len() - 44;
        file[at..at + 2].copy_from_slice(&[0, 0]);
        file.truncate(at + 2);
        file
    });
}

/// The first digit of the length of the file, as the manifest has it.
fn digit() -> String {
    ours().len().to_string()[..1].to_owned()
}
