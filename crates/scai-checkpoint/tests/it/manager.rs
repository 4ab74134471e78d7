//! A directory of checkpoints, used as a training loop uses it.

use std::path::Path;

use scai_checkpoint::load::{
    MatchOptions, Strictness, TensorSpec, match_state, transfer_optimizer,
};
use scai_checkpoint::manager::{Prune, Residency};
use scai_checkpoint::store::MemoryDirectory;
use scai_checkpoint::tensor::{Attributes, Storage};
use scai_checkpoint::testing::{Effect, Failure, Fault, FaultDirectory, Op, Times, publish};
use scai_checkpoint::value::{from_value, to_value};
use scai_checkpoint::{
    Checkpoint, CheckpointManager, DType, Dict, Error, Options, Retention, Tensor, Value,
};

use crate::support::over;

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Stats {
    total_iterations: u64,
    loss: f64,
}

/// A state whose every number follows from the iteration.
fn state(iteration: u64) -> Checkpoint {
    let weight = |shift: usize| {
        let values = (0..600).map(|i| (i + shift) as f32 + iteration as f32).collect::<Vec<_>>();
        Tensor::from_vec(vec![20, 30], values).unwrap()
    };
    let model: Dict = [("fc1.weight", weight(0)), ("fc2.weight", weight(7))].into_iter().collect();
    let moments: Dict = [("exp_avg", weight(1)), ("exp_avg_sq", weight(2))].into_iter().collect();
    let optimizer: Dict = [("state", moments)].into_iter().collect();
    let mut checkpoint = Checkpoint::new(iteration, model, optimizer);
    let stats = Stats { total_iterations: iteration, loss: 10.0 / (iteration + 1) as f64 };
    checkpoint.training_stats = to_value(&stats).unwrap();
    checkpoint
}

fn same(mut loaded: Checkpoint, iteration: u64) -> bool {
    loaded.timestamp = None;
    loaded == state(iteration)
}

fn names(manager: &CheckpointManager) -> Vec<String> {
    manager.list().unwrap().into_iter().map(|listed| listed.name).collect()
}

/// Flips a bit in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_state_comes_back_as_it_was_saved() {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    assert!(manager.resume().unwrap().is_none());
    let saved = manager.save(state(100)).unwrap();
    assert!(saved.warnings.is_empty(), "{:?}", saved.warnings);
    assert_eq!(saved.size, std::fs::metadata(&saved.path).unwrap().len());
    for residency in [Residency::Memory, Residency::Disk] {
        let loaded = manager.load("checkpoint_iter_100.pt", residency).unwrap();
        let stats: Stats = from_value(&loaded.training_stats).unwrap();
        assert_eq!(stats, Stats { total_iterations: 100, loss: 10.0 / 101.0 });
        assert!(same(loaded, 100));
    }
    // `latest.pt` is the same file and costs no second copy.
    let latest = std::fs::read(directory.path().join("latest.pt")).unwrap();
    assert_eq!(latest, std::fs::read(&saved.path).unwrap());
}

#[test]
fn checkpoints_are_listed_by_iteration_and_not_by_time() {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    for iteration in [900, 20, 1000, 3] {
        manager.save(state(iteration)).unwrap();
    }
    let listed = manager.list().unwrap();
    let iterations: Vec<u64> = listed.iter().map(|listed| listed.iteration).collect();
    assert_eq!(iterations, [3, 20, 900, 1000]);
    assert!(listed.iter().all(|listed| listed.problem.is_none() && listed.saved_at().is_some()));
    assert_eq!(listed[3].training_stats.number("total_iterations"), Some(1000.0));
    assert!(listed[3].latest && !listed[2].latest);
    assert_eq!(manager.latest().unwrap().unwrap().name, "checkpoint_iter_1000.pt");
}

#[test]
fn a_resume_sets_damaged_checkpoints_aside_and_says_what_was_lost() {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    for iteration in [100, 200, 300] {
        manager.save(state(iteration)).unwrap();
    }
    damage(&directory.path().join("checkpoint_iter_300.pt"));
    std::fs::write(directory.path().join("checkpoint_iter_250.pt"), b"half a file").unwrap();
    let damage = manager.load("checkpoint_iter_300.pt", Residency::Memory).unwrap_err();
    let resumed = manager.resume().unwrap().unwrap();
    assert_eq!((resumed.name.as_str(), resumed.iterations_lost), ("checkpoint_iter_200.pt", 100));
    assert!(same(resumed.checkpoint, 200));
    let skipped: Vec<&str> = resumed.skipped.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(skipped, ["checkpoint_iter_300.pt", "checkpoint_iter_250.pt"]);
    let reason = resumed.skipped[0].reason.to_string();
    assert!(reason.contains("tensor `") && reason.contains("checksum mismatch"), "{reason}");
    assert_eq!(reason, damage.to_string());
    assert!(reason.contains("checkpoint_iter_300.pt"), "{reason}");
    let aside = directory.path().join("checkpoint_iter_300.pt.damaged");
    assert!(aside.exists());
    let text = std::fs::read_to_string(aside.with_extension("damaged.txt")).unwrap();
    assert!(text.contains("checksum mismatch"), "{text}");
    assert_eq!(names(&manager), ["checkpoint_iter_100.pt", "checkpoint_iter_200.pt"]);
    let latest = std::fs::read(directory.path().join("latest.pt")).unwrap();
    assert_eq!(latest, std::fs::read(directory.path().join("checkpoint_iter_200.pt")).unwrap());
}

/// Were they set aside, the second resume would take the directory for a new one.
#[test]
fn where_nothing_is_sound_each_resume_is_an_error_and_nothing_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    for iteration in [1, 3] {
        damage(Path::new(&manager.save(state(iteration)).unwrap().path));
    }
    for _ in 0..2 {
        // Each time as a process that knows nothing yet.
        let manager = CheckpointManager::open(directory.path(), Options::default()).unwrap();
        let error = manager.resume().unwrap_err();
        assert!(matches!(&error, Error::NothingToResume { skipped, .. } if skipped.len() == 2));
        assert!(error.to_string().contains("checkpoint_iter_1.pt: "), "{error}");
        assert_eq!(names(&manager), ["checkpoint_iter_1.pt", "checkpoint_iter_3.pt"]);
    }
    // Once a sound one is there, the damaged one that is newer is set aside.
    manager.save(state(2)).unwrap();
    assert!(same(manager.resume().unwrap().unwrap().checkpoint, 2));
    assert_eq!(names(&manager), ["checkpoint_iter_1.pt", "checkpoint_iter_2.pt"]);
    assert!(directory.path().join("checkpoint_iter_3.pt.damaged").exists());
}

#[test]
fn an_only_save_that_does_not_read_back_is_what_the_next_resume_speaks_of() {
    let store = FaultDirectory::new(MemoryDirectory::new());
    let options = Options::default().retention(Retention::keep_last(1).unwrap());
    let manager = CheckpointManager::with_store(over(store.clone()), options);
    store.arm(Fault {
        concerns: |op| matches!(op, Op::Write { .. }),
        after: 0,
        times: Times::FromThenOn,
        effect: Effect::Forget,
    });
    let error = manager.save(state(1)).unwrap_err();
    assert!(error.to_string().contains("cannot be read back"), "{error}");
    store.disarm();
    let error = manager.resume().unwrap_err();
    assert!(matches!(error, Error::NothingToResume { .. }), "{error}");
    manager.save(state(1)).unwrap();
    assert!(same(manager.resume().unwrap().unwrap().checkpoint, 1));
}

#[test]
fn retention_keeps_the_last_the_best_and_the_pinned() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::default().retention("last:2, best:loss:max".parse().unwrap());
    let manager = CheckpointManager::create(directory.path(), options).unwrap();
    let mut removed = Vec::new();
    for iteration in 1..=6 {
        removed.extend(manager.save(state(iteration)).unwrap().removed);
        if iteration == 3 {
            manager.pin("checkpoint_iter_3.pt").unwrap();
        }
    }
    let expected = [1, 3, 5, 6].map(|i| format!("checkpoint_iter_{i}.pt"));
    assert_eq!(names(&manager), expected);
    assert_eq!(removed, ["checkpoint_iter_2.pt", "checkpoint_iter_4.pt"]);
    manager.unpin("checkpoint_iter_3.pt").unwrap();
    let keep = Retention::keep_last(1).unwrap();
    let verdicts = manager.prune(&keep, Prune::DryRun).unwrap();
    let stays: Vec<bool> = verdicts.iter().map(|verdict| verdict.stays()).collect();
    assert_eq!(stays, [false, false, false, true]);
    assert_eq!(verdicts[3].reasons[1].to_string(), "last 1 (no. 1)");
    assert_eq!(names(&manager).len(), 4, "a dry run deletes nothing");
    manager.prune(&keep, Prune::Remove).unwrap();
    assert_eq!(names(&manager), ["checkpoint_iter_6.pt"]);
}

#[test]
fn retention_never_deletes_what_was_just_saved() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::default().retention(Retention::keep_last(2).unwrap());
    let manager = CheckpointManager::create(directory.path(), options).unwrap();
    for iteration in [100, 200, 10] {
        manager.save(state(iteration)).unwrap();
    }
    assert!(same(manager.load("checkpoint_iter_10.pt", Residency::Memory).unwrap(), 10));
    // Nor what this run saved last before it; what is above a step back stays as well.
    for (iteration, there) in [(20, 4), (30, 4)] {
        manager.save(state(iteration)).unwrap();
        assert_eq!(names(&manager).len(), there);
    }
    assert_eq!(names(&manager)[0], "checkpoint_iter_20.pt");
}

#[test]
fn a_save_that_panics_in_the_background_is_told_and_publishes_nothing() {
    let manager =
        CheckpointManager::with_store(over(MemoryDirectory::default()), Options::default());
    let mut checkpoint = state(1);
    let storage = Storage::produced(4, || panic!("no bytes"));
    let tensor = Tensor::contiguous(DType::UInt8, vec![4], storage).unwrap();
    checkpoint.parts.insert("extra", tensor);
    let handle = manager.save_in_background(checkpoint).unwrap();
    assert!(handle.wait().unwrap_err().to_string().contains("panicked"));
    assert!(manager.list().unwrap().is_empty());
    manager.save(state(2)).unwrap();
}

#[test]
fn nothing_is_deleted_in_favour_of_a_damaged_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    for iteration in 1..=4 {
        manager.save(state(iteration)).unwrap();
    }
    damage(&directory.path().join("checkpoint_iter_4.pt"));
    // A fresh manager knows nothing of what was verified.
    let manager = CheckpointManager::open(directory.path(), Options::default()).unwrap();
    manager.prune(&Retention::keep_last(1).unwrap(), Prune::Remove).unwrap();
    assert_eq!(names(&manager), ["checkpoint_iter_3.pt", "checkpoint_iter_4.pt"]);
    assert!(same(manager.resume().unwrap().unwrap().checkpoint, 3));
}

#[test]
fn verify_answers_eight_questions_and_names_the_damage() {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    manager.save(state(1)).unwrap();
    let sound = manager.verify("checkpoint_iter_1.pt").unwrap();
    assert!(sound.is_sound(), "{:?}", sound.damage);
    let answers = to_value(&sound.answers).unwrap();
    let keys = [
        "exists",
        "readable",
        "has_required_fields",
        "has_model_state",
        "has_optimizer_state",
        "has_training_stats",
        "has_metadata",
        "has_timestamp",
    ];
    assert!(answers.as_dict().unwrap().keys().eq(keys));
    for key in keys {
        assert_eq!(answers.as_dict().unwrap().get(key), Some(&Value::Bool(true)), "{key}");
    }
    damage(&directory.path().join("checkpoint_iter_1.pt"));
    let damaged = manager.verify("checkpoint_iter_1.pt").unwrap();
    assert!(damaged.answers.exists && !damaged.answers.readable);
    assert!(damaged.answers.has_model_state);
    let place = damaged.damage[0].place().unwrap();
    assert!(place.tensor.is_some() && place.bytes.is_some(), "{place:?}");
    let missing = manager.verify("checkpoint_iter_2.pt").unwrap();
    assert_eq!(missing.answers, scai_checkpoint::verify::Answers::default());
}

#[test]
fn a_missing_field_is_named_with_those_that_are_there() {
    let store = MemoryDirectory::default();
    let tree = Value::Dict([("model_state_dict", Dict::new())].into_iter().collect());
    let bytes = crate::support::write(&tree).unwrap();
    let name = "checkpoint_iter_7.pt";
    publish(&store, name, bytes.len() as u64, |file| {
        file.write_at(0, &bytes).map_err(|error| Error::Invalid(error.to_string()))
    })
    .unwrap();
    let manager = CheckpointManager::with_store(over(store), Options::default());
    let error = manager.load(name, Residency::Memory).unwrap_err();
    assert!(matches!(error, Error::MissingField { .. }));
    let text = error.to_string();
    assert!(text.contains("`iteration` is missing; the fields are: model_state_dict"), "{text}");
    let error = manager.load("checkpoint_iter_8.pt", Residency::Memory).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }));
}

#[test]
fn saves_in_the_background_keep_their_order_and_their_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    let handles: Vec<_> =
        (1..=5).map(|iteration| manager.save_in_background(state(iteration)).unwrap()).collect();
    // Every later call sees the saves before it.
    assert_eq!(names(&manager).len(), 5);
    assert!(handles.iter().all(|handle| handle.is_done()));
    assert_eq!(handles[4].wait().unwrap().name, "checkpoint_iter_5.pt");
    drop(manager.save_in_background(state(6)).unwrap());
    drop(manager);
    let manager = CheckpointManager::open(directory.path(), Options::default()).unwrap();
    assert!(same(manager.load("checkpoint_iter_6.pt", Residency::Memory).unwrap(), 6));
}

#[test]
fn a_failure_in_the_background_comes_out_of_the_next_call_once() {
    let store = FaultDirectory::new(MemoryDirectory::default());
    store.arm(Fault {
        concerns: |op| matches!(op, Op::Write { .. }),
        after: 0,
        times: Times::Once,
        effect: Effect::Fail(Failure::Os(5)),
    });
    let manager = CheckpointManager::with_store(over(store), Options::default());
    drop(manager.save_in_background(state(1)).unwrap());
    let error = manager.list().unwrap_err();
    assert!(matches!(error, Error::Background(_)), "{error}");
    assert!(manager.list().unwrap().is_empty());
    manager.save(state(2)).unwrap();
    assert_eq!(names(&manager), ["checkpoint_iter_2.pt"]);
}

#[test]
fn a_state_that_torch_could_not_load_is_refused_with_its_path() {
    let manager =
        CheckpointManager::with_store(over(MemoryDirectory::default()), Options::default());
    let mut checkpoint = state(1);
    let inner: Dict = [("note", Value::Bytes(Vec::new()))].into_iter().collect();
    checkpoint.metadata = Value::Dict([("run", inner)].into_iter().collect());
    let error = manager.save(checkpoint.clone()).unwrap_err().to_string();
    assert!(error.starts_with("at `metadata.run.note`: "), "{error}");
    assert!(manager.list().unwrap().is_empty());
}

#[test]
fn tied_tensors_stay_tied_and_views_stay_views() {
    let manager =
        CheckpointManager::with_store(over(MemoryDirectory::default()), Options::default());
    let storage = Storage::from_vec((0..12).map(|i| i as f32).collect::<Vec<_>>());
    let whole = Tensor::contiguous(DType::Float32, vec![3, 4], storage.clone()).unwrap();
    let column =
        Tensor::new(DType::Float32, vec![3], vec![4], 1, storage).unwrap().with_attributes(
            Attributes { requires_grad: true, parameter: true, ..Attributes::default() },
        );
    let model: Dict = [("whole", whole), ("column", column)].into_iter().collect();
    manager.save(Checkpoint::new(1, model, Dict::new())).unwrap();
    let loaded = manager.load("checkpoint_iter_1.pt", Residency::Memory).unwrap();
    let tensor = |name: &str| loaded.model_state_dict.lookup(name).unwrap().as_tensor().unwrap();
    assert!(tensor("whole").storage().same_as(tensor("column").storage()));
    assert_eq!(tensor("column").to_vec::<f32>().unwrap(), [1.0, 5.0, 9.0]);
    assert!(tensor("column").attributes().parameter);
}

fn blocks(count: usize) -> Vec<TensorSpec> {
    let spec = |name: String, shape| TensorSpec { name, dtype: DType::Float32, shape };
    (0..count).map(|i| spec(format!("blocks.{i}.weight"), vec![2, 2])).collect()
}

fn saved_blocks(count: usize) -> (Value, Value, Vec<String>) {
    let tensor = |i: usize| Tensor::from_vec(vec![2, 2], vec![i as f32; 4]).unwrap();
    let model: Dict =
        blocks(count).into_iter().enumerate().map(|(i, s)| (s.name, tensor(i))).collect();
    let state = (0..count).map(|i| {
        let moments: Dict = [("exp_avg", tensor(i))].into_iter().collect();
        (Value::Int(i as i64), Value::Dict(moments))
    });
    let state = Dict { entries: state.collect(), ..Dict::new() };
    let groups = Value::List(Vec::new());
    let optimizer: Dict =
        [("state", Value::Dict(state)), ("param_groups", groups)].into_iter().collect();
    let names = blocks(count).into_iter().map(|spec| spec.name).collect();
    (Value::Dict(model), Value::Dict(optimizer), names)
}

#[test]
fn growing_20_blocks_to_25_keeps_the_20_and_their_moments_by_name() {
    let (model, optimizer, names) = saved_blocks(20);
    // The new model has its new blocks in front, so that the indices do not match.
    let mut grown = blocks(25);
    grown.rotate_left(20);
    let strict = match_state(&model, &grown, &MatchOptions::default()).unwrap_err();
    let Error::Mismatch { report, .. } = strict else { panic!("{strict}") };
    assert_eq!((report.loaded.len(), report.missing.len()), (20, 5));

    let options = MatchOptions::default().strictness(Strictness::Partial);
    let matched = match_state(&model, &grown, &options).unwrap();
    assert_eq!(matched.tensors.len(), 20);
    assert_eq!(matched.report.missing.len(), 5);

    let empty: Dict = [("state", Dict::new()), ("param_groups", Dict::new())].into_iter().collect();
    let (moved, report) =
        transfer_optimizer(&optimizer, &names, &Value::Dict(empty), &grown, &options).unwrap();
    assert_eq!((report.loaded.len(), report.missing.len()), (20, 5));
    // `blocks.0` is the sixth parameter now, behind five new ones.
    let moment = moved.lookup("state.5.exp_avg").unwrap().as_tensor().unwrap();
    assert_eq!(moment.to_vec::<f32>().unwrap(), [0.0; 4]);
    assert!(moved.lookup("state.4").is_none());
}

#[test]
fn floating_point_is_loaded_into_another_type_only_if_that_is_asked_for() {
    let half =
        Tensor::contiguous(DType::Float16, vec![2], Storage::from_vec(vec![0_u8; 4])).unwrap();
    let count = Tensor::from_vec(vec![1], vec![3_i64]).unwrap();
    let saved = Value::Dict([("w", half), ("n", count)].into_iter().collect());
    let spec = |name: &str, dtype, shape| TensorSpec { name: name.to_owned(), dtype, shape };
    let model = |n| [spec("w", DType::Float32, vec![2]), spec("n", n, vec![1])];
    let cast = MatchOptions::default().cast();

    let error = match_state(&saved, &model(DType::Int64), &MatchOptions::default()).unwrap_err();
    assert!(error.to_string().contains("load with `cast`"), "{error}");
    let matched = match_state(&saved, &model(DType::Int64), &cast).unwrap();
    assert_eq!(matched.report.loaded, ["w", "n"]);
    assert_eq!(matched.report.cast.len(), 1);
    assert_eq!(matched.tensors[0].1.dtype(), DType::Float16);
    // Whole numbers are not converted, and other shapes do not fit.
    assert!(match_state(&saved, &model(DType::Float32), &cast).is_err());
    let longer = [spec("w", DType::Float32, vec![3]), spec("n", DType::Int64, vec![1])];
    assert!(match_state(&saved, &longer, &cast).is_err());
}

#[test]
fn a_moved_optimizer_state_is_in_the_order_of_the_parameters_and_the_same_each_time() {
    let (_, optimizer, mut names) = saved_blocks(40);
    // The model has them in another order, and states of its own, some of which stay.
    let (_, current, _) = saved_blocks(50);
    let mut model = blocks(50);
    model.rotate_left(20);
    names.rotate_left(7);
    let options = MatchOptions::default().strictness(Strictness::Partial);
    let transfer = || {
        let moved = transfer_optimizer(&optimizer, &names, &current, &model, &options);
        let (Value::Dict(moved), report) = moved.unwrap() else { panic!("not a dict") };
        assert_eq!((report.loaded.len(), report.missing.len()), (40, 10));
        let state = moved.get("state").and_then(Value::as_dict).unwrap();
        state.entries.iter().map(|(key, _)| key.as_int().unwrap()).collect::<Vec<_>>()
    };
    for _ in 0..5 {
        assert_eq!(transfer(), (0..50).collect::<Vec<i64>>());
    }
}

#[test]
fn a_report_lists_shapes_types_and_near_names() {
    let (model, ..) = saved_blocks(3);
    let mut specs = blocks(3);
    specs[0].shape = vec![4, 2];
    specs[1].dtype = DType::Float16;
    specs[2].name = "blocks.2.weights".to_owned();
    let error = match_state(&model, &specs, &MatchOptions::default()).unwrap_err().to_string();
    for words in [
        "blocks.0.weight: float32 [2, 2] in the checkpoint, float32 [4, 2] in the model",
        "blocks.1.weight: float32 [2, 2] in the checkpoint, float16 [2, 2] in the model",
        "`blocks.2.weights` in the model may be `blocks.2.weight` in the checkpoint",
    ] {
        assert!(error.contains(words), "{error}");
    }
    assert!(MatchOptions::default().with_remap([("(", "")]).is_err());
    let merging = MatchOptions::default().with_remap([(r"blocks\.\d", "x")]).unwrap();
    assert!(match_state(&model, &specs, &merging).is_err());
}

#[test]
fn an_iteration_is_any_whole_number_and_anything_else_is_not_damage() {
    let read = |iteration: Value| {
        let parts = ["model_state_dict", "optimizer_state_dict"];
        let mut tree: Dict = parts.into_iter().map(|part| (part, Dict::new())).collect();
        tree.insert("iteration", iteration);
        Checkpoint::from_tree(Value::Dict(tree)).map(|checkpoint| checkpoint.iteration)
    };
    let tensor = |dtype, bytes: Vec<u8>| {
        let len = bytes.len() / DType::size(dtype);
        let tensor = Tensor::new(dtype, vec![len], vec![1], 0, Storage::from_vec(bytes));
        Value::from(tensor.unwrap())
    };
    let five = tensor(DType::Int64, 5_i64.to_le_bytes().into());
    let halves = tensor(DType::Float32, 5_f32.to_le_bytes().into());
    for value in [Value::Int(5), Value::Float(5.0), five, halves] {
        assert_eq!(read(value).unwrap(), 5);
    }
    let two = tensor(DType::Int64, vec![0; 16]);
    let wrong =
        [Value::Int(-1), Value::Float(0.5), Value::Float(1e300), "5".into(), Value::None, two];
    for value in wrong {
        let error = read(value).unwrap_err();
        assert!(matches!(error, Error::NotACheckpoint { .. }), "{error:?}");
        assert!(error.to_string().contains("expected an integer"), "{error}");
        assert!(!error.is_damage());
    }
}
