//! The dual-head residual network of AlphaZero.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

use scai_games::Game;

use super::Network;
use crate::config::Model;

/// Channels of the policy head before its linear layer.
const POLICY_CHANNELS: usize = 16;
/// Channels of the value head before its linear layers.
const VALUE_CHANNELS: usize = 8;
/// Width of the value head's hidden layer.
const VALUE_HIDDEN: usize = 64;

/// The size of a [`DualResNet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DualResNetConfig {
    /// Residual blocks.
    pub num_blocks: usize,
    /// Channels of the residual tower.
    pub channels: usize,
    /// Channels, rows and columns of the input.
    pub planes: [usize; 3],
    /// Actions of the game: the outputs of the policy head.
    pub actions: usize,
}

/// A residual tower with a policy head and a value head.
///
/// A stem of a 3×3 convolution with batch norm and ReLU; `num_blocks` blocks of two 3×3
/// convolutions with batch norm and a skip connection; a policy head (1×1 convolution, linear) and
/// a value head (1×1 convolution, two linear layers, tanh). Source: Silver et al., *A general
/// reinforcement learning algorithm that masters chess, shogi, and Go through self-play*, 2018.
#[derive(Module, Debug)]
pub struct DualResNet {
    backbone: Backbone,
    policy_head: PolicyHead,
    value_head: ValueHead,
}

#[derive(Module, Debug)]
struct Backbone {
    conv: Conv2d,
    bn: BatchNorm,
    blocks: Vec<ResidualBlock>,
}

#[derive(Module, Debug)]
struct ResidualBlock {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
}

#[derive(Module, Debug)]
struct PolicyHead {
    conv: Conv2d,
    bn: BatchNorm,
    fc: Linear,
}

#[derive(Module, Debug)]
struct ValueHead {
    conv: Conv2d,
    bn: BatchNorm,
    fc1: Linear,
    fc2: Linear,
}

/// A convolution that keeps the board's size. Batch norm follows, so it has no bias.
fn conv(from: usize, to: usize, kernel: usize, device: &Device) -> Conv2d {
    let pad = kernel / 2;
    Conv2dConfig::new([from, to], [kernel, kernel])
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .with_bias(false)
        .init(device)
}

fn batch_norm(channels: usize, device: &Device) -> BatchNorm {
    BatchNormConfig::new(channels).init(device)
}

impl DualResNetConfig {
    /// The network of a configuration, for a game.
    pub fn of<G: Game>(model: &Model) -> Self {
        Self {
            num_blocks: model.num_blocks,
            channels: model.channels,
            planes: G::PLANES,
            actions: G::ACTIONS,
        }
    }

    /// A network with random parameters.
    pub fn init(&self, device: &Device) -> DualResNet {
        let [input, rows, columns] = self.planes;
        let (cells, channels) = (rows * columns, self.channels);
        let block = |_| ResidualBlock {
            conv1: conv(channels, channels, 3, device),
            bn1: batch_norm(channels, device),
            conv2: conv(channels, channels, 3, device),
            bn2: batch_norm(channels, device),
        };
        DualResNet {
            backbone: Backbone {
                conv: conv(input, channels, 3, device),
                bn: batch_norm(channels, device),
                blocks: (0..self.num_blocks).map(block).collect(),
            },
            policy_head: PolicyHead {
                conv: conv(channels, POLICY_CHANNELS, 1, device),
                bn: batch_norm(POLICY_CHANNELS, device),
                fc: LinearConfig::new(POLICY_CHANNELS * cells, self.actions).init(device),
            },
            value_head: ValueHead {
                conv: conv(channels, VALUE_CHANNELS, 1, device),
                bn: batch_norm(VALUE_CHANNELS, device),
                fc1: LinearConfig::new(VALUE_CHANNELS * cells, VALUE_HIDDEN).init(device),
                fc2: LinearConfig::new(VALUE_HIDDEN, 1).init(device),
            },
        }
    }
}

impl Backbone {
    fn forward(&self, planes: Tensor<4>) -> Tensor<4> {
        let stem = relu(self.bn.forward(self.conv.forward(planes)));
        self.blocks.iter().fold(stem, |x, block| block.forward(x))
    }
}

impl ResidualBlock {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = relu(self.bn1.forward(self.conv1.forward(x.clone())));
        relu(self.bn2.forward(self.conv2.forward(y)) + x)
    }
}

impl PolicyHead {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = relu(self.bn.forward(self.conv.forward(x)));
        self.fc.forward(x.flatten(1, 3))
    }
}

impl ValueHead {
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = relu(self.bn.forward(self.conv.forward(x)));
        let x = relu(self.fc1.forward(x.flatten(1, 3)));
        self.fc2.forward(x).tanh()
    }
}

impl Network for DualResNet {
    fn forward(&self, planes: Tensor<4>) -> (Tensor<2>, Tensor<2>) {
        let features = self.backbone.forward(planes);
        (self.policy_head.forward(features.clone()), self.value_head.forward(features))
    }
}
