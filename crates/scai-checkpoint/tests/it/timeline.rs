//! The timeline of a save: each stage shows where it is slow.

use std::time::{Duration, Instant};

use scai_checkpoint::manager::Timeline;
use scai_checkpoint::store::MemoryDirectory;
use scai_checkpoint::testing::{Effect, Fault, FaultDirectory, Op, Times};
use scai_checkpoint::{Checkpoint, CheckpointManager, Dict, Options, Retention, Saved, Tensor};

use crate::support::over;

/// Longer than all of a save in memory takes, also on a busy machine.
const DELAY: Duration = Duration::from_millis(250);

/// What a delay is to hit, and the stage in which it is to show.
type Stage = (&'static str, fn(&Op) -> bool, fn(&Timeline) -> Duration);

const STAGES: [Stage; 7] = [
    ("creating the draft", |op| matches!(op, Op::Create { .. }), |timeline| timeline.write),
    ("writing", |op| matches!(op, Op::Write { .. }), |timeline| timeline.write),
    ("syncing the content", |op| matches!(op, Op::SyncDraft { .. }), |timeline| timeline.sync),
    ("naming", |op| matches!(op, Op::Name { .. }), |timeline| timeline.commit),
    ("syncing the names", |op| matches!(op, Op::SyncNames), |timeline| timeline.commit),
    ("moving latest.pt", |op| matches!(op, Op::Link { .. }), |timeline| timeline.after),
    ("reading back", |op| matches!(op, Op::Read { .. }), |timeline| timeline.after),
];

fn state(iteration: u64) -> Checkpoint {
    let weight = Tensor::from_vec(vec![100, 100], vec![iteration as f32; 10_000]).unwrap();
    let model: Dict = [("weight", weight)].into_iter().collect();
    Checkpoint::new(iteration, model, Dict::new())
}

#[test]
fn a_slow_stage_shows_in_its_own_time_and_in_no_other() {
    for (what, concerns, stage) in STAGES {
        let store = FaultDirectory::new(MemoryDirectory::new());
        let options = Options::default().retention(Retention::keep_last(1).unwrap());
        let manager = CheckpointManager::with_store(over(store.clone()), options);
        manager.save(state(1)).unwrap();
        let effect = Effect::Delay(DELAY);
        store.arm(Fault { concerns, after: 0, times: Times::Once, effect });
        let begun = Instant::now();
        let Saved { timeline, removed, .. } = manager.save(state(2)).unwrap();
        let whole = begun.elapsed();
        assert_eq!((store.fired(), removed.len()), (1, 1), "{what}");

        let Timeline { plan, write, sync, commit, after, .. } = timeline;
        let slow = stage(&timeline);
        let others = [plan, write, sync, commit, after].iter().sum::<Duration>() - slow;
        assert!(slow >= DELAY && others < DELAY, "{what}: {timeline:?}");
        assert!(timeline.total() <= whole, "{what}: {timeline:?} in {whole:?}");
        assert!(whole - timeline.total() < DELAY, "{what}: {timeline:?} in {whole:?}");
    }
}

#[test]
fn a_save_in_the_background_has_its_timeline_too() {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    let saved = manager.save_in_background(state(1)).unwrap().wait().unwrap();
    let Timeline { write, sync, commit, .. } = saved.timeline;
    assert!([write, sync, commit].iter().all(|time| !time.is_zero()), "{:?}", saved.timeline);
    let rate = saved.timeline.rate(saved.size);
    assert!(rate > 0.0 && rate.is_finite(), "{rate}");
}
