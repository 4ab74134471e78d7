//! A store in an object store, here one in memory.

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use scai_checkpoint::store::{CloudStore, Publication, Store};
use scai_checkpoint::testing::check_store;
use scai_checkpoint::{
    Checkpoint, CheckpointManager, DType, Dict, Error, Options, Tensor, tensor::Storage,
};

fn on(remote: &Arc<InMemory>) -> CloudStore {
    CloudStore::on(Arc::clone(remote) as _, "runs/one", "memory://runs/one")
}

fn new() -> (Arc<InMemory>, CloudStore) {
    let remote = Arc::new(InMemory::new());
    let store = on(&remote);
    (remote, store)
}

fn wait<T>(request: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(request)
}

/// The names of all objects, without what is drawn at random.
fn objects(remote: &InMemory) -> Vec<String> {
    use futures_util::TryStreamExt;
    let found: Vec<_> = wait(remote.list(None).try_collect()).unwrap();
    let mut names: Vec<String> =
        found.iter().map(|meta: &object_store::ObjectMeta| meta.location.to_string()).collect();
    names.sort();
    names
}

/// A state of about 20 MB, which is uploaded in parts, that differs by iteration.
fn state(iteration: u64) -> Checkpoint {
    let large = |salt: u64| {
        let bytes: Vec<u8> =
            (0..9_000_000_u64).map(|i| ((i * i + iteration * salt) >> 7) as u8).collect();
        Tensor::contiguous(DType::UInt8, vec![bytes.len()], Storage::from_vec(bytes)).unwrap()
    };
    let small = Tensor::from_vec(vec![2], vec![iteration as f32; 2]).unwrap();
    let model: Dict = [("a", large(3)), ("b", small), ("c", large(7))].into_iter().collect();
    Checkpoint::new(iteration, model, Dict::new())
}

fn model_of(checkpoint: &Checkpoint) -> Vec<Vec<u8>> {
    let tensors = checkpoint.model_state_dict.as_dict().unwrap().entries.iter();
    tensors.map(|(_, value)| value.as_tensor().unwrap().to_bytes().unwrap()).collect()
}

fn manager(store: CloudStore, rules: &str) -> CheckpointManager {
    let options = Options::default().retention(rules.parse().unwrap());
    CheckpointManager::with_store(Arc::new(store), options)
}

#[test]
fn an_object_store_keeps_the_contract_of_stores() {
    assert_eq!(check_store(|| new().1), 20);
}

#[test]
fn a_training_saves_and_resumes_and_old_bytes_are_swept_after_their_grace() {
    let remote = Arc::new(InMemory::new());
    let first = manager(on(&remote).grace(Duration::ZERO), "last:2");
    for iteration in 1..=3 {
        first.save(state(iteration)).unwrap();
    }
    let names: Vec<String> = first.list().unwrap().into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["checkpoint_iter_2.pt", "checkpoint_iter_3.pt"]);
    drop(first);

    let second = manager(on(&remote).grace(Duration::ZERO), "last:2");
    let resumed = second.resume().unwrap().unwrap();
    assert_eq!(resumed.checkpoint.iteration, 3);
    assert!(model_of(&resumed.checkpoint) == model_of(&state(3)));
    // The first write of a run sweeps.
    second.save(state(4)).unwrap();
    let data = |name: &str| {
        let folder = format!("runs/one/{name}/");
        let of = objects(&remote).into_iter().filter(move |object| object.starts_with(&folder));
        of.filter(|object| object.ends_with(".pt")).count()
    };
    assert_eq!(data("checkpoint_iter_1.pt"), 0, "{:?}", objects(&remote));
    assert_eq!((data("checkpoint_iter_3.pt"), data("checkpoint_iter_4.pt")), (1, 1));
    assert_eq!(data("latest.pt"), 0, "an alias has bytes of its own");
    for one in second.list().unwrap() {
        assert!(second.verify(one.name.as_str()).unwrap().damage.is_empty());
    }
}

#[test]
fn what_is_uploaded_is_an_ordinary_file_and_an_object_of_another_checkpoint_is_refused() {
    let (remote, store) = new();
    let manager = manager(store, "all");
    manager.save(state(1)).unwrap();
    manager.save(state(2)).unwrap();
    let object = |iteration: u64| {
        let folder = format!("runs/one/checkpoint_iter_{iteration}.pt/");
        let mut found = objects(&remote).into_iter().filter(move |name| name.starts_with(&folder));
        Path::from(found.find(|name| name.ends_with(".pt")).unwrap())
    };
    let get = |path: Path| wait(async { remote.get(&path).await?.bytes().await }).unwrap();
    let bytes = get(object(1));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pt");
    std::fs::write(&path, &bytes).unwrap();
    let file =
        scai_checkpoint::file::open(&path, scai_checkpoint::codec::Unprotected::Refuse).unwrap();
    assert!(file.verify(2).is_empty());

    // Sound, as long as the other, and not what was committed.
    wait(remote.put(&object(2), bytes.clone().into())).unwrap();
    let error = manager.load("checkpoint_iter_2.pt", Default::default()).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("checkpoint_iter_2.pt"), "{error}");
    let resumed = manager.resume().unwrap().unwrap();
    assert_eq!((resumed.checkpoint.iteration, resumed.skipped.len()), (1, 1));
    let aside = resumed.skipped[0].set_aside.as_deref();
    assert_eq!(aside, Some("checkpoint_iter_2.pt.damaged"));

    // A part replaced, and an object cut.
    manager.save(state(3)).unwrap();
    let three = object(3);
    let sound = get(three.clone());
    let mut flipped = sound.to_vec();
    flipped[10_000_000] ^= 1;
    for damaged in [flipped, sound[..sound.len() - 1].to_vec()] {
        wait(remote.put(&three, damaged.into())).unwrap();
        let error = manager.load("checkpoint_iter_3.pt", Default::default()).unwrap_err();
        assert!(error.is_damage(), "{error}");
    }
    wait(remote.delete(&three)).unwrap();
    let error = manager.load("checkpoint_iter_3.pt", Default::default()).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("is gone"), "{error}");
}

#[test]
fn a_program_with_a_runtime_of_its_own_can_save() {
    let saved = wait(async {
        let (_, store) = new();
        manager(store, "all").save(state(1)).unwrap().name
    });
    assert_eq!(saved, "checkpoint_iter_1.pt");
}

#[test]
fn the_next_run_takes_over_and_the_writer_before_it_cannot_publish() {
    let (remote, store) = new();
    let old = manager(store, "last:1");
    old.save(state(1)).unwrap();
    let new = manager(on(&remote), "last:1");
    new.save(state(2)).unwrap();
    let before = objects(&remote).len();
    for iteration in [2, 3] {
        let error = old.save(state(iteration)).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("took over at") && text.contains("memory://runs/one"), "{text}");
    }
    assert!(old.delete(2).is_err());
    let names: Vec<String> = new.list().unwrap().into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["checkpoint_iter_2.pt"]);
    assert_eq!(objects(&remote).len(), before, "a refused writer leaves nothing");
    assert_eq!(new.resume().unwrap().unwrap().checkpoint.iteration, 2);
}

#[test]
fn what_a_dead_writer_has_uploaded_is_swept_by_the_next() {
    let (remote, store) = new();
    let lease = store.lease().unwrap();
    let entry = Publication::of_bytes("a.pt", b"first");
    store.publish(entry).unwrap();
    // As if it had died between the upload and the record.
    let left = Path::from("runs/one/b.pt/00000001aaaaaaaaaaaaaaaaaaaaaaaa.pt");
    wait(remote.put(&left, "left".into())).unwrap();
    drop(lease);
    let patient = on(&remote);
    drop(patient.lease().unwrap());
    assert!(objects(&remote).contains(&left.to_string()), "it may still be alive");
    let next = on(&remote).grace(Duration::ZERO);
    let _lease = next.lease().unwrap();
    assert!(!objects(&remote).contains(&left.to_string()));
    assert_eq!(next.list("").unwrap().len(), 1);
}
