//! Modules there and back.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, FloatDType};
use proptest::prelude::*;
use scai_checkpoint::load::{MatchOptions, Strictness};
use scai_checkpoint::{DType, Dict, Error, Tensor, Value};

use crate::support::{
    Size, adamw, assert_same, autodiff, model_state, through_a_file, tokens, train,
};

fn partial() -> MatchOptions {
    MatchOptions::default().strictness(Strictness::Partial)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_module_of_any_size_comes_back_equal(
        width in 1_usize..6, blocks in 0_usize..4, extra: bool, seed in 0_u64..1000, training: bool
    ) {
        let device = if training { autodiff() } else { Device::default() };
        let size = Size { width, blocks, extra };
        let model = size.init(seed, &device);
        let saved = through_a_file(&scai_burn::state_dict(&model).unwrap());
        let other = size.init(seed + 1, &device);
        let (loaded, report) =
            scai_burn::load_state_dict(&other, &saved, &MatchOptions::default()).unwrap();
        prop_assert!(report.is_complete());
        prop_assert_eq!(report.loaded.len(), saved.as_dict().unwrap().len());
        prop_assert!(model_state(&loaded) == model_state(&model));
        prop_assert!(model_state(&other) != model_state(&model));
        let outputs = |model: &crate::support::Net| {
            model.valid().forward(tokens(1, &Device::default())).into_data().as_bytes().to_vec()
        };
        prop_assert_eq!(outputs(&loaded), outputs(&model));
    }
}

#[test]
fn names_shapes_and_types_are_those_of_pytorch() {
    let model = Size::default().init(0, &autodiff());
    let state = scai_burn::state_dict(&model).unwrap();
    let found: Vec<String> = state
        .entries
        .iter()
        .map(|(name, value)| {
            let tensor = value.as_tensor().unwrap();
            format!("{} {} {:?}", name.as_str().unwrap(), tensor.dtype(), tensor.shape())
        })
        .collect();
    let expected = [
        "embedding.weight float32 [5, 16]",
        "conv.weight float32 [2, 1, 4, 1]",
        "conv.bias float32 [2]",
        "bn.weight float32 [2]",
        "bn.bias float32 [2]",
        "bn.running_mean float32 [2]",
        "bn.running_var float32 [2]",
        "bn.num_batches_tracked int64 []",
        "blocks.0.norm.weight float32 [4]",
        "blocks.0.norm.bias float32 [4]",
        "blocks.0.fc.weight float32 [4, 4]",
        "blocks.0.fc.bias float32 [4]",
        "blocks.1.norm.weight float32 [4]",
        "blocks.1.norm.bias float32 [4]",
        "blocks.1.fc.weight float32 [4, 4]",
        "blocks.1.fc.bias float32 [4]",
        "extra.weight float32 [4, 4]",
        "extra.bias float32 [4]",
        "act.weight float32 [1]",
        "head.weight float32 [3, 8]",
        "head.bias float32 [3]",
        "scale int32 [1]",
        "mask bool [2]",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_linear_weight_is_transposed() {
    let linear = LinearConfig::new(2, 3).init(&Device::default());
    let ours: Vec<f32> = linear.weight.val().try_into_vec_as().unwrap();
    let state = scai_burn::state_dict(&linear).unwrap();
    let theirs: Vec<f32> = state.get("weight").unwrap().as_tensor().unwrap().to_vec().unwrap();
    let transposed: Vec<f32> = (0..6).map(|i| ours[i % 2 * 3 + i / 2]).collect();
    assert_eq!(theirs, transposed);
}

#[test]
fn running_statistics_are_saved_up_to_date_and_a_snapshot_keeps_them() {
    let device = autodiff();
    let (fresh, mut optimizer) = (Size::default().init(0, &device), adamw());
    let before = model_state(&fresh);
    let trained = train(fresh, &mut optimizer, 0..1, &device);
    let snapshot = model_state(&trained);
    let copy = model_state(&trained.valid());
    assert_same(&snapshot, &copy);
    assert_ne!(snapshot.lookup("bn.running_mean"), before.lookup("bn.running_mean"));
    // The snapshot is read only now, after more steps.
    train(trained, &mut optimizer, 1..3, &device);
    assert_same(&snapshot, &copy);
}

#[test]
fn a_load_changes_neither_the_model_it_begins_from_nor_its_settings() {
    let device = autodiff();
    let saved = model_state(&train(Size::default().init(1, &device), &mut adamw(), 0..2, &device));
    let mut model = Size::default().init(0, &device);
    model.blocks[0].fc = model.blocks[0].fc.clone().freeze();
    model.bn = model.bn.freeze();
    let before = model_state(&model);
    let (loaded, _) = scai_burn::load_state_dict(&model, &saved, &MatchOptions::default()).unwrap();
    assert_same(&model_state(&model), &before);
    assert_same(&model_state(&loaded), &saved);
    assert!(!loaded.blocks[0].fc.weight.is_require_grad());
    assert!(loaded.blocks[1].fc.weight.is_require_grad());
    assert!(!loaded.bn.training.is_enabled());
    assert!(loaded.blocks[1].fc.weight.val().is_autodiff());
    // Not in training, it stays so.
    let (loaded, _) =
        scai_burn::load_state_dict(&model.valid(), &saved, &MatchOptions::default()).unwrap();
    assert!(!loaded.blocks[1].fc.weight.val().is_autodiff());
    assert!(loaded.train().blocks[1].fc.weight.is_require_grad());
}

#[test]
fn a_module_with_gradient_checkpointing_trains_on_after_a_load() {
    let device = autodiff().gradient_checkpointing();
    let saved = model_state(&Size::default().init(1, &device));
    let smaller = Size { blocks: 1, ..Size::default() }.init(1, &device);
    for (model, options) in [
        (Size::default().init(0, &device), MatchOptions::default()),
        (Size { blocks: 3, ..Size::default() }.init(0, &device), partial()),
        (smaller, partial()),
    ] {
        let (loaded, _) = scai_burn::load_state_dict(&model, &saved, &options).unwrap();
        train(loaded, &mut adamw(), 0..2, &device);
    }
}

#[test]
fn a_strict_load_reports_all_that_does_not_fit() {
    let device = autodiff();
    let saved = model_state(&Size::default().init(0, &device));
    let larger = Size { blocks: 3, extra: false, ..Size::default() }.init(1, &device);
    let before = model_state(&larger);
    let error = scai_burn::load_state_dict(&larger, &saved, &MatchOptions::default()).unwrap_err();
    let Error::Mismatch { report, .. } = &error else { panic!("{error}") };
    assert_eq!(report.missing.len(), 4);
    assert_eq!(report.unexpected, ["extra.weight", "extra.bias"]);

    let (loaded, report) = scai_burn::load_state_dict(&larger, &saved, &partial()).unwrap();
    assert_eq!(report.missing.len(), 4);
    let loaded = model_state(&loaded);
    let of = |tree: &Value, name: &str| tree.as_dict().unwrap().get(name).cloned();
    for (name, from) in [("blocks.1.fc.weight", &saved), ("blocks.2.fc.weight", &before)] {
        assert_eq!(of(&loaded, name), of(from, name), "{name}");
    }
}

#[test]
fn names_can_be_changed_while_they_are_loaded() {
    let model = Size::default().init(0, &autodiff());
    let mut wrapped = Dict::new();
    for (name, value) in scai_burn::state_dict(&model).unwrap().entries {
        wrapped.insert(format!("module.{}", name.as_str().unwrap()), value);
    }
    let options = MatchOptions::default().with_remap([(r"^module\.", "")]).unwrap();
    let other = Size::default().init(1, &autodiff());
    let (loaded, _) = scai_burn::load_state_dict(&other, &wrapped.into(), &options).unwrap();
    assert_same(&model_state(&loaded), &model_state(&model));
}

#[test]
fn element_types_are_kept_and_not_converted_silently() {
    let half = |linear: Linear| {
        use burn::module::{ModuleMapper, Param};
        struct Cast;
        impl ModuleMapper for Cast {
            fn map_float<const D: usize>(
                &mut self,
                param: Param<burn::tensor::Tensor<D>>,
            ) -> Param<burn::tensor::Tensor<D>> {
                param.map(|tensor| tensor.cast(FloatDType::F16))
            }
        }
        linear.map(&mut Cast)
    };
    let device = Device::default();
    let single = LinearConfig::new(2, 3).init(&device);
    let saved: Value = scai_burn::state_dict(&half(single.clone())).unwrap().into();
    assert_eq!(saved.lookup("weight").unwrap().as_tensor().unwrap().dtype(), DType::Float16);

    let error = scai_burn::load_state_dict(&single, &saved, &MatchOptions::default()).unwrap_err();
    assert!(error.to_string().contains("float16"), "{error}");
    let other = half(LinearConfig::new(2, 3).init(&device));
    let (loaded, _) = scai_burn::load_state_dict(&other, &saved, &MatchOptions::default()).unwrap();
    assert_eq!(loaded.weight.val().dtype(), burn::tensor::DType::F16);
    assert_same(&scai_burn::state_dict(&loaded).unwrap().into(), &saved);
}

#[test]
fn the_counters_of_batch_norm_can_be_set_and_read() {
    let mut state = scai_burn::state_dict(&Size::default().init(0, &autodiff())).unwrap();
    assert_eq!(scai_burn::num_batches_tracked(&state.clone().into()), 0);
    scai_burn::set_num_batches_tracked(&mut state, 7).unwrap();
    assert_eq!(scai_burn::num_batches_tracked(&state.into()), 7);
}

#[test]
fn what_is_not_a_state_dict_is_an_error() {
    let model = Size::default().init(0, &autodiff());
    for saved in [Value::None, Value::List(vec![]), Value::Int(3)] {
        let error =
            scai_burn::load_state_dict(&model, &saved, &MatchOptions::default()).unwrap_err();
        assert!(error.to_string().contains("not a state dict"), "{error}");
    }
    let wrong: Dict =
        [("weight", Tensor::from_vec(vec![1], vec![0.0_f32]).unwrap())].into_iter().collect();
    let error =
        scai_burn::load_state_dict(&model, &wrong.into(), &MatchOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
}
