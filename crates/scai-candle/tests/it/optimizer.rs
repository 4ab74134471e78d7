//! The optimizer and its state.

use candle_core::{DType, Device, Tensor as CandleTensor, Var};
use candle_nn::{Optimizer, ParamsAdamW, VarMap};
use scai_candle::AdamW;
use scai_checkpoint::load::{MatchOptions, Strictness};
use scai_checkpoint::{Dict, Error, Tensor, Value};

use crate::support::{
    LEARNING_RATE, Net, assert_same, empty, gradients, names_of, through_a_file, train, write,
};

fn partial() -> MatchOptions {
    MatchOptions::default().strictness(Strictness::Partial)
}

fn state(optimizer: &AdamW, net: &Net) -> Value {
    optimizer.state_dict(&net.vars).unwrap().into()
}

fn configs() -> [ParamsAdamW; 3] {
    [
        ParamsAdamW::default(),
        ParamsAdamW { weight_decay: 0.0, ..ParamsAdamW::default() },
        ParamsAdamW { lr: 0.02, beta1: 0.8, beta2: 0.99, eps: 1e-5, weight_decay: 0.3 },
    ]
}

#[test]
fn steps_have_the_bits_of_the_optimizer_of_candle() {
    for config in configs() {
        let (net, other) = (Net::new(2, 0), Net::new(2, 0));
        let mut ours = AdamW::new(net.vars.all_vars(), config.clone()).unwrap();
        let mut theirs = candle_nn::AdamW::new(other.vars.all_vars(), config.clone()).unwrap();
        let start = net.state();
        for steps in [0..3, 3..6] {
            train(&net, &mut ours, steps.clone());
            train(&other, &mut theirs, steps);
            assert_same(&net.state(), &other.state());
            ours.set_learning_rate(config.lr / 3.0);
            theirs.set_learning_rate(config.lr / 3.0);
            assert_eq!(ours.learning_rate(), theirs.learning_rate());
        }
        let mut changed = theirs.params().clone();
        changed.weight_decay = 0.5;
        ours.set_params(changed.clone());
        theirs.set_params(changed);
        train(&net, &mut ours, 6..8);
        train(&other, &mut theirs, 6..8);
        assert_same(&net.state(), &other.state());
        assert_ne!(net.state(), start);
    }
}

#[test]
fn half_precision_has_the_bits_of_the_optimizer_of_candle() {
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let var = || {
            let values = CandleTensor::arange(-1_f32, 1., &Device::Cpu).unwrap();
            Var::from_tensor(&values.to_dtype(dtype).unwrap()).unwrap()
        };
        let (a, b) = (var(), var());
        let mut ours = AdamW::new_lr(vec![a.clone()], 0.1).unwrap();
        let mut theirs = candle_nn::AdamW::new_lr(vec![b.clone()], 0.1).unwrap();
        for _ in 0..4 {
            for (var, loss) in [(&a, true), (&b, false)] {
                let value = (var.as_tensor() - 0.3).unwrap().sqr().unwrap().sum_all().unwrap();
                match loss {
                    true => ours.backward_step(&value).unwrap(),
                    false => theirs.backward_step(&value).unwrap(),
                }
            }
            let bits = |var: &Var| {
                let exact: Vec<f64> = var.to_dtype(DType::F64).unwrap().to_vec1().unwrap();
                exact.into_iter().map(f64::to_bits).collect::<Vec<_>>()
            };
            assert_eq!(bits(&a), bits(&b), "{dtype:?}");
        }
    }
}

#[test]
fn a_variable_that_gets_a_gradient_only_later_has_the_bits_of_candle_after_a_load_too() {
    let vars = |n: usize| {
        let vars = VarMap::new();
        for i in 0..n {
            let var = Var::new(&[1_f32, -2.0], &Device::Cpu).unwrap();
            vars.data().lock().unwrap().insert(format!("w{i}"), var);
        }
        vars
    };
    let loss = |vars: &VarMap, names: &[&str]| {
        let vars = vars.data().lock().unwrap();
        let squares = names.iter().map(|name| vars[*name].sqr().unwrap().sum_all().unwrap());
        squares.reduce(|a, b| (a + b).unwrap()).unwrap()
    };
    let (ours, theirs) = (vars(2), vars(2));
    let mut candle = candle_nn::AdamW::new_lr(theirs.all_vars(), 0.1).unwrap();
    let mut first = AdamW::new_lr(ours.all_vars(), 0.1).unwrap();
    for _ in 0..3 {
        first.backward_step(&loss(&ours, &["w0"])).unwrap();
        candle.backward_step(&loss(&theirs, &["w0"])).unwrap();
    }
    let saved = through_a_file(first.state_dict(&ours).unwrap());
    assert_eq!(saved.lookup("state").unwrap().children().len(), 1);

    let resumed = vars(2);
    let model = scai_candle::state_dict(&ours).unwrap().into();
    scai_candle::load_state_dict(&resumed, &model, &MatchOptions::default()).unwrap();
    let mut second = AdamW::new_lr(resumed.all_vars(), 0.1).unwrap();
    let report = second.load_state_dict(&saved, &resumed, &MatchOptions::default()).unwrap();
    assert_eq!(report.loaded, ["w0"]);
    for _ in 0..3 {
        second.backward_step(&loss(&resumed, &["w0", "w1"])).unwrap();
        candle.backward_step(&loss(&theirs, &["w0", "w1"])).unwrap();
    }
    let bits = |vars: &VarMap| Value::from(scai_candle::state_dict(vars).unwrap());
    assert_same(&bits(&resumed), &bits(&theirs));
}

#[test]
fn the_state_comes_back_equal_with_its_hyperparameters() {
    for config in configs() {
        let net = Net::new(1, 0);
        let mut optimizer = AdamW::new(net.vars.all_vars(), config.clone()).unwrap();
        train(&net, &mut optimizer, 0..3);
        optimizer.set_learning_rate(0.123);
        let saved = through_a_file(state(&optimizer, &net));
        assert_same(&saved, &state(&optimizer, &net));

        let mut loaded = net.adamw();
        let report = loaded.load_state_dict(&saved, &net.vars, &MatchOptions::default()).unwrap();
        assert!(report.is_complete());
        // Running statistics are saved with the model and not trained.
        assert_eq!(report.loaded.len(), net.vars.all_vars().len() - 2);
        assert_eq!(loaded.learning_rate(), 0.123);
        assert_eq!(loaded.params().weight_decay, config.weight_decay);
        assert_same(&state(&loaded, &net), &saved);
    }
}

#[test]
fn the_hyperparameters_are_written_as_pytorch_names_them() {
    let net = Net::new(1, 0);
    let state = state(&net.adamw(), &net);
    let float = |key: &str| state.lookup(&format!("param_groups.0.{key}")).unwrap().as_float();
    assert_eq!(float("lr"), Some(LEARNING_RATE));
    assert_eq!(float("eps"), Some(1e-8));
    assert_eq!(float("weight_decay"), Some(0.01));
    assert_eq!((float("betas.0"), float("betas.1")), (Some(0.9), Some(0.999)));
    let model = net.state();
    let parameters: Vec<&str> = names_of(&model)
        .into_iter()
        .filter(|name| !name.contains("running_") && !name.contains("num_batches"))
        .collect();
    let names = state.lookup("param_groups.0.param_names").unwrap().children();
    let names: Vec<&str> = names.iter().map(|(_, name)| name.as_str().unwrap()).collect();
    assert_eq!(names, parameters);
}

#[test]
fn a_state_is_a_snapshot_that_later_steps_do_not_change() {
    let net = Net::new(1, 0);
    let mut optimizer = net.adamw();
    train(&net, &mut optimizer, 0..2);
    let snapshot = state(&optimizer, &net);
    let written = through_a_file(snapshot.clone());
    train(&net, &mut optimizer, 2..4);
    assert_same(&through_a_file(snapshot), &written);
    assert_ne!(state(&optimizer, &net), written);
}

#[test]
fn moments_are_moved_by_name_and_a_failed_load_changes_nothing() {
    let net = Net::new(1, 0);
    let mut optimizer = net.adamw();
    train(&net, &mut optimizer, 0..2);
    let saved = state(&optimizer, &net);

    let larger = Net::new(2, 1);
    let mut other = AdamW::new_lr(larger.vars.all_vars(), 0.5).unwrap();
    train(&larger, &mut other, 0..1);
    let before = state(&other, &larger);
    let strict = MatchOptions::default();
    let error = other.load_state_dict(&saved, &larger.vars, &strict).unwrap_err();
    let Error::Mismatch { report, .. } = &error else { panic!("{error}") };
    assert_eq!(report.missing.len(), 4);
    assert!(report.missing.iter().all(|name| name.starts_with("blocks.1.")));
    assert_same(&state(&other, &larger), &before);

    let report = other.load_state_dict(&saved, &larger.vars, &partial()).unwrap();
    assert_eq!(report.missing.len(), 4);
    assert_eq!(other.learning_rate(), 0.5);
    let moved = state(&other, &larger);
    let index = |state: &Value, name: &str| {
        let names = state.lookup("param_groups.0.param_names").unwrap().children();
        names.iter().position(|(_, value)| value.as_str() == Some(name)).unwrap()
    };
    for name in ["blocks.0.fc.weight", "head.weight"] {
        for key in ["step", "exp_avg", "exp_avg_sq"] {
            let at = |state: &Value| {
                state.lookup(&format!("state.{}.{key}", index(state, name))).cloned().unwrap()
            };
            assert_eq!(at(&moved), at(&saved), "{name} {key}");
        }
    }
    let fresh = index(&moved, "blocks.1.fc.weight");
    assert!(moved.lookup(&format!("state.{fresh}")).is_none());
    // Without moments, it starts at its first step.
    train(&larger, &mut other, 2..3);
    let moved = state(&other, &larger);
    let step = |at: usize| moved.lookup(&format!("state.{at}.step")).unwrap().whole_number();
    assert_eq!(step(fresh).unwrap(), Some(1));
    assert_eq!(step(index(&moved, "head.weight")).unwrap(), Some(3));
}

#[test]
fn names_are_changed_as_those_of_the_model_are() {
    let net = Net::new(1, 0);
    let mut optimizer = net.adamw();
    train(&net, &mut optimizer, 0..2);
    let saved = state(&optimizer, &net);
    let renamed = VarMap::new();
    for (name, var) in net.vars.data().lock().unwrap().iter() {
        renamed.data().lock().unwrap().insert(format!("net.{name}"), var.clone());
    }
    let mut other = AdamW::new_lr(renamed.all_vars(), 0.5).unwrap();
    let options = MatchOptions::default().with_remap([("^", "net.")]).unwrap();
    assert!(other.load_state_dict(&saved, &renamed, &options).unwrap().is_complete());
    let moved: Value = other.state_dict(&renamed).unwrap().into();
    assert_eq!(moved.lookup("state"), saved.lookup("state"));
}

#[test]
fn variables_that_are_not_in_the_map_or_were_given_twice_are_an_error() {
    let (net, other) = (Net::new(1, 0), Net::new(1, 0));
    let optimizer = net.adamw();
    let error = optimizer.state_dict(&other.vars).unwrap_err().to_string();
    assert!(error.contains("not in this map"), "{error}");
    let twice = [net.vars.all_vars(), net.vars.all_vars()].concat();
    let optimizer = AdamW::new_lr(twice, 0.1).unwrap();
    let error = optimizer.state_dict(&net.vars).unwrap_err().to_string();
    assert!(error.contains("given twice"), "{error}");
}

#[test]
fn some_variables_can_be_trained_alone() {
    let net = Net::new(1, 0);
    let head = |vars: &VarMap| {
        let vars = vars.data().lock().unwrap();
        vec![vars["head.weight"].clone(), vars["head.bias"].clone()]
    };
    let mut optimizer = AdamW::new_lr(head(&net.vars), 0.1).unwrap();
    train(&net, &mut optimizer, 0..1);
    let saved = state(&optimizer, &net);
    assert_eq!(saved.lookup("state").unwrap().children().len(), 2);
    let mut loaded = AdamW::new_lr(head(&net.vars), 0.1).unwrap();
    loaded.load_state_dict(&saved, &net.vars, &MatchOptions::default()).unwrap();
    assert_same(&state(&loaded, &net), &saved);

    // A state for more variables, even one without moments, does not fit.
    let more = state(&net.adamw(), &net);
    let error = loaded.load_state_dict(&more, &net.vars, &MatchOptions::default()).unwrap_err();
    let Error::Mismatch { report, .. } = &error else { panic!("{error}") };
    assert_eq!(report.unexpected.len(), net.vars.all_vars().len() - 4);
    assert!(report.unexpected.contains(&"conv.weight".to_owned()));
    assert!(report.missing.is_empty());
}

#[test]
fn a_moment_that_is_found_damaged_while_it_is_loaded_changes_nothing() {
    let net = Net::new(1, 0);
    let mut optimizer = net.adamw();
    train(&net, &mut optimizer, 0..2);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.pt");
    write(&path, state(&optimizer, &net));
    let saved = scai_checkpoint::file::open(&path, Default::default()).unwrap().tree().unwrap();
    let entries = saved.lookup("state").unwrap().children();
    let last = entries.last().unwrap().1.lookup("exp_avg_sq").unwrap().as_tensor().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[last.storage().file_range().unwrap().start as usize] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let mut other = AdamW::new_lr(net.vars.all_vars(), 0.5).unwrap();
    train(&net, &mut other, 0..1);
    let before = state(&other, &net);
    let error = other.load_state_dict(&saved, &net.vars, &MatchOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("head.bias"), "{error}");
    assert_same(&state(&other, &net), &before);
}

/// The state of `net` with another value at `path` of the group, or of the first entry.
fn altered(net: &Net, change: impl Fn(&mut Dict, &mut Dict)) -> Value {
    let mut optimizer = net.adamw();
    optimizer.step(&gradients(net, 0)).unwrap();
    let mut dict = optimizer.state_dict(&net.vars).unwrap();
    let take = |dict: &mut Dict, key: &str| dict.remove(key).unwrap();
    let (Value::Dict(mut entries), Value::List(mut groups)) =
        (take(&mut dict, "state"), take(&mut dict, "param_groups"))
    else {
        panic!("not the state of an optimizer")
    };
    let (Value::Dict(group), (_, Value::Dict(entry))) = (&mut groups[0], &mut entries.entries[0])
    else {
        panic!("not the state of an optimizer")
    };
    change(group, entry);
    dict.insert("state", entries);
    dict.insert("param_groups", groups);
    dict.into()
}

#[test]
fn a_state_that_candle_cannot_have_is_an_error_unless_the_load_is_partial() {
    let net = Net::new(1, 0);
    let fails = |saved: &Value, what: &str, options: &MatchOptions| {
        let mut optimizer = net.adamw();
        let before = state(&optimizer, &net);
        let error = optimizer.load_state_dict(saved, &net.vars, options).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert_same(&state(&optimizer, &net), &before);
    };
    let strict = MatchOptions::default();
    let flag = |key: &'static str, value: bool| {
        altered(&net, move |group, _| drop(group.insert(key, value)))
    };
    for (saved, what) in [
        (flag("amsgrad", true), "saved with `amsgrad`"),
        (flag("maximize", true), "saved with `maximize`"),
        (flag("decoupled_weight_decay", false), "the weight decay of Adam"),
    ] {
        fails(&saved, what, &strict);
        let mut optimizer = net.adamw();
        let report = optimizer.load_state_dict(&saved, &net.vars, &partial()).unwrap();
        assert!(report.is_complete());
    }
    let lr = Tensor::from_vec(Vec::new(), vec![0.25_f32]).unwrap();
    let saved = altered(&net, |group, _| drop(group.insert("lr", lr.clone())));
    let mut optimizer = net.adamw();
    optimizer.load_state_dict(&saved, &net.vars, &strict).unwrap();
    assert_eq!(optimizer.learning_rate(), 0.25);

    let no_lr = altered(&net, |group, _| drop(group.remove("lr")));
    fails(&no_lr, "has no `lr`", &strict);
    let sgd = altered(&net, |_, entry| drop(entry.remove("exp_avg")));
    let small = Tensor::from_vec(vec![2], vec![0_f32; 2]).unwrap();
    let torn = altered(&net, |_, entry| drop(entry.insert("exp_avg_sq", small.clone())));
    let unnamed = altered(&net, |group, _| drop(group.remove("param_names")));
    for options in [&strict, &partial()] {
        fails(&sgd, "`embedding.weight` has no `exp_avg`", options);
        fails(&torn, "embedding.weight: float32 [2] in the checkpoint", options);
        fails(&unnamed, "`with_param_names`", options);
        fails(&empty(), "a dict with `state` and `param_groups`", options);
        fails(&Value::None, "got a None", options);
        fails(&net.state(), "`embedding.weight`, `conv.weight`, `conv.bias`, …", options);
    }
    let named = scai_candle::with_param_names(unnamed.clone(), &net.state()).unwrap();
    optimizer.load_state_dict(&named, &net.vars, &strict).unwrap();
    assert!(state(&optimizer, &net).lookup("state") == unnamed.lookup("state"));
}

#[test]
fn groups_of_pytorch_must_have_the_same_hyperparameters() {
    let net = Net::new(0, 0);
    let mut optimizer = net.adamw();
    train(&net, &mut optimizer, 0..1);
    let whole = optimizer.state_dict(&net.vars).unwrap();
    let Some(Value::List(groups)) = whole.get("param_groups") else { panic!("no groups") };
    let Value::Dict(group) = &groups[0] else { panic!("no group") };
    let split = |weight_decay: f64| -> Value {
        let (mut a, mut b) = (group.clone(), group.clone());
        for key in ["params", "param_names"] {
            let Some(Value::List(all)) = group.get(key) else { panic!("no {key}") };
            a.insert(key, all[..3].to_vec());
            b.insert(key, all[3..].to_vec());
        }
        b.insert("weight_decay", weight_decay);
        let mut dict = whole.clone();
        dict.insert("param_groups", vec![Value::from(a), b.into()]);
        dict.into()
    };
    let mut loaded = net.adamw();
    loaded.load_state_dict(&split(0.01), &net.vars, &MatchOptions::default()).unwrap();
    assert_same(&state(&loaded, &net), &whole.clone().into());
    let error = loaded.load_state_dict(&split(0.0), &net.vars, &MatchOptions::default());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("groups with different hyperparameters"), "{error}");
    loaded.load_state_dict(&split(0.0), &net.vars, &partial()).unwrap();
}
