"""What a load returns stays right whatever happens to the file, and behaves as a dict."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scai
import torch
from same import assert_same
from scai.errors import DamagedError
from scai.utils.checkpoint import Checkpoint, CheckpointManager
from torch import nn


@pytest.fixture
def path(manager: CheckpointManager) -> Path:
    torch.manual_seed(0)
    shared = torch.randn(30_000)
    extra = {"more": {"x": shared, 1: torch.ones(3)}, "view": [shared[10:20]], "path": Path("a")}
    return Path(manager.save_checkpoint(nn.Linear(300, 300), iteration=1, extra=extra))


def whole(path: Path) -> dict[str, Any]:
    return scai.load(path)


WAYS: dict[str, Callable[[Any], Any]] = {
    "dict": dict,
    "stars": lambda c: {**c},
    "arguments": lambda c: (lambda **fields: fields)(**c),
    "items": lambda c: dict(c.items()),
    "values": lambda c: dict(zip(c.keys(), c.values())),
    "iteration": lambda c: {key: c[key] for key in c},
    "get": lambda c: {key: c.get(key) for key in list(c)},
    "setdefault": lambda c: {key: c.setdefault(key) for key in list(c)},
    "pop": lambda c: {key: c.pop(key) for key in list(c)},
    "popitem": lambda c: dict(reversed([c.popitem() for _ in range(len(c))])),
    "copy": lambda c: c.copy(),
    "copy.copy": lambda c: dict(copy.copy(c)),
    "deepcopy": lambda c: dict(copy.deepcopy(c)),
    "pickle": lambda c: dict(pickle.loads(pickle.dumps(c))),
    "or": lambda c: c | {},
    "or from the right": lambda c: {} | c,
    "update": lambda c: updated({}, c),
    "update in place": lambda c: in_place({}, c),
    "OrderedDict": lambda c: dict(OrderedDict(c)),
    "match": lambda c: matched(c),
    "reversed": lambda c: dict(reversed([(key, c[key]) for key in reversed(c)])),
    "fromkeys": lambda c: {key: c[key] for key in dict.fromkeys(c)},
}


def updated(into: dict, c: Any) -> dict:
    into.update(c)
    return into


def in_place(into: dict, c: Any) -> dict:
    into |= c
    return into


def matched(c: Any) -> dict:
    match c:
        case {"iteration": 1, **rest}:
            return {"iteration": 1, **rest}
    raise AssertionError


@pytest.mark.parametrize("way", WAYS)
def test_a_result_is_a_dict_in_every_way(way: str, manager: CheckpointManager, path: Path) -> None:
    checkpoint = manager.load_checkpoint(path)
    assert isinstance(checkpoint, dict) and len(checkpoint) == len(whole(path))
    assert_same(WAYS[way](checkpoint), whole(path))


def test_a_result_equals_another_one_without_tensors(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint({}, iteration=1, rng=False)
    one, other = manager.load_checkpoint(path), manager.load_checkpoint(path)
    assert one == other and not one != other
    assert dict(one) == manager.load_checkpoint(path) and manager.load_checkpoint(path) == dict(one)
    one["iteration"] = 2
    assert one != other and one["iteration"] == 2 and "iteration" in one
    one |= {"new": 3}
    del one["metadata"]
    assert one["new"] == 3 and "metadata" not in one and one.get("metadata", 7) == 7
    assert json.loads(json.dumps(other)) == dict(other)
    with pytest.raises(KeyError):
        one["nothing"]
    with pytest.raises(KeyError):
        one.pop("nothing")
    assert one.pop("nothing", 4) == 4


def test_a_result_can_be_saved(manager: CheckpointManager, path: Path, tmp_path: Path) -> None:
    scai.save(dict(manager.load_checkpoint(path)), tmp_path / "a.pt")
    assert_same(scai.load(tmp_path / "a.pt"), whole(path))
    again = manager.load_checkpoint(path)
    manager.save_checkpoint(again["model_state_dict"], iteration=2, extra={"more": again["more"]})
    assert_same(whole(path.parent / "checkpoint_iter_2.pt")["more"], whole(path)["more"])


def test_fields_that_share_memory_share_it_in_the_result(
    manager: CheckpointManager, path: Path
) -> None:
    checkpoint = manager.load_checkpoint(path)
    checkpoint["view"][0].fill_(7)
    assert checkpoint["more"]["x"][10:20].tolist() == [7] * 10
    assert checkpoint["view"] is checkpoint["view"]


def test_a_file_that_is_cut_off_later_is_an_error(manager: CheckpointManager, path: Path) -> None:
    expected = whole(path)
    results = [manager.load_checkpoint(path) for _ in range(4)] + [manager.resume().checkpoint]
    assert_same(results[0]["model_state_dict"], expected["model_state_dict"])
    os.truncate(path, 5000)
    for checkpoint in results:
        # What does not lie in the part that is gone is there, and was read from memory.
        assert checkpoint["iteration"] == 1
    assert_same(results[0]["model_state_dict"], expected["model_state_dict"])
    for checkpoint in results[1:]:
        with pytest.raises(DamagedError, match=r"model_state_dict.*truncated"):
            checkpoint["model_state_dict"]
        with pytest.raises(DamagedError):
            dict(checkpoint)
        with pytest.raises(DamagedError):
            checkpoint["model_state_dict"]


@pytest.mark.parametrize("by_torch", [False, True], ids=["scai", "torch"])
def test_a_file_that_is_overwritten_in_place_is_an_error_or_right(
    by_torch: bool, manager: CheckpointManager, path: Path
) -> None:
    if by_torch:
        torch.save(torch.load(path), path)
    expected = whole(path)
    checkpoint = manager.load_checkpoint(path)
    assert_same(checkpoint["more"], expected["more"])
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))
    assert_same(checkpoint["more"], expected["more"])
    with pytest.raises(DamagedError):
        checkpoint["model_state_dict"]


def test_a_file_that_is_replaced_or_deleted_stays_what_it_was(
    manager: CheckpointManager, path: Path
) -> None:
    expected = whole(path)
    one, other = manager.load_checkpoint(path), manager.load_checkpoint(path)
    manager.save_checkpoint({}, iteration=1)
    assert_same(dict(one), expected)
    path.unlink()
    assert_same(dict(other), expected)


def test_a_result_is_a_map_only_for_those_who_ask(manager: CheckpointManager, path: Path) -> None:
    def maps() -> int:
        return Path("/proc/self/maps").read_text().count(path.name)

    checkpoint = manager.load_checkpoint(path)
    assert_same(dict(checkpoint), whole(path))
    assert maps() == 0
    mapped = manager.load_checkpoint(path, mmap=True)
    assert maps() > 0
    assert_same(dict(mapped), whole(path))
    resumed = manager.resume(mmap=True).checkpoint
    assert_same(dict(resumed), whole(path))


def test_a_result_lets_the_file_go_when_it_has_been_read(
    manager: CheckpointManager, path: Path
) -> None:
    def is_open() -> bool:
        gc.collect()
        links = Path("/proc/self/fd").iterdir()
        return any(link.exists() and link.resolve() == path.resolve() for link in links)

    checkpoint = manager.load_checkpoint(path)
    assert is_open()
    dict(checkpoint)
    assert not is_open()
    another = manager.load_checkpoint(path)
    del another
    assert not is_open()


def test_a_result_shows_itself(manager: CheckpointManager, path: Path) -> None:
    checkpoint = manager.load_checkpoint(path)
    assert repr(checkpoint).startswith(f"Checkpoint({str(path)!r}, iteration=1: iteration, model")
    assert repr(Checkpoint(a=1)) == "Checkpoint(None, iteration=None: a)"
