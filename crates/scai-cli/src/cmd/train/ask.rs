//! The question whether training continues from its newest checkpoint.

use std::io::{BufRead, IsTerminal, Write};

use scai_checkpoint::file::ReadOptions;
use scai_checkpoint::manager::Listed;
use scai_games::Game;
use scai_train::Trainer;

use super::screen::strong;
use crate::exit::Failure;
use crate::progress;
use crate::render::{number, one_line};

/// Statistics that are shown with the question.
const FEW: usize = 6;

/// Whether there is somebody to ask.
pub(super) fn is_possible() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks whether to continue from the newest checkpoint that is sound.
pub(super) fn resume<G: Game>(trainer: &Trainer<G>, listed: &[Listed]) -> Result<bool, Failure> {
    let manager = trainer.manager();
    let mut damaged = Vec::new();
    let mut sound = None;
    for listed in listed.iter().rev() {
        let bar = progress::bytes(listed.size, "verifying");
        let verification = manager
            .verify_with(&listed.name, ReadOptions::default().progress(&|bytes| bar.inc(bytes)));
        bar.finish_and_clear();
        match verification?.damage.into_iter().next() {
            None => {
                sound = Some(listed);
                break;
            }
            Some(damage) => damaged.push(damage.to_string()),
        }
    }
    // If none is sound, the resume reports it.
    let Some(sound) = sound else { return Ok(true) };
    let of = trainer.config().training.iterations;
    if sound.iteration >= of {
        return Ok(true);
    }
    for damage in &damaged {
        crate::input::warn(damage);
    }
    let mut err = anstream::stderr();
    writeln!(err, "{}", strong(&sound.name))?;
    writeln!(err, "  iteration {} of {of}{}", sound.iteration, saved_at(sound))?;
    let numbers = sound.training_stats.names().filter_map(|name| {
        let value = number(sound.training_stats.number(name)?);
        (name != "total_iterations").then(|| format!("{} {value}", one_line(name)))
    });
    let numbers: Vec<String> = numbers.take(FEW).collect();
    writeln!(err, "  {}", numbers.join(", "))?;
    let question = match damaged.is_empty() {
        true => "Resume from the newest checkpoint? [Y/n] ",
        false => "Resume from this checkpoint, the newest sound one? [Y/n] ",
    };
    let mut input = std::io::stdin().lock();
    loop {
        write!(err, "{question}")?;
        err.flush()?;
        let mut answer = String::new();
        if input.read_line(&mut answer)? == 0 {
            writeln!(err)?;
            return Err(Failure::usage("no answer was given; nothing was done", None));
        }
        match answer.trim().to_lowercase().as_str() {
            "" | "y" | "yes" => return Ok(true),
            "n" | "no" => return Ok(false),
            _ => writeln!(err, "please answer y or n")?,
        }
    }
}

/// `, saved 2026-11-24 21:07:33`
fn saved_at(listed: &Listed) -> String {
    let Some(timestamp) = listed.timestamp.as_deref() else { return String::new() };
    format!(", saved {}", crate::render::time(timestamp))
}
