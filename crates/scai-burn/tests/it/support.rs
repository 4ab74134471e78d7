//! A model with a module of every kind.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Embedding, EmbeddingConfig, LayerNorm,
    LayerNormConfig, Linear, LinearConfig, PRelu, PReluConfig,
};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Bool, Device, Int, Tensor};
use scai_burn::AdamW;
use scai_checkpoint::codec::{Plan, torch};
use scai_checkpoint::{Dict, Value};

pub(crate) const LEARNING_RATE: f64 = 0.01;
pub(crate) const CLASSES: usize = 3;

#[derive(Module, Debug)]
pub(crate) struct Net {
    pub(crate) embedding: Embedding,
    conv: Conv2d,
    pub(crate) bn: BatchNorm,
    pub(crate) blocks: Vec<Block>,
    pub(crate) extra: Option<Linear>,
    act: PRelu,
    dropout: Dropout,
    head: Linear,
    scale: Param<Tensor<1, Int>>,
    mask: Param<Tensor<1, Bool>>,
}

#[derive(Module, Debug)]
pub(crate) struct Block {
    norm: LayerNorm,
    pub(crate) fc: Linear,
}

/// The size of a [`Net`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) width: usize,
    pub(crate) blocks: usize,
    pub(crate) extra: bool,
}

impl Default for Size {
    fn default() -> Self {
        Self { width: 4, blocks: 2, extra: true }
    }
}

impl Size {
    /// A model with parameters drawn from `seed`.
    pub(crate) fn init(self, seed: u64, device: &Device) -> Net {
        let _guard = seeded(device, seed);
        let width = self.width;
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        let block =
            |_| Block { norm: LayerNormConfig::new(width).init(device), fc: linear(width, width) };
        let net = Net {
            embedding: EmbeddingConfig::new(5, width * width).init(device),
            conv: Conv2dConfig::new([1, 2], [width, 1]).init(device),
            bn: BatchNormConfig::new(2).init(device),
            blocks: (0..self.blocks).map(block).collect(),
            extra: self.extra.then(|| linear(width, width)),
            act: PReluConfig::new().init(device),
            dropout: DropoutConfig::new(0.1).init(),
            head: linear(2 * width, CLASSES),
            scale: Param::initialized(
                burn::module::ParamId::new(),
                Tensor::from_data([1 + seed as i64], device),
            ),
            mask: Param::initialized(
                burn::module::ParamId::new(),
                Tensor::from_data([seed.is_multiple_of(2), true], device),
            ),
        };
        // Parameters are drawn when they are first looked at.
        scai_burn::named_parameters(&net).unwrap();
        net
    }
}

impl Net {
    pub(crate) fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<2> {
        let [batch, _] = tokens.dims();
        let x = self.embedding.forward(tokens);
        let [_, _, cells] = x.dims();
        let width = cells.isqrt();
        let x = self.bn.forward(self.conv.forward(x.reshape([batch, 1, width, width])));
        let mut x = x.reshape([batch, 2, width]);
        for block in &self.blocks {
            x = x.clone() + block.fc.forward(block.norm.forward(x));
        }
        if let Some(extra) = &self.extra {
            x = extra.forward(x);
        }
        let x = self.dropout.forward(self.act.forward(x));
        self.head.forward(x.flatten(1, 2))
    }
}

/// Burn draws from one generator that all threads share.
pub(crate) fn seeded(device: &Device, seed: u64) -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    device.seed(seed);
    guard
}

pub(crate) fn autodiff() -> Device {
    Device::default().autodiff()
}

pub(crate) fn adamw() -> AdamW {
    AdamW::new(&AdamWConfig::new()).unwrap()
}

/// A batch of tokens.
pub(crate) fn tokens(step: u64, device: &Device) -> Tensor<2, Int> {
    let tokens: Vec<i64> = (0..8).map(|i| ((i * 7 + step * 3 + i * i * step) % 5) as i64).collect();
    Tensor::<1, Int>::from_data(tokens.as_slice(), device).reshape([8, 1])
}

pub(crate) fn gradients(model: &Net, step: u64, device: &Device) -> GradientsParams {
    let _guard = seeded(device, step);
    let logits = model.forward(tokens(step, device));
    let loss = (logits - step as f32 / 10.0).square().mean();
    GradientsParams::from_grads(loss.backward(), model)
}

pub(crate) fn train(
    mut model: Net,
    optimizer: &mut AdamW,
    steps: std::ops::Range<u64>,
    device: &Device,
) -> Net {
    for step in steps {
        let gradients = gradients(&model, step, device);
        model = optimizer.step(LEARNING_RATE, model, gradients);
    }
    model
}

/// A dict as it comes back from a file.
pub(crate) fn through_a_file(dict: &Dict) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.pt");
    write(&path, dict.clone().into());
    scai_checkpoint::file::open(&path, Default::default()).unwrap().tree().unwrap()
}

pub(crate) fn write(path: &std::path::Path, tree: Value) {
    let plan = Plan::Torch(torch::TorchPlan::new(&tree).unwrap());
    scai_checkpoint::file::write(path, plan, 1).unwrap();
}

pub(crate) fn model_state(model: &Net) -> Value {
    scai_burn::state_dict(model).unwrap().into()
}

pub(crate) fn optimizer_state(optimizer: &AdamW, model: &Net) -> Value {
    optimizer.state_dict(model, LEARNING_RATE).unwrap().into()
}

/// Fails with the paths of what differs.
#[track_caller]
pub(crate) fn assert_same(a: &Value, b: &Value) {
    let mut different = Vec::new();
    a.visit(&mut |path, value| {
        if value.children().is_empty() && b.lookup(path) != Some(value) {
            different.push(path.to_owned());
        }
    });
    assert!(different.is_empty(), "these differ: {different:?}");
    assert!(a == b, "the second has more than the first");
}
