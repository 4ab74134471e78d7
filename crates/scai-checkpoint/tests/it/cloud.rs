//! A store in an object store, here one in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload,
    PutResult,
};
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

    // Who only reads does not take the right to write from who trains.
    wait(remote.put(&object(1), b"short".to_vec().into())).unwrap();
    manager.save(state(4)).unwrap();
    wait(remote.put(&object(4), b"short".to_vec().into())).unwrap();
    wait(remote.put(&object(1), bytes.clone().into())).unwrap();
    let reader = CheckpointManager::with_store(Arc::new(on(&remote)), Options::default());
    let found = reader.resume().unwrap().unwrap();
    assert_eq!((found.checkpoint.iteration, found.skipped.len()), (1, 1));
    assert_eq!(found.skipped[0].set_aside, None);
    manager.save(state(4)).unwrap();

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
fn a_store_that_ignores_conditions_is_refused() {
    let careless = Faulty::new(&Arc::new(InMemory::new()), Wrong::Unconditional, 0);
    let store = CloudStore::on(careless as _, "run", "memory://run");
    let error = manager(store, "all").save(state(1)).unwrap_err();
    assert!(error.to_string().contains("ignores conditional writes"), "{error}");
}

#[test]
fn what_others_have_put_there_is_never_swept() {
    let (remote, store) = new();
    let store = store.grace(Duration::ZERO);
    let others = ["logs/events.1", "checkpoint-5/model.safetensors", "deep/er/a.pt", "x.removed"];
    for name in others {
        wait(remote.put(&Path::from(format!("runs/one/{name}")), "theirs".into())).unwrap();
    }
    // A copy of a checkpoint by its plain name is covered by a save of it.
    wait(remote.put(&Path::from("runs/one/checkpoint_iter_2.pt"), "theirs".into())).unwrap();
    let manager = manager(store, "last:1");
    for iteration in 1..=3 {
        manager.save(state(iteration)).unwrap();
        let names: Vec<String> = manager.list().unwrap().into_iter().map(|one| one.name).collect();
        assert!(names.iter().filter(|name| name.contains("iter_2")).count() < 2, "{names:?}");
    }
    drop(manager);
    drop(on(&remote).grace(Duration::ZERO).lease().unwrap());
    let left = objects(&remote);
    for name in others {
        assert!(left.contains(&format!("runs/one/{name}")), "{name}: {left:?}");
    }
    assert_eq!(left.iter().filter(|name| name.ends_with(".pt")).count(), 2, "{left:?}");
}

#[test]
fn bytes_that_a_damaged_record_may_mean_are_kept() {
    let (remote, store) = new();
    let manager = manager(store, "all");
    manager.save(state(1)).unwrap();
    manager.save(state(2)).unwrap();
    let record = Path::from("runs/one/checkpoint_iter_2.pt/commit.json");
    wait(remote.put(&record, "not a record".into())).unwrap();
    let resumed = manager.resume().unwrap().unwrap();
    assert_eq!(resumed.checkpoint.iteration, 1);
    assert_eq!(resumed.skipped[0].set_aside.as_deref(), Some("checkpoint_iter_2.pt.damaged"));
    drop(manager);
    drop(on(&remote).grace(Duration::ZERO).lease().unwrap());
    let kept = |name: &&String| name.contains("checkpoint_iter_2.pt/") && name.ends_with(".pt");
    assert_eq!(objects(&remote).iter().filter(kept).count(), 1);
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

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// It is refused, and nothing happens.
    Refused,
    /// It happens, and the answer is lost.
    Lost,
    /// It happens twice, and the second answer is heard.
    Twice,
    /// What is read ends early.
    Cut,
    /// It is answered, and another writer has taken over meanwhile.
    Overtaken,
    /// It, and every other, is carried out whatever its condition.
    Unconditional,
}

fn lost() -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: "no answer".into() }
}

/// A store with which one request goes wrong.
#[derive(Debug)]
struct Faulty {
    inner: Arc<InMemory>,
    wrong: Wrong,
    /// Requests until then; no more than there are.
    left: AtomicUsize,
    count: AtomicUsize,
}

impl Faulty {
    fn new(inner: &Arc<InMemory>, wrong: Wrong, at: usize) -> Arc<Self> {
        let (left, count) = (AtomicUsize::new(at), AtomicUsize::default());
        Arc::new(Self { inner: Arc::clone(inner), wrong, left, count })
    }

    /// Whether the request that begins now is the one.
    fn is_it(&self) -> bool {
        self.count.fetch_add(1, Ordering::SeqCst);
        let less = |left: usize| left.checked_sub(1);
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_err()
            && self.left.swap(usize::MAX, Ordering::SeqCst) == 0
    }

    async fn ask<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        request: impl Fn() -> F,
    ) -> object_store::Result<T> {
        match (self.is_it(), self.wrong) {
            (false, _) | (true, Wrong::Cut | Wrong::Unconditional) => request().await,
            (true, Wrong::Refused) => Err(lost()),
            (true, Wrong::Lost) => {
                let _ = request().await;
                Err(lost())
            }
            (true, Wrong::Twice) => {
                let _ = request().await;
                request().await
            }
            (true, Wrong::Overtaken) => {
                let answer = request().await;
                let epoch = Path::from("runs/one/epochs/00000009.json");
                self.inner.put(&epoch, "{}".into()).await?;
                answer
            }
        }
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        let opts = match self.wrong {
            Wrong::Unconditional => PutOptions::default(),
            _ => opts,
        };
        self.ask(|| self.inner.put_opts(location, payload.clone(), opts.clone())).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        let is_cut = self.wrong == Wrong::Cut && self.left.load(Ordering::SeqCst) == 0;
        let found = self.ask(|| self.inner.get_opts(location, options.clone())).await?;
        if !is_cut || options.head {
            return Ok(found);
        }
        let (meta, attributes, range) =
            (found.meta.clone(), found.attributes.clone(), found.range.clone());
        let extensions = found.extensions.clone();
        let bytes = found.bytes().await?;
        let cut = bytes.slice(..bytes.len() / 2);
        let payload =
            GetResultPayload::Stream(futures_util::stream::once(async { Ok(cut) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        match (self.is_it(), self.wrong) {
            (true, Wrong::Refused) => futures_util::stream::once(async { Err(lost()) }).boxed(),
            (true, Wrong::Lost) => self.inner.delete_stream(locations).map(|_| Err(lost())).boxed(),
            _ => self.inner.delete_stream(locations),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.is_it() {
            true if matches!(self.wrong, Wrong::Refused | Wrong::Lost) => {
                futures_util::stream::once(async { Err(lost()) }).boxed()
            }
            _ => self.inner.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl MultipartStore for Faulty {
    async fn create_multipart(&self, path: &Path) -> object_store::Result<MultipartId> {
        self.ask(|| self.inner.create_multipart(path)).await
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        part: usize,
        data: PutPayload,
    ) -> object_store::Result<PartId> {
        self.ask(|| self.inner.put_part(path, id, part, data.clone())).await
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> object_store::Result<PutResult> {
        // Twice is an error of its own: the upload is not there any more.
        self.ask(|| {
            let ids = parts.iter().map(|part| PartId { content_id: part.content_id.clone() });
            self.inner.complete_multipart(path, id, ids.collect())
        })
        .await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> object_store::Result<()> {
        self.ask(|| self.inner.abort_multipart(path, id)).await
    }
}

/// Objects that nothing refers to, once the next run has saved and the one after it has begun to write.
fn orphans(remote: &Arc<InMemory>, save: Checkpoint) -> Vec<String> {
    // `latest.pt` may have been left where it was.
    manager(on(remote), "last:1").save(save).unwrap();
    let next = on(remote).grace(Duration::ZERO);
    let _lease = next.lease().unwrap();
    let all = objects(remote);
    let of_record = |name: &String| {
        let bytes = wait(async { remote.get(&Path::from(name.as_str())).await?.bytes().await });
        let record: serde_json::Value = serde_json::from_slice(&bytes.unwrap()).unwrap();
        format!("runs/one/{}", record["object"].as_str().unwrap())
    };
    // Also `latest.pt` that was kept because nobody has read what it stood for.
    let bound: Vec<String> =
        all.iter().filter(|name| name.ends_with("/commit.json")).map(of_record).collect();
    assert!(bound.iter().all(|object| all.contains(object)), "a record of nothing: {all:?}");
    let is_known = |name: &String| {
        let data = name.trim_end_matches(".removed").to_owned();
        name.contains("/epochs/") || name.ends_with(".json") || bound.contains(&data)
    };
    all.iter().filter(|name| !is_known(name)).cloned().collect()
}

/// Every request of a save over an older one, of its commit and of the retention after it goes wrong once.
#[test]
fn whatever_request_goes_wrong_an_acknowledged_save_is_there_and_nothing_is_mixed() {
    // The second save is put in one piece.
    let small = |iteration: u64| {
        let tensor = Tensor::from_vec(vec![1000], vec![iteration as f32; 1000]).unwrap();
        let model: Dict = [("a", tensor)].into_iter().collect();
        Checkpoint::new(iteration, model, Dict::new())
    };
    for (first, second) in [(state(1), state(2)), (small(1), small(2))] {
        for wrong in [Wrong::Refused, Wrong::Lost, Wrong::Twice, Wrong::Cut, Wrong::Overtaken] {
            let mut tried = 0;
            for at in 0.. {
                let remote = Arc::new(InMemory::new());
                manager(on(&remote), "last:1").save(first.clone()).unwrap();
                let faulty = Faulty::new(&remote, wrong, at);
                let store =
                    CloudStore::on(Arc::clone(&faulty) as _, "runs/one", "memory://runs/one");
                let writing = manager(store.grace(Duration::ZERO), "last:1");
                let saved = writing.save(second.clone());
                drop(writing);
                let what = format!("{wrong:?} at request {at}");
                if at >= faulty.count.load(Ordering::SeqCst) {
                    saved.unwrap();
                    tried = at;
                    break;
                }
                let resumed = manager(on(&remote), "all").resume().unwrap();
                let resumed = resumed.unwrap_or_else(|| panic!("{what}: everything is gone"));
                let found = &resumed.checkpoint;
                assert!(resumed.skipped.is_empty(), "{what}: {:?}", resumed.skipped);
                if saved.is_ok() {
                    assert_eq!(found.iteration, 2, "{what}: an acknowledged save is lost");
                }
                let expected = if found.iteration == 2 { &second } else { &first };
                assert!(model_of(found) == model_of(expected), "{what}: mixed");
                assert_eq!(orphans(&remote, small(3)), [""; 0], "{what}");
            }
            assert!(tried > 10, "{wrong:?}: {tried} requests");
        }
    }
}
