"""One retention text decides alike in Python and in the command."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from scai import _native
from scai.utils.checkpoint import CheckpointManager


def rule(chance: random.Random) -> str:
    n = chance.randrange(4)
    return chance.choice([
        f"last:{n}",
        f"every:{50 * n}",
        f"within:{n}{chance.choice(['s', 'h', 'd', 'w', 'y', ''])}",
        f"best:loss:{chance.choice(['min', 'max', 'max:2', 'low'])}",
        f"best:a:b:min:{n}",
        chance.choice(["all", "last", "newest:2", ""]),
    ])  # fmt: skip


def test_a_text_decides_alike_in_python_and_in_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(1)
    decided = refused = 0
    for directory in range(8):
        path = tmp_path / str(directory)
        manager = CheckpointManager(path)
        for iteration in range(100, 100 + 100 * chance.randrange(1, 6), 100):
            stats = {"loss": chance.randrange(3), "a:b": chance.random()}
            manager.save_checkpoint({}, iteration=iteration, training_stats=stats)
        manager.close()
        # One that has saved nothing: what a process saved itself counts first.
        reader = CheckpointManager(path)
        for _ in range(12):
            text = ", ".join(rule(chance) for _ in range(chance.randrange(1, 4)))
            capfd.readouterr()
            code = _native.main(["scai", "prune", str(path), "--keep", text, "--json"])
            out = capfd.readouterr().out
            try:
                verdicts = CheckpointManager(path, keep=text).prune()
            except ValueError:
                refused += 1
                assert code == 2, text
                continue
            decided += 1
            assert code == 0, text
            said = [(each["name"], each["reasons"]) for each in json.loads(out)]
            assert said == [(Path(verdict.path).name, verdict.reasons) for verdict in verdicts], text
            assert verdicts == reader.prune(keep=text), text
    assert decided > 20 and refused > 20


def test_the_other_ways_to_write_a_rule_are_the_same_rules(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for iteration in (1, 2, 3, 4):
        manager.save_checkpoint({}, iteration=iteration, training_stats={"loss": -iteration})
    for text, sugar in [
        ("last:2", {"keep_last": 2}),
        ("every:2", {"keep_every": 2}),
        ("best:loss:max", {"keep_best": "loss:max"}),
        ("within:1h", {"keep_within": 3600}),
        ("last:1, best:loss:max:2", {"keep_last": 1, "keep_best": ["loss:max:2"]}),
    ]:
        assert manager.prune(keep=text) == manager.prune(**sugar), text  # type: ignore[arg-type]
    assert [verdict.reasons for verdict in manager.prune(keep=["last:1", "every:3"])] == [
        [], [], ["multiple of 3"], ["newest", "last 1 (no. 1)"],
    ]  # fmt: skip
