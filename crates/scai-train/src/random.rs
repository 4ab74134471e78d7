//! Random numbers whose whole state is in the checkpoint.
//!
//! Everything that runs in parallel draws from its own stream, chosen by purpose and number, so the
//! order in which threads take work changes nothing. What runs in sequence draws from one
//! generator, whose position in its stream is saved.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// What a stream of random numbers is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The parameters before training.
    Initialisation = 0,
    /// The samples of a training step and their symmetries.
    Sampling = 1,
    /// A game of self-play, by its number.
    SelfPlay = 2,
    /// A game of an evaluation, by its number.
    Evaluation = 3,
}

/// The generator of stream `number` for a purpose.
pub(crate) fn stream(seed: u64, purpose: Purpose, number: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    // 2⁶⁰ numbers for each purpose.
    generator.set_stream(((purpose as u64) << 60) | (number & ((1 << 60) - 1)));
    generator
}

/// The state of every generator, as saved in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RandomState {
    /// The algorithm, for readers of the file.
    pub(crate) generator: String,
    /// The seed of all streams, in hexadecimal.
    pub(crate) seed: String,
    /// Words drawn so far from the generator of the training samples.
    pub(crate) sampling_words: u64,
    /// The number of the next game of self-play.
    pub(crate) next_game: u64,
}

const GENERATOR: &str = "ChaCha8";

/// The generators of a training run.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    pub(crate) seed: u64,
    /// Draws the training samples.
    pub(crate) sampling: ChaCha8Rng,
    /// The number of the next game of self-play.
    pub(crate) next_game: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, sampling: stream(seed, Purpose::Sampling, 0), next_game: 0 }
    }

    pub(crate) fn state(&self) -> RandomState {
        RandomState {
            generator: GENERATOR.to_owned(),
            seed: format!("{:016x}", self.seed),
            sampling_words: self.sampling.get_word_pos() as u64,
            next_game: self.next_game,
        }
    }

    /// The generators in a saved state; `None` if it is of another algorithm.
    pub(crate) fn restored(state: &RandomState) -> Option<Self> {
        let seed = u64::from_str_radix(&state.seed, 16).ok()?;
        let mut random = Self { next_game: state.next_game, ..Self::new(seed) };
        random.sampling.set_word_pos(u128::from(state.sampling_words));
        (state.generator == GENERATOR).then_some(random)
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng as _;

    use super::*;

    #[test]
    fn a_restored_state_goes_on_where_it_stopped() {
        let mut random = Random::new(u64::MAX);
        random.next_game = 7;
        for _ in 0..1001 {
            random.sampling.next_u32();
        }
        let mut restored = Random::restored(&random.state()).unwrap();
        assert_eq!(restored.next_game, 7);
        for _ in 0..100 {
            assert_eq!(restored.sampling.next_u64(), random.sampling.next_u64());
        }
    }

    #[test]
    fn streams_differ_by_purpose_and_by_number() {
        let first = |purpose, number| stream(1, purpose, number).next_u64();
        let firsts = [
            first(Purpose::SelfPlay, 0),
            first(Purpose::SelfPlay, 1),
            first(Purpose::Evaluation, 0),
            first(Purpose::Sampling, 0),
        ];
        for (i, a) in firsts.iter().enumerate() {
            assert!(firsts[..i].iter().all(|b| a != b));
        }
        assert_eq!(first(Purpose::SelfPlay, 1), firsts[1]);
    }
}
