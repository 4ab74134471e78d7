//! Values with which no run could work.

use std::fmt::Display;

use super::{Config, SaveInterval, Schedule};

/// Elements of the residual blocks. More would not fit into memory, four times as training needs
/// them, and the process would be aborted when they are allocated.
const MOST_PARAMETERS: u128 = 1 << 31;

/// What is wrong, and the keys it is about.
pub(super) struct Misfit {
    /// The paths of the keys, the main one first.
    pub(super) keys: Vec<&'static str>,
    /// The keys and what is wrong with them.
    pub(super) message: String,
}

/// Everything that is wrong with the values of `config`.
pub(super) fn misfits(config: &Config) -> Vec<Misfit> {
    let mut misfits = counts(config);
    misfits.extend(size(config));
    misfits.extend(fractions(config));
    misfits.extend(names(config));
    misfits.extend(retention(config));
    // A number that is wrong by itself is not compared with others.
    let wrong: Vec<&str> = misfits.iter().flat_map(|misfit| &misfit.keys).copied().collect();
    let pairs = pairs(config).into_iter();
    let pairs = pairs.filter(|pair| !pair.keys.iter().any(|key| wrong.contains(key)));
    misfits.extend(pairs.collect::<Vec<_>>());
    misfits
}

/// Invalid retention rules.
fn retention(config: &Config) -> Option<Misfit> {
    let (key, error) = config.checkpoint.retention().err()?;
    Some(Misfit { keys: vec![key], message: format!("`{key}`: {error}") })
}

fn misfit(key: &'static str, expected: &str, found: impl Display) -> Misfit {
    Misfit { keys: vec![key], message: format!("`{key}`: expected {expected}, found {found}") }
}

/// Numbers that count something there must be one of.
fn counts(config: &Config) -> Vec<Misfit> {
    let Config { model, self_play, training, replay_buffer, evaluation, .. } = config;
    let save_interval = match training.save_interval {
        SaveInterval::Every(iterations) => iterations,
        SaveInterval::Auto => 1,
    };
    let from_one = [
        ("model.num_blocks", model.num_blocks as u64),
        ("model.channels", model.channels as u64),
        ("self_play.games_per_iteration", self_play.games_per_iteration as u64),
        ("self_play.parallel_games", self_play.parallel_games as u64),
        ("self_play.simulations", self_play.simulations as u64),
        ("training.iterations", training.iterations),
        ("training.save_interval", save_interval),
        ("training.steps_per_iteration", training.steps_per_iteration),
        ("training.batch_size", training.batch_size as u64),
        ("replay_buffer.capacity", replay_buffer.capacity as u64),
        ("evaluation.simulations", evaluation.simulations as u64),
    ];
    let zeros = from_one.into_iter().filter(|(_, value)| *value == 0);
    let mut misfits: Vec<Misfit> =
        zeros.map(|(key, value)| misfit(key, "1 or more", value)).collect();
    if evaluation.games == 0 || !evaluation.games.is_multiple_of(2) {
        let expected = "an even number of 2 or more (each side moves first in half of the games)";
        misfits.push(misfit("evaluation.games", expected, evaluation.games));
    }
    misfits
}

/// A network that is too large.
fn size(config: &Config) -> Option<Misfit> {
    let (blocks, channels) = (config.model.num_blocks as u128, config.model.channels as u128);
    let convolution = channels.saturating_mul(channels).saturating_mul(9);
    let parameters = convolution.saturating_mul(blocks.saturating_mul(2));
    (parameters > MOST_PARAMETERS).then(|| Misfit {
        keys: vec!["model.channels", "model.num_blocks"],
        message: format!(
            "`model.num_blocks` ({blocks}) of `model.channels` ({channels}) have {parameters} \
             parameters; at most {MOST_PARAMETERS} are supported"
        ),
    })
}

/// Numbers with a fraction. NaN and infinity are outside every range.
fn fractions(config: &Config) -> Vec<Misfit> {
    let Config { self_play, training, .. } = config;
    let above_zero = [
        ("self_play.c_puct", self_play.c_puct),
        ("self_play.dirichlet_alpha", self_play.dirichlet_alpha),
        ("training.learning_rate", training.learning_rate),
    ];
    let from_zero = [
        ("self_play.temperature", self_play.temperature),
        ("training.final_learning_rate", training.final_learning_rate),
        ("training.weight_decay", training.weight_decay),
        ("training.value_loss_weight", training.value_loss_weight),
    ];
    let mut misfits = Vec::new();
    for (key, value) in above_zero {
        if !(value.is_finite() && value > 0.0) {
            misfits.push(misfit(key, "a number above 0", value));
        }
    }
    for (key, value) in from_zero {
        if !(value.is_finite() && value >= 0.0) {
            misfits.push(misfit(key, "a number of 0 or more", value));
        }
    }
    if !(0.0..=1.0).contains(&self_play.dirichlet_fraction) {
        let (key, value) = ("self_play.dirichlet_fraction", self_play.dirichlet_fraction);
        misfits.push(misfit(key, "a number from 0 to 1", value));
    }
    if !(training.save_overhead > 0.0 && training.save_overhead <= 1.0) {
        let (key, value) = ("training.save_overhead", training.save_overhead);
        misfits.push(misfit(key, "a number above 0 and at most 1", value));
    }
    misfits
}

/// Pairs of numbers of which one limits the other.
fn pairs(config: &Config) -> Vec<Misfit> {
    let Config { training, replay_buffer, .. } = config;
    let capacity = ("replay_buffer.capacity", replay_buffer.capacity as f64);
    let batch = ("training.batch_size", training.batch_size as f64);
    let minimum = ("replay_buffer.min_positions", replay_buffer.min_positions as f64);
    let rate = ("training.learning_rate", training.learning_rate);
    let last = match training.schedule {
        Schedule::Constant => 0.0,
        Schedule::Cosine | Schedule::Linear => training.final_learning_rate,
    };
    let rates = (("training.final_learning_rate", last), rate);
    let pairs = [(batch, capacity), (minimum, capacity), rates];
    let wrong = pairs.into_iter().filter(|((_, small), (_, large))| small > large);
    wrong
        .map(|((small, low), (large, high))| Misfit {
            keys: vec![small, large],
            message: format!(
                "`{small}` ({low}) is larger than `{large}` ({high}); lower the first or raise the \
                 second"
            ),
        })
        .collect()
}

/// Directories, and opponents that would share a statistic.
fn names(config: &Config) -> Vec<Misfit> {
    let directories = [
        ("checkpoint.directory", &config.checkpoint.directory),
        ("logging.directory", &config.logging.directory),
    ];
    let empty = directories.into_iter().filter(|(_, directory)| directory.is_empty());
    let mut misfits: Vec<Misfit> =
        empty.map(|(key, _)| misfit(key, "a directory", "an empty string")).collect();
    let opponents = &config.evaluation.opponents;
    for (i, opponent) in opponents.iter().enumerate() {
        if opponents.iter().take(i).any(|earlier| earlier == opponent) {
            let key = "evaluation.opponents";
            let message = format!("`{key}`: `{opponent}` is listed twice; remove one");
            misfits.push(Misfit { keys: vec![key], message });
        }
    }
    misfits
}
