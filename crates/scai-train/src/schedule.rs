//! The learning rate as a function of the step.

use crate::config::{Schedule, Training};

/// The learning rate of step `step`, counted from 0.
///
/// It rises from zero during the warm-up, and then follows the schedule to the last step of the
/// run, after which it is constant.
pub(crate) fn learning_rate(training: &Training, step: u64) -> f64 {
    let Training { learning_rate: top, final_learning_rate: end, warmup_steps, .. } = *training;
    if step < warmup_steps {
        return top * (step + 1) as f64 / warmup_steps as f64;
    }
    let total = training.iterations.saturating_mul(training.steps_per_iteration);
    let course = total.saturating_sub(warmup_steps).max(1);
    let done = ((step - warmup_steps) as f64 / course as f64).min(1.0);
    match training.schedule {
        Schedule::Constant => top,
        Schedule::Linear => top + (end - top) * done,
        Schedule::Cosine => end + (top - end) * (1.0 + (std::f64::consts::PI * done).cos()) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_and_falls_to_its_end() {
        let training = Training {
            iterations: 10,
            steps_per_iteration: 11,
            warmup_steps: 10,
            learning_rate: 1.0,
            final_learning_rate: 0.1,
            ..Training::default()
        };
        let rate = |schedule, step| learning_rate(&Training { schedule, ..training.clone() }, step);
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
            assert_eq!(rate(schedule, 0), 0.1);
            assert_eq!(rate(schedule, 9), 1.0);
            assert_eq!(rate(schedule, 10), 1.0);
        }
        assert_eq!(rate(Schedule::Constant, 1000), 1.0);
        assert!((rate(Schedule::Linear, 60) - 0.55).abs() < 1e-12);
        assert!((rate(Schedule::Cosine, 60) - 0.55).abs() < 1e-12);
        for schedule in [Schedule::Linear, Schedule::Cosine] {
            assert!((rate(schedule, 110) - 0.1).abs() < 1e-12);
            assert!((rate(schedule, 1000) - 0.1).abs() < 1e-12);
        }
    }
}
