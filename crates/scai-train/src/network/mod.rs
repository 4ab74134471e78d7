//! Networks with a policy and a value head, and their evaluation in batches.

mod cache;
mod dual_res_net;
mod evaluator;
mod saved;

use burn::module::Module;
use burn::tensor::Tensor;

pub(crate) use cache::Cache;
pub use dual_res_net::{DualResNet, DualResNetConfig};
pub use evaluator::{Evaluation, Evaluator, NetworkEvaluator};
pub use saved::SavedNetwork;

/// A network that evaluates a position: which move, and who wins.
///
/// Any implementation can be trained and saved; the names of its parameters are the names of its
/// fields, as in the state dict of an identical `torch.nn.Module`.
pub trait Network: Module + Sync + 'static {
    /// Evaluates a batch of positions.
    ///
    /// # Shapes
    /// - `planes`: `[batch, channels, rows, columns]`, as [`scai_games::Game::encode`] writes them
    /// - policy: `[batch, actions]`, logits
    /// - value: `[batch, 1]`, from −1 (the player to move loses) to 1
    fn forward(&self, planes: Tensor<4>) -> (Tensor<2>, Tensor<2>);
}
