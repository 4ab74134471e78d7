//! Models there and back.

use candle_core::{DType as CandleDType, Device, Tensor as CandleTensor, Var};
use candle_nn::{Module, VarBuilder, VarMap};
use proptest::prelude::*;
use scai_checkpoint::codec::Unprotected;
use scai_checkpoint::load::{MatchOptions, Strictness};
use scai_checkpoint::{DType, Dict, Error, Tensor, Value};

use crate::support::{Net, assert_same, names_of, outputs, through_a_file, train};

fn partial() -> MatchOptions {
    MatchOptions::default().strictness(Strictness::Partial)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_model_comes_back_equal(blocks in 0_usize..4, seed in 0_u64..1000, trained in 0_u64..2) {
        let net = Net::new(blocks, seed);
        train(&net, &mut net.adamw(), 0..trained);
        let saved = through_a_file(net.state());
        let other = Net::new(blocks, seed + 1);
        prop_assert!(outputs(&other, 0) != outputs(&net, 0));
        let options = MatchOptions::default();
        let report = scai_candle::load_state_dict(&other.vars, &saved, &options).unwrap();
        prop_assert!(report.is_complete());
        prop_assert_eq!(report.loaded.len(), net.vars.all_vars().len());
        prop_assert!(other.state() == net.state());
        prop_assert_eq!(outputs(&other, 0), outputs(&net, 0));
    }
}

#[test]
fn names_and_shapes_are_those_of_pytorch_in_the_order_of_the_model() {
    let state = Net::new(1, 0).state();
    let found: Vec<String> = state
        .tensors()
        .into_iter()
        .map(|(name, tensor)| format!("{name} {} {:?}", tensor.dtype(), tensor.shape()))
        .collect();
    let expected = [
        "embedding.weight float32 [5, 16]",
        "conv.weight float32 [2, 1, 3, 3]",
        "conv.bias float32 [2]",
        "bn.running_mean float32 [2]",
        "bn.running_var float32 [2]",
        "bn.num_batches_tracked int64 []",
        "bn.weight float32 [2]",
        "bn.bias float32 [2]",
        "up.weight float32 [2, 2, 1, 1]",
        "up.bias float32 [2]",
        "group.weight float32 [2]",
        "group.bias float32 [2]",
        "mix.weight float32 [2, 8, 3]",
        "mix.bias float32 [2]",
        "blocks.0.norm.weight float32 [4]",
        "blocks.0.norm.bias float32 [4]",
        "blocks.0.fc.weight float32 [4, 4]",
        "blocks.0.fc.bias float32 [4]",
        "rms.weight float32 [4]",
        "lstm.weight_ih_l0 float32 [16, 4]",
        "lstm.weight_hh_l0 float32 [16, 4]",
        "lstm.bias_ih_l0 float32 [16]",
        "lstm.bias_hh_l0 float32 [16]",
        "gru.weight_ih_l0 float32 [12, 4]",
        "gru.weight_hh_l0 float32 [12, 4]",
        "gru.bias_ih_l0 float32 [12]",
        "gru.bias_hh_l0 float32 [12]",
        "act.weight float32 [1]",
        "head.weight float32 [3, 8]",
        "head.bias float32 [3]",
    ];
    assert_eq!(found, expected);
}

/// A map with one variable.
fn one(name: &str, tensor: &CandleTensor) -> VarMap {
    let vars = VarMap::new();
    vars.data().lock().unwrap().insert(name.to_owned(), Var::from_tensor(tensor).unwrap());
    vars
}

#[test]
fn every_element_type_that_can_be_trained_or_counted_with_comes_back_bit_for_bit() {
    for (candle, dtype) in [
        (CandleDType::F64, DType::Float64),
        (CandleDType::F32, DType::Float32),
        (CandleDType::F16, DType::Float16),
        (CandleDType::BF16, DType::BFloat16),
        (CandleDType::F8E4M3, DType::Float8E4M3Fn),
        (CandleDType::I64, DType::Int64),
        (CandleDType::I32, DType::Int32),
        (CandleDType::I16, DType::Int16),
        (CandleDType::U32, DType::UInt32),
        (CandleDType::U8, DType::UInt8),
    ] {
        // All bits in use, and a tensor larger than a chunk of digests.
        let bytes: Vec<u8> = (0..80_000_u32).map(|i| (i * 37 % 251) as u8).collect();
        let shape = [2, bytes.len() / dtype.size() / 2];
        let tensor = CandleTensor::from_raw_buffer(&bytes, candle, &shape, &Device::Cpu).unwrap();
        let state = scai_candle::state_dict(&one("x", &tensor)).unwrap();
        let saved = through_a_file(state);
        let found = saved.lookup("x").unwrap().as_tensor().unwrap();
        assert_eq!((found.dtype(), found.shape()), (dtype, &shape[..]), "{candle:?}");
        assert_eq!(found.to_bytes().unwrap(), bytes, "{candle:?}");

        let zeros = one("x", &CandleTensor::zeros(&shape, candle, &Device::Cpu).unwrap());
        scai_candle::load_state_dict(&zeros, &saved, &MatchOptions::default()).unwrap();
        let loaded = scai_candle::state_dict(&zeros).unwrap();
        assert_eq!(loaded.get("x").unwrap().as_tensor().unwrap().to_bytes().unwrap(), bytes);
    }
}

#[test]
fn a_view_of_a_larger_tensor_is_saved_as_its_own_elements() {
    let tensor = CandleTensor::arange(0_f32, 24., &Device::Cpu).unwrap().reshape((4, 6)).unwrap();
    let view = tensor.narrow(0, 1, 2).unwrap().t().unwrap();
    let state = scai_candle::state_dict(&one("x", &view)).unwrap();
    let saved: Vec<f32> = state.get("x").unwrap().as_tensor().unwrap().to_vec().unwrap();
    assert_eq!(saved, view.flatten_all().unwrap().to_vec1::<f32>().unwrap());
}

#[test]
fn element_types_are_converted_only_if_asked_for_and_only_into_those_that_candle_has() {
    let half = one("x", &CandleTensor::new(&[0.5_f32, 2.0], &Device::Cpu).unwrap());
    let double = CandleTensor::new(&[1.5_f64, -3.0], &Device::Cpu).unwrap();
    let saved: Value = scai_candle::state_dict(&one("x", &double)).unwrap().into();
    let load = |saved: &Value, options| scai_candle::load_state_dict(&half, saved, &options);
    let before = scai_candle::state_dict(&half).unwrap();

    let error = load(&saved, MatchOptions::default()).unwrap_err().to_string();
    assert!(error.contains("float64"), "{error}");
    let e5m2 = scai_checkpoint::tensor::Storage::from_vec(vec![0_u8; 2]);
    let e5m2 = Tensor::contiguous(DType::Float8E5M2, vec![2], e5m2).unwrap();
    let unknown: Dict = [("x", e5m2)].into_iter().collect();
    let error = load(&unknown.into(), MatchOptions::default().cast()).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("tensor `x`: candle has no element type `float8_e5m2`"));
    assert_eq!(scai_candle::state_dict(&half).unwrap(), before);

    let report = load(&saved, MatchOptions::default().cast()).unwrap();
    assert_eq!(report.cast.len(), 1);
    let loaded = scai_candle::state_dict(&half).unwrap();
    let loaded: Vec<f32> = loaded.get("x").unwrap().as_tensor().unwrap().to_vec().unwrap();
    assert_eq!(loaded, [1.5, -3.0]);
}

#[test]
fn a_strict_load_reports_all_that_does_not_fit_and_changes_nothing() {
    let saved = Net::new(1, 0).state();
    let larger = Net::new(2, 1);
    let before = larger.state();
    let error =
        scai_candle::load_state_dict(&larger.vars, &saved, &MatchOptions::default()).unwrap_err();
    let Error::Mismatch { report, .. } = &error else { panic!("{error}") };
    assert_eq!(report.missing.len(), 4);
    assert!(report.missing.iter().all(|name| name.starts_with("blocks.1.")));
    assert_same(&larger.state(), &before);

    let report = scai_candle::load_state_dict(&larger.vars, &saved, &partial()).unwrap();
    assert_eq!(report.missing.len(), 4);
    let loaded = larger.state();
    let of = |tree: &Value, name: &str| tree.as_dict().unwrap().get(name).cloned();
    for (name, from) in [("blocks.0.fc.weight", &saved), ("blocks.1.fc.weight", &before)] {
        assert_eq!(of(&loaded, name), of(from, name), "{name}");
    }
}

#[test]
fn a_tensor_that_is_found_damaged_while_it_is_loaded_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.pt");
    crate::support::write(&path, Net::new(1, 0).state());
    let saved = scai_checkpoint::file::open(&path, Default::default()).unwrap().tree().unwrap();
    let bias = saved.as_dict().unwrap().get("head.bias").unwrap().as_tensor().unwrap().clone();
    let at = bias.storage().file_range().unwrap().start as usize;
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[at] ^= 1;
    // The last variable of the model; the open file is the same one.
    std::fs::write(&path, bytes).unwrap();

    let other = Net::new(1, 1);
    let before = other.state();
    let error =
        scai_candle::load_state_dict(&other.vars, &saved, &MatchOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("head.bias"), "{error}");
    assert_same(&other.state(), &before);
}

#[test]
fn names_can_be_changed_while_they_are_loaded() {
    let net = Net::new(1, 0);
    let mut wrapped = Dict::new();
    for (name, value) in scai_candle::state_dict(&net.vars).unwrap().entries {
        wrapped.insert(format!("module.{}", name.as_str().unwrap()), value);
    }
    let wrapped = Value::from(wrapped);
    let other = Net::new(1, 1);
    let error = scai_candle::load_state_dict(&other.vars, &wrapped, &MatchOptions::default());
    assert!(error.unwrap_err().to_string().contains("every saved name begins with `module.`"));
    let options = MatchOptions::default().with_remap([(r"^module\.", "")]).unwrap();
    let report = scai_candle::load_state_dict(&other.vars, &wrapped, &options).unwrap();
    assert!(report.is_complete());
    assert_same(&other.state(), &net.state());
}

#[test]
fn what_candle_itself_saved_is_loaded() {
    let (net, other) = (Net::new(1, 0), Net::new(1, 1));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    net.vars.save(&path).unwrap();
    let saved = scai_checkpoint::file::open(&path, Unprotected::Accept).unwrap().tree().unwrap();
    assert!(!names_of(&saved).contains(&"bn.num_batches_tracked"));
    let report =
        scai_candle::load_state_dict(&other.vars, &saved, &MatchOptions::default()).unwrap();
    assert!(report.is_complete());
    assert_same(&other.state(), &net.state());
}

#[test]
fn a_counter_of_batches_is_written_once_and_one_that_is_a_variable_is_kept() {
    let vars = VarMap::new();
    let builder = VarBuilder::from_varmap(&vars, CandleDType::F32, &Device::Cpu);
    let norm = candle_nn::batch_norm(2, 1e-5, builder).unwrap();
    let counter = CandleTensor::new(7_i64, &Device::Cpu).unwrap();
    let counter = Var::from_tensor(&counter).unwrap();
    vars.data().lock().unwrap().insert("num_batches_tracked".to_owned(), counter.clone());
    let state: Value = scai_candle::state_dict(&vars).unwrap().into();
    let names = names_of(&state);
    assert_eq!(names.iter().filter(|name| name.contains("num_batches")).count(), 1, "{names:?}");
    counter.set(&CandleTensor::new(8_i64, &Device::Cpu).unwrap()).unwrap();
    norm.running_mean(); // the layer is alive
    let report = scai_candle::load_state_dict(&vars, &state, &MatchOptions::default()).unwrap();
    assert!(report.is_complete());
    assert_eq!(counter.to_scalar::<i64>().unwrap(), 7);
}

#[test]
fn a_model_that_was_built_before_the_load_computes_with_the_loaded_values() {
    let (saved, vars) = (VarMap::new(), VarMap::new());
    let build = |vars: &VarMap| {
        let builder = VarBuilder::from_varmap(vars, CandleDType::F32, &Device::Cpu);
        candle_nn::linear(2, 3, builder).unwrap()
    };
    let (theirs, ours) = (build(&saved), build(&vars));
    let state = scai_candle::state_dict(&saved).unwrap();
    scai_candle::load_state_dict(&vars, &state.into(), &MatchOptions::default()).unwrap();
    let x = CandleTensor::new(&[[1_f32, 2.0]], &Device::Cpu).unwrap();
    let compute = |layer: &candle_nn::Linear| layer.forward(&x).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(compute(&ours), compute(&theirs));
}

#[test]
fn what_is_not_a_state_dict_is_an_error() {
    let net = Net::new(0, 0);
    for saved in [Value::None, Value::List(vec![]), Value::Int(3)] {
        let error = scai_candle::load_state_dict(&net.vars, &saved, &MatchOptions::default());
        assert!(error.unwrap_err().to_string().contains("not a state dict"));
    }
}
