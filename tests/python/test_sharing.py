"""What several places of a state refer to is saved once, and is one object again when loaded."""

from __future__ import annotations

import collections
import enum
import pathlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scai
import torch
from scai.utils.checkpoint import CheckpointManager


class Colour(enum.Enum):
    RED = 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.pt"


def test_a_list_in_three_hundred_places_takes_its_room_once(path: Path) -> None:
    tree = [list(range(20_000))] * 300
    scai.save(tree, path)
    other = path.with_name("torch.pt")
    torch.save(tree, other)
    assert path.stat().st_size < 1.2 * other.stat().st_size + 4096
    for loaded in (scai.load(path), torch.load(path), scai.load(other)):
        assert loaded == tree
        assert all(item is loaded[0] for item in loaded)


@pytest.mark.parametrize(
    "extra",
    [
        {"log": ["x" * 60_000] * 600},
        {"records": [{f"a key of some length {i}": i for i in range(200)}] * 5_000},
        {"keys": [{f"a key of some length {i}": i for i in range(200)} for _ in range(1_000)]},
        {"numbers": [7 << 2_000] * 5_000},
        {"paths": [pathlib.PurePosixPath("some/where/" + "deep/" * 20)] * 5_000},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_what_repeats_is_saved_and_resumed(tmp_path: Path, extra: dict) -> None:
    model = torch.nn.Linear(2, 2)
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(model, iteration=1)
    manager.save_checkpoint(model, iteration=2, extra=extra)
    found = CheckpointManager(tmp_path).resume(model)
    assert found is not None and found.iteration == 2 and not found.skipped
    name = next(iter(extra))
    assert found.checkpoint[name] == extra[name]


def test_every_kind_of_object_stays_one_object(path: Path) -> None:
    ordered = collections.OrderedDict(a=1)
    ordered._metadata = {"version": [1]}
    tensor = torch.ones(3)
    things = {
        "list": [1], "dict": {"a": 1}, "tuple": (1, [2]), "set": {1}, "ordered": ordered,
        "counter": collections.Counter("aab"), "bytearray": bytearray(b"ab"), "tensor": tensor,
        "parameter": torch.nn.Parameter(torch.ones(2)), "sparse": torch.eye(2).to_sparse(),
        "array": np.arange(3), "deque": collections.deque([tensor]), "enum": Colour.RED,
    }  # fmt: skip
    scai.save({"a": things, "b": dict(things), "c": list(things.values())}, path)
    back = scai.load(path)
    for name, other in zip(things, back["c"]):
        assert back["a"][name] is back["b"][name] is other, name
    assert back["a"]["deque"][0] is back["a"]["tensor"]
    assert back["a"]["enum"] is Colour.RED


def test_a_plain_string_that_equals_a_path_stays_a_string(path: Path) -> None:
    tree = [pathlib.PurePosixPath("a"), "a", pathlib.PurePosixPath("a"), {"a": "a"}]
    scai.save(tree, path)
    assert [type(value) for value in scai.load(path)] == [type(value) for value in tree]


def test_attributes_of_a_dict_keep_their_types_and_do_not_change_those_of_its_values(
    path: Path,
) -> None:
    ordered = collections.OrderedDict([("first", 1)])
    ordered.where = pathlib.PurePosixPath("a")
    ordered.values_again = [np.float64(0.5)]
    scai.save(ordered, path)
    back = scai.load(path)
    assert back == ordered and vars(back) == vars(ordered)
    assert type(back["first"]) is int


def test_sixty_levels_that_double_are_loaded_shown_compared_and_converted(path: Path) -> None:
    tree: object = ["ha"]
    for _ in range(60):
        tree = [tree, tree]
    scai.save({"laughs": tree}, path)
    back = scai.load(path)["laughs"]
    assert back[0] is back[1]
    other = path.with_name("torch.pt")
    torch.save({"laughs": tree}, other)
    converted = path.with_name("converted.pt")
    for words in (
        ["show", path], ["show", "--json", path], ["show", "--stats", other], ["verify", path],
        ["diff", path, other], ["diff", "--json", path, other], ["convert", other, converted],
    ):  # fmt: skip
        command = [sys.executable, "-m", "scai", *map(str, words)]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, (words, done.stderr)
    assert converted.stat().st_size < 20_000


@pytest.mark.parametrize("kind", [list, dict])
def test_what_contains_itself_is_refused_in_words(path: Path, kind: type) -> None:
    loop = kind()
    if kind is list:
        loop.append((loop,))
    else:
        loop["again"] = [loop]
    with pytest.raises(TypeError, match="contains itself"):
        scai.save({"loop": loop}, path)
    assert not path.exists()
    torch.save({"loop": loop}, path)
    with pytest.raises(scai.errors.UnsupportedError, match="contains itself"):
        scai.load(path)


@pytest.mark.parametrize("key", [frozenset([1]), Colour.RED, (1, (2, "a")), 2.5, np.int64(3)])
def test_keys_come_back_or_are_refused_before_a_file_is_replaced(path: Path, key: object) -> None:
    scai.save("before", path)
    try:
        scai.save({key: 1}, path)
    except TypeError:
        assert scai.load(path) == "before"
    else:
        assert scai.load(path) == {key: 1}
        torch.load(path)
