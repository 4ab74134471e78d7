//! The directory of a zip file, accepted only if everything agrees.

use std::collections::HashSet;
use std::ops::Range;

use twox_hash::XxHash3_128;

use super::{
    CENTRAL, CENTRAL_LEN, DEFLATED, DESCRIPTOR, END, END_LEN, END64, END64_LEN, EXTRA_ZIP64,
    FLAG_DESCRIPTOR, FLAG_UTF8, FLAGS_EFFORT, IN_ZIP64, IN_ZIP64_COUNT, LOCAL, LOCAL_LEN,
    LOCATOR64, LOCATOR64_LEN, Record, STORED,
};
use crate::codec::secret::Secret;
use crate::error::{Error, Place, Result, shown};
use crate::memory::{room_for, zeroed};
use crate::store::ReadAt;

/// The longest comment the end record can have.
const MAX_COMMENT: u64 = u16::MAX as u64;

/// Extra fields that some readers trust and others ignore: another name, another comment, encryption.
const MISLEADING: [u16; 4] = [0x7075, 0x6375, 0x9901, 0x0017];

/// The most bytes that deflate expands one byte to.
const MOST_INFLATED: u64 = 1032;

/// All records of a zip file, and what else it consists of.
#[derive(Debug)]
pub(in super::super) struct Directory {
    /// The records in the order of the file.
    pub(in super::super) records: Vec<Record>,
    /// Everything from the central directory to the end of the file.
    pub(in super::super) tail: Vec<u8>,
    /// The comment at the end of the file.
    pub(in super::super) comment: Vec<u8>,
    /// XXH3-128 of all local headers and data descriptors, in the order of the records.
    pub(in super::super) headers: u128,
}

/// Reads the directory and compares it with every local header.
///
/// # Errors
/// [`Error::Damaged`] if two copies disagree, records overlap, names repeat or are not plain
/// relative names, or a byte belongs to nothing; [`Error::Unsupported`] for encryption and for
/// compression other than deflate; [`Error::NotACheckpoint`] for a file that is not a zip file, or
/// one that holds other things.
pub(in super::super) fn directory(file: &dyn ReadAt) -> Result<Directory> {
    read_directory(file).map_err(|error| match error {
        Error::Damaged { detail: what, .. } | Error::Unsupported { what, .. }
            if is_of_other_things(file) =>
        {
            other_zip(&what)
        }
        error => error,
    })
}

/// A zip file that another program wrote for another purpose.
fn other_zip(what: &str) -> Error {
    Error::not_a_checkpoint(
        Place::default(),
        format!("a zip file with other contents ({what})"),
        "a checkpoint holds `data.pkl` in a folder; `unzip -l` shows what this one holds",
    )
}

/// Whether a file begins and ends as a zip file does, with no record of a checkpoint at either end.
/// No single damage makes a checkpoint look so.
fn is_of_other_things(file: &dyn ReadAt) -> bool {
    const OURS: [&[u8]; 4] = [b"data.pkl", b"/data/", b".scai/", b"scai-root:"];
    let len = file.len().min(64 << 10);
    let (mut start, mut end) = (vec![0; len as usize], vec![0; len as usize]);
    file.read_at(0, &mut start).is_ok()
        && file.read_at(file.len() - len, &mut end).is_ok()
        && start.starts_with(&LOCAL)
        && contains(&end, &END)
        && !OURS.iter().any(|&name| contains(&start, name) || contains(&end, name))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn read_directory(file: &dyn ReadAt) -> Result<Directory> {
    let len = file.len();
    let end = find_end(file)?;
    let (count, start) = (end.count, end.directory.start);
    let mut tail = zeroed(len - start, "read the directory")?.into_vec();
    read(file, start, &mut tail)?;
    let directory_len = (end.directory.end - start) as usize;
    let mut entries = entries(&tail[..directory_len], count, start)?;
    entries.sort_by_key(|entry| entry.record.header);
    let folder = folder(&entries)?;
    let mut names = HashSet::with_capacity_and_hasher(entries.len(), Secret::default());
    for Entry { record, .. } in &entries {
        if !names.insert(record.name.as_str()) {
            return bad(record.header..len, format_args!("`{}` occurs twice", shown(&record.name)));
        }
    }
    let mut headers = XxHash3_128::new();
    let mut window = Window { file, start: 0, bytes: Vec::new() };
    let mut at = 0;
    let ends: Vec<u64> =
        entries.iter().skip(1).map(|next| next.record.header).chain([start]).collect();
    for (entry, &end) in entries.iter_mut().zip(&ends) {
        if entry.record.header != at {
            return bad(at..entry.record.header.max(at), "bytes that belong to no record");
        }
        local_header(entry, &mut window, &mut headers)?;
        descriptor(entry, end, &mut window, &mut headers)?;
        at = end;
    }
    if at != start {
        return bad(at..start, "bytes that belong to no record");
    }
    let records = entries.into_iter().map(|mut entry| {
        entry.record.name.drain(..folder);
        entry.record
    });
    Ok(Directory {
        // Tools that repack an archive add an entry for each folder.
        records: records.filter(|record| !is_folder(&record.name)).collect(),
        tail,
        comment: end.comment,
        headers: headers.finish_128(),
    })
}

/// An entry of the central directory. `record.name` still has the folder in front.
struct Entry {
    record: Record,
    flags: u16,
}

/// What the end record says.
struct End {
    count: u64,
    directory: Range<u64>,
    comment: Vec<u8>,
}

fn bad<T>(bytes: Range<u64>, what: impl std::fmt::Display) -> Result<T> {
    Err(Error::damaged(Place::default().bytes(bytes), what.to_string()))
}

fn read(file: &dyn ReadAt, at: u64, buf: &mut [u8]) -> Result<()> {
    file.read_at(at, buf).map_err(|error| Error::io("read", error))
}

/// The end record: the last bytes of the file, comment included, and nothing after it.
fn find_end(file: &dyn ReadAt) -> Result<End> {
    let len = file.len();
    let window = len.min(END_LEN as u64 + MAX_COMMENT + (END64_LEN + LOCATOR64_LEN) as u64);
    let base = len - window;
    let mut bytes = vec![0; window as usize];
    read(file, base, &mut bytes)?;
    // All readers search backwards for the signature, so they take the last one.
    let at = bytes.windows(END.len()).rposition(|four| four == END);
    let Some(at) = at.filter(|at| bytes.len() - at >= END_LEN) else {
        return no_end(file, base, &bytes);
    };
    let position = base + at as u64;
    let fields = Fields(&bytes[at..]);
    if bytes.len() - at - END_LEN != usize::from(fields.u16(20)) {
        return bad(position..len, "the file does not end where its end record says");
    }
    let comment = bytes[at + END_LEN..].to_vec();
    let narrow = [fields.u16(8), fields.u16(10)]
        .map(|count| if count == IN_ZIP64_COUNT { u64::MAX } else { count.into() });
    let narrow = [
        narrow[0],
        narrow[1],
        if fields.u32(12) == IN_ZIP64 { u64::MAX } else { fields.u32(12).into() },
        if fields.u32(16) == IN_ZIP64 { u64::MAX } else { fields.u32(16).into() },
    ];
    if fields.u16(4) != 0 || fields.u16(6) != 0 {
        return bad(position..len, "the archive is split into several parts");
    }
    let locator = at.checked_sub(LOCATOR64_LEN).filter(|&at| bytes[at..].starts_with(&LOCATOR64));
    let (numbers, directory_end) = match locator {
        Some(locator) => end64(&bytes, base, locator, narrow)?,
        None if narrow.contains(&u64::MAX) => {
            return bad(position..len, "the ZIP64 end record is missing");
        }
        None => (narrow, position),
    };
    let [count, total, size, start] = numbers;
    if count != total || start.checked_add(size) != Some(directory_end) {
        return bad(position..len, "the directory is not where the end record says");
    }
    if size / (CENTRAL_LEN as u64) < count {
        return bad(position..len, "the directory is too short for its entries");
    }
    Ok(End { count, directory: start..directory_end, comment })
}

/// The message for bytes in no known format.
pub(crate) const UNRECOGNIZED: &str = "the file is neither a PyTorch nor a safetensors file";

/// What a file without an end record is: a zip file that was cut off, one that was never written,
/// or not a checkpoint.
fn no_end(file: &dyn ReadAt, base: u64, end: &[u8]) -> Result<End> {
    const FIRST: u64 = 4 << 10;
    let mut start = vec![0; file.len().min(FIRST) as usize];
    read(file, 0, &mut start)?;
    let what = if start.is_empty() {
        "the file is empty: there is no end record"
    } else if LOCAL.starts_with(&start)
        || [&start[..], end].iter().any(|part| contains(part, b"PK"))
    {
        "the file is truncated: there is no end record"
    } else if start.iter().all(|&byte| byte == 0) {
        "the file begins with zeros, and there is no end record: it was never completely written"
    } else {
        return Err(Error::not_a_checkpoint(
            Place::default(),
            UNRECOGNIZED,
            "look at its first bytes to see what it is (`file`, `head -c 100`)",
        ));
    };
    bad(base..file.len(), what)
}

/// The ZIP64 end record; its numbers must be those of the end record if that has them.
fn end64(bytes: &[u8], base: u64, locator: usize, narrow: [u64; 4]) -> Result<([u64; 4], u64)> {
    let whole = base..base + bytes.len() as u64;
    let Some(at) = locator.checked_sub(END64_LEN).filter(|&at| bytes[at..].starts_with(&END64))
    else {
        return bad(whole, "the ZIP64 end record is not in front of its locator");
    };
    let position = base + at as u64;
    let (pointer, fields) = (Fields(&bytes[locator..]), Fields(&bytes[at..]));
    if pointer.u32(4) != 0 || pointer.u64(8) != position || pointer.u32(16) > 1 {
        return bad(whole, "the ZIP64 locator points elsewhere");
    }
    if fields.u64(4) != END64_LEN as u64 - 12 || fields.u32(16) != 0 || fields.u32(20) != 0 {
        return bad(whole, "the ZIP64 end record is not valid");
    }
    let wide = [fields.u64(24), fields.u64(32), fields.u64(40), fields.u64(48)];
    if narrow.iter().zip(&wide).any(|(&narrow, &wide)| narrow != u64::MAX && narrow != wide) {
        return bad(whole, "the two end records disagree");
    }
    Ok((wide, position))
}

fn entries(bytes: &[u8], count: u64, base: u64) -> Result<Vec<Entry>> {
    room_for(count as usize * size_of::<Entry>(), "read the directory")?;
    let mut entries = Vec::with_capacity(count as usize);
    let mut at = 0;
    for _ in 0..count {
        let rest = &bytes[at..];
        let whole = base + at as u64..base + bytes.len() as u64;
        if rest.len() < CENTRAL_LEN || !rest.starts_with(&CENTRAL) {
            return bad(whole, "an entry of the directory is not valid");
        }
        let fields = Fields(rest);
        let (name_len, extra_len) = (usize::from(fields.u16(28)), usize::from(fields.u16(30)));
        let len = CENTRAL_LEN + name_len + extra_len + usize::from(fields.u16(32));
        if rest.len() < len {
            return bad(whole, "an entry of the directory is truncated");
        }
        let name = &rest[CENTRAL_LEN..CENTRAL_LEN + name_len];
        let extra = &rest[CENTRAL_LEN + name_len..][..extra_len];
        let name = match std::str::from_utf8(name) {
            Ok(name) if is_plain(name.strip_suffix('/').unwrap_or(name)) => name.to_owned(),
            _ => return bad(whole, "a record's name is not a plain relative path"),
        };
        let flags = fields.u16(8);
        let is_deflated = check_method(&name, flags, fields.u16(10))?;
        if flags & FLAG_UTF8 == 0 && !name.is_ascii() {
            return bad(whole, "a record's name is not ASCII and not marked as UTF-8");
        }
        let mut wide = zip64(extra, whole.clone())?.into_iter();
        let mut number = |narrow: u32| match narrow {
            IN_ZIP64 => wide.next(),
            narrow => Some(narrow.into()),
        };
        let (size, stored, header) =
            (number(fields.u32(24)), number(fields.u32(20)), number(fields.u32(42)));
        let (Some(size), Some(stored), Some(header)) = (size, stored, header) else {
            return bad(whole, "an entry of the directory lacks its ZIP64 numbers");
        };
        if wide.next().is_some() {
            return bad(whole, "an entry of the directory has needless ZIP64 numbers");
        }
        if name.ends_with('/') && size != 0 {
            return bad(whole, format_args!("the folder `{}` has content", shown(&name)));
        }
        let possible = if is_deflated { size / MOST_INFLATED <= stored } else { size == stored };
        if !possible || fields.u16(34) != 0 {
            return bad(whole, format_args!("the sizes of `{}` disagree", shown(&name)));
        }
        if header.checked_add(stored).is_none_or(|end| end > base) {
            return bad(whole, format_args!("`{}` lies outside the file", shown(&name)));
        }
        let deflated = is_deflated.then_some(stored);
        let record = Record { name, header, data: 0, size, deflated, crc: fields.u32(16) };
        entries.push(Entry { record, flags });
        at += len;
    }
    if at != bytes.len() {
        let rest = base + at as u64..base + bytes.len() as u64;
        return bad(rest, "the directory has extra bytes after its entries");
    }
    Ok(entries)
}

/// Whether the record is deflated.
fn check_method(name: &str, flags: u16, method: u16) -> Result<bool> {
    let place = || Place::record(name);
    if flags & 1 != 0 {
        return Err(Error::unsupported(place(), "the record is encrypted", "decrypt it first"));
    }
    if method != STORED && method != DEFLATED {
        return Err(Error::unsupported(
            place(),
            format!("the record is compressed (method {method})"),
            "torch stores records as they are; unpack the archive with the program that packed it",
        ));
    }
    let effort = if method == DEFLATED { FLAGS_EFFORT } else { 0 };
    if flags & !(FLAG_DESCRIPTOR | FLAG_UTF8 | effort) != 0 {
        return Err(Error::damaged(place(), format!("its flags {flags:#06x} are not valid")));
    }
    Ok(method == DEFLATED)
}

/// Whether the name of a record, without the folder of the archive, is that of a folder.
fn is_folder(name: &str) -> bool {
    name.is_empty() || name.ends_with('/')
}

/// A relative path of plain components: `archive/data/0`.
fn is_plain(name: &str) -> bool {
    !name.contains(['\\', ':', '\0'])
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// The length of the folder that all names begin with, slash included.
fn folder(entries: &[Entry]) -> Result<usize> {
    let Some(first) = entries.first() else { return bad(0..0, "the archive is empty") };
    let Some(len) = first.record.name.find('/').map(|slash| slash + 1) else {
        return bad(0..0, "its records are not in a folder");
    };
    let folder = &first.record.name[..len];
    match entries.iter().find(|entry| !entry.record.name.starts_with(folder)) {
        Some(other) => {
            bad(0..0, format_args!("`{}` is in another folder", shown(&other.record.name)))
        }
        None => Ok(len),
    }
}

/// The numbers of the ZIP64 extra field. The fields must fill `extra` to its end.
fn zip64(mut extra: &[u8], place: Range<u64>) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    let mut seen = false;
    while !extra.is_empty() {
        let Some((header, rest)) = extra.split_first_chunk::<4>() else {
            return bad(place, "an extra field is truncated");
        };
        let (id, len) = (Fields(header).u16(0), usize::from(Fields(header).u16(2)));
        if MISLEADING.contains(&id) {
            return bad(
                place,
                format_args!("an extra field {id:#06x} gives the record another name or meaning"),
            );
        }
        let Some((field, rest)) = rest.split_at_checked(len) else {
            return bad(place, "an extra field is truncated");
        };
        if id == EXTRA_ZIP64 {
            let (chunks, odd) = field.as_chunks::<8>();
            if seen || !odd.is_empty() {
                return bad(place, "a ZIP64 extra field is not valid");
            }
            seen = true;
            numbers = chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
        }
        extra = rest;
    }
    Ok(numbers)
}

/// Compares a local header with the directory, and learns where the data begin.
fn local_header(
    entry: &mut Entry,
    window: &mut Window<'_>,
    digest: &mut XxHash3_128,
) -> Result<()> {
    let Entry { record, flags } = entry;
    let at = record.header;
    let fixed: [u8; LOCAL_LEN] = window.array(at)?;
    let fields = Fields(&fixed);
    let whole = at..at + LOCAL_LEN as u64;
    if !fixed.starts_with(&LOCAL) {
        return bad(whole, format_args!("`{}` has no local header", shown(&record.name)));
    }
    let (name_len, extra_len) = (usize::from(fields.u16(26)), usize::from(fields.u16(28)));
    let len = LOCAL_LEN + name_len + extra_len;
    let bytes = window.get(at, len)?;
    let name = &bytes[LOCAL_LEN..LOCAL_LEN + name_len];
    if name != record.name.as_bytes() {
        let there = shown(&String::from_utf8_lossy(name));
        return bad(
            whole,
            format_args!("`{}` is called `{there}` in its local header", shown(&record.name)),
        );
    }
    let wide = zip64(&bytes[LOCAL_LEN + name_len..], whole.clone())?;
    // With a descriptor the fields may be left zero; PyTorch leaves them so, and then uses the
    // ZIP64 field for what was known when the header was written.
    let late = *flags & FLAG_DESCRIPTOR != 0;
    let agrees = |field: u32, value: u64, wide: Option<&u64>| match field {
        0 if late => true,
        IN_ZIP64 => wide == Some(&value),
        field => u64::from(field) == value,
    };
    // A ZIP64 field that nothing here refers to must be right too: other readers may trust it.
    let known = |number: &u64| [0, record.size, record.stored(), record.header].contains(number);
    if fields.u16(6) != *flags
        || fields.u16(8) != if record.deflated.is_some() { DEFLATED } else { STORED }
        || !(fields.u32(14) == record.crc || late && fields.u32(14) == 0)
        || !agrees(fields.u32(22), record.size, wide.first())
        || !agrees(fields.u32(18), record.stored(), wide.get(1))
        || !wide.iter().all(known)
    {
        return bad(
            whole,
            format_args!("header and directory disagree about `{}`", shown(&record.name)),
        );
    }
    digest.write(bytes);
    record.data = at + len as u64;
    Ok(())
}

/// Checks what lies between a record's data and `end`: nothing, or a data descriptor.
fn descriptor(
    entry: &Entry,
    end: u64,
    window: &mut Window<'_>,
    digest: &mut XxHash3_128,
) -> Result<()> {
    let Entry { record, flags } = entry;
    let (size, stored) = (record.size, record.stored());
    let start = record.data.checked_add(stored).filter(|&start| start <= end);
    let Some(start) = start else {
        return bad(
            record.header..end,
            format_args!("`{}` overlaps what follows", shown(&record.name)),
        );
    };
    let late = *flags & FLAG_DESCRIPTOR != 0;
    let valid = match end - start {
        0 => !late || size == 0,
        16 if late => {
            let bytes: [u8; 16] = window.array(start)?;
            digest.write(&bytes);
            let fields = Fields(&bytes);
            bytes.starts_with(&DESCRIPTOR)
                && fields.u32(4) == record.crc
                && u64::from(fields.u32(8)) == stored
                && u64::from(fields.u32(12)) == size
        }
        24 if late => {
            let bytes: [u8; 24] = window.array(start)?;
            digest.write(&bytes);
            let fields = Fields(&bytes);
            bytes.starts_with(&DESCRIPTOR)
                && fields.u32(4) == record.crc
                && fields.u64(8) == stored
                && fields.u64(16) == size
        }
        _ => false,
    };
    if valid {
        Ok(())
    } else {
        bad(
            start..end,
            format_args!("bytes after `{}` that belong to no record", shown(&record.name)),
        )
    }
}

/// Little-endian numbers at fixed offsets; the caller has checked the length.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}

/// Reads forward through a file in steps, so that many small headers cost few reads.
struct Window<'a> {
    file: &'a dyn ReadAt,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    const STEP: usize = 16 << 10;

    fn get(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        let held = self.start..self.start + self.bytes.len() as u64;
        let end = at.checked_add(len as u64).filter(|&end| end <= self.file.len());
        let Some(end) = end else {
            return bad(at..self.file.len(), "a record is truncated");
        };
        if at < held.start || end > held.end {
            let step = (len.max(Self::STEP) as u64).min(self.file.len() - at);
            self.bytes.resize(step as usize, 0);
            read(self.file, at, &mut self.bytes)?;
            self.start = at;
        }
        let offset = (at - self.start) as usize;
        Ok(&self.bytes[offset..offset + len])
    }

    fn array<const N: usize>(&mut self, at: u64) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.get(at, N)?);
        Ok(out)
    }
}

/// Where the content of the first record is, if it is called `name`: offset, size, CRC-32.
///
/// For reading only the start of a file; nothing is compared with the directory.
pub(in super::super) fn first_record(start: &[u8], name: &str) -> Option<(usize, u64, u32)> {
    if start.len() < LOCAL_LEN || !start.starts_with(&LOCAL) {
        return None;
    }
    let fields = Fields(start);
    let (name_len, extra_len) = (usize::from(fields.u16(26)), usize::from(fields.u16(28)));
    let full = start.get(LOCAL_LEN..LOCAL_LEN + name_len)?;
    let found = full.splitn(2, |&byte| byte == b'/').nth(1)?;
    (found == name.as_bytes())
        .then(|| (LOCAL_LEN + name_len + extra_len, fields.u32(22).into(), fields.u32(14)))
}
