//! `metrics.jsonl`: one object per line.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The fields that every line has.
pub(super) const FIELDS: [&str; 3] = ["iteration", "step", "time"];

/// A line. What is not finite is `null`, since JSON cannot represent it.
pub(super) fn line(iteration: u64, step: u64, time: &str, values: &[(&str, f64)]) -> Vec<u8> {
    let fields = FIELDS.map(str::to_owned).into_iter();
    let fields = fields.zip([iteration.into(), step.into(), time.into()]);
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value)));
    let object: Map<String, Value> = fields.chain(values).collect();
    format!("{}\n", Value::Object(object)).into_bytes()
}

/// The lines of iterations up to `last`, without an incomplete last line. Lines that are not ours
/// are kept.
pub(super) fn until(lines: &[u8], last: u64) -> Vec<u8> {
    #[derive(Deserialize)]
    struct Line {
        iteration: u64,
    }

    let kept = lines.split_inclusive(|byte| *byte == b'\n').filter(|line| {
        let later = serde_json::from_slice(line).is_ok_and(|line: Line| line.iteration > last);
        line.ends_with(b"\n") && !later
    });
    kept.flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_fields_first_and_null_for_what_is_not_finite() {
        let values = [("loss/policy", 0.1), ("a", f64::NAN), ("b", f64::INFINITY), ("c", 2.0)];
        assert_eq!(
            String::from_utf8(line(3, 120, "2026-11-24T21:55:24+01:00", &values)).unwrap(),
            "{\"iteration\":3,\"step\":120,\"time\":\"2026-11-24T21:55:24+01:00\",\
             \"loss/policy\":0.1,\"a\":null,\"b\":null,\"c\":2.0}\n"
        );
    }

    #[test]
    fn later_lines_and_half_lines_go() {
        let lines: Vec<Vec<u8>> = (1..=4).map(|i| line(i, i, "", &[("loss", 0.5)])).collect();
        let all = lines.concat();
        assert_eq!(until(&all, 4), all);
        assert_eq!(until(&all, 2), lines[..2].concat());
        assert_eq!(until(&all, 0), b"");
        let third = lines[..2].concat().len();
        for cut in third..third + lines[2].len() {
            assert_eq!(until(&all[..cut], 4), lines[..2].concat(), "cut at {cut}");
        }
        assert_eq!(until(b"note\n{\"iteration\":9}\n", 4), b"note\n");
    }
}
