//! The three things that burn saves of an epoch.

/// One of the three records of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Model,
    Optimizer,
    Scheduler,
}

impl Part {
    pub(crate) const ALL: [Self; 3] = [Self::Model, Self::Optimizer, Self::Scheduler];

    /// The name that burn's own checkpointers give it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Optimizer => "optim",
            Self::Scheduler => "scheduler",
        }
    }

    /// The file that burn's own checkpointers write for an epoch.
    pub(crate) fn file(self, epoch: usize) -> String {
        format!("{}-{epoch}.bpk", self.name())
    }

    /// The part and the epoch of a file with such a name.
    pub(crate) fn of_file(name: &str) -> Option<(Self, usize)> {
        let (part, epoch) = name.strip_suffix(".bpk")?.split_once('-')?;
        let part = Self::ALL.into_iter().find(|known| known.name() == part)?;
        Some((part, number(epoch)?))
    }
}

/// A value for each part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Each<T>([T; 3]);

impl<T> Each<T> {
    pub(crate) fn get_mut(&mut self, part: Part) -> &mut T {
        match part {
            Part::Model => &mut self.0[0],
            Part::Optimizer => &mut self.0[1],
            Part::Scheduler => &mut self.0[2],
        }
    }
}

impl Each<bool> {
    pub(crate) fn get(mut self, part: Part) -> bool {
        *self.get_mut(part)
    }

    pub(crate) fn all(self) -> bool {
        self.0 == [true; 3]
    }
}

/// A number as it is written into names: only one name has it.
pub(crate) fn number(text: &str) -> Option<usize> {
    text.parse().ok().filter(|number: &usize| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_part_and_one_epoch() {
        for part in Part::ALL {
            assert_eq!(Part::of_file(&part.file(12)), Some((part, 12)));
        }
        for other in
            ["model-012.bpk", "model-+1.bpk", "model-1", "other-1.bpk", "model-1.bpk.7-0.tmp"]
        {
            assert_eq!(Part::of_file(other), None, "{other}");
        }
    }
}
