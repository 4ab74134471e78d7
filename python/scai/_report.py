"""What a load found."""

from __future__ import annotations

from dataclasses import dataclass, field

_SHOWN = 20
"""Names of each kind that are shown; more hide what is to be read below them."""


@dataclass
class LoadReport:
    """What a load did, or would do, with each name.

    Attributes:
        loaded: tensors taken from the checkpoint.
        missing: tensors the model has and the checkpoint lacks; they keep their values.
        unexpected: tensors the checkpoint has and the model lacks; they are left out.
        mismatched: tensors both have, with another shape or element type; they keep their values.
        cast: tensors that were loaded, and converted to the element type that they have in the model.
        hints: what may explain the differences; of an optimizer also what keeps its value, and
            what is converted.
        optimizer: the same for the parameters whose state the optimizer was given.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    cast: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    optimizer: LoadReport | None = None

    @classmethod
    def of(cls, names: dict[str, list[str]]) -> LoadReport:
        """The report in the form the engine gives it."""
        return cls(
            names["loaded"],
            names["missing"],
            names["unexpected"],
            names["mismatched"],
            names["cast"],
            names["hints"],
        )

    def add(self, prefix: str, other: LoadReport) -> None:
        """Add what was found of one of several objects, whose names begin with `prefix`."""
        self.loaded += [prefix + name for name in other.loaded]
        self.missing += [prefix + name for name in other.missing]
        self.unexpected += [prefix + name for name in other.unexpected]
        self.mismatched += [prefix + name for name in other.mismatched]
        self.cast += [prefix + name for name in other.cast]
        self.hints += [f"{prefix.rstrip('.')}: {hint}" for hint in other.hints]

    def as_dict(self) -> dict[str, list[str]]:
        """The names by what was found of them, as `MismatchError.report` has them."""
        return {
            "loaded": self.loaded,
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mismatched": self.mismatched,
            "cast": self.cast,
            "hints": self.hints,
        }

    @property
    def complete(self) -> bool:
        """Whether everything found its place."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        lines = [f"  loaded: {len(self.loaded)}"]
        for title, names in [
            ("missing in the checkpoint", self.missing),
            ("unexpected in the checkpoint", self.unexpected),
            ("mismatched", self.mismatched),
            ("converted to the element type of the model", self.cast),
        ]:
            if names:
                lines.append(f"  {title}: {len(names)}")
                lines += [f"    {name}" for name in names[:_SHOWN]]
                if len(names) > _SHOWN:
                    lines.append(f"    … and {len(names) - _SHOWN} more")
        lines += [f"  hint: {hint}" for hint in self.hints]
        if self.optimizer is not None:
            lines.append("optimizer state")
            lines += str(self.optimizer).splitlines()
        return "\n".join(lines)
