//! `scai train`

mod ask;
mod events;
mod lines;
mod screen;
mod settings;
mod signals;
mod start;
mod transfer;

use scai_games::{ConnectFour, Game, TicTacToe};
use scai_train::config::{Game as Named, SaveInterval};
use scai_train::metrics::{MetricsError, Recorder};
use scai_train::{BACKEND, Config, Ended, Error, Event, Observer, Stop, Trainer};

use self::screen::Screen;
use self::start::Start;
use crate::args::TrainArgs;
use crate::exit::{Exit, Failure};
use crate::render::{count, counted, number, one_line};

pub(crate) fn run(args: &TrainArgs) -> Result<Exit, Failure> {
    let config = settings::resolve(args)?;
    match config.game {
        Named::Connect4 => train::<ConnectFour>(config, args),
        Named::TicTacToe => train::<TicTacToe>(config, args),
    }
}

/// How a training run is shown: lines for people, or objects for programs.
trait Show: Observer {
    /// It begins, or continues.
    fn begin(&mut self, config: &Config, start: &Start, parameters: u64);
    /// It has ended.
    fn end(&mut self, ended: &End);
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// There was nothing left to do.
    WasComplete,
    Finished,
    /// By the signal of this number.
    Stopped(u8),
}

fn train<G: Game>(config: Config, args: &TrainArgs) -> Result<Exit, Failure> {
    let screen = Screen::new();
    let directory = config.checkpoint.directory.clone();
    let mut trainer =
        Trainer::<G>::new(config).map_err(|error| start::unusable(error, &directory))?;
    // Fails now instead of after the first iterations.
    let claimed = trainer.manager().claim();
    claimed.map_err(|error| start::unusable(error.into(), &directory))?;
    let start = start::begin(&mut trainer, args, &screen)?;
    let config = trainer.config().clone();
    let parameters: usize =
        trainer.parameters().iter().map(|spec| spec.shape.iter().product::<usize>()).sum();

    let stop = Stop::new();
    let mut show: Box<dyn Show> = match args.json {
        true => Box::new(events::Events::new(screen.clone())),
        false => {
            let settings = settings::path(args).display().to_string();
            Box::new(lines::Lines::new(screen.clone(), &config, settings))
        }
    };
    let signals = signals::catch(&stop, &screen).map_err(|error| {
        Failure::usage(format!("cannot install signal handlers: {error}"), None)
    })?;
    show.begin(&config, &start, parameters as u64);
    if start.iteration() >= config.training.iterations {
        show.end(&End::WasComplete);
        return Ok(Exit::Success);
    }
    let tell = |error: &MetricsError| {
        screen.warn(&format!("{error}; training continues without metrics"));
    };
    let (logging, stats) = (&config.logging, trainer.training_stats());
    let mut recorder = Recorder::open(logging, start.resumed_at(), stats, &tell);
    let ended = trainer.train(
        &mut |event: &Event<'_>| {
            recorder.on_event(event);
            show.on_event(event);
        },
        &stop,
    );
    recorder.close();
    screen.clear();
    let end = match ended.map_err(|error| failure(error, &trainer))? {
        Ended::Finished => End::Finished,
        Ended::Stopped => End::Stopped(signals.first()),
    };
    show.end(&end);
    Ok(match end {
        End::Stopped(signal) => Exit::Stopped(signal),
        End::WasComplete | End::Finished => Exit::Success,
    })
}

/// What to do if training fails.
fn failure<G: Game>(error: Error, trainer: &Trainer<G>) -> Failure {
    let newest = || trainer.manager().latest().ok().flatten();
    match error {
        Error::NotSaved { iteration, source } => {
            let goes_on = match newest() {
                Some(newest) => format!("resumes from iteration {}", newest.iteration),
                None => "starts over".to_owned(),
            };
            Failure::usage(
                format!(
                    "the state after iteration {iteration} could not be saved: {}",
                    source.cause()
                ),
                Some(format!("once that is fixed, `scai train` {goes_on}")),
            )
        }
        error => error.into(),
    }
}

/// What is trained, with what, and where it is saved.
fn header(config: &Config, parameters: u64) -> String {
    let threads = settings::threads(config);
    let every = match config.training.save_interval {
        SaveInterval::Every(interval) => format!("every {}", iterations(interval)),
        SaveInterval::Auto => {
            let percent = number(config.training.save_overhead * 100.0);
            format!("as often as a {percent}% overhead allows")
        }
    };
    let logging = &config.logging;
    let metrics = match logging.json || logging.tensorboard {
        true => format!("; metrics in `{}`", one_line(&logging.directory)),
        false => String::new(),
    };
    format!(
        "{}: {} of {} channels, {} parameters; {} on {BACKEND}\n\
         checkpoints in `{}` {every}{metrics}",
        game(config),
        counted(config.model.num_blocks as u64, "block"),
        config.model.channels,
        count(parameters),
        counted(threads as u64, "thread"),
        one_line(&config.checkpoint.directory),
    )
}

/// `iteration`, or `7 iterations`.
fn iterations(count: u64) -> String {
    if count == 1 { "iteration".to_owned() } else { format!("{count} iterations") }
}

/// The name of the game.
fn game(config: &Config) -> &'static str {
    match config.game {
        Named::Connect4 => ConnectFour::NAME,
        Named::TicTacToe => TicTacToe::NAME,
    }
}
