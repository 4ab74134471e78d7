//! `scai play CHECKPOINT`

use std::io::{BufRead, IsTerminal, Write};

use scai_games::{ConnectFour, Game, Outcome, TicTacToe};
use scai_train::config::Game as Named;
use scai_train::evaluation::best_move;
use scai_train::search::{Exploration, SearchOptions};
use scai_train::{Evaluator, SavedNetwork, Stop};

use crate::args::{First, PlayArgs};
use crate::exit::{Exit, Failure};
use crate::input::network;
use crate::render::{count, paint, style};

pub(crate) fn run(args: &PlayArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let saved = network(&args.checkpoint)?;
    let input = std::io::stdin().lock();
    match saved.config().game {
        Named::Connect4 => Table::<ConnectFour, _>::new(&saved, args, out).play("column", input),
        Named::TicTacToe => Table::<TicTacToe, _>::new(&saved, args, out).play("cell", input),
    }
}

/// What was typed.
enum Typed {
    Action(usize),
    Undo,
    Quit,
}

/// A game in progress.
struct Table<'a, G, W> {
    saved: &'a SavedNetwork,
    args: &'a PlayArgs,
    out: &'a mut W,
    position: G,
    /// The positions in which the person has moved.
    before: Vec<G>,
}

impl<'a, G: Game, W: Write> Table<'a, G, W> {
    fn new(saved: &'a SavedNetwork, args: &'a PlayArgs, out: &'a mut W) -> Self {
        Self { saved, args, out, position: G::default(), before: Vec::new() }
    }

    /// Plays a game. `noun` is what the game calls the targets of a move.
    fn play(mut self, noun: &str, mut input: impl BufRead) -> Result<Exit, Failure> {
        let evaluator = self.saved.evaluator::<G>()?;
        let config = self.saved.config();
        let simulations = self.args.simulations.unwrap_or(config.evaluation.simulations);
        let exploration = Exploration { c_puct: config.self_play.c_puct as f32 };
        let search = SearchOptions { simulations, exploration };
        let (me, network) = match self.args.first {
            First::Me => ('X', 'O'),
            First::Network => ('O', 'X'),
        };
        writeln!(
            self.out,
            "you are {me}; the network of iteration {} is {network} and searches {} positions per \
             move\ntype a {noun} from {} to {}, `u` to take a move back, `q` to quit\n",
            count(self.saved.iteration()),
            count(simulations as u64),
            G::action_name(0),
            G::action_name(G::ACTIONS - 1),
        )?;
        let mut mine = self.args.first == First::Me;
        let outcome = loop {
            if let Some(outcome) = self.position.outcome() {
                break outcome;
            }
            if !mine {
                self.reply(&evaluator, search)?;
                mine = true;
                continue;
            }
            writeln!(self.out, "{}\n", self.position)?;
            match self.ask(noun, &mut input)? {
                Typed::Quit => return Ok(Exit::Success),
                Typed::Undo => match self.before.pop() {
                    Some(position) => self.position = position,
                    None => writeln!(self.out, "there is no move to take back\n")?,
                },
                Typed::Action(action) => {
                    self.before.push(self.position);
                    self.position.play(action);
                    mine = false;
                }
            }
        };
        writeln!(self.out, "{}\n", self.position)?;
        // `mine`: whether the person would move next. The outcome is that of the player to move.
        let text = match (outcome, mine) {
            (Outcome::Draw, _) => "a draw",
            (Outcome::Win, true) | (Outcome::Loss, false) => "you win",
            (Outcome::Win, false) | (Outcome::Loss, true) => "the network wins",
        };
        writeln!(self.out, "{}", paint(style::BOLD, text))?;
        Ok(Exit::Success)
    }

    /// The network moves.
    fn reply(
        &mut self,
        evaluator: &dyn Evaluator<G>,
        search: SearchOptions,
    ) -> Result<(), Failure> {
        let (action, value, visits) = best_move(&self.position, evaluator, search, &Stop::new())?;
        writeln!(self.out, "the network plays {}", G::action_name(action))?;
        if self.args.explain {
            let expects = format!("{value:+.2}");
            writeln!(self.out, "  it expects {expects}, from -1 (it loses) to +1 (it wins)")?;
            let shown: Vec<String> = self
                .position
                .legal_actions()
                .map(|action| {
                    format!("{}: {}", G::action_name(action), count(visits[action].into()))
                })
                .collect();
            writeln!(self.out, "  visits per move  {}", shown.join("  "))?;
        }
        writeln!(self.out)?;
        self.position.play(action);
        Ok(())
    }

    /// Asks until the answer is valid.
    fn ask(&mut self, noun: &str, input: &mut impl BufRead) -> Result<Typed, Failure> {
        loop {
            write!(self.out, "your move: ")?;
            self.out.flush()?;
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                writeln!(self.out)?;
                return Ok(Typed::Quit);
            }
            let typed = line.trim();
            if !std::io::stdin().is_terminal() {
                // It has not been shown yet.
                writeln!(self.out, "{}", crate::render::one_line(typed))?;
            }
            match typed {
                "q" | "quit" => return Ok(Typed::Quit),
                "u" | "undo" => return Ok(Typed::Undo),
                _ => {}
            }
            let named = (0..G::ACTIONS).find(|&action| G::action_name(action) == typed);
            match named {
                Some(action) if self.position.is_legal(action) => {
                    return Ok(Typed::Action(action));
                }
                Some(_) => writeln!(self.out, "{noun} {typed} is full")?,
                None => {
                    let free: Vec<String> =
                        self.position.legal_actions().map(G::action_name).collect();
                    let typed = crate::render::one_line(typed);
                    writeln!(
                        self.out,
                        "`{typed}` is not a {noun}: type one of {}, `u` or `q`",
                        free.join(" ")
                    )?;
                }
            }
        }
    }
}
