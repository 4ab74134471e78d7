//! The language of retention: `last:3, every:1000, within:2d, best:loss:min:2`.
//!
//! ```text
//! retention  = "all" | rule { "," rule }
//! rule       = "last:" count | "every:" iterations | "within:" time
//!            | "best:" statistic ":" ( "min" | "max" ) [ ":" count ]
//! time       = number [ "s" | "min" | "h" | "d" | "w" ]       without a unit in seconds
//! ```
//!
//! Numbers are at least 1. `best` is read from the right, so that a statistic may contain colons; a
//! comma in it is written `\,` and a backslash `\\`. Spaces around rules are ignored.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Goal, Retention, Rule};
use crate::error::{Error, Result};

/// Keeps everything.
const ALL: &str = "all";

/// Units of time in seconds, the longest first.
const UNITS: [(u64, &str); 5] =
    [(7 * 86_400, "w"), (86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];

impl FromStr for Retention {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.trim() == ALL {
            return Ok(Self::keep_all());
        }
        let rules = split(text).iter().map(|rule| rule.parse()).collect::<Result<_>>()?;
        Ok(Self { rules })
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rules.is_empty() {
            return f.write_str(ALL);
        }
        for (i, rule) in self.rules.iter().enumerate() {
            write!(f, "{}{rule}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let rule = match text.split_once(':') {
            Some(("last", count)) => Self::Last(number(text, count)?),
            Some(("every", step)) => Self::Every(number(text, step)?),
            Some(("within", time)) => Self::Within(seconds(text, time)?),
            Some(("best", best)) => self::best(text, best)?,
            _ if text == ALL => {
                return Err(wrong(
                    text,
                    "it keeps everything, so it cannot be combined with other rules",
                ));
            }
            _ => {
                let forms = "a rule is `last:3`, `every:1000`, `within:2d` or `best:loss:min:2`; \
                             `all` keeps everything";
                return Err(wrong(text, forms));
            }
        };
        Ok(rule)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last(count) => write!(f, "last:{count}"),
            Self::Every(step) => write!(f, "every:{step}"),
            Self::Within(seconds) => {
                let (count, unit) = in_units(seconds.get());
                write!(f, "within:{count}{unit}")
            }
            Self::Best { statistic, goal, count } => {
                let statistic = statistic.replace('\\', r"\\").replace(',', r"\,");
                write!(f, "best:{statistic}:{goal}:{count}")
            }
        }
    }
}

impl FromStr for Goal {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "min" => Ok(Self::Min),
            "max" => Ok(Self::Max),
            other => Err(Error::invalid(format!("`{other}` is neither `min` nor `max`"))),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Min => "min",
            Self::Max => "max",
        })
    }
}

impl Serialize for Retention {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Retention {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A time span in its largest whole unit.
pub(super) fn in_units(seconds: u64) -> (u64, &'static str) {
    let unit = UNITS.iter().find(|(unit, _)| seconds.is_multiple_of(*unit) && seconds >= *unit);
    unit.map_or((seconds, "s"), |(unit, name)| (seconds / unit, name))
}

/// The rules between the commas.
fn split(text: &str) -> Vec<String> {
    let mut rules = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            rules.push(String::new());
        } else if let Some(rule) = rules.last_mut() {
            rule.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    rules
}

/// `loss:min:2`, read from the right.
fn best(rule: &str, text: &str) -> Result<Rule> {
    let form = "expected `best:STATISTIC:min` or `best:STATISTIC:max:N`";
    let (rest, last) = text.rsplit_once(':').ok_or_else(|| wrong(rule, form))?;
    let (statistic, goal, count) = match last.parse() {
        Ok(goal) => (rest, goal, NonZeroU64::MIN),
        Err(_) => {
            let (statistic, goal) = rest.rsplit_once(':').ok_or_else(|| wrong(rule, form))?;
            (statistic, goal.parse().map_err(|_| wrong(rule, form))?, number(rule, last)?)
        }
    };
    if statistic.is_empty() {
        return Err(wrong(rule, form));
    }
    Ok(Rule::Best { statistic: unescaped(statistic), goal, count })
}

fn unescaped(text: &str) -> String {
    let mut chars = text.chars();
    let mut plain = String::new();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.extend(chars.next()),
            c => plain.push(c),
        }
    }
    plain
}

/// A number of at least 1.
fn number(rule: &str, text: &str) -> Result<NonZeroU64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number: Option<u64> = digits.then(|| text.parse().ok()).flatten();
    let number = number.ok_or_else(|| wrong(rule, &format!("`{text}` is not a whole number")))?;
    NonZeroU64::new(number).ok_or_else(|| {
        wrong(
            rule,
            "the number must be at least 1; write `all` to keep everything, or leave the rule out",
        )
    })
}

fn seconds(rule: &str, text: &str) -> Result<NonZeroU64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "" => 1,
        "m" => 60,
        name => {
            let unit = UNITS.iter().find(|(_, unit)| *unit == name);
            unit.ok_or_else(|| wrong(rule, "write a time as `90min`, `12h`, `7d` or `2w`"))?.0
        }
    };
    let count = number(rule, count)?;
    Ok(count.saturating_mul(NonZeroU64::new(unit).unwrap_or(NonZeroU64::MIN)))
}

fn wrong(rule: &str, why: &str) -> Error {
    Error::invalid(format!("`{rule}` is not a retention rule: {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Retention {
        text.parse().unwrap()
    }

    #[test]
    fn each_rule_is_written_in_one_form() {
        for (text, form) in [
            ("all", "all"),
            (" last:3 ,every:1000,  best:loss:min", "last:3, every:1000, best:loss:min:1"),
            ("within:90", "within:90s"),
            ("within:120m", "within:2h"),
            ("within:14d", "within:2w"),
            ("best:eval:loss:max:7", "best:eval:loss:max:7"),
            ("best:min:min", "best:min:min:1"),
            (r"best:a\,b:min", r"best:a\,b:min:1"),
        ] {
            assert_eq!(of(text).to_string(), form);
        }
        assert_eq!(of("best:eval:loss:max:7").rules()[0], of(r"best:eval\:loss:max:7").rules()[0]);
    }

    #[test]
    fn what_is_no_rule_is_refused_and_says_what_one_is() {
        for (text, says) in [
            ("", "a rule is `last:3`"),
            ("3", "a rule is `last:3`"),
            ("last:3,", "a rule is `last:3`"),
            ("newest:3", "a rule is `last:3`"),
            ("last:3, all", "cannot be combined"),
            ("last:0", "write `all` to keep everything"),
            ("every:0", "at least 1"),
            ("within:0d", "at least 1"),
            ("best:loss:min:0", "at least 1"),
            ("last:", "`` is not a whole number"),
            ("last:-1", "`-1` is not a whole number"),
            ("last:+1", "`+1` is not a whole number"),
            ("last:99999999999999999999", "not a whole number"),
            ("within:3y", "`90min`, `12h`, `7d` or `2w`"),
            ("best:loss", "best:STATISTIC:min"),
            ("best:min", "best:STATISTIC:min"),
            ("best::min", "best:STATISTIC:min"),
            ("best:loss:low", "best:STATISTIC:min"),
        ] {
            let error = text.parse::<Retention>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let count = || (1_u64..).prop_map(|count| NonZeroU64::new(count).unwrap());
        let goal = prop_oneof![Just(Goal::Min), Just(Goal::Max)];
        // Any text that is not blank at its ends, since blanks around rules are ignored.
        let statistic = r"[a-z:,\\]([a-z :,\\]{0,8}[a-z:,\\])?";
        prop_oneof![
            count().prop_map(Rule::Last),
            count().prop_map(Rule::Every),
            count().prop_map(Rule::Within),
            (statistic, goal, count()).prop_map(|(statistic, goal, count)| Rule::Best {
                statistic,
                goal,
                count
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(rules in proptest::collection::vec(rule(), 0..5)) {
            let retention = Retention { rules };
            prop_assert_eq!(of(&retention.to_string()), retention.clone());
            let json = serde_json::to_string(&retention).unwrap();
            prop_assert_eq!(serde_json::from_str::<Retention>(&json).unwrap(), retention);
        }

        #[test]
        fn any_text_is_a_retention_or_an_error(text in r"[a-z0-9:,\\ ]{0,24}") {
            if let Ok(retention) = text.parse::<Retention>() {
                prop_assert_eq!(of(&retention.to_string()), retention);
            }
        }
    }
}
