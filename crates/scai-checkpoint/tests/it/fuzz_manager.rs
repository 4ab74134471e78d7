//! Any sequence of operations on a directory of checkpoints, beside faults, damage and power
//! failures, held against a model of what must be true.

use scai_checkpoint::manager::{Prune, Residency};
use scai_checkpoint::testing::{Effect, Failure, Fault, Op, Times};
use scai_checkpoint::{Error, Retention, SaveHandle};

use crate::fuzz_bench::{Bench, Checked, ITERATIONS, SIZE, manager_of};
use crate::fuzz_checks::Input;
use crate::fuzz_model::{Effects, Held};
use crate::training::{Save, name, save_of, state};

/// Operations of one input. More find nothing that these do not.
const MOST: usize = 60;

/// Carries out what the input says, then looks whether the directory can be used as ever.
pub(crate) fn manager(input: &[u8]) {
    let mut input = Input(input);
    let mut bench = Bench::new(input.byte().unwrap_or(0) & 1 == 1, policy(&mut input));
    for _ in 0..MOST {
        let Some(operation) = input.byte() else { break };
        let done = carry_out(&mut bench, operation, &mut input);
        done.unwrap_or_else(|why| panic!("{why}\nafter {:#?}", bench.story));
    }
    aftermath(&mut bench).unwrap_or_else(|why| panic!("{why}, at last\nafter {:#?}", bench.story));
}

fn carry_out(bench: &mut Bench, operation: u8, input: &mut Input<'_>) -> Checked {
    match operation % 16 {
        0..=2 => save(bench, iteration(input)),
        3 => save_in_background(bench, iteration(input), input.byte().unwrap_or(0)),
        4 => rival(bench, iteration(input)),
        5 => load(bench, iteration(input)),
        6 => verify(bench, iteration(input)),
        7 => list(bench),
        8 => resume(bench),
        9 => pin(bench, iteration(input), operation & 16 == 0),
        10 => prune(bench, &policy(input), operation & 16 == 0),
        11 => {
            bench.reopen(policy(input));
            Ok(())
        }
        12 => bench.damage(input),
        13 | 14 => {
            bench.arm(fault(input));
            Ok(())
        }
        _ => bench.crash(input, policy),
    }
}

fn iteration(input: &mut Input<'_>) -> u64 {
    ITERATIONS[usize::from(input.byte().unwrap_or(0)) % ITERATIONS.len()]
}

fn policy(input: &mut Input<'_>) -> Retention {
    let policies = [
        "all",
        "last:1",
        "last:2",
        "last:1, every:5",
        "last:3",
        "best:total_iterations:min, best:total_iterations:max",
        "every:2",
        "within:1h",
    ];
    let policy = policies[usize::from(input.byte().unwrap_or(0)) % policies.len()];
    policy.parse().expect("a rule")
}

/// A fault to come: which operations it concerns, when it fires, how often and what it does.
fn fault(input: &mut Input<'_>) -> Fault {
    const EIO: Failure = Failure::Os(5);
    const ENOSPC: Failure = Failure::Os(28);
    let [kind, after] = [input.byte(), input.byte()].map(|byte| byte.unwrap_or(0));
    let effect = match kind % 7 {
        0 => Effect::Fail(EIO),
        1 => Effect::Fail(ENOSPC),
        2 | 3 => Effect::FailAfter(EIO),
        4 | 5 => Effect::Tear(ENOSPC),
        _ => Effect::Forget,
    };
    let concerns: fn(&Op) -> bool = match (effect, kind >> 6) {
        // What else is forgotten, no program could know of.
        (Effect::Forget, _) => |op| matches!(op, Op::Write { .. }),
        (_, 0 | 1) => Op::is_mutation,
        (_, 2) => |_| true,
        _ => |op| matches!(op, Op::SyncNames | Op::Rename { .. } | Op::Remove { .. }),
    };
    let times = if kind & 32 == 0 { Times::Once } else { Times::FromThenOn };
    Fault { concerns, after: usize::from(after % 40), times, effect }
}

fn save(bench: &mut Bench, iteration: u64) -> Checked {
    let save = bench.next_save(iteration);
    bench.begin(format!("{save:?}"));
    let saved = bench.manager().save(state(save, SIZE));
    end_save(bench, save, saved.map(|saved| (saved.removed, saved.warnings.len())))
}

fn save_in_background(bench: &mut Bench, iteration: u64, ending: u8) -> Checked {
    let save = bench.next_save(iteration);
    bench.begin(format!("{save:?} in the background, {}", ending % 4));
    let outcome = |handle: &SaveHandle| {
        let saved = handle.wait()?;
        Ok((saved.removed.clone(), saved.warnings.len()))
    };
    let handle = match bench.manager().save_in_background(state(save, SIZE)) {
        Ok(handle) => handle,
        Err(error) => return end_save(bench, save, Err(error)),
    };
    let mut ended = false;
    let saved = match ending % 4 {
        0 => outcome(&handle),
        // The next call waits, and tells of a failure.
        1 => match bench.manager().flush() {
            Ok(()) => outcome(&handle),
            Err(error) => Err(error),
        },
        2 => match bench.manager().list() {
            Ok(_) => outcome(&handle),
            Err(error) => Err(error),
        },
        // The end of the manager waits.
        _ => {
            ended = true;
            bench.reopen_as_it_was();
            if !handle.is_done() {
                return Err("the manager ended before its save".to_owned());
            }
            outcome(&handle)
        }
    };
    let done = end_save(bench, save, saved);
    if ended {
        bench.model.known.clear();
        bench.model.saved.clear();
    }
    done
}

/// Holds a save against the model, and its report against what it did.
fn end_save(bench: &mut Bench, save: Save, saved: Result<(Vec<String>, usize), Error>) -> Checked {
    let before = bench.model.now.clone();
    let newest = before.files.last_key_value().map_or(0, |(iteration, _)| *iteration);
    // Something is warned of that the next tests do not expect.
    let odd = bench.model.is_unread(save.iteration)
        || newest > save.iteration
        || before.latest != before.newest()
        || before.has_damage();
    let effects = Effects {
        save: Some((save.iteration, save.writer)),
        retention: Some(bench.retention.rules().to_vec()),
        acknowledged: saved.is_ok(),
        syncs: true,
        ..bench.effects()
    };
    let disturbed = bench.end(effects)?;
    match saved {
        Err(error) if !disturbed => Err(format!("without a fault: {error}")),
        Ok((_, warnings)) if warnings > 0 && !disturbed && !odd => {
            Err(format!("{warnings} warnings without a fault"))
        }
        Ok((mut removed, _)) => {
            // A `latest.pt` that was all there was becomes a checkpoint, which a rule may not keep.
            removed.retain(|_| !before.files.is_empty());
            let left = &bench.model.now.files;
            let gone = before.files.keys().filter(|iteration| !left.contains_key(iteration));
            let gone: Vec<String> = gone.map(|iteration| name(*iteration)).collect();
            // A removal may be done and fail.
            let right = removed == gone || disturbed && removed.iter().all(|r| gone.contains(r));
            if right { Ok(()) } else { Err(format!("{removed:?} were removed, says the save")) }
        }
        Err(_) => Ok(()),
    }
}

/// Another writer comes and goes: it is locked out, or it saves.
fn rival(bench: &mut Bench, iteration: u64) -> Checked {
    let save = bench.next_save(iteration);
    bench.begin(format!("{save:?} by a rival"));
    let rival = manager_of(bench.store(), Retention::keep_all());
    let saved = rival.save(state(save, SIZE));
    drop(rival);
    let effects = Effects {
        save: Some((save.iteration, save.writer)),
        by_rival: true,
        acknowledged: saved.is_ok(),
        syncs: true,
        ..bench.effects()
    };
    let disturbed = bench.end(effects)?;
    match saved {
        Err(Error::Locked { .. }) | Ok(_) => Ok(()),
        Err(_) if disturbed => Ok(()),
        Err(error) => Err(format!("without a fault: {error}")),
    }
}

fn load(bench: &mut Bench, iteration: u64) -> Checked {
    for residency in [Residency::Memory, Residency::Disk] {
        bench.begin(format!("load {iteration}, {residency:?}"));
        let loaded = bench.manager().load(name(iteration), residency).and_then(|loaded| {
            // What stays on disk is checked when it is read.
            scai_checkpoint::Checkpoint::from_tree(loaded.clone().into_tree()?.resident(1)?)
        });
        let held = bench.model.now.held(iteration);
        let disturbed = bench.end_reading()?;
        match (loaded, held) {
            (Ok(loaded), held)
                if save_of(&loaded, SIZE).map(|s| Held::Save(s.writer)) == Ok(held) =>
            {
                bench.model.known.insert(iteration, held);
            }
            (Err(Error::NotFound { .. }), Held::Nothing) => {}
            (Err(Error::Damaged { .. }), Held::Damage(_)) => {}
            (Err(_), _) if disturbed => {}
            (loaded, held) => return Err(format!("{held:?} is loaded as {loaded:?}")),
        }
    }
    Ok(())
}

fn verify(bench: &mut Bench, iteration: u64) -> Checked {
    bench.begin(format!("verify {iteration}"));
    let verified = bench.manager().verify(name(iteration));
    let held = bench.model.now.held(iteration);
    let disturbed = bench.end_reading()?;
    let found = verified.map(|v| (v.answers.exists, v.is_sound()));
    match (found, held) {
        (Ok((false, false)), Held::Nothing)
        | (Ok((true, true)), Held::Save(_))
        | (Ok((true, false)), Held::Damage(_)) => Ok(()),
        (Err(_) | Ok((_, false)), _) if disturbed => Ok(()),
        (found, held) => Err(format!("{held:?} is verified as {found:?}")),
    }
}

fn list(bench: &mut Bench) -> Checked {
    bench.begin("list".to_owned());
    let listed = bench.manager().list();
    let latest = bench.manager().latest();
    let now = bench.model.now.clone();
    let disturbed = bench.end_reading()?;
    let (Ok(listed), Ok(latest)) = (listed, latest) else {
        return if disturbed { Ok(()) } else { Err("without a fault, it fails".to_owned()) };
    };
    let names: Vec<&str> = listed.iter().map(|listed| listed.name.as_str()).collect();
    let expected: Vec<String> = now.files.keys().map(|iteration| name(*iteration)).collect();
    if expected.is_empty() && now.latest != Held::Nothing {
        let right = names == ["latest.pt"] && latest.is_some_and(|latest| latest.latest);
        return if right { Ok(()) } else { Err(format!("{names:?} are listed, for `latest.pt`")) };
    }
    if names != expected || latest.map(|latest| latest.name).as_ref() != expected.last() {
        return Err(format!("{names:?} are listed, {expected:?} are there"));
    }
    for (i, listed) in listed.iter().enumerate() {
        let sound = matches!(now.held(listed.iteration), Held::Save(_));
        let wrong = sound && listed.problem.is_some() && !disturbed
            || listed.pinned != now.pins.contains(&listed.iteration)
            || listed.latest != (i + 1 == names.len());
        if wrong {
            return Err(format!("{:?} is listed as {listed:?}", now.held(listed.iteration)));
        }
    }
    Ok(())
}

fn resume(bench: &mut Bench) -> Checked {
    bench.begin("resume".to_owned());
    let resumed = bench.manager().resume();
    let before = bench.model.now.clone();
    let set_aside =
        before.files.iter().rev().take_while(|(_, held)| !matches!(held, Held::Save(_)));
    let newest = before.sound().last().copied();
    let latest = matches!(before.latest, Held::Save(_));
    let effects = Effects {
        sets_aside: newest.is_some() || latest,
        acknowledged: true,
        syncs: newest.is_some() && set_aside.count() > 0,
        ..bench.effects()
    };
    let disturbed = bench.end(effects)?;
    match resumed {
        Ok(Some(resumed)) => {
            let found = save_of(&resumed.checkpoint, SIZE)?;
            let save = Held::Save(found.writer);
            // A copy that is sound is the last resort.
            let copy = resumed.name == "latest.pt" && before.latest == save;
            let there = copy || before.held(found.iteration) == save;
            let right = if copy { newest.is_none() } else { Some(found.iteration) == newest };
            if !copy {
                bench.model.known.insert(found.iteration, save);
            }
            if !there || !disturbed && !right {
                return Err(format!("{found:?} is resumed, {newest:?} is the newest sound one"));
            }
            let last = before.files.last_key_value().map_or(0, |(iteration, _)| *iteration);
            let lost = resumed.iterations_lost;
            let named = copy || resumed.name == name(found.iteration);
            let right = named && lost == last.saturating_sub(found.iteration);
            if right { Ok(()) } else { Err(format!("{lost} iterations are lost, it says")) }
        }
        Ok(None) if before.files.is_empty() && before.latest == Held::Nothing => Ok(()),
        Err(Error::NothingToResume { .. }) if newest.is_none() && !latest => Ok(()),
        Err(_) if disturbed => Ok(()),
        other => Err(format!("{other:?}, though {newest:?} is the newest sound one")),
    }
}

fn pin(bench: &mut Bench, iteration: u64, pin: bool) -> Checked {
    bench.begin(format!("{} {iteration}", if pin { "pin" } else { "unpin" }));
    let manager = bench.manager();
    let name = name(iteration);
    let done = if pin { manager.pin(&name) } else { manager.unpin(&name) };
    let held = bench.model.now.held(iteration);
    let effects = Effects {
        pin: Some((iteration, pin)),
        acknowledged: done.is_ok(),
        syncs: true,
        ..bench.effects()
    };
    let disturbed = bench.end(effects)?;
    match done {
        Ok(()) if held != Held::Nothing => Ok(()),
        Err(Error::NotFound { .. }) if held == Held::Nothing => Ok(()),
        Err(_) if disturbed => Ok(()),
        other => Err(format!("{held:?}: {other:?}")),
    }
}

fn prune(bench: &mut Bench, retention: &Retention, dry: bool) -> Checked {
    bench.begin(format!("prune {retention:?}, dry: {dry}"));
    let prune = if dry { Prune::DryRun } else { Prune::Remove };
    let verdicts = bench.manager().prune(retention, prune);
    let before = bench.model.now.clone();
    let removed = verdicts.as_ref().map_or(0, |all| all.iter().filter(|v| v.removed).count());
    let effects = Effects {
        retention: (!dry).then(|| retention.rules().to_vec()),
        acknowledged: verdicts.is_ok(),
        syncs: removed > 0,
        ..bench.effects()
    };
    let disturbed = bench.end(effects)?;
    let verdicts = match verdicts {
        // A `latest.pt` that is all there is stays, and the model has no iteration for it.
        Ok(mut verdicts) => {
            verdicts.retain(|verdict| verdict.checkpoint.name != "latest.pt" || verdict.removed);
            verdicts
        }
        Err(_) if disturbed => return Ok(()),
        Err(error) => return Err(format!("without a fault: {error}")),
    };
    let left = &bench.model.now;
    for verdict in &verdicts {
        let (iteration, removed) = (verdict.checkpoint.iteration, verdict.removed);
        let gone = left.held(iteration) == Held::Nothing;
        if gone != removed || (verdict.stays() || dry) && removed {
            return Err(format!("gone: {gone}, and the verdict is {verdict:?}"));
        }
    }
    if verdicts.len() == before.files.len() {
        return Ok(());
    }
    Err(format!("{} verdicts of {} checkpoints", verdicts.len(), before.files.len()))
}

/// The next process finds everything, goes on, and leaves no draft.
fn aftermath(bench: &mut Bench) -> Checked {
    bench.disarm();
    bench.reopen(Retention::keep_all());
    list(bench)?;
    resume(bench)?;
    let newest = bench.model.now.files.last_key_value().map_or(0, |(iteration, _)| *iteration);
    save(bench, newest + 1)?;
    resume(bench)?;
    match bench.model.now.drafts {
        0 => Ok(()),
        drafts => Err(format!("{drafts} drafts are left")),
    }
}
