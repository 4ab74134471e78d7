//! The YAML file of settings: what it may say, and what is said where it may not.

use std::path::{Path, PathBuf};

use scai_checkpoint::value::{from_value, to_value};
use scai_train::config::{Config, ConfigError, Game, Opponent, SaveInterval, Schedule};
use serde_json::json;

fn read(yaml: &str) -> Config {
    Config::from_yaml(yaml, "config.yaml").unwrap()
}

/// The error's lines.
fn refused(yaml: &str) -> Vec<String> {
    let error = Config::from_yaml(yaml, "config.yaml").expect_err(yaml);
    error.to_string().lines().map(str::to_owned).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config.yaml")
}

/// The paths of all keys, as they are in JSON.
fn keys(value: &serde_json::Value) -> Vec<String> {
    let mut keys = Vec::new();
    for (section, value) in value.as_object().unwrap() {
        keys.push(section.clone());
        let inner = value.as_object().into_iter().flat_map(|inner| inner.keys());
        keys.extend(inner.map(|key| format!("{section}.{key}")));
    }
    keys
}

#[test]
fn the_file_in_the_repository_says_every_key_with_its_default() {
    assert_eq!(Config::read(root()).unwrap(), Config::default());
    let text = std::fs::read_to_string(root()).unwrap();
    let mut section = "";
    let mut written = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let Some((key, _)) = line.split_once(':') else { continue };
        match key.strip_prefix("  ") {
            Some(key) => written.push(format!("{section}.{key}")),
            None => {
                section = key;
                written.push(key.to_owned());
            }
        }
    }
    assert_eq!(written, keys(&serde_json::to_value(Config::default()).unwrap()));
}

#[test]
fn what_is_left_out_has_its_default() {
    for empty in ["", "\n", "# nothing\n", "---\n", "{}", "training:\n", "training:\n  # none\n"] {
        assert_eq!(read(empty), Config::default(), "{empty:?}");
    }
    let mut expected = Config::default();
    expected.training.save_interval = SaveInterval::Every(7);
    assert_eq!(read("training:\n  save_interval: 7\n"), expected);
    assert_eq!(read("training: { save_interval: 7 }"), expected);
    assert_eq!(read("\u{feff}training:\r\n  save_interval: 7\r\n"), expected);
}

#[test]
fn every_kind_of_value_is_read() {
    let config = read(
        "seed: 18446744073709551615\n\
         game: tictactoe\n\
         notes: |\n  two\n  lines\n\
         training: { schedule: linear, learning_rate: 1e-2, final_learning_rate: 0, augment: false }\n\
         checkpoint: { keep_best: 'win_rate_alphabeta4:max:2' }\n\
         evaluation:\n  opponents:\n  - alphabeta:12\n",
    );
    assert_eq!((config.seed, config.game), (u64::MAX, Game::TicTacToe));
    assert_eq!(config.notes, "two\nlines\n");
    assert_eq!((config.training.schedule, config.training.augment), (Schedule::Linear, false));
    assert_eq!((config.training.learning_rate, config.training.final_learning_rate), (0.01, 0.0));
    assert_eq!(config.evaluation.opponents, [Opponent::AlphaBeta { depth: 12 }]);
}

#[test]
fn the_save_interval_is_a_number_or_a_word_and_stays_what_it_was_in_a_checkpoint() {
    assert_eq!(Config::default().training.save_interval, SaveInterval::Every(10));
    assert_eq!(Config::default().training.save_overhead, 0.01);
    let auto = read("training: { save_interval: auto, save_overhead: 1 }");
    assert_eq!(auto.training.save_interval, SaveInterval::Auto);
    assert_eq!(auto.training.save_overhead, 1.0);
    for (config, written) in [(auto, json!("auto")), (Config::default(), json!(10))] {
        assert_eq!(json!(config)["training"]["save_interval"], written);
        assert_eq!(from_value::<Config>(&to_value(&config).unwrap()).unwrap(), config);
    }
    let older = json!({"training": {"save_interval": 3}});
    let older = Config::default().with(&older, "a checkpoint").unwrap();
    assert_eq!(older.training.save_interval, SaveInterval::Every(3));
}

#[test]
fn anchors_and_merges_are_read() {
    let config = read(
        "model: { channels: &size 48 }\n\
         self_play: &search { simulations: *size }\n\
         evaluation: { simulations: *size }\n",
    );
    assert_eq!((config.self_play.simulations, config.evaluation.simulations), (48, 48));
    let merged = read("checkpoint: &place { directory: runs }\nlogging:\n  <<: *place\n");
    assert_eq!(merged.logging.directory, "runs");
}

#[test]
fn a_key_that_does_not_exist_names_the_one_that_was_meant() {
    assert_eq!(
        refused("seed: 2\n\ntraining:\n  save_intervall: 5\n"),
        ["config.yaml:4:3: `training.save_intervall` is not a key; did you mean `save_interval`?"]
    );
    assert_eq!(
        refused("batch_size: 5\n"),
        ["config.yaml:1:1: `batch_size` is not a key; did you mean `training.batch_size`?"]
    );
    assert_eq!(
        refused("model:\n  xyz: 5\n"),
        ["config.yaml:2:3: `model.xyz` is not a key; the valid keys are `num_blocks`, `channels`"]
    );
}

#[test]
fn a_value_of_another_type_is_named_with_what_was_expected() {
    for (yaml, expected) in [
        (
            "training:\n  save_interval: often",
            "2:18: `training.save_interval`: expected a whole number of 1 or more or `auto`, found a \
             string \"often\"",
        ),
        (
            "training: { save_interval: Auto }",
            "1:28: `training.save_interval`: expected a whole number of 1 or more or `auto`, found a \
             string \"Auto\"",
        ),
        (
            "training: { save_interval: -1 }",
            "1:28: `training.save_interval`: expected a whole number of 1 or more or `auto`, found -1",
        ),
        (
            "training: { save_interval: 2.5 }",
            "1:28: `training.save_interval`: expected a whole number of 1 or more or `auto`, found 2.5",
        ),
        (
            "training:\n  save_interval:",
            "2:16: `training.save_interval`: expected a whole number of 1 or more or `auto`, found \
             nothing",
        ),
        (
            "training: { save_overhead: 1% }",
            "1:28: `training.save_overhead`: expected a number, found a string \"1%\"",
        ),
        ("seed: '1'", "1:7: `seed`: expected a whole number, found a string \"1\""),
        ("seed: -1", "1:7: `seed`: expected a whole number of 0 or more, found -1"),
        ("seed: 1.5", "1:7: `seed`: expected a whole number, found 1.5"),
        (
            "seed: 18446744073709551616",
            "1:7: `seed`: expected a whole number, found 1.8446744073709552e19",
        ),
        ("seed:", "1:5: `seed`: expected a whole number, found nothing"),
        ("seed: [1]", "1:7: `seed`: expected a whole number, found a list"),
        ("notes: 5", "1:8: `notes`: expected a string, found 5; put it in quotes"),
        ("notes: true", "1:8: `notes`: expected a string, found true; put it in quotes"),
        (
            "training: { learning_rate: fast }",
            "1:28: `training.learning_rate`: expected a number, found a string \"fast\"",
        ),
        (
            "logging: { json: yes }",
            "1:18: `logging.json`: expected `true` or `false`, found a string \"yes\"",
        ),
        ("model: 5", "1:8: `model`: expected a mapping of keys, found 5"),
        ("model: [4, 32]", "1:8: `model`: expected a mapping of keys, found a list"),
        (
            "evaluation: { opponents: random }",
            "1:26: `evaluation.opponents`: expected a list, found a string \"random\"",
        ),
        (
            "evaluation:\n  opponents: [random, 5]",
            "2:23: `evaluation.opponents`: expected a string, found 5; put it in quotes",
        ),
        ("- seed", "1:1: expected a mapping of keys, found a list"),
        ("seed", "1:1: expected a mapping of keys, found a string \"seed\""),
    ] {
        assert_eq!(refused(yaml), [format!("config.yaml:{expected}")]);
    }
}

#[test]
fn a_word_that_is_not_known_is_named_with_those_that_are() {
    for (yaml, expected) in [
        (
            "game: chess",
            "1:7: `game`: expected one of `connect4`, `tictactoe`, found a string \"chess\"",
        ),
        (
            "game: connect_4",
            "1:7: `game`: expected one of `connect4`, `tictactoe`, found a string \"connect_4\"; \
             did you mean `connect4`?",
        ),
        ("game: 4", "1:7: `game`: expected one of `connect4`, `tictactoe`, found 4"),
        (
            "evaluation:\n  opponents: [random, 'alphabeta:0']",
            "2:23: `evaluation.opponents`: `alphabeta:0` is not an opponent; write `random` or \
             `alphabeta:DEPTH` with a depth of 1 or more",
        ),
        (
            "checkpoint: { keep_best: loss }",
            "1:26: `checkpoint.keep_best`: `best:loss` is not a retention rule: expected \
             `best:STATISTIC:min` or `best:STATISTIC:max:N`",
        ),
        (
            "checkpoint: { keep_last: 0 }",
            "1:26: `checkpoint.keep_last`: `last:0` is not a retention rule: the number must \
             be at least 1; write `all` to keep everything, or leave the rule out",
        ),
        (
            "checkpoint: { keep: all, keep_last: 3 }",
            "1:21: `checkpoint.keep`: `all` is not a retention rule: it keeps everything, so it \
             cannot be combined with other rules",
        ),
        (
            "checkpoint: { keep: 'last:3, newest:1' }",
            "1:21: `checkpoint.keep`: `newest:1` is not a retention rule: a rule is `last:3`, \
             `every:1000`, `within:2d` or `best:loss:min:2`; `all` keeps everything",
        ),
    ] {
        assert_eq!(refused(yaml), [format!("config.yaml:{expected}")]);
    }
}

#[test]
fn a_value_with_which_no_run_could_work_is_refused() {
    for (yaml, expected) in [
        ("model:\n  channels: 0", "2:13: `model.channels`: expected 1 or more, found 0"),
        (
            "training: { learning_rate: -1, schedule: constant }",
            "1:28: `training.learning_rate`: expected a number above 0, found -1",
        ),
        (
            "training: { weight_decay: .nan }",
            "1:27: `training.weight_decay`: expected a number of 0 or more, found NaN",
        ),
        (
            "self_play: { c_puct: .inf }",
            "1:22: `self_play.c_puct`: expected a number above 0, found inf",
        ),
        (
            "training: { save_interval: 0 }",
            "1:28: `training.save_interval`: expected 1 or more, found 0",
        ),
        (
            "training: { save_interval: auto, save_overhead: 0 }",
            "1:49: `training.save_overhead`: expected a number above 0 and at most 1, found 0",
        ),
        (
            "training: { save_overhead: 1.01 }",
            "1:28: `training.save_overhead`: expected a number above 0 and at most 1, found 1.01",
        ),
        (
            "training: { save_overhead: -0.01 }",
            "1:28: `training.save_overhead`: expected a number above 0 and at most 1, found -0.01",
        ),
        (
            "training: { save_overhead: .nan }",
            "1:28: `training.save_overhead`: expected a number above 0 and at most 1, found NaN",
        ),
        (
            "self_play: { dirichlet_fraction: 1.5 }",
            "1:34: `self_play.dirichlet_fraction`: expected a number from 0 to 1, found 1.5",
        ),
        (
            "training: { batch_size: 99 }\nreplay_buffer: { capacity: 98, min_positions: 1 }",
            "1:25: `training.batch_size` (99) is larger than `replay_buffer.capacity` (98); lower \
             the first or raise the second",
        ),
        (
            "training: { learning_rate: 0.5, final_learning_rate: 0.6 }",
            "1:54: `training.final_learning_rate` (0.6) is larger than `training.learning_rate` \
             (0.5); lower the first or raise the second",
        ),
        (
            "model: { num_blocks: 20, channels: 1000000 }",
            "1:36: `model.num_blocks` (20) of `model.channels` (1000000) have 360000000000000 \
             parameters; at most 2147483648 are supported",
        ),
        (
            "evaluation: { games: 7 }",
            "1:22: `evaluation.games`: expected an even number of 2 or more (each side moves first \
             in half of the games), found 7",
        ),
        (
            "evaluation: { opponents: [random, random] }",
            "1:26: `evaluation.opponents`: `random` is listed twice; remove one",
        ),
        (
            "logging: { directory: '' }",
            "1:23: `logging.directory`: expected a directory, found an empty string",
        ),
    ] {
        assert_eq!(refused(yaml), [format!("config.yaml:{expected}")]);
    }
    // The blame is on what the file says, where the other value is a default.
    let small = refused("replay_buffer: { capacity: 1, min_positions: 1 }");
    assert!(small[0].starts_with("config.yaml:1:28: `training.batch_size`"), "{small:?}");
}

#[test]
fn every_count_is_checked_for_zero() {
    let json = serde_json::to_value(Config::default()).unwrap();
    // These may be 0, and mean something by it.
    let zeros =
        ["seed", "threads", "temperature_moves", "warmup_steps", "min_positions", "interval"];
    for path in keys(&json) {
        let Some((section, key)) = path.split_once('.') else { continue };
        if json[section][key].is_u64() && !zeros.contains(&key) {
            let lines = refused(&format!("{section}:\n  {key}: 0\n"));
            assert!(lines[0].contains(&format!("`{path}`")), "{path}: {lines:?}");
        }
    }
    for key in zeros.iter().skip(1) {
        let path = keys(&json).into_iter().find(|path| path.ends_with(&format!(".{key}"))).unwrap();
        read(&path.replace('.', ": { ").replace(key, &format!("{key}: 0 }}")));
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once_in_the_order_of_the_file() {
    let lines = refused(
        "sed: 1\ntraining:\n  augment: 1\n  batch: 5\nmodel: 5\nevaluation:\n  games: many\n",
    );
    let starts = [
        "config.yaml:1:1: `sed` is not a key; did you mean `seed`?",
        "config.yaml:3:12: `training.augment`: expected `true` or `false`, found 1",
        "config.yaml:4:3: `training.batch` is not a key; did you mean `batch_size`?",
        "config.yaml:5:8: `model`",
        "config.yaml:7:10: `evaluation.games`",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
    let values = refused("logging: { directory: '' }\nmodel: { channels: 0, num_blocks: 0 }\n");
    let places: Vec<&str> = values.iter().map(|line| &line[..15]).collect();
    assert_eq!(places, ["config.yaml:1:2", "config.yaml:2:2", "config.yaml:2:3"]);
}

#[test]
fn a_file_of_nothing_but_wrong_keys_is_not_told_in_full() {
    let yaml: String = (0..5000).map(|i| format!("wrong{i}: 1\n")).collect();
    assert_eq!(refused(&yaml).len(), 20);
}

#[test]
fn a_key_that_is_written_twice_is_refused() {
    assert_eq!(
        refused("seed: 1\ntraining: { augment: true }\nseed: 2\n"),
        ["config.yaml:3:1: `seed` is set twice, first on line 1; remove one of them"]
    );
}

#[test]
fn what_is_not_yaml_is_refused_with_its_place() {
    let tab = refused("training:\n\taugment: true\n");
    assert!(tab[0].starts_with("config.yaml:2:2: not valid YAML: "), "{tab:?}");
    assert!(tab[0].ends_with("; indent with spaces"), "{tab:?}");
    for (yaml, place) in [
        ("a: [1\nb: 2\n", "2:2"),
        ("a: b: c\n", "1:5"),
        ("seed: *nope\n", "1:7"),
        ("a: &a [*a]", "1:8"),
        ("seed: 1\n---\nseed: 2\n", "3:1"),
        ("notes: \"open\n", "1:8"),
        ("? [a]\n: b\n", "1:3"),
    ] {
        let lines = refused(yaml);
        assert!(
            lines[0].starts_with(&format!("config.yaml:{place}: not valid YAML: ")),
            "{lines:?}"
        );
        assert!(!lines[0].contains(" at line "), "the place is told once: {lines:?}");
    }
}

#[test]
fn aliases_that_multiply_are_refused() {
    let mut yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
        yaml.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    assert_eq!(refused(&yaml).len(), 1);
}

#[test]
fn a_file_that_is_no_settings_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    let message = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Config::read(&path).unwrap_err().to_string()
    };
    assert!(message(b"seed: \xff\n").contains("config.yaml: not text in UTF-8"));
    assert!(message(&vec![b'#'; 2 << 20]).contains("longer than 1 MiB"));
    assert!(message(b"PK\x03\x04").contains("not valid YAML"));
    std::fs::remove_file(&path).unwrap();
    let missing = Config::read(&path).unwrap_err();
    assert!(matches!(missing, ConfigError::Unreadable { .. }), "{missing}");
    assert!(missing.to_string().contains("config.yaml: cannot be read: "), "{missing}");
}

#[test]
fn settings_go_through_the_metadata_of_a_checkpoint() {
    let mut config = read(
        "seed: 18446744073709551615\ngame: tictactoe\ncheckpoint: { keep_best: 'loss:min:3' }",
    );
    config.notes = "ä\n".to_owned();
    let value = to_value(&config).unwrap();
    assert_eq!(from_value::<Config>(&value).unwrap(), config);
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(read(&text), config, "JSON is YAML");
}

#[test]
fn settings_from_elsewhere_are_checked_too() {
    let mut config = Config::default();
    config.validate("the checkpoint").unwrap();
    config.model.channels = 0;
    assert_eq!(
        config.validate("the checkpoint").unwrap_err().to_string(),
        "the checkpoint: `model.channels`: expected 1 or more, found 0"
    );
}

#[test]
fn the_rules_of_retention_follow_the_keys() {
    for (yaml, rules) in [
        ("directory: c", "last:5"),
        ("keep: all", "all"),
        ("keep: 'every:10, last:2'", "every:10, last:2"),
        ("keep_last: 3", "last:3"),
        ("keep_every: 5, keep_last: 3, keep_best: 'a:b:max:2'", "last:3, every:5, best:a:b:max:2"),
        ("keep: 'within:2d', keep_last: 3", "within:2d, last:3"),
    ] {
        let config = read(&format!("checkpoint: {{ {yaml} }}"));
        assert_eq!(config.retention().unwrap().to_string(), rules);
    }
}

#[test]
fn the_schedule_spans_all_steps() {
    assert_eq!(read("training: { iterations: 3, steps_per_iteration: 4 }").total_steps(), 12);
}

#[test]
fn settings_take_the_place_of_others_key_by_key() {
    let file = read("seed: 3\ntraining: { iterations: 5, batch_size: 32 }\n");
    let settings = json!({
        "game": "tictactoe",
        "training": { "iterations": 7, "learning_rate": 1 },
        "evaluation": { "opponents": ["random"] },
    });
    let config = file.with(&settings, "the settings").unwrap();
    let mut expected = file;
    expected.game = Game::TicTacToe;
    (expected.training.iterations, expected.training.learning_rate) = (7, 1.0);
    expected.evaluation.opponents = vec![Opponent::Random];
    assert_eq!(config, expected);
}

#[test]
fn one_text_of_retention_takes_the_place_of_all_rules_below_it() {
    let file = read("checkpoint: { keep_last: 5, keep_best: 'loss:min' }");
    let kept = |settings| {
        let config = file.with(&settings, "the settings")?;
        Ok::<_, ConfigError>(config.retention().unwrap().to_string())
    };
    assert_eq!(kept(json!({ "checkpoint": { "keep": "all" } })).unwrap(), "all");
    assert_eq!(kept(json!({ "checkpoint": { "keep": "every:10" } })).unwrap(), "every:10");
    assert_eq!(
        kept(json!({ "checkpoint": { "keep": "every:10", "keep_last": 2 } })).unwrap(),
        "every:10, last:2"
    );
    assert_eq!(
        kept(json!({ "checkpoint": { "keep_last": 2 } })).unwrap(),
        "last:2, best:loss:min:1"
    );
    assert_eq!(kept(json!({ "checkpoint": { "keep": null } })).unwrap(), "last:5, best:loss:min:1");
    assert!(kept(json!({ "checkpoint": { "keep": "all", "keep_last": 2 } })).is_err());
}

#[test]
fn settings_that_cannot_be_used_are_named_without_a_line() {
    let settings = json!({
        "seed": -1,
        "training": { "iteration": 7, "batch_size": "many" },
        "model": 5,
    });
    let error = Config::default().with(&settings, "the settings").unwrap_err();
    assert_eq!(
        error.to_string().lines().collect::<Vec<_>>(),
        [
            "the settings: `seed`: expected a whole number of 0 or more, found -1",
            "the settings: `model`: expected a mapping of keys, found 5",
            "the settings: `training.batch_size`: expected a whole number, found a string \"many\"",
            "the settings: `training.iteration` is not a key; did you mean `iterations`?",
        ]
    );
    let error = Config::default().with(&json!({ "seed": 1, "model": { "channels": 0 } }), "these");
    assert_eq!(
        error.unwrap_err().to_string(),
        "these: `model.channels`: expected 1 or more, found 0"
    );
}
