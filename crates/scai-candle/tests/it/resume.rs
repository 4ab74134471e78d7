//! A training that was resumed ends as one that was not.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarMap;
use scai_candle::AdamW;
use scai_checkpoint::load::MatchOptions;
use scai_checkpoint::{Checkpoint, CheckpointManager, Options, Value};

use crate::support::{Net, assert_same, train};

fn checkpoint(iteration: u64, net: &Net, optimizer: &AdamW) -> Checkpoint {
    let model = scai_candle::state_dict(&net.vars).unwrap();
    Checkpoint::new(iteration, model, optimizer.state_dict(&net.vars).unwrap())
}

fn optimizer_state(net: &Net, optimizer: &AdamW) -> Value {
    optimizer.state_dict(&net.vars).unwrap().into()
}

#[test]
fn two_steps_and_two_more_after_a_load_have_the_bits_of_four() {
    let straight = Net::new(2, 0);
    let mut straight_optimizer = straight.adamw();
    train(&straight, &mut straight_optimizer, 0..4);

    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    let net = Net::new(2, 0);
    let mut first = net.adamw();
    train(&net, &mut first, 0..2);
    manager.save(checkpoint(2, &net, &first)).unwrap();

    let found = manager.resume().unwrap().unwrap().checkpoint;
    let resumed = Net::new(2, 9);
    let strict = MatchOptions::default();
    scai_candle::load_state_dict(&resumed.vars, &found.model_state_dict, &strict).unwrap();
    let mut second = resumed.adamw();
    second.load_state_dict(&found.optimizer_state_dict, &resumed.vars, &strict).unwrap();
    train(&resumed, &mut second, found.iteration..4);

    assert_same(&resumed.state(), &straight.state());
    assert_same(
        &optimizer_state(&resumed, &second),
        &optimizer_state(&straight, &straight_optimizer),
    );
}

#[test]
fn a_save_in_the_background_holds_the_state_at_its_call() {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    let net = Net::new(2, 0);
    let mut optimizer = net.adamw();
    for step in 0..6 {
        train(&net, &mut optimizer, step..step + 1);
        manager.save_in_background(checkpoint(step + 1, &net, &optimizer)).unwrap();
        // The next step changes the model while that is written.
    }
    manager.flush().unwrap();
    for iteration in 1..=6 {
        let alone = Net::new(2, 0);
        let mut optimizer = alone.adamw();
        train(&alone, &mut optimizer, 0..iteration);
        let saved = manager.load(iteration, Default::default()).unwrap();
        assert_same(&saved.model_state_dict, &alone.state());
        assert_same(&saved.optimizer_state_dict, &optimizer_state(&alone, &optimizer));
    }
}

/// A model of 64 MiB, so that the save is surely not over when its values change.
#[test]
fn a_variable_that_is_set_right_after_a_background_save_began_is_saved_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let manager = CheckpointManager::create(directory.path(), Options::default()).unwrap();
    let vars = VarMap::new();
    let var = Var::ones((16, 1 << 20), DType::F32, &Device::Cpu).unwrap();
    vars.data().lock().unwrap().insert("w".to_owned(), var.clone());
    let twos = Tensor::full(2_f32, (16, 1 << 20), &Device::Cpu).unwrap();
    let optimizer = AdamW::new_lr(vars.all_vars(), 0.1).unwrap();

    let model = scai_candle::state_dict(&vars).unwrap();
    let checkpoint = Checkpoint::new(1, model, optimizer.state_dict(&vars).unwrap());
    let save = manager.save_in_background(checkpoint).unwrap();
    var.set(&twos).unwrap();
    save.wait().unwrap();
    let saved = manager.load(1, Default::default()).unwrap().model_state_dict;
    let saved: Vec<f32> = saved.lookup("w").unwrap().as_tensor().unwrap().to_vec().unwrap();
    assert!(saved.iter().all(|value| *value == 1.0));
}
