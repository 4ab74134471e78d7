//! A model with a layer of every kind.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use candle_nn::rnn::{GRUConfig, LSTMConfig, RNN};
use candle_nn::{
    BatchNorm, Conv1d, Conv1dConfig, Conv2d, Conv2dConfig, ConvTranspose2d, Embedding, GroupNorm,
    LayerNorm, Linear, Module, ModuleT, Optimizer, PReLU, RmsNorm, VarBuilder, VarMap,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use scai_candle::AdamW;
use scai_checkpoint::codec::{Plan, torch};
use scai_checkpoint::{Dict, Value};

pub(crate) const LEARNING_RATE: f64 = 0.01;
pub(crate) const CLASSES: usize = 3;
const WIDTH: usize = 4;

pub(crate) struct Net {
    pub(crate) vars: VarMap,
    embedding: Embedding,
    conv: Conv2d,
    bn: BatchNorm,
    up: ConvTranspose2d,
    group: GroupNorm,
    mix: Conv1d,
    blocks: Vec<(LayerNorm, Linear)>,
    rms: RmsNorm,
    lstm: candle_nn::LSTM,
    gru: candle_nn::GRU,
    act: PReLU,
    head: Linear,
}

impl Net {
    /// A model with variables drawn from `seed`.
    pub(crate) fn new(blocks: usize, seed: u64) -> Self {
        let vars = VarMap::new();
        let net = Self::build(&vars, blocks).unwrap();
        initialise(&vars, seed);
        net
    }

    fn build(vars: &VarMap, blocks: usize) -> candle_core::Result<Self> {
        let b = VarBuilder::from_varmap(vars, DType::F32, &Device::Cpu);
        let block = |i| {
            let b = b.pp("blocks").pp(i);
            let norm = candle_nn::layer_norm(WIDTH, 1e-5, b.pp("norm"))?;
            Ok((norm, candle_nn::linear(WIDTH, WIDTH, b.pp("fc"))?))
        };
        let padded = Conv2dConfig { padding: 1, ..Conv2dConfig::default() };
        let along = Conv1dConfig { padding: 1, ..Conv1dConfig::default() };
        Ok(Self {
            vars: vars.clone(),
            embedding: candle_nn::embedding(5, WIDTH * WIDTH, b.pp("embedding"))?,
            conv: candle_nn::conv2d(1, 2, 3, padded, b.pp("conv"))?,
            bn: candle_nn::batch_norm(2, 1e-5, b.pp("bn"))?,
            up: candle_nn::conv_transpose2d(2, 2, 1, Default::default(), b.pp("up"))?,
            group: candle_nn::group_norm(2, 2, 1e-5, b.pp("group"))?,
            mix: candle_nn::conv1d(2 * WIDTH, 2, 3, along, b.pp("mix"))?,
            blocks: (0..blocks).map(block).collect::<candle_core::Result<_>>()?,
            rms: candle_nn::rms_norm(WIDTH, 1e-6, b.pp("rms"))?,
            lstm: candle_nn::lstm(WIDTH, WIDTH, LSTMConfig::default(), b.pp("lstm"))?,
            gru: candle_nn::gru(WIDTH, WIDTH, GRUConfig::default(), b.pp("gru"))?,
            act: candle_nn::prelu(None, b.pp("act"))?,
            head: candle_nn::linear(2 * WIDTH, CLASSES, b.pp("head"))?,
        })
    }

    /// Shapes: tokens `[batch]`, logits `[batch, CLASSES]`.
    pub(crate) fn forward(&self, tokens: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let n = tokens.dim(0)?;
        let x = self.embedding.forward(tokens)?.reshape((n, 1, WIDTH, WIDTH))?;
        let x = self.bn.forward_t(&self.conv.forward(&x)?, train)?.contiguous()?;
        let x = self.group.forward(&self.up.forward(&x)?)?;
        let mut x = self.mix.forward(&x.reshape((n, 2 * WIDTH, WIDTH))?)?;
        // `forward` of both norms stops gradients: candle's fast versions have no backward pass.
        for (norm, fc) in &self.blocks {
            let bias = norm.bias().expect("it has one");
            let normed = candle_nn::ops::layer_norm_slow(&x, norm.weight(), bias, 1e-5)?;
            x = (&x + fc.forward(&normed)?)?;
        }
        let x = self.rms.forward_diff(&x)?;
        let x = self.lstm.states_to_tensor(&self.lstm.seq(&x)?)?;
        let x = self.gru.states_to_tensor(&self.gru.seq(&x)?)?;
        self.head.forward(&self.act.forward(&x)?.flatten_from(1)?)
    }

    pub(crate) fn state(&self) -> Value {
        scai_candle::state_dict(&self.vars).unwrap().into()
    }

    pub(crate) fn adamw(&self) -> AdamW {
        AdamW::new_lr(self.vars.all_vars(), LEARNING_RATE).unwrap()
    }
}

/// Gives every variable but the statistics values from `seed`, since candle cannot be seeded.
fn initialise(vars: &VarMap, seed: u64) {
    let vars = vars.data().lock().unwrap();
    let mut names: Vec<&String> = vars.keys().filter(|name| !name.contains("running_")).collect();
    names.sort();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for name in names {
        let var = &vars[name];
        let values: Vec<f32> =
            (0..var.elem_count()).map(|_| random.random::<f32>() - 0.4).collect();
        var.set(&Tensor::from_vec(values, var.dims(), &Device::Cpu).unwrap()).unwrap();
    }
}

/// A batch of tokens.
pub(crate) fn tokens(step: u64) -> Vec<u32> {
    (0..8).map(|i| ((i * 7 + step * 3 + i * i * step) % 5) as u32).collect()
}

pub(crate) fn outputs(net: &Net, step: u64) -> Vec<f32> {
    let tokens = Tensor::new(tokens(step), &Device::Cpu).unwrap();
    net.forward(&tokens, false).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn gradients(net: &Net, step: u64) -> GradStore {
    let tokens = Tensor::new(tokens(step), &Device::Cpu).unwrap();
    let logits = net.forward(&tokens, true).unwrap();
    let loss = (logits - step as f64 / 10.0).unwrap().sqr().unwrap().mean_all().unwrap();
    loss.backward().unwrap()
}

pub(crate) fn train(net: &Net, optimizer: &mut impl Optimizer, steps: std::ops::Range<u64>) {
    for step in steps {
        optimizer.step(&gradients(net, step)).unwrap();
    }
}

/// A tree as it comes back from a file.
pub(crate) fn through_a_file(tree: impl Into<Value>) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.pt");
    write(&path, tree.into());
    scai_checkpoint::file::open(&path, Default::default()).unwrap().tree().unwrap()
}

pub(crate) fn write(path: &std::path::Path, tree: Value) {
    let plan = Plan::Torch(torch::TorchPlan::new(&tree).unwrap());
    scai_checkpoint::file::write(path, plan, 1).unwrap();
}

pub(crate) fn names_of(state: &Value) -> Vec<&str> {
    state.as_dict().unwrap().keys().collect()
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

/// An empty dict, which the state of no optimizer and no model is.
pub(crate) fn empty() -> Value {
    Dict::new().into()
}
