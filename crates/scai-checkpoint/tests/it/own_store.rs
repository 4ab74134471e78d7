//! A store of one's own, as the docs of `store` say to write one: entries in a map.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use scai_checkpoint::manager::Residency;
use scai_checkpoint::store::{
    Entry, Lease, Precondition, Publication, ReadAt, Store, Timeline, WriteAt, check_name,
};
use scai_checkpoint::testing::check_store;
use scai_checkpoint::{CheckpointManager, Error, Options, Result};

use crate::training::{Save, Size, save_of, state};

#[derive(Debug, Default)]
struct Entries {
    map: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
    leased: Arc<Mutex<bool>>,
}

impl Store for Entries {
    fn publish(&self, entry: Publication<'_>) -> Result<Timeline> {
        let Publication { name, len, precondition, write, approve, .. } = entry;
        checked(name)?;
        let begun = Instant::now();
        let draft = Draft { bytes: Mutex::new(vec![0; len as usize]), written: Mutex::new(0) };
        write(&draft)?;
        let written = draft.written.into_inner().unwrap();
        if written != len {
            return Err(Error::Invalid(format!("`{name}`: {written} bytes of {len} were written")));
        }
        approve()?;
        let mut map = self.map.lock().unwrap();
        if precondition == Precondition::Absent && map.contains_key(name) {
            return Err(Error::io("publish", io::ErrorKind::AlreadyExists.into()).at_path(name));
        }
        map.insert(name.to_owned(), Arc::new(draft.bytes.into_inner().unwrap()));
        let none = std::time::Duration::ZERO;
        Ok(Timeline::of_publication(begun.elapsed(), none, none))
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>> {
        checked(name)?;
        let bytes = self.map.lock().unwrap().get(name).cloned();
        let bytes = bytes.ok_or_else(|| Error::NotFound { path: name.into() })?;
        Ok(Arc::new(Opened(bytes)))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let map = self.map.lock().unwrap();
        let found = map.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(found.map(|(name, bytes)| Entry::file(name, bytes.len() as u64)).collect())
    }

    fn remove(&self, names: &[&str]) -> Result<()> {
        names.iter().try_for_each(|name| {
            checked(name)?;
            self.map.lock().unwrap().remove(*name);
            Ok(())
        })
    }

    fn lease(&self) -> Result<Box<dyn Lease>> {
        if std::mem::replace(&mut *self.leased.lock().unwrap(), true) {
            return Err(Error::Locked { path: self.describe().into(), holder: None });
        }
        Ok(Box::new(Held(Arc::clone(&self.leased))))
    }

    fn describe(&self) -> String {
        "a map".to_owned()
    }
}

fn checked(name: &str) -> Result<()> {
    check_name(name).map_err(|error| Error::io("use the name", error).at_path(name))
}

#[derive(Debug)]
struct Held(Arc<Mutex<bool>>);

impl Lease for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        *self.0.lock().unwrap() = false;
    }
}

#[derive(Debug)]
struct Draft {
    bytes: Mutex<Vec<u8>>,
    written: Mutex<u64>,
}

impl WriteAt for Draft {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (start, mut all) = (offset as usize, self.bytes.lock().unwrap());
        let part = all.get_mut(start..start + bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
        part.copy_from_slice(bytes);
        *self.written.lock().unwrap() += bytes.len() as u64;
        Ok(())
    }
}

#[derive(Debug)]
struct Opened(Arc<Vec<u8>>);

impl ReadAt for Opened {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let part = self.0.get(offset as usize..offset as usize + buf.len());
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

#[test]
fn a_store_with_the_required_methods_keeps_the_contract_and_carries_a_manager() {
    assert!(check_store(Entries::default) > 10);

    let options = Options::default().retention("last:2".parse().unwrap());
    let manager = CheckpointManager::with_store(Arc::new(Entries::default()), options);
    let size = Size::Small;
    for iteration in 1..=4 {
        manager.save(state(Save { iteration, writer: 1 }, size)).unwrap();
    }
    assert_eq!(manager.paths().unwrap().len(), 2);
    let loaded = manager.load(3, Residency::Memory).unwrap();
    assert_eq!(save_of(&loaded, size), Ok(Save { iteration: 3, writer: 1 }));
    assert_eq!(manager.resume().unwrap().unwrap().checkpoint.iteration, 4);
}
