//! A training that was resumed ends as one that was not.

use scai_checkpoint::load::MatchOptions;
use scai_checkpoint::{Checkpoint, CheckpointManager, Options};

use crate::support::{
    LEARNING_RATE, Net, Size, adamw, assert_same, autodiff, model_state, optimizer_state, train,
};

fn checkpoint(iteration: u64, model: &Net, optimizer: &scai_burn::AdamW) -> Checkpoint {
    let optimizer = optimizer.state_dict(model, LEARNING_RATE).unwrap();
    Checkpoint::new(iteration, scai_burn::state_dict(model).unwrap(), optimizer)
}

#[test]
fn two_steps_and_two_more_after_a_load_have_the_bits_of_four() {
    let device = autodiff();
    let mut optimizer = adamw();
    let straight = train(Size::default().init(0, &device), &mut optimizer, 0..4, &device);

    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    let mut first = adamw();
    let model = train(Size::default().init(0, &device), &mut first, 0..2, &device);
    manager.save(checkpoint(2, &model, &first)).unwrap();

    let found = manager.resume().unwrap().unwrap().checkpoint;
    let fresh = Size::default().init(9, &device);
    let strict = MatchOptions::default();
    let (resumed, _) =
        scai_burn::load_state_dict(&fresh, &found.model_state_dict, &strict).unwrap();
    let mut second = adamw();
    second.load_state_dict(&found.optimizer_state_dict, &resumed, &strict).unwrap();
    let resumed = train(resumed, &mut second, found.iteration..4, &device);

    assert_same(&model_state(&resumed), &model_state(&straight));
    assert_same(&optimizer_state(&second, &resumed), &optimizer_state(&optimizer, &straight));
}

#[test]
fn a_save_in_the_background_holds_the_state_at_its_call() {
    let device = autodiff();
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    let mut optimizer = adamw();
    let mut model = Size::default().init(0, &device);
    for step in 0..6 {
        model = train(model, &mut optimizer, step..step + 1, &device);
        manager.save_in_background(checkpoint(step + 1, &model, &optimizer)).unwrap();
    }
    manager.flush().unwrap();
    for iteration in 1..=6 {
        let mut alone = adamw();
        let model = train(Size::default().init(0, &device), &mut alone, 0..iteration, &device);
        let saved = manager.load(iteration, Default::default()).unwrap();
        assert_same(&saved.model_state_dict, &model_state(&model));
        assert_same(&saved.optimizer_state_dict, &optimizer_state(&alone, &model));
    }
}
