//! Directories of shards among the files of a run: a manager treats them alike.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scai_checkpoint::codec::dcp::{
    Chunk, Content, Entry, Key, Location, Metadata, ShardPlan, Stored,
};
use scai_checkpoint::manager::{Prune, Residency, Resume};
use scai_checkpoint::shards::{self, Description};
use scai_checkpoint::{
    Checkpoint, CheckpointManager, DType, Dict, Error, Options, Retention, Saved, Tensor, Value,
};

const RANKS: usize = 2;
const ROWS: usize = 3;
const COLUMNS: usize = 5;

fn manager(directory: &Path, keep: &str) -> CheckpointManager {
    let retention: Retention = keep.parse().unwrap();
    CheckpointManager::create(directory, Options::default().retention(retention)).unwrap()
}

fn weight(id: f32) -> Tensor {
    let values = (0..RANKS * ROWS * COLUMNS).map(|i| id + i as f32).collect();
    Tensor::from_vec(vec![RANKS * ROWS, COLUMNS], values).unwrap()
}

fn save_file(manager: &CheckpointManager, iteration: u64) -> Saved {
    let model: Dict = [("weight", weight(iteration as f32))].into_iter().collect();
    manager.save(Checkpoint::new(iteration, model, Dict::new())).unwrap()
}

/// What the ranks of a training do: each writes its rows, and rank 0 all else.
fn save_shards(manager: &CheckpointManager, iteration: u64) -> scai_checkpoint::Result<Saved> {
    let save = manager.begin_shards(iteration)?;
    let (path, id) = (save.attempt().path(), save.attempt().id().to_owned());
    let (mut shards, mut chunks) = (BTreeMap::new(), Vec::new());
    let mut metadata = Metadata::default();
    for rank in 0..RANKS {
        let values = weight(iteration as f32).to_vec::<f32>().unwrap();
        let own = values[rank * ROWS * COLUMNS..][..ROWS * COLUMNS].to_vec();
        let part = Tensor::from_vec(vec![ROWS, COLUMNS], own).unwrap();
        let mut plan = ShardPlan::default();
        let mut add = |name: &str, value: Value| {
            let bytes = plan.add(name, Content::Value(value)).unwrap();
            Location { file: rank, offset: bytes.start, len: bytes.end - bytes.start }
        };
        let offsets = vec![(rank * ROWS) as u64, 0];
        let at = add("model_state_dict.weight", part.into());
        chunks.push(Chunk { offsets, sizes: vec![ROWS as u64, COLUMNS as u64], at });
        if rank == 0 {
            let others = [
                ("iteration", Value::Int(iteration as i64)),
                ("optimizer_state_dict", Value::Dict(Dict::new())),
            ];
            for (name, value) in others {
                let content = Stored::Value(add(name, value));
                metadata.entries.push(Entry { path: vec![Key::Name(name.into())], content });
            }
        }
        let name = format!("{id}_{rank}_0.distcp");
        let bound = shards::write(path.as_path(), &name, plan, 1, || Ok(()))?;
        metadata.files.push(name.clone());
        shards.insert(name, bound);
    }
    let shape = vec![(RANKS * ROWS) as u64, COLUMNS as u64];
    let (dtype, requires_grad) = (DType::Float32, false);
    let content = Stored::Tensor { dtype, shape, requires_grad, chunks };
    let path = ["model_state_dict", "weight"].map(|key| Key::Name(key.into())).to_vec();
    metadata.entries.push(Entry { path, content });
    let state: Dict = [
        ("iteration", Value::Int(iteration as i64)),
        ("training_stats", Value::Dict([("loss", 0.5)].into_iter().collect())),
    ]
    .into_iter()
    .collect();
    let description = Description::of(&state.into()).world_size(RANKS as u64);
    manager.commit_shards(save, shards, &metadata.encode(), description)
}

fn names(manager: &CheckpointManager) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    manager.paths().unwrap().into_iter().map(name).collect()
}

fn is_of(checkpoint: &Checkpoint, iteration: u64) -> bool {
    let saved = checkpoint.model_state_dict.as_dict().unwrap().get("weight").unwrap();
    let saved = saved.as_tensor().unwrap().to_vec::<f32>().unwrap();
    checkpoint.iteration == iteration && saved == weight(iteration as f32).to_vec::<f32>().unwrap()
}

/// Flips a bit in the middle of a rank's shard.
fn damage(directory: &Path, rank: usize) {
    let ending = format!("_{rank}_0.distcp");
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let shard = entries.into_iter().find(|path| path.to_str().unwrap().ends_with(&ending)).unwrap();
    let mut bytes = std::fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(shard, bytes).unwrap();
}

#[test]
fn files_and_directories_stand_in_one_list_and_are_resumed_from_alike() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager(directory.path(), "all");
    save_file(&manager, 10);
    let saved = save_shards(&manager, 20).unwrap();
    assert_eq!(saved.name, "checkpoint_iter_20");
    assert!(saved.warnings.is_empty() && saved.path.join("commit.json").is_file());
    assert!(!directory.path().join("latest.pt").exists(), "it leads to an older one");

    let listed = manager.list().unwrap();
    let of = |i: usize| (listed[i].iteration, listed[i].latest, listed[i].problem.clone());
    assert_eq!((of(0), of(1)), ((10, false, None), (20, true, None)));
    assert_eq!(listed[1].training_stats.number("loss"), Some(0.5));
    assert!(listed[1].size > saved.size);
    assert_eq!(manager.iterations().unwrap(), [10, 20]);

    for residency in [Residency::Memory, Residency::Verified, Residency::Disk] {
        assert!(is_of(&manager.load(20, residency).unwrap(), 20));
    }
    let resumed = manager.resume().unwrap().unwrap();
    assert!(is_of(&resumed.checkpoint, 20) && resumed.name == "checkpoint_iter_20");
    assert!(manager.verify(20).unwrap().is_sound());

    save_file(&manager, 30);
    assert!(directory.path().join("latest.pt").is_file());
    assert!(is_of(&manager.resume().unwrap().unwrap().checkpoint, 30));
}

#[test]
fn an_iteration_is_saved_again_as_the_same_kind_or_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager(directory.path(), "all");
    save_file(&manager, 1);
    save_shards(&manager, 1).unwrap();
    assert_eq!(names(&manager), ["checkpoint_iter_1"]);
    save_shards(&manager, 1).unwrap();
    assert_eq!(names(&manager), ["checkpoint_iter_1"]);
    assert!(is_of(&manager.load(1, Residency::Memory).unwrap(), 1));
    save_file(&manager, 1);
    assert_eq!(names(&manager), ["checkpoint_iter_1.pt"]);
    assert!(!directory.path().join("checkpoint_iter_1").exists());
}

#[test]
fn what_another_run_has_saved_is_kept_under_another_name() {
    let directory = tempfile::tempdir().unwrap();
    save_shards(&manager(directory.path(), "all"), 1).unwrap();
    save_shards(&manager(directory.path(), "all"), 1).unwrap();
    assert!(directory.path().join("checkpoint_iter_1.earlier/commit.json").is_file());
    let other = manager(directory.path(), "all");
    let saved = save_file(&other, 1);
    assert_eq!(saved.warnings.len(), 1, "{:?}", saved.warnings);
    assert!(directory.path().join("checkpoint_iter_1.earlier-2/commit.json").is_file());
    assert_eq!(names(&other), ["checkpoint_iter_1.pt"]);
}

#[test]
fn retention_pins_and_going_back_know_directories() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager(directory.path(), "last:2");
    for iteration in 1..=3 {
        save_shards(&manager, iteration).unwrap();
    }
    assert_eq!(names(&manager), ["checkpoint_iter_2", "checkpoint_iter_3"]);
    assert!(!directory.path().join("checkpoint_iter_1").exists());
    manager.pin(2).unwrap();
    assert!(manager.delete(2).is_err());
    save_file(&manager, 4);
    let saved = save_shards(&manager, 5).unwrap();
    assert_eq!(saved.removed, ["checkpoint_iter_3"]);
    manager.unpin(2).unwrap();

    assert!(is_of(&manager.resume_with(Resume::default().at(2)).unwrap().unwrap().checkpoint, 2));
    assert!(is_of(&manager.resume().unwrap().unwrap().checkpoint, 2));
    let superseded = manager.list().unwrap().into_iter().filter(|listed| listed.superseded);
    assert_eq!(superseded.count(), 2);
    save_shards(&manager, 5).unwrap();
    assert!(is_of(&manager.resume().unwrap().unwrap().checkpoint, 5));
    let verdicts = manager.prune_superseded(Prune::Remove, 1).unwrap();
    assert_eq!(verdicts.iter().filter(|verdict| verdict.removed).count(), 1);
    manager.delete(5).unwrap();
    assert_eq!(names(&manager), ["checkpoint_iter_2"]);
}

#[test]
fn a_damaged_directory_is_set_aside_and_the_one_before_is_resumed_from() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager(directory.path(), "last:1");
    save_shards(&manager, 1).unwrap();
    manager.pin(1).unwrap();
    save_shards(&manager, 2).unwrap();
    damage(&directory.path().join("checkpoint_iter_2"), 1);
    let found = manager.verify(2).unwrap();
    assert!(!found.is_sound());
    let text = found.damage[0].to_string();
    assert!(text.contains("model_state_dict.weight") && text.contains("_1_0.distcp"), "{text}");
    let resumed = manager.resume().unwrap().unwrap();
    assert!(is_of(&resumed.checkpoint, 1) && resumed.iterations_lost == 1);
    assert_eq!(resumed.skipped[0].set_aside.as_deref(), Some("checkpoint_iter_2.damaged"));
    assert!(directory.path().join("checkpoint_iter_2.damaged/commit.json").is_file());
    assert!(directory.path().join("checkpoint_iter_2.damaged.txt").is_file());
    assert_eq!(names(&manager), ["checkpoint_iter_1"]);

    // Nothing goes in favour of what is damaged.
    manager.unpin(1).unwrap();
    save_shards(&manager, 3).unwrap();
    assert_eq!(names(&manager), ["checkpoint_iter_3"]);
    save_shards(&manager, 4).unwrap();
    damage(&directory.path().join("checkpoint_iter_4"), 0);
    manager.pin(4).unwrap();
    let saved = save_shards(&manager, 5).unwrap();
    assert_eq!(saved.removed, Vec::<String>::new());
}

#[test]
fn a_save_that_was_begun_and_never_committed_is_no_checkpoint_and_is_swept() {
    let directory = tempfile::tempdir().unwrap();
    let first = manager(directory.path(), "all");
    save_file(&first, 1);
    let begun = first.begin_shards(2).unwrap();
    let orphan = directory.path().join("checkpoint_iter_2");
    std::fs::write(orphan.join(format!("{}_0_0.distcp", begun.attempt().id())), b"x").unwrap();
    assert_eq!(names(&first), ["checkpoint_iter_1.pt"]);
    assert!(is_of(&first.resume().unwrap().unwrap().checkpoint, 1));
    assert!(matches!(first.begin_shards(2), Err(Error::Locked { .. })));
    drop((begun, first));
    assert!(orphan.is_dir());
    let second = manager(directory.path(), "all");
    save_file(&second, 3);
    assert!(!orphan.exists());

    // What somebody else has put there stays, and so does a directory that PyTorch wrote.
    std::fs::create_dir(&orphan).unwrap();
    std::fs::write(orphan.join("notes.txt"), b"mine").unwrap();
    drop(second);
    save_file(&manager(directory.path(), "all"), 4);
    assert!(orphan.join("notes.txt").is_file());
}

#[test]
fn a_file_and_a_directory_with_each_others_names_are_no_checkpoints() {
    let directory = tempfile::tempdir().unwrap();
    let manager = manager(directory.path(), "all");
    save_file(&manager, 1);
    std::fs::write(directory.path().join("checkpoint_iter_2"), b"a file").unwrap();
    assert_eq!(names(&manager), ["checkpoint_iter_1.pt"]);
    assert!(is_of(&manager.resume().unwrap().unwrap().checkpoint, 1));
}

/// A job that evaluates checkpoints while training replaces and removes them.
#[test]
fn a_reader_beside_retention_finds_a_checkpoint_or_none_and_never_damage() {
    let directory = tempfile::tempdir().unwrap();
    let writer = manager(directory.path(), "last:1");
    save_shards(&writer, 0).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let (loaded, gone) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let reader = manager(directory.path(), "all");
            let (mut loaded, mut gone) = (0, 0);
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                for path in reader.paths().unwrap() {
                    let opened = scai_checkpoint::file::open(&path, Default::default());
                    match opened.and_then(|file| Ok((file.verify(1), file.tree()?))) {
                        Ok((damage, _)) => {
                            assert!(damage.is_empty(), "{damage:?}");
                            loaded += 1;
                        }
                        Err(Error::NotFound { .. }) => gone += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            (loaded, gone)
        });
        for iteration in 1..120 {
            // Some are saved again.
            save_shards(&writer, iteration / 2).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reading.join().unwrap()
    });
    println!("{loaded} loaded, {gone} gone meanwhile");
    assert!(loaded > 0);
}
