//! Forged archives: a zip in which every number may lie, and the seal an attacker would put on it.

use std::ops::Range;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// What one header of a record says; `None` says the truth.
#[derive(Debug, Clone, Default)]
pub(crate) struct Header {
    pub(crate) signature: Option<u32>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) flags: Option<u16>,
    pub(crate) method: Option<u16>,
    pub(crate) crc: Option<u32>,
    pub(crate) size: Option<u32>,
    pub(crate) stored: Option<u32>,
    pub(crate) name_len: Option<u16>,
    pub(crate) extra_len: Option<u16>,
    pub(crate) extra: Vec<u8>,
    /// In the directory only.
    pub(crate) offset: Option<u32>,
    pub(crate) disk: u16,
    pub(crate) comment: Vec<u8>,
    pub(crate) comment_len: Option<u16>,
}

/// A record of a forged archive.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) data: Vec<u8>,
    pub(crate) flags: u16,
    pub(crate) local: Header,
    pub(crate) central: Header,
    /// Bytes between the record before and this one's header.
    pub(crate) before: Vec<u8>,
    /// Bytes after the data, such as a descriptor.
    pub(crate) after: Vec<u8>,
    /// Left out of the directory.
    pub(crate) unlisted: bool,
}

/// What the end record says; `None` says the truth.
#[derive(Debug, Clone, Default)]
pub(crate) struct End {
    pub(crate) disk: u16,
    pub(crate) directory_disk: u16,
    pub(crate) count: Option<u16>,
    pub(crate) total: Option<u16>,
    pub(crate) size: Option<u32>,
    pub(crate) start: Option<u32>,
    pub(crate) comment_len: Option<u16>,
    pub(crate) comment: Vec<u8>,
}

/// The ZIP64 end record and its locator; `None` says the truth.
#[derive(Debug, Clone, Default)]
pub(crate) struct End64 {
    pub(crate) len: Option<u64>,
    pub(crate) disks: [u32; 2],
    pub(crate) count: Option<u64>,
    pub(crate) total: Option<u64>,
    pub(crate) size: Option<u64>,
    pub(crate) start: Option<u64>,
    pub(crate) locator_disk: u32,
    pub(crate) locator: Option<u64>,
    pub(crate) locator_disks: Option<u32>,
    /// Bytes between the two.
    pub(crate) between: Vec<u8>,
}

/// A forged archive.
#[derive(Debug, Clone, Default)]
pub(crate) struct Archive {
    pub(crate) members: Vec<Member>,
    /// Bytes between the last record and the directory.
    pub(crate) before_directory: Vec<u8>,
    /// Bytes between the directory and the end records.
    pub(crate) after_directory: Vec<u8>,
    pub(crate) end: End,
    pub(crate) end64: Option<End64>,
}

const UTF8: u16 = 1 << 11;
const DESCRIPTOR: u16 = 1 << 3;

impl Member {
    /// A record as this crate writes them: sizes and checksum in front of the data.
    pub(crate) fn new(name: impl Into<Vec<u8>>, data: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), data: data.into(), flags: UTF8, ..Self::default() }
    }

    /// A record as torch writes them: sizes and checksum after the data.
    pub(crate) fn with_descriptor(name: impl Into<Vec<u8>>, data: impl Into<Vec<u8>>) -> Self {
        let mut member = Self::new(name, data);
        let size = member.data.len() as u32;
        if size > 0 {
            member.flags |= DESCRIPTOR;
            member.local.crc = Some(0);
            member.local.size = Some(0);
            member.local.stored = Some(0);
            member.after = descriptor(crc32fast::hash(&member.data), size, size);
        }
        member
    }
}

/// A data descriptor with 32-bit sizes.
pub(crate) fn descriptor(crc: u32, stored: u32, size: u32) -> Vec<u8> {
    let mut out = b"PK\x07\x08".to_vec();
    for number in [crc, stored, size] {
        out.extend(number.to_le_bytes());
    }
    out
}

/// An extra field.
pub(crate) fn extra(id: u16, content: &[u8]) -> Vec<u8> {
    let mut out = id.to_le_bytes().to_vec();
    out.extend((content.len() as u16).to_le_bytes());
    out.extend(content);
    out
}

/// A ZIP64 extra field.
pub(crate) fn extra64(numbers: &[u64]) -> Vec<u8> {
    let content: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    extra(1, &content)
}

impl Archive {
    /// An archive of these records and nothing else.
    pub(crate) fn new(members: impl IntoIterator<Item = Member>) -> Self {
        Self { members: members.into_iter().collect(), ..Self::default() }
    }

    /// The record called `archive/{name}`.
    pub(crate) fn member(&mut self, name: &str) -> &mut Member {
        let full = format!("archive/{name}").into_bytes();
        let found = self.members.iter_mut().find(|member| member.name == full);
        found.unwrap_or_else(|| panic!("no record {name}"))
    }

    /// The bytes of the archive.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut offsets = Vec::new();
        for member in &self.members {
            out.extend(&member.before);
            offsets.push(out.len() as u32);
            member.header(&mut out, &member.local, None);
            out.extend(&member.data);
            out.extend(&member.after);
        }
        out.extend(&self.before_directory);
        let start = out.len() as u64;
        let mut count = 0_u64;
        for (member, offset) in self.members.iter().zip(offsets).filter(|(m, _)| !m.unlisted) {
            member.header(&mut out, &member.central, Some(offset));
            count += 1;
        }
        let size = out.len() as u64 - start;
        out.extend(&self.after_directory);
        if let Some(end64) = &self.end64 {
            end64.write(&mut out, count, size, start);
        }
        let End { disk, directory_disk, comment, .. } = &self.end;
        out.extend(b"PK\x05\x06");
        out.extend(disk.to_le_bytes());
        out.extend(directory_disk.to_le_bytes());
        out.extend(self.end.count.unwrap_or(count as u16).to_le_bytes());
        out.extend(self.end.total.unwrap_or(count as u16).to_le_bytes());
        out.extend(self.end.size.unwrap_or(size as u32).to_le_bytes());
        out.extend(self.end.start.unwrap_or(start as u32).to_le_bytes());
        out.extend(self.end.comment_len.unwrap_or(comment.len() as u16).to_le_bytes());
        out.extend(comment);
        out
    }
}

impl Member {
    /// A header: a local one, or with `offset` an entry of the directory.
    fn header(&self, out: &mut Vec<u8>, says: &Header, offset: Option<u32>) {
        let local = offset.is_none();
        let name = says.name.as_ref().unwrap_or(&self.name);
        let len = self.data.len() as u32;
        let signature = if local { 0x0403_4b50 } else { 0x0201_4b50 };
        out.extend(says.signature.unwrap_or(signature).to_le_bytes());
        if !local {
            out.extend(20_u16.to_le_bytes());
        }
        out.extend(20_u16.to_le_bytes());
        out.extend(says.flags.unwrap_or(self.flags).to_le_bytes());
        out.extend(says.method.unwrap_or(0).to_le_bytes());
        out.extend([0; 4]);
        out.extend(says.crc.unwrap_or_else(|| crc32fast::hash(&self.data)).to_le_bytes());
        out.extend(says.stored.unwrap_or(len).to_le_bytes());
        out.extend(says.size.unwrap_or(len).to_le_bytes());
        out.extend(says.name_len.unwrap_or(name.len() as u16).to_le_bytes());
        out.extend(says.extra_len.unwrap_or(says.extra.len() as u16).to_le_bytes());
        if let Some(offset) = offset {
            out.extend(says.comment_len.unwrap_or(says.comment.len() as u16).to_le_bytes());
            out.extend(says.disk.to_le_bytes());
            out.extend([0; 6]);
            out.extend(says.offset.unwrap_or(offset).to_le_bytes());
        }
        out.extend(name);
        out.extend(&says.extra);
        if !local {
            out.extend(&says.comment);
        }
    }
}

impl End64 {
    fn write(&self, out: &mut Vec<u8>, count: u64, size: u64, start: u64) {
        let at = out.len() as u64;
        out.extend(b"PK\x06\x06");
        out.extend(self.len.unwrap_or(44).to_le_bytes());
        out.extend([45, 0, 45, 0]);
        self.disks.iter().for_each(|disk| out.extend(disk.to_le_bytes()));
        out.extend(self.count.unwrap_or(count).to_le_bytes());
        out.extend(self.total.unwrap_or(count).to_le_bytes());
        out.extend(self.size.unwrap_or(size).to_le_bytes());
        out.extend(self.start.unwrap_or(start).to_le_bytes());
        out.extend(&self.between);
        out.extend(b"PK\x06\x07");
        out.extend(self.locator_disk.to_le_bytes());
        out.extend(self.locator.unwrap_or(at).to_le_bytes());
        out.extend(self.locator_disks.unwrap_or(1).to_le_bytes());
    }
}

const PRE: &str = "archive/";

/// The records of an honest file: a dict of tensors over two storages, as torch writes them.
pub(crate) fn honest() -> Archive {
    Archive {
        end64: Some(End64::default()),
        ..Archive::new([
            Member::with_descriptor(format!("{PRE}data.pkl"), honest_pickle()),
            Member::with_descriptor(format!("{PRE}byteorder"), "little"),
            Member::with_descriptor(format!("{PRE}data/0"), (0..64).collect::<Vec<u8>>()),
            Member::with_descriptor(format!("{PRE}data/1"), (100..116).collect::<Vec<u8>>()),
            Member::with_descriptor(format!("{PRE}version"), "3\n"),
        ])
    }
}

/// `{'weight': float32 of 4x4, 'tied': its transpose, 'step': int64 of 2, 'lr': 0.5}`
pub(crate) fn honest_pickle() -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    out.extend(text("weight"));
    out.extend(tensor("FloatStorage", "0", 16, 0, &[4, 4], &[4, 1]));
    out.extend(text("tied"));
    out.extend(tensor("FloatStorage", "0", 16, 0, &[4, 4], &[1, 4]));
    out.extend(text("step"));
    out.extend(tensor("LongStorage", "1", 2, 0, &[2], &[1]));
    out.extend(text("lr"));
    out.extend(b"G\x3f\xe0\0\0\0\0\0\0");
    out.extend(b"u.");
    out
}

/// `BINUNICODE` and a text.
pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut out = vec![b'X'];
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
    out
}

/// An integer, as `LONG1` where that is needed.
pub(crate) fn int(int: i64) -> Vec<u8> {
    match i32::try_from(int) {
        Ok(int) => [&b"J"[..], &int.to_le_bytes()].concat(),
        Err(_) => [&b"\x8a\x08"[..], &int.to_le_bytes()].concat(),
    }
}

/// A tuple of integers.
pub(crate) fn ints(numbers: &[i64]) -> Vec<u8> {
    let mut out = vec![b'('];
    numbers.iter().for_each(|&number| out.extend(int(number)));
    out.push(b't');
    out
}

/// The persistent id of a storage.
pub(crate) fn storage(class: &str, key: &str, numel: i64) -> Vec<u8> {
    let class = format!("ctorch\n{class}\n");
    [b"(".to_vec(), text("storage"), class.into(), text(key), text("cpu"), int(numel), b"tQ".into()]
        .concat()
}

/// `_rebuild_tensor_v2` applied to a storage.
pub(crate) fn tensor(
    class: &str,
    key: &str,
    numel: i64,
    offset: i64,
    shape: &[i64],
    stride: &[i64],
) -> Vec<u8> {
    tensor_over(&storage(class, key, numel), offset, shape, stride)
}

/// `_rebuild_tensor_v2` applied to whatever `storage` leaves on the stack.
pub(crate) fn tensor_over(storage: &[u8], offset: i64, shape: &[i64], stride: &[i64]) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n(".to_vec(),
        storage.to_vec(),
        int(offset),
        ints(shape),
        ints(stride),
        b"\x89ccollections\nOrderedDict\n)RtR".to_vec(),
    ]
    .concat()
}

/// The first three pickles of a file in the format before torch 1.6.
pub(crate) fn legacy_start() -> Vec<u8> {
    let mut out =
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.".to_vec();
    out.extend(b"\x80\x02}(");
    out.extend(
        [text("protocol_version"), int(1001), text("little_endian"), b"\x88".into()].concat(),
    );
    out.extend(b"u.");
    out
}

/// Puts right what an attacker would put right who changed bytes of a file: the CRC-32 of each
/// record in all three places, the digest table and the root. What cannot be found is left alone.
pub(crate) fn seal(mut file: Vec<u8>) -> Vec<u8> {
    let _ = try_seal(&mut file);
    file
}

/// As [`seal`], but the digest table is left as it is.
pub(crate) fn seal_outside(mut file: Vec<u8>) -> Vec<u8> {
    let _ = try_seal_outside(&mut file);
    file
}

/// A record as the directory of a file has it.
struct Found {
    /// Where its entry of the directory begins.
    entry: usize,
    name: String,
    header: usize,
    data: Range<usize>,
}

impl Found {
    fn is_table(&self) -> bool {
        self.name.ends_with("/.scai/digests")
    }
}

/// The names of the records of a file and the bytes they take, in the order of the file.
pub(crate) fn records(file: &[u8]) -> Vec<(String, Range<usize>)> {
    let (_, records) = read(file).expect("a sound file");
    records.into_iter().map(|found| (found.name, found.data)).collect()
}

/// Where the end record begins, and all records in the order of the file.
fn read(file: &[u8]) -> Option<(usize, Vec<Found>)> {
    let end = file.windows(4).rposition(|four| four == b"PK\x05\x06")?;
    let mut records = Vec::new();
    let mut at = number::<4>(file, end + 16)?;
    while file.get(at..at + 4) == Some(b"PK\x01\x02") {
        let [name_len, extra_len, comment_len] =
            [28, 30, 32].map(|place| number::<2>(file, at + place));
        let (size, header) = (number::<4>(file, at + 24)?, number::<4>(file, at + 42)?);
        let data = header + 30 + number::<2>(file, header + 26)? + number::<2>(file, header + 28)?;
        let name = String::from_utf8_lossy(file.get(at + 46..at + 46 + name_len?)?).into_owned();
        records.push(Found { entry: at, name, header, data: data..data + size });
        at += 46 + name_len? + extra_len? + comment_len?;
    }
    records.sort_by_key(|found| found.header);
    Some((end, records))
}

fn number<const N: usize>(file: &[u8], at: usize) -> Option<usize> {
    let bytes = file.get(at..at.checked_add(N)?)?;
    Some(bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte)))
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) -> Option<()> {
    file.get_mut(at..at.checked_add(bytes.len())?)?.copy_from_slice(bytes);
    Some(())
}

fn try_seal(file: &mut [u8]) -> Option<()> {
    let (_, records) = read(file)?;
    if let Some(digests) = records.iter().find(|found| found.is_table()) {
        let mut table = Vec::new();
        for found in records.iter().filter(|found| !found.is_table()) {
            for chunk in file.get(found.data.clone())?.chunks(64 << 10) {
                table.extend(xxh3_128(chunk).to_le_bytes());
            }
        }
        let count = table.len() as u64 / 16;
        put(file, digests.data.start + 8, &count.to_le_bytes())?;
        put(file, digests.data.start + 16, &table)?;
    }
    try_seal_outside(file)
}

/// The checksums that are not in the digest table.
fn try_seal_outside(file: &mut [u8]) -> Option<()> {
    let (end, records) = read(file)?;
    for found in &records {
        let crc = crc32fast::hash(file.get(found.data.clone())?).to_le_bytes();
        put(file, found.entry + 16, &crc)?;
        if number::<4>(file, found.header + 14)? != 0 {
            put(file, found.header + 14, &crc)?;
        }
        if file.get(found.data.end..found.data.end + 4) == Some(b"PK\x07\x08") {
            put(file, found.data.end + 4, &crc)?;
        }
    }
    let digests = records.iter().find(|found| found.is_table())?;
    if !file.get(end + 22..)?.starts_with(b"scai-root:") {
        return None;
    }
    let mut headers = Xxh3::new();
    for found in &records {
        headers.update(file.get(found.header..found.data.start)?);
    }
    let mut root = Xxh3::new();
    root.update(b"scai root 1");
    root.update(&(file.len() as u64).to_le_bytes());
    root.update(&headers.digest128().to_le_bytes());
    root.update(file.get(digests.data.clone())?);
    root.update(file.get(number::<4>(file, end + 16)?..end + 32)?);
    put(file, end + 32, format!("{:032x}", root.digest128()).as_bytes())
}
