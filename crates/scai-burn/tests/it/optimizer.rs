//! The state of the optimizer there and back.

use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::optim::AdamWConfig;
use scai_burn::AdamW;
use scai_checkpoint::load::{MatchOptions, Strictness};
use scai_checkpoint::{Dict, Error, Tensor, Value};

use crate::support::{
    LEARNING_RATE, Size, adamw, assert_same, autodiff, gradients, model_state, optimizer_state,
    through_a_file, train,
};

fn partial() -> MatchOptions {
    MatchOptions::default().strictness(Strictness::Partial)
}

fn configs() -> [AdamWConfig; 4] {
    [
        AdamWConfig::new(),
        AdamWConfig::new().with_amsgrad(true).with_weight_decay(0.0),
        AdamWConfig::new()
            .with_grad_clipping(Some(GradientClippingConfig::Norm(0.01)))
            .with_beta_1(0.8),
        AdamWConfig::new().with_cautious_weight_decay(true).with_weight_decay(0.1),
    ]
}

#[test]
fn a_step_has_the_bits_of_the_optimizer_of_burn() {
    let device = autodiff();
    for config in configs() {
        let (mut ours, mut theirs) = (AdamW::new(&config).unwrap(), config.init());
        let model = Size::default().init(0, &device);
        let mut other = scai_burn::load_state_dict(
            &Size::default().init(1, &device),
            &model_state(&model),
            &MatchOptions::default(),
        )
        .unwrap()
        .0;
        let model = train(model, &mut ours, 0..5, &device);
        for step in 0..5 {
            let gradients = gradients(&other, step, &device);
            other = theirs.step(LEARNING_RATE, other, gradients);
        }
        assert_same(&model_state(&model), &model_state(&other));
    }
}

#[test]
fn the_state_comes_back_equal() {
    let device = autodiff();
    for config in configs() {
        let mut optimizer = AdamW::new(&config).unwrap();
        let model = train(Size::default().init(0, &device), &mut optimizer, 0..3, &device);
        let state = optimizer.state_dict(&model, LEARNING_RATE).unwrap();
        let saved = through_a_file(&state);
        let mut loaded = AdamW::new(&config).unwrap();
        let report = loaded.load_state_dict(&saved, &model, &MatchOptions::default()).unwrap();
        assert!(report.is_complete());
        // Integers and truth values are saved with the model and not trained.
        assert_eq!(report.loaded.len(), scai_burn::named_parameters(&model).unwrap().len());
        assert_same(&optimizer_state(&loaded, &model), &state.into());
    }
}

#[test]
fn the_hyperparameters_are_written_as_pytorch_names_them() {
    let device = autodiff();
    let config = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.01);
    let model = Size::default().init(0, &device);
    let state: Value = AdamW::new(&config).unwrap().state_dict(&model, 0.003).unwrap().into();
    let group = state.as_dict().unwrap().get("param_groups").unwrap();
    let Value::List(groups) = group else { panic!("{group:?}") };
    let group = groups[0].as_dict().unwrap();
    let float = |key: &str| group.get(key).unwrap().as_float();
    assert_eq!(float("lr"), Some(0.003));
    assert_eq!(float("eps"), Some(1e-8));
    assert_eq!(float("weight_decay"), Some(0.01));
    let betas = Value::Tuple(vec![Value::Float(0.9), Value::Float(0.999)]);
    assert_eq!(group.get("betas"), Some(&betas));
}

#[test]
fn parameters_without_moments_stay_without_and_are_no_mismatch() {
    let device = autodiff();
    let mut model = Size::default().init(0, &device);
    model.embedding = model.embedding.freeze();
    let mut optimizer = adamw();
    let untrained = optimizer_state(&optimizer, &model);
    let model = train(model, &mut optimizer, 0..2, &device);
    let state = optimizer_state(&optimizer, &model);
    for saved in [untrained, state] {
        let mut loaded = adamw();
        loaded.load_state_dict(&saved, &model, &MatchOptions::default()).unwrap();
        assert_same(&optimizer_state(&loaded, &model), &saved);
    }
}

#[test]
fn moments_are_moved_by_name_and_a_failed_load_changes_nothing() {
    let device = autodiff();
    let mut optimizer = adamw();
    let model = train(Size::default().init(0, &device), &mut optimizer, 0..2, &device);
    let saved = optimizer_state(&optimizer, &model);

    let larger = Size { blocks: 3, ..Size::default() }.init(0, &device);
    let mut other = adamw();
    let larger = train(larger, &mut other, 0..1, &device);
    let before = optimizer_state(&other, &larger);
    let error = other.load_state_dict(&saved, &larger, &MatchOptions::default()).unwrap_err();
    let Error::Mismatch { report, .. } = &error else { panic!("{error}") };
    assert_eq!(report.missing.len(), 4);
    assert!(report.missing.iter().all(|name| name.starts_with("blocks.2.")));
    assert_same(&optimizer_state(&other, &larger), &before);

    let report = other.load_state_dict(&saved, &larger, &partial()).unwrap();
    assert_eq!(report.missing.len(), 4);
    let moved = optimizer_state(&other, &larger);
    let index = |state: &Value, name: &str| {
        let names = state.lookup("param_groups.0.param_names").unwrap().children();
        names.iter().position(|(_, value)| value.as_str() == Some(name)).unwrap()
    };
    for name in ["blocks.1.fc.weight", "head.weight"] {
        let at = |state: &Value| {
            state.lookup(&format!("state.{}.exp_avg", index(state, name))).cloned().unwrap()
        };
        assert_eq!(at(&moved), at(&saved), "{name}");
    }
}

#[test]
fn a_state_of_another_model_is_not_saved() {
    let device = autodiff();
    let mut optimizer = adamw();
    train(Size::default().init(0, &device), &mut optimizer, 0..1, &device);
    let smaller = Size { blocks: 1, ..Size::default() }.init(0, &device);
    let error = optimizer.state_dict(&smaller, LEARNING_RATE).unwrap_err().to_string();
    assert!(error.contains("`blocks.1.fc.bias`, which the model does not have"), "{error}");
    let wider = Size { width: 5, ..Size::default() }.init(0, &device);
    let error = optimizer.state_dict(&wider, LEARNING_RATE).unwrap_err().to_string();
    assert!(error.contains("save it with the model that it trains"), "{error}");
}

/// A state of `torch.optim.SGD` or `AdamW` with these groups, for the model.
fn torch_state(groups: Vec<Value>, buffers: &[&str]) -> Value {
    let entry: Dict = buffers
        .iter()
        .map(|name| (*name, Tensor::from_vec(vec![5, 16], vec![0.0_f32; 80]).unwrap()))
        .collect();
    let mut state = Dict::new();
    state.entries.push((Value::Int(0), entry.into()));
    let mut dict = Dict::new();
    dict.insert("state", state);
    dict.insert("param_groups", groups);
    dict.into()
}

fn group(params: std::ops::Range<i64>) -> Value {
    let mut group = Dict::new();
    group.insert("params", params.map(Value::Int).collect::<Vec<_>>());
    group.into()
}

#[test]
fn a_state_that_is_not_one_of_adamw_or_has_no_names_is_an_error() {
    let device = autodiff();
    let model = Size::default().init(0, &device);
    let names = scai_burn::named_parameters(&model).unwrap().len() as i64;
    let model_dict = model_state(&model);
    let mut optimizer = adamw();
    let mut fails = |state: &Value, what: &str| {
        let options = MatchOptions::default();
        for options in [options, partial()] {
            let error = optimizer.load_state_dict(state, &model, &options).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
    };
    let sgd = torch_state(vec![group(0..names)], &["momentum_buffer"]);
    fails(&sgd, "`with_param_names`");
    let named = scai_burn::with_param_names(sgd, &model_dict).unwrap();
    fails(&Value::None, "a dict with `state` and `param_groups`, got a None");
    fails(&model_dict, "`embedding.weight`, `conv.weight`, `conv.bias`, …");
    let mut optimizer = adamw();
    let error = optimizer.load_state_dict(&named, &model, &partial()).unwrap_err().to_string();
    assert!(error.contains("`embedding.weight` has no `"), "{error}");
    assert!(error.contains("not the state of AdamW"), "{error}");

    let named = |state: Value| scai_burn::with_param_names(state, &model_dict);
    let two = torch_state(vec![group(0..3), group(3..names)], &["exp_avg"]);
    let error = named(two).unwrap_err().to_string();
    assert!(error.contains("2 groups of parameters"), "{error}");
    let fewer = torch_state(vec![group(0..3)], &["exp_avg"]);
    let error = named(fewer).unwrap_err().to_string();
    assert!(error.contains("has 3 parameters"), "{error}");
}

#[test]
fn another_amsgrad_is_an_error_unless_the_load_is_partial() {
    let device = autodiff();
    let amsgrad = || AdamW::new(&AdamWConfig::new().with_amsgrad(true)).unwrap();
    for (mut from, mut to) in [(adamw(), amsgrad()), (amsgrad(), adamw())] {
        let model = train(Size::default().init(0, &device), &mut from, 0..2, &device);
        let saved = optimizer_state(&from, &model);
        let error = to.load_state_dict(&saved, &model, &MatchOptions::default()).unwrap_err();
        assert!(error.to_string().contains("amsgrad"), "{error}");
        to.load_state_dict(&saved, &model, &partial()).unwrap();
        train(model, &mut to, 2..3, &device);
    }
}
