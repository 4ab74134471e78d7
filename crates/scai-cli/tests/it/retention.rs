//! One retention text decides alike wherever it is written.

use scai_checkpoint::manager::{Prune, Verdict};
use scai_checkpoint::{CheckpointManager, Options, Retention};
use scai_train::Config;

use crate::support::{Sandbox, state};

/// Numbers that are the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn rule(&mut self) -> String {
        let count = self.below(4);
        match self.below(6) {
            0 => format!("last:{count}"),
            1 => format!("every:{}", 50 * self.below(6)),
            2 => format!("within:{}{}", self.below(3), ["d", "w", "h", "y"][count as usize]),
            3 => format!("best:loss:{}", ["min", "max", "low", "min:2"][count as usize]),
            4 => format!("best:games:max:{count}"),
            _ => ["all", "last", "newest:3", ""][count as usize].to_owned(),
        }
    }

    fn text(&mut self) -> String {
        let rules: Vec<String> = (0..=self.below(3)).map(|_| self.rule()).collect();
        rules.join([", ", ","][self.below(2) as usize])
    }
}

fn of_config(text: &str) -> Option<Retention> {
    let yaml = format!("checkpoint:\n  keep: \"{text}\"\n");
    Config::from_yaml(&yaml, "config.yaml").ok().map(|config| config.retention().unwrap())
}

#[test]
fn a_retention_text_decides_alike_in_the_configuration_the_command_and_the_engine() {
    let mut random = Random(1);
    let (mut decided, mut refused) = (0, 0);
    for _ in 0..12 {
        let iterations = (1..=5).filter(|_| random.below(4) > 0).map(|i| i * 100);
        let sandbox =
            iterations.collect::<Vec<_>>().into_iter().fold(Sandbox::new(), |sandbox, n| {
                let loss = random.below(3) as f64;
                sandbox.file(&format!("checkpoint_iter_{n}.pt"), &state(n, loss, 0.0))
            });
        let manager = CheckpointManager::open(sandbox.path("."), Options::default()).unwrap();
        for _ in 0..10 {
            let text = random.text();
            let command = sandbox.output(&["prune", ".", "--keep", &text, "--json"]);
            let engine = text.parse::<Retention>().ok();
            assert_eq!(of_config(&text), engine, "{text}");
            let Some(retention) = engine else {
                assert!(!command.status.success(), "{text}");
                refused += 1;
                continue;
            };
            assert!(command.status.success(), "{text}: {command:?}");
            let said: serde_json::Value = serde_json::from_slice(&command.stdout).unwrap();
            let verdicts = manager.prune(&retention, Prune::DryRun).unwrap();
            let report = |verdict: &Verdict| {
                let reasons: Vec<String> =
                    verdict.reasons.iter().map(ToString::to_string).collect();
                (verdict.checkpoint.name.clone(), reasons)
            };
            let expected: Vec<_> = verdicts.iter().map(report).collect();
            let reports = said.as_array().unwrap().iter();
            let found: Vec<_> = reports
                .map(|report| {
                    let reasons = report["reasons"].as_array().unwrap().iter();
                    let reasons = reasons.map(|reason| reason.as_str().unwrap().to_owned());
                    (report["name"].as_str().unwrap().to_owned(), reasons.collect::<Vec<_>>())
                })
                .collect();
            assert_eq!(found, expected, "{text}");
            decided += 1;
        }
    }
    assert!(decided > 20 && refused > 20, "{decided} decided, {refused} refused");
}
