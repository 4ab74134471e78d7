//! The positions to learn from: the newest from self-play.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::Rng;
use rand::RngExt as _;
use scai_checkpoint::tensor::Storage;
use scai_checkpoint::{DType, Dict, Tensor, Value};
use scai_games::Game;

use crate::error::{Error, Result};

/// Positions with the results of their searches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples {
    /// The planes of each position, 0 or 1, one position after the other.
    pub planes: Vec<u8>,
    /// How often the search chose each action, as shares.
    pub policies: Vec<f32>,
    /// How the game ended for the player to move, from −1 to 1.
    pub values: Vec<f32>,
}

impl Samples {
    /// The number of positions.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Appends the positions of `other`.
    pub fn append(&mut self, other: &Samples) {
        self.planes.extend_from_slice(&other.planes);
        self.policies.extend_from_slice(&other.policies);
        self.values.extend_from_slice(&other.values);
    }
}

/// Positions for one training step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// `[batch, channels, rows, columns]`
    pub planes: Vec<f32>,
    /// `[batch, actions]`
    pub policies: Vec<f32>,
    /// `[batch, 1]`
    pub values: Vec<f32>,
}

/// The newest `capacity` positions. Cloning shares them.
#[derive(Debug, Clone)]
pub struct ReplayBuffer {
    capacity: usize,
    /// Oldest first. Positions of the first ones may be too old to count.
    chunks: VecDeque<Arc<Samples>>,
    /// Positions in all chunks.
    held: usize,
}

impl ReplayBuffer {
    /// An empty buffer for `capacity` positions.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, chunks: VecDeque::new(), held: 0 }
    }

    /// The number of positions.
    pub fn len(&self) -> usize {
        self.held.min(self.capacity)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds positions; the oldest are dropped.
    pub fn push(&mut self, samples: Samples) {
        self.held += samples.len();
        self.chunks.push_back(Arc::new(samples));
        while let Some(first) = self.chunks.front()
            && self.held - first.len() >= self.capacity
        {
            self.held -= first.len();
            self.chunks.pop_front();
        }
    }

    /// Draws `size` positions with equal probability, and a symmetry of the game for each.
    ///
    /// Empty if the buffer is.
    pub fn sample<G: Game>(&self, size: usize, augment: Augment, rng: &mut impl Rng) -> Batch {
        let mut batch = Batch::default();
        if self.is_empty() {
            return batch;
        }
        let (cells, actions) = (G::PLANES[1] * G::PLANES[2], G::ACTIONS);
        let planes = G::PLANES[0] * cells;
        batch.planes = vec![0.0; size * planes];
        batch.policies = vec![0.0; size * actions];
        for i in 0..size {
            let (samples, at) = self.at(self.held - self.len() + rng.random_range(0..self.len()));
            let symmetry = match augment {
                Augment::Symmetries => rng.random_range(0..G::SYMMETRIES),
                Augment::Nothing => 0,
            };
            for (from, &cell) in samples.planes[at * planes..][..planes].iter().enumerate() {
                let to = from / cells * cells + G::cell_under(symmetry, from % cells);
                batch.planes[i * planes + to] = f32::from(cell);
            }
            for (from, &share) in samples.policies[at * actions..][..actions].iter().enumerate() {
                batch.policies[i * actions + G::action_under(symmetry, from)] = share;
            }
            batch.values.push(samples.values[at]);
        }
        batch
    }

    /// The position number `index`, oldest held first.
    fn at(&self, mut index: usize) -> (&Samples, usize) {
        let mut last = None;
        for chunk in &self.chunks {
            last = Some(chunk);
            if index < chunk.len() {
                break;
            }
            index -= chunk.len();
        }
        match last {
            Some(chunk) => (chunk, index),
            None => unreachable!("an empty buffer is not asked"),
        }
    }

    /// The buffer as saved in a checkpoint: `planes` (uint8, `[n, channels, rows, columns]`),
    /// `policies` (float32, `[n, actions]`), `values` (float32, `[n]`), `capacity`.
    ///
    /// The positions are shared, and joined when they are written.
    pub(crate) fn to_value<G: Game>(&self) -> Result<Value> {
        let [channels, rows, columns] = G::PLANES;
        let n = self.len();
        let planes = self.joined(channels * rows * columns, |samples| &samples.planes);
        let policies = self.joined(G::ACTIONS, |samples| &samples.policies);
        let values = self.joined(1, |samples| &samples.values);
        let mut dict = Dict::new();
        let shape = vec![n, channels, rows, columns];
        dict.insert("planes", Tensor::contiguous(DType::UInt8, shape, planes)?);
        let shape = vec![n, G::ACTIONS];
        dict.insert("policies", Tensor::contiguous(DType::Float32, shape, policies)?);
        dict.insert("values", Tensor::contiguous(DType::Float32, vec![n], values)?);
        dict.insert("capacity", self.capacity as i64);
        Ok(dict.into())
    }

    /// One array of all positions, of `width` elements each.
    fn joined<T: bytemuck::NoUninit>(
        &self,
        width: usize,
        array: impl Fn(&Samples) -> &Vec<T> + Send + Sync + 'static,
    ) -> Storage {
        let chunks = self.chunks.clone();
        let skipped = (self.held - self.len()) * width * size_of::<T>();
        let len = self.len() * width * size_of::<T>();
        Storage::produced(len as u64, move || {
            let mut bytes = Vec::with_capacity(skipped + len);
            for chunk in &chunks {
                bytes.extend_from_slice(bytemuck::cast_slice(array(chunk)));
            }
            bytes.drain(..skipped);
            Ok(bytes)
        })
    }

    /// The newest positions of a saved buffer, for a buffer of `capacity`.
    ///
    /// # Errors
    /// If it is not a buffer, or one of another game.
    pub(crate) fn from_value<G: Game>(value: &Value, capacity: usize) -> Result<Self> {
        let tensor = |key: &str| {
            let tensor = value.as_dict().and_then(|dict| dict.get(key)?.as_tensor());
            tensor.ok_or_else(|| Error::State(format!("`replay_buffer.{key}` is not a tensor")))
        };
        let (planes, policies, values) =
            (tensor("planes")?, tensor("policies")?, tensor("values")?);
        let [channels, rows, columns] = G::PLANES;
        let n = values.numel();
        for (name, tensor, shape) in [
            ("planes", planes, vec![n, channels, rows, columns]),
            ("policies", policies, vec![n, G::ACTIONS]),
            ("values", values, vec![n]),
        ] {
            if tensor.shape() != shape {
                return Err(Error::State(format!(
                    "`replay_buffer.{name}` has shape {:?}, but {} needs {shape:?}",
                    tensor.shape(),
                    G::NAME
                )));
            }
        }
        let mut buffer = Self::new(capacity);
        buffer.push(Samples {
            planes: planes.to_vec()?,
            policies: policies.to_vec()?,
            values: values.to_vec()?,
        });
        Ok(buffer)
    }
}

/// Whether samples are rotated and mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Augment {
    /// By a random symmetry of the game.
    Symmetries,
    /// They are not changed.
    Nothing,
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;
    use scai_games::TicTacToe;

    use super::*;

    /// `count` positions whose values are the numbers from `first` on.
    fn samples(first: usize, count: usize) -> Samples {
        let values: Vec<f32> = (first..first + count).map(|number| number as f32).collect();
        let planes =
            values.iter().flat_map(|&value| (0..27).map(move |i| value as u8 ^ i)).collect();
        let policies = values.iter().flat_map(|&value| (0..9).map(move |i| value + i as f32));
        Samples { planes, policies: policies.collect(), values }
    }

    fn drawn(buffer: &ReplayBuffer) -> Batch {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        buffer.sample::<TicTacToe>(500, Augment::Symmetries, &mut rng)
    }

    #[test]
    fn only_the_newest_positions_are_drawn() {
        let mut buffer = ReplayBuffer::new(10);
        assert!(buffer.is_empty() && drawn(&buffer).values.is_empty());
        for chunk in 0..5 {
            buffer.push(samples(chunk * 4, 4));
        }
        assert_eq!(buffer.len(), 10);
        let mut values = drawn(&buffer).values;
        values.sort_by(f32::total_cmp);
        values.dedup();
        assert_eq!(values, (10..20).map(|number| number as f32).collect::<Vec<_>>());
    }

    #[test]
    fn a_saved_buffer_draws_the_same_positions_and_takes_new_ones_the_same_way() {
        let mut buffer = ReplayBuffer::new(10);
        for chunk in 0..5 {
            buffer.push(samples(chunk * 4, 4));
        }
        let saved = buffer.to_value::<TicTacToe>().unwrap();
        let mut restored = ReplayBuffer::from_value::<TicTacToe>(&saved, 10).unwrap();
        assert_eq!(drawn(&restored), drawn(&buffer));
        for buffer in [&mut restored, &mut buffer] {
            buffer.push(samples(100, 3));
        }
        assert_eq!(drawn(&restored), drawn(&buffer));
        assert_eq!(
            restored.to_value::<TicTacToe>().unwrap(),
            buffer.to_value::<TicTacToe>().unwrap()
        );
    }

    #[test]
    fn a_buffer_that_was_saved_keeps_what_it_had_when_the_training_goes_on() {
        let mut buffer = ReplayBuffer::new(10);
        buffer.push(samples(0, 7));
        let saved = buffer.to_value::<TicTacToe>().unwrap();
        buffer.push(samples(7, 7));
        let values = saved.lookup("values").and_then(Value::as_tensor).unwrap();
        assert_eq!(values.to_vec::<f32>().unwrap(), (0..7).map(|n| n as f32).collect::<Vec<_>>());
    }

    #[test]
    fn a_buffer_of_another_game_is_refused_by_name() {
        let mut buffer = ReplayBuffer::new(10);
        buffer.push(samples(0, 3));
        let saved = buffer.to_value::<TicTacToe>().unwrap();
        let error = ReplayBuffer::from_value::<scai_games::ConnectFour>(&saved, 10)
            .unwrap_err()
            .to_string();
        assert!(error.contains("`replay_buffer.planes`") && error.contains("connect4"), "{error}");
    }

    #[test]
    fn symmetries_move_cells_and_actions_together() {
        let mut buffer = ReplayBuffer::new(1);
        // One disc of the player in the upper left corner, and all visits there.
        let (mut planes, mut policies) = (vec![0; 27], vec![0.0; 9]);
        (planes[0], policies[0]) = (1, 1.0);
        buffer.push(Samples { planes, policies, values: vec![1.0] });
        let batch = drawn(&buffer);
        let mut corners = std::collections::BTreeSet::new();
        for (planes, policy) in batch.planes.chunks(27).zip(batch.policies.chunks(9)) {
            let at = |cells: &[f32]| cells.iter().position(|&cell| cell == 1.0).unwrap();
            assert_eq!(at(&planes[..9]), at(policy));
            corners.insert(at(policy));
        }
        assert_eq!(corners.into_iter().collect::<Vec<_>>(), [0, 2, 6, 8]);
    }
}
