//! A store in S3, Google Cloud Storage, Azure, or anything that speaks one of their languages.
//!
//! ```text
//! <prefix>/checkpoint_iter_100.pt/<attempt>.pt    the bytes, an ordinary file for `torch.load`
//! <prefix>/checkpoint_iter_100.pt/commit.json     which object it is, its length, the digest of its end
//! <prefix>/superseded.json                        short entries are objects themselves
//! <prefix>/epochs/00000003.json                   who may write: the newest
//! ```
//!
//! An object is uploaded under a name that no other ever has, and becomes the entry with its record, which is
//! small and put under a condition: create if absent, or replace if it is still the one that was read. A part
//! that arrives late, or a writer that wakes up late, can so never replace what a newer one has published.
//!
//! The right to write is an epoch, a key that is created if absent; whoever creates the next one takes over,
//! and the writer before it is refused at its next publication.
//!
//! Removing takes away the record; the bytes follow once no reader can be in the middle of them any more.

mod connect;
mod failed;
mod object;
mod record;
mod runtime;
mod upload;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path as LocalPath, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use object_store::multipart::MultipartStore;
use object_store::path::{Path, PathPart};
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use self::connect::{Connected, connect};
use self::failed::{as_io, failed};
use self::object::{Object, Small};
use self::record::Record;
use self::upload::Upload;
use super::{
    COMMIT, Entry, Lease, Location, Precondition, Publication, ReadAt, Stamp, Store, attempt,
    attempt_in, check_name, free_name,
};
use crate::checkpoint::now_iso;
use crate::error::{Error, Result};
use crate::threads::held;
use crate::timeline::{Stopwatch, Timeline};

/// What the engine needs of an object store.
pub trait Remote: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Remote for T {}

/// Longer entries are uploaded apart from their record, whatever their name.
const SHORT: u64 = 1 << 20;
/// Entries of this kind are as well, however short.
const CHECKPOINT: &str = ".pt";
const EPOCHS: &str = "epochs";
/// What stands beside the bytes of an entry that was removed.
const REMOVED: &str = ".removed";
/// How long the bytes of a removed entry stay for those who are reading them, by default.
const GRACE: Duration = Duration::from_secs(15 * 60);
/// Between two sweeps that removals cause.
const SWEEP_AFTER: Duration = Duration::from_secs(60);
/// How often a record is published anew that another writer has replaced meanwhile.
const TRIES: usize = 4;
/// Records that are kept in memory.
const KNOWN: usize = 4096;

/// A store in an object store. Cloning it gives the same store.
#[derive(Clone)]
pub struct CloudStore(Arc<Inner>);

struct Inner {
    remote: Arc<dyn Remote>,
    prefix: Path,
    /// As it was given, without a slash at the end.
    url: String,
    /// The store compares what arrives with a checksum that is sent with it.
    checks: bool,
    grace: Duration,
    /// The number of this writer, once it has one.
    epoch: Mutex<Option<u64>>,
    is_leased: AtomicBool,
    /// Attempts of this process that are not published yet.
    in_progress: Mutex<HashSet<String>>,
    last_sweep: Mutex<Option<Instant>>,
    /// Records by the tag of their object.
    records: Mutex<HashMap<(Path, String), Record>>,
}

/// Who took the right to write.
#[derive(Debug, Serialize, Deserialize)]
struct Epoch {
    host: String,
    process: u32,
    since: String,
    nonce: String,
}

/// What a listing finds below the name of an entry.
#[derive(Debug, Default)]
struct Group {
    record: Option<ObjectMeta>,
    /// Those with the names of attempts, by these. Whatever else is there is somebody else's.
    data: BTreeMap<String, ObjectMeta>,
    /// The marks of those that were removed.
    removed: BTreeMap<String, ObjectMeta>,
}

#[derive(Debug, Default)]
struct Listed {
    short: Vec<ObjectMeta>,
    groups: BTreeMap<String, Group>,
    /// The latest time there is in microseconds, by the clock of the store, which alone has set all of them.
    now: i64,
}

impl CloudStore {
    /// The store at a URL: `s3://bucket/run`, `gs://bucket/run`, `az://container/run`. Nothing is sent yet.
    ///
    /// Credentials, region and endpoint come from the usual environment variables (`AWS_…`, `GOOGLE_…`,
    /// `AZURE_…`), or from the options of the location by the same names in small letters. `timeout` is that
    /// of a request with all its repetitions in seconds, 60 by default.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a local path, a URL or an option that is not understood.
    pub fn connect(location: &Location) -> Result<Self> {
        let (url, options) = location.as_url().ok_or_else(|| {
            Error::invalid(format!("`{location}` is not the URL of an object store"))
        })?;
        let Connected { remote, prefix, checks } = connect(url, options)?;
        Ok(Self::new(remote, prefix, url, checks))
    }

    /// The store below `prefix` of any object store, which messages call `url`. What is uploaded is read back.
    pub fn on(remote: Arc<dyn Remote>, prefix: &str, url: &str) -> Self {
        Self::new(remote, Path::from(prefix), url, false)
    }

    fn new(remote: Arc<dyn Remote>, prefix: Path, url: &str, checks: bool) -> Self {
        Self(Arc::new(Inner {
            remote,
            prefix,
            url: url.trim_end_matches('/').to_owned(),
            checks,
            grace: GRACE,
            epoch: Mutex::default(),
            is_leased: AtomicBool::default(),
            in_progress: Mutex::default(),
            last_sweep: Mutex::default(),
            records: Mutex::default(),
        }))
    }

    /// The same store, whose readers have this long to finish with an entry after it was removed or replaced;
    /// 15 minutes by default.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        let Inner { remote, prefix, url, checks, .. } = &*self.0;
        let mut inner = Self::new(Arc::clone(remote), prefix.clone(), url, *checks);
        if let Some(inner) = Arc::get_mut(&mut inner.0) {
            inner.grace = grace;
        }
        inner
    }
}

impl Inner {
    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    /// Waits for a request about `name`.
    fn ask<T>(
        &self,
        action: &'static str,
        name: &str,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        let answer = runtime::wait(request);
        let answer = answer.map_err(|error| Error::io(action, error).at_path(self.url(name)))?;
        answer.map_err(|refusal| failed(action, &self.url(name), refusal))
    }

    fn check_name(&self, action: &'static str, name: &str) -> Result<()> {
        let checked = match check_name(name) {
            Ok(()) if name == EPOCHS => {
                Err(io::Error::new(ErrorKind::InvalidInput, "the store keeps its epochs there"))
            }
            // It would be listed by another name.
            Ok(()) if PathPart::from(name).as_ref() != name => Err(io::Error::new(
                ErrorKind::InvalidInput,
                format!("{name:?} has characters that stores do not keep in names"),
            )),
            checked => checked,
        };
        checked.map_err(|error| Error::io(action, error).at_path(self.url(name)))
    }

    // Records

    /// The record of an entry, and the version of its object; `None` if there is none.
    fn record(&self, name: &str) -> Result<Option<(Record, UpdateVersion)>> {
        let record = format!("{name}/{COMMIT}");
        let Some((bytes, meta)) = self.small(&record)? else { return Ok(None) };
        let decoded = Record::decode(&bytes);
        let decoded = decoded.map_err(|error| error.in_part(&self.url(&record)))?;
        Ok(Some((decoded, version_of(meta))))
    }

    /// The record that a listing has found, from memory if it is still the same.
    fn known_record(&self, name: &str, meta: &ObjectMeta) -> Result<Option<Record>> {
        let key = |tag: &str| (meta.location.clone(), tag.to_owned());
        if let Some(tag) = &meta.e_tag
            && let Some(known) = held(&self.records).get(&key(tag))
        {
            return Ok(Some(known.clone()));
        }
        let Some((record, version)) = self.record(name)? else { return Ok(None) };
        // It may be another one than the listing has seen.
        if let Some(tag) = &version.e_tag {
            let mut records = held(&self.records);
            if records.len() >= KNOWN {
                records.clear();
            }
            records.insert(key(tag), record.clone());
        }
        Ok(Some(record))
    }

    /// All bytes of a small object; `None` if there is none.
    fn small(&self, name: &str) -> Result<Option<(bytes::Bytes, ObjectMeta)>> {
        let request = async {
            let found = self.remote.get(&self.path(name)).await?;
            let meta = found.meta.clone();
            Ok((found.bytes().await?, meta))
        };
        match self.ask("read", name, request) {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a small object under a condition. If the answer is lost, what is there decides.
    fn put(&self, name: &str, bytes: &[u8], mode: PutMode) -> Result<()> {
        let options = PutOptions { mode, ..PutOptions::default() };
        let payload = PutPayload::from(bytes.to_vec());
        let answer = runtime::wait(self.remote.put_opts(&self.path(name), payload, options));
        let answer = answer.map_err(|error| Error::io("write", error).at_path(self.url(name)))?;
        let Err(refusal) = answer else { return Ok(()) };
        match self.small(name) {
            Ok(Some((found, _))) if found == bytes => Ok(()),
            _ => {
                let error = Error::io("publish", as_io(refusal));
                Err(error.at_path(self.url(name)))
            }
        }
    }

    // Epochs

    /// Refuses to write if another writer has taken over.
    fn check_epoch(&self) -> Result<()> {
        let Some(own) = *held(&self.epoch) else { return Ok(()) };
        let newest = self.epochs(Some(own))?.into_iter().max();
        match newest {
            Some(newest) if newest > own => Err(self.taken(newest)),
            _ => Ok(()),
        }
    }

    fn taken(&self, epoch: u64) -> Error {
        let read = self.small(&epoch_name(epoch)).ok().flatten();
        let by = read.and_then(|(bytes, _)| serde_json::from_slice::<Epoch>(&bytes).ok());
        let holder = by.map(|Epoch { host, process, since, .. }| {
            format!("process {process} on {host} took over at {since}")
        });
        Error::Locked { path: PathBuf::from(&self.url), holder }
    }

    /// The numbers of the epochs there are, after another one.
    fn epochs(&self, after: Option<u64>) -> Result<Vec<u64>> {
        let prefix = self.path(EPOCHS);
        let listing = match after {
            Some(after) => {
                self.remote.list_with_offset(Some(&prefix), &self.path(&epoch_name(after)))
            }
            None => self.remote.list(Some(&prefix)),
        };
        let found: Vec<ObjectMeta> = self.ask("list", EPOCHS, listing.try_collect())?;
        let number =
            |meta: &ObjectMeta| meta.location.filename()?.strip_suffix(".json")?.parse().ok();
        Ok(found.iter().filter_map(number).collect())
    }

    fn begin_epoch(&self) -> Result<u64> {
        let host = rustix::system::uname();
        let own = Epoch {
            host: host.nodename().to_string_lossy().into_owned(),
            process: std::process::id(),
            since: now_iso(),
            nonce: attempt(),
        };
        let bytes = serde_json::to_vec_pretty(&own).unwrap_or_default();
        let mut newest = self.epochs(None)?.into_iter().max().unwrap_or(0);
        loop {
            newest += 1;
            match self.put(&epoch_name(newest), &bytes, PutMode::Create) {
                Ok(()) => {
                    self.check_conditions(newest)?;
                    return Ok(newest);
                }
                // Somebody else was faster.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Refuses a store that does not keep the condition under which epochs and records are put.
    fn check_conditions(&self, epoch: u64) -> Result<()> {
        let other = format!("{{\"probe\": \"{}\"}}\n", attempt());
        match self.put(&epoch_name(epoch), other.as_bytes(), PutMode::Create) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                let what = "the store ignores conditional writes (If-None-Match), so that two writers could \
                            not be told apart; save to a local directory, or to a store that has them";
                let error = io::Error::new(ErrorKind::Unsupported, what);
                Err(Error::io("begin to write", error).at_path(&self.url))
            }
        }
    }

    // Listing

    fn list_all(&self) -> Result<Listed> {
        let found: Vec<ObjectMeta> =
            self.ask("list", "", self.remote.list(Some(&self.prefix)).try_collect())?;
        let mut listed = Listed::default();
        for meta in found {
            listed.now = listed.now.max(meta.last_modified.timestamp_micros());
            let Some(parts) = meta.location.prefix_match(&self.prefix) else { continue };
            let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
            match parts.as_slice() {
                [_] => listed.short.push(meta),
                [name, file] if name != EPOCHS => {
                    let group = listed.groups.entry(name.clone()).or_default();
                    if file == COMMIT {
                        group.record = Some(meta);
                    } else if let Some(data) =
                        file.strip_suffix(REMOVED).filter(|data| is_attempt(data))
                    {
                        group.removed.insert(data.to_owned(), meta);
                    } else if is_attempt(file) {
                        group.data.insert(file.clone(), meta);
                    }
                }
                _ => {}
            }
        }
        Ok(listed)
    }

    /// The length of an entry; `None` if there is none.
    fn len_of(&self, name: &str, group: &Group) -> Result<Option<u64>> {
        let Some(meta) = &group.record else { return Ok(None) };
        if let ([only], true) =
            (group.data.values().collect::<Vec<_>>().as_slice(), group.removed.is_empty())
        {
            return Ok(Some(only.size));
        }
        match self.known_record(name, meta) {
            Ok(record) => Ok(record.map(|record| record.size)),
            // It is there, and what is wrong is said when it is opened.
            Err(error) if error.is_damage() => Ok(Some(meta.size)),
            Err(error) => Err(error),
        }
    }

    // Publishing

    /// Uploads the bytes of an entry; returns what its record is to be.
    fn upload(
        &self,
        entry: Publication<'_>,
        watch: &mut Stopwatch,
        object: &str,
    ) -> Result<(Record, Timeline)> {
        let Publication { len, write, approve, .. } = entry;
        let upload =
            Upload::begin(Arc::clone(&self.remote), self.path(object), self.url(object), len)?;
        let uploaded = write(&upload).and_then(|()| {
            let write = watch.lap();
            let uploaded = upload.finish()?;
            let checked = if self.checks { Ok(()) } else { uploaded.read_back(&upload) };
            checked.and_then(|()| approve()).inspect_err(|_| self.discard(object))?;
            let record = Record::new(object.to_owned(), len, &uploaded.end);
            Ok((record, Timeline::of_publication(write, watch.lap(), Duration::ZERO)))
        });
        uploaded.inspect_err(|_| upload.abandon())
    }

    /// Removes an object that nothing refers to; whatever is left of it is swept later.
    fn discard(&self, object: &str) {
        let _ = self.ask("remove", object, self.remote.delete(&self.path(object)));
    }

    /// Publishes a record, once the bytes that it names are there.
    fn publish_record(
        &self,
        name: &str,
        record: &Record,
        precondition: Precondition,
    ) -> Result<()> {
        let replaced = self.replace(&format!("{name}/{COMMIT}"), &record.encode(), precondition)?;
        // Whoever took over meanwhile may have swept the bytes.
        self.check_epoch()?;
        // A damaged one does not say what it was of.
        if let Some(before) = replaced.and_then(|bytes| Record::decode(&bytes).ok())
            && before.object != record.object
        {
            self.mark_removed(&before);
        }
        Ok(())
    }

    /// Puts a small object in the place of what is there and was read just before, so that nothing that
    /// arrives late replaces something newer. Returns what it has replaced.
    fn replace(
        &self,
        name: &str,
        bytes: &[u8],
        precondition: Precondition,
    ) -> Result<Option<bytes::Bytes>> {
        let mut tries = 0;
        loop {
            let before = match precondition {
                Precondition::Absent => None,
                Precondition::Any => self.small(name)?,
            };
            self.check_epoch()?;
            let (replaced, mode) = match before {
                Some((bytes, meta)) => (Some(bytes), PutMode::Update(version_of(meta))),
                None => (None, PutMode::Create),
            };
            tries += 1;
            match self.put(name, bytes, mode) {
                Ok(()) => return Ok(replaced),
                Err(error)
                    if is_refusal(&error) && precondition == Precondition::Any && tries < TRIES => {
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the record of an entry names an object, as far as that can be found out.
    fn may_be_bound(&self, name: &str, object: &str) -> bool {
        match self.record(name) {
            Ok(found) => found.is_some_and(|(record, _)| record.object == object),
            Err(_) => true,
        }
    }

    /// Notes that the bytes of a record are not needed any more; they are swept later.
    fn mark_removed(&self, record: &Record) {
        let mark = format!("{}{REMOVED}", record.object);
        let _ = self.put(&mark, &[], PutMode::Overwrite);
    }

    // Removing

    fn remove_one(&self, name: &str) -> Result<()> {
        self.check_name("remove", name)?;
        let at = format!("{name}/{COMMIT}");
        let Some((bytes, _)) = self.small(&at)? else { return self.delete(name) };
        let record = Record::decode(&bytes).ok();
        // An object of that name would take its place.
        self.delete(name)?;
        self.delete(&at)?;
        if let Some(record) = record
            && record.object.starts_with(&format!("{name}/"))
        {
            self.mark_removed(&record);
        }
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<()> {
        match self.ask("remove", name, self.remote.delete(&self.path(name))) {
            Err(Error::NotFound { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes the bytes of entries that were removed long enough ago, and those that dead writers have left.
    fn sweep(&self) -> Result<()> {
        *held(&self.last_sweep) = Some(Instant::now());
        let Some(epoch) = *held(&self.epoch) else { return Ok(()) };
        // What is published while this looks is not in the listing with its record.
        let mut in_use = held(&self.in_progress).clone();
        let listed = self.list_all()?;
        in_use.extend(held(&self.in_progress).iter().cloned());
        for (name, group) in &listed.groups {
            let Some(meta) = &group.record else { continue };
            match self.known_record(name, meta) {
                Ok(Some(record)) => drop(in_use.insert(record.object)),
                // It may be what an entry that was set aside, or an alias, needs.
                Err(error) if error.is_damage() => {
                    let bases = listed.groups.iter().filter(|(other, _)| name.starts_with(*other));
                    in_use.extend(bases.flat_map(|(other, group)| {
                        group.data.keys().map(move |file| format!("{other}/{file}"))
                    }));
                }
                // Another time.
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        for (name, group) in &listed.groups {
            for (file, meta) in &group.data {
                let object = format!("{name}/{file}");
                // Those of a newer writer are none of this one's business.
                if in_use.contains(&object) || epoch_of(file).is_none_or(|other| other > epoch) {
                    continue;
                }
                let mark = group.removed.get(file);
                let is_removed = mark.is_some();
                let since = mark.unwrap_or(meta).last_modified.timestamp_micros();
                let age = Duration::from_micros(listed.now.abs_diff(since));
                // Nobody has read what was never published, but its writer may be about to.
                let is_own = !is_removed && epoch_of(file) == Some(epoch);
                if is_own || age >= self.grace {
                    self.delete(&object)?;
                    if is_removed {
                        self.delete(&format!("{object}{REMOVED}"))?;
                    }
                }
            }
            for mark in group.removed.keys().filter(|file| !group.data.contains_key(*file)) {
                self.delete(&format!("{name}/{mark}{REMOVED}"))?;
            }
        }
        Ok(())
    }
}

fn epoch_name(epoch: u64) -> String {
    format!("{EPOCHS}/{epoch:08}.json")
}

/// The name of an object that no other has, which tells the epoch of its writer.
fn object_name(name: &str, epoch: u64) -> String {
    let extension = LocalPath::new(name).extension().and_then(|end| end.to_str()).unwrap_or("bin");
    let random = attempt();
    format!("{name}/{epoch:08x}{}.{extension}", &random[8..])
}

/// Whether a file has the name of an attempt: 32 hexadecimal digits and an extension.
fn is_attempt(file: &str) -> bool {
    attempt_in(file).is_some_and(|(_, rest)| rest.starts_with('.'))
}

fn epoch_of(file: &str) -> Option<u64> {
    u64::from_str_radix(file.get(..8)?, 16).ok()
}

/// Whether the bytes of an entry are an object apart from its record.
fn is_apart(name: &str) -> bool {
    name.ends_with(CHECKPOINT)
}

/// Whether an error says that a record is not published, and will not be later.
fn is_refusal(error: &Error) -> bool {
    match error {
        Error::Locked { .. } => true,
        Error::Io { source, .. } => source.kind() == ErrorKind::AlreadyExists,
        _ => false,
    }
}

fn version_of(meta: ObjectMeta) -> UpdateVersion {
    UpdateVersion { e_tag: meta.e_tag, version: meta.version }
}

fn stamp_of(meta: &ObjectMeta) -> Stamp {
    let what = format!("{}\n{:?}\n{:?}", meta.location, meta.e_tag, meta.version);
    let digest = XxHash3_128::oneshot(what.as_bytes());
    let modified = meta.last_modified.timestamp_micros() as u64;
    Stamp::new([digest as u64, (digest >> 64) as u64, meta.size, modified])
}

impl Store for CloudStore {
    fn publish(&self, entry: Publication<'_>) -> Result<Timeline> {
        let inner = &*self.0;
        let (name, precondition) = (entry.name.to_owned(), entry.precondition);
        inner.check_name("write", &name)?;
        let mut watch = Stopwatch::start();
        if !is_apart(&name) && entry.len <= SHORT {
            return inner.publish_short(entry, &mut watch);
        }
        let epoch = held(&inner.epoch).unwrap_or(0);
        let object = object_name(&name, epoch);
        let in_progress = InProgress::begin(inner, &object);
        let (record, timeline) = inner.upload(entry, &mut watch, &object)?;
        match inner.publish_record(&name, &record, precondition) {
            Ok(()) => {}
            Err(error) => {
                if is_refusal(&error) && !inner.may_be_bound(&name, &object) {
                    inner.discard(&object);
                } else {
                    // The record may be there, or still arrive, and needs the bytes then.
                    std::mem::forget(in_progress);
                }
                return Err(error);
            }
        }
        if !is_apart(&name) {
            // What it was while it was short.
            inner.delete(&name)?;
        }
        Ok(Timeline { commit: watch.lap(), ..timeline })
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>> {
        let inner = &*self.0;
        inner.check_name("open", name)?;
        let opened = |apart: bool| match apart {
            true => inner.open_apart(name),
            false => inner.open_short(name),
        };
        match opened(is_apart(name))? {
            Some(file) => Ok(file),
            None => opened(!is_apart(name))?
                .ok_or_else(|| Error::NotFound { path: PathBuf::from(inner.url(name)) }),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let inner = &*self.0;
        let listed = inner.list_all()?;
        let short = listed.short.into_iter().filter_map(|meta| {
            let name = meta.location.filename()?.to_owned();
            name.starts_with(prefix).then(|| Entry::file(name, meta.size))
        });
        let mut entries: Vec<Entry> = short.collect();
        for (name, group) in listed.groups.iter().filter(|(name, _)| name.starts_with(prefix)) {
            if let Some(len) = inner.len_of(name, group)? {
                // An object of that name, which somebody has copied there, is covered.
                entries.retain(|entry| entry.name != *name);
                entries.push(Entry::file(name.clone(), len));
            }
        }
        Ok(entries)
    }

    fn remove(&self, names: &[&str]) -> Result<()> {
        let inner = &*self.0;
        for name in names {
            inner.check_epoch()?;
            inner.remove_one(name)?;
        }
        let is_due = held(&inner.last_sweep).is_none_or(|last| last.elapsed() >= SWEEP_AFTER);
        if is_due && !names.is_empty() {
            // What cannot be swept now is swept another time.
            let _ = inner.sweep();
        }
        Ok(())
    }

    fn lease(&self) -> Result<Box<dyn Lease>> {
        let inner = &*self.0;
        if inner.is_leased.swap(true, Ordering::SeqCst) {
            let holder = Some(format!("process {}", std::process::id()));
            return Err(Error::Locked { path: PathBuf::from(&inner.url), holder });
        }
        let lease = CloudLease(Arc::clone(&self.0));
        *held(&inner.epoch) = Some(inner.begin_epoch()?);
        let _ = inner.sweep();
        Ok(Box::new(lease))
    }

    fn lease_takes_over(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.0.url.clone()
    }

    fn point(&self, alias: &str, target: &str) -> Result<()> {
        let inner = &*self.0;
        inner.check_name("write", alias)?;
        inner.check_name("open", target)?;
        match inner.record(target)? {
            Some((record, _)) => inner.publish_record(alias, &record, Precondition::Any),
            None => {
                let file = inner.open_short(target)?;
                let file =
                    file.ok_or_else(|| Error::NotFound { path: PathBuf::from(inner.url(target)) })?;
                let path = PathBuf::from(inner.url(target));
                let copied = |to: &dyn super::WriteAt| super::copy(&*file, &path, to);
                self.publish(Publication::new(alias, file.len(), copied)).map(drop)
            }
        }
    }

    fn group(&self, name: &str) -> Result<Arc<dyn super::Directory>> {
        let refused = "shards of several processes cannot be saved to an object store yet; save them to a \
                       local directory";
        let error = io::Error::new(ErrorKind::Unsupported, refused);
        Err(Error::io("save", error).at_path(self.0.url(name)))
    }

    fn set_aside(&self, name: &str, reason: &str) -> Result<String> {
        let inner = &*self.0;
        inner.check_name("set aside", name)?;
        let at = format!("{name}/{COMMIT}");
        let Some((bytes, _)) = inner.small(&at)? else {
            return Err(Error::NotFound { path: PathBuf::from(inner.url(name)) });
        };
        let entries = self.list(name)?;
        let aside = free_name(&format!("{name}.damaged"), &entries);
        inner.check_epoch()?;
        // The record is copied as it is, which may be what is damaged.
        inner.put(&format!("{aside}/{COMMIT}"), &bytes, PutMode::Create)?;
        inner.delete(&at)?;
        let text = format!("{aside}.txt");
        self.publish(Publication::of_bytes(&text, reason.as_bytes()))?;
        Ok(aside)
    }
}

impl Inner {
    fn publish_short(&self, entry: Publication<'_>, watch: &mut Stopwatch) -> Result<Timeline> {
        let Publication { name, len, precondition, write, approve } = entry;
        let bytes = Short { bytes: Mutex::new((vec![0; len as usize], 0)) };
        write(&bytes)?;
        let (bytes, written) = bytes.bytes.into_inner().unwrap_or_default();
        if written != len {
            let message = format!("`{}`: {written} of {len} bytes were written", self.url(name));
            return Err(Error::invalid(message));
        }
        approve()?;
        let written = watch.lap();
        self.replace(name, &bytes, precondition)?;
        Ok(Timeline::of_publication(written, Duration::ZERO, watch.lap()))
    }

    /// An object that is an entry itself. Those of others may be long.
    fn open_short(&self, name: &str) -> Result<Option<Arc<dyn ReadAt>>> {
        let request = async {
            let found = self.remote.get(&self.path(name)).await?;
            let meta = found.meta.clone();
            let bytes = if meta.size <= SHORT { Some(found.bytes().await?) } else { None };
            Ok((bytes, meta))
        };
        let (bytes, meta) = match self.ask("read", name, request) {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (url, stamp) = (self.url(name), stamp_of(&meta));
        Ok(Some(match bytes {
            Some(bytes) => Arc::new(Small { bytes, url, stamp }),
            None => {
                let remote = Arc::clone(&self.remote);
                Arc::new(Object::new(remote, self.path(name), url, meta.size, &meta))
            }
        }))
    }

    fn open_apart(&self, name: &str) -> Result<Option<Arc<dyn ReadAt>>> {
        let Some((record, _)) = self.record(name)? else { return Ok(None) };
        let opened = self.open_object(name, &record);
        if opened.as_ref().is_err_and(Error::is_damage)
            && let Some((now, _)) = self.record(name)?
            && now != record
        {
            // It was replaced between the two.
            return self.open_object(name, &now).map(Some);
        }
        opened.map(Some)
    }

    fn open_object(&self, name: &str, record: &Record) -> Result<Arc<dyn ReadAt>> {
        let object = &record.object;
        let damaged = |error: Error| error.at_path(self.url(name));
        let meta = match self.ask("open", object, self.remote.head(&self.path(object))) {
            Ok(meta) => meta,
            Err(Error::NotFound { .. }) => {
                let what = format!("its object `{}` is gone", self.url(object));
                return Err(damaged(Error::damaged(crate::error::Place::default(), what)));
            }
            Err(error) => return Err(error),
        };
        if meta.size != record.size {
            let what = format!(
                "its object `{}` has {} bytes, and {} were committed",
                self.url(object),
                meta.size,
                record.size
            );
            return Err(damaged(Error::damaged(crate::error::Place::default(), what)));
        }
        let file = Object::new(
            Arc::clone(&self.remote),
            self.path(object),
            self.url(name),
            record.size,
            &meta,
        );
        let begin = Record::end_of(record.size);
        let mut end = vec![0; (record.size - begin) as usize];
        file.read_at(begin, &mut end).map_err(|error| damaged(Error::io("read", error)))?;
        record.check(&end).map_err(damaged)?;
        Ok(Arc::new(file))
    }
}

/// The bytes of a short entry while it is written.
#[derive(Debug)]
struct Short {
    /// The bytes, and how many were written.
    bytes: Mutex<(Vec<u8>, u64)>,
}

impl super::WriteAt for Short {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut written = held(&self.bytes);
        let from = usize::try_from(offset).ok();
        let end = from.and_then(|from| from.checked_add(bytes.len()));
        let to = from.zip(end).and_then(|(from, end)| written.0.get_mut(from..end));
        let to = to.ok_or_else(|| {
            io::Error::new(ErrorKind::InvalidInput, "beyond the length that was planned")
        })?;
        to.copy_from_slice(bytes);
        written.1 += bytes.len() as u64;
        Ok(())
    }
}

/// An object that a sweep must not touch.
struct InProgress<'a> {
    of: &'a Inner,
    object: String,
}

impl<'a> InProgress<'a> {
    fn begin(of: &'a Inner, object: &str) -> Self {
        held(&of.in_progress).insert(object.to_owned());
        Self { of, object: object.to_owned() }
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        held(&self.of.in_progress).remove(&self.object);
    }
}

/// The right to write, until another writer takes over.
struct CloudLease(Arc<Inner>);

impl Lease for CloudLease {}

impl Drop for CloudLease {
    fn drop(&mut self) {
        self.0.is_leased.store(false, Ordering::SeqCst);
    }
}

impl fmt::Debug for CloudLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudLease").field("of", &self.0.url).finish()
    }
}

impl fmt::Debug for CloudStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CloudStore").field(&self.0.url).finish()
    }
}
