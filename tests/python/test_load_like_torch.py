"""What `load_state_dict` accepts, refuses and makes of a state is what a load does."""

from __future__ import annotations

import copy
import io
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from same import assert_same
from scai.errors import MismatchError
from scai.utils.checkpoint import CheckpointManager
from torch import nn
from torch.nn.utils import parametrizations

modules = pytest.importorskip("torch.testing._internal.common_modules")


def torch_load(module: nn.Module, path: Path, strict: bool = True) -> Exception | None:
    state = torch.load(path)["model_state_dict"]
    try:
        module.load_state_dict(state, strict=strict)
    except RuntimeError as error:
        return error
    return None


def scai_load(
    manager: CheckpointManager, module: nn.Module, path: Path, strict: bool = True
) -> Exception | None:
    try:
        manager.load_checkpoint(path, module, strict=strict)
    except RuntimeError as error:
        return error
    return None


def judge(manager: CheckpointManager, path: Path, ours: nn.Module, theirs: nn.Module) -> bool:
    """The same result, or the same refusal and nothing changed; whether it was loaded."""
    before = copy.deepcopy(ours.state_dict()) if not is_lazy(ours) else None
    refused = torch_load(theirs, path)
    error = scai_load(manager, ours, path)
    assert (error is None) == (refused is None), (error, refused)
    if refused is None:
        assert_same(ours.state_dict(), theirs.state_dict())
    elif before is not None:
        assert isinstance(error, MismatchError), repr(error)
        assert_same(ours.state_dict(), before)
    return refused is None


def is_lazy(module: nn.Module) -> bool:
    return any(torch.nn.parameter.is_lazy(p) for p in (*module.parameters(), *module.buffers()))


def made(info: Any, arguments: Any, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    args = [each for each in arguments.args]
    return info.module_cls(*args, **arguments.kwargs)


@pytest.mark.parametrize("info", modules.module_db, ids=lambda info: info.formatted_name)
def test_every_module_of_torch_is_loaded_as_torch_loads_it(
    info: Any, manager: CheckpointManager
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = info.module_inputs_func(
            info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
        )
        arguments = [each.constructor_input for each in inputs][:12]
        makers = [lambda seed, one=one: made(info, one, seed) for one in arguments]
        loaded = 0
        for i, make in enumerate(makers):
            saved = make(0)
            if is_lazy(saved):
                continue
            path = manager.save_checkpoint(saved, iteration=i)
            loaded += judge(manager, path, make(1), make(1))
            # Into one that is made in another way, which fits or does not.
            other = makers[(i + 1) % len(makers)]
            judge(manager, path, other(2), other(2))
    assert loaded or not arguments or is_lazy(makers[0](0))


# A say of its own


class Scaled(nn.Module):
    """Version 2 keeps its weight in halves."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def _load_from_state_dict(self, state: dict, prefix: str, local: dict, *rest: Any) -> None:
        if local.get("version", 1) < 2:
            state[prefix + "weight"] = state[prefix + "weight"] / 2
        super()._load_from_state_dict(state, prefix, local, *rest)


def test_a_module_migrates_from_the_version_that_saved_it(manager: CheckpointManager) -> None:
    saved = nn.Sequential(Scaled())
    with torch.no_grad():
        saved[0].weight.fill_(8)
    now = manager.save_checkpoint(saved, iteration=2)
    state = saved.state_dict()
    state._metadata["0"]["version"] = 1
    before = manager.save_checkpoint(state, iteration=1)
    for path, expected in ((now, 8), (before, 4)):
        model, judge_model = nn.Sequential(Scaled()), nn.Sequential(Scaled())
        judge(manager, path, model, judge_model)
        assert model[0].weight.tolist() == [expected] * 3


def test_versions_follow_names_that_are_remapped(manager: CheckpointManager) -> None:
    state = nn.Sequential(Scaled(), Scaled()).state_dict()
    state._metadata["1"]["version"] = 1
    wrapped = OrderedDict((f"module.{name}", value + 3) for name, value in state.items())
    wrapped._metadata = OrderedDict(
        ("module." + name if name else "module", value) for name, value in state._metadata.items()
    )
    path = manager.save_checkpoint(wrapped, iteration=1)
    model = nn.Sequential(Scaled(), Scaled())
    manager.load_checkpoint(path, model, remap={r"^module\.": ""})
    assert model[0].weight.tolist() == [4] * 3 and model[1].weight.tolist() == [2] * 3
    whole = nn.ModuleDict({"module": nn.Sequential(Scaled(), Scaled())})
    unwrapped = OrderedDict((name, value + 3) for name, value in state.items())
    unwrapped._metadata = state._metadata
    path = manager.save_checkpoint(unwrapped, iteration=2)
    manager.load_checkpoint(path, whole, remap={"^": "module."})
    assert whole["module"][1].weight.tolist() == [2] * 3


def test_old_weight_norm_is_loaded_into_the_parametrization(manager: CheckpointManager) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)))
    path = manager.save_checkpoint(saved, iteration=1)
    ours, theirs = (nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4))) for _ in range(2))
    assert judge(manager, path, ours, theirs)
    assert torch.equal(ours[0].weight, saved[0].weight)


class Positions(nn.Module):
    """Brings a table of positions to its own length before it is loaded."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(length, 2))
        self.register_load_state_dict_pre_hook(Positions.resize)

    def resize(self, state: dict, prefix: str, *_: Any) -> None:
        table = state[prefix + "table"]
        if len(table) != len(self.table):
            sized = nn.functional.interpolate(table.T[None], len(self.table))
            state[prefix + "table"] = sized[0].T


def test_a_table_of_positions_is_interpolated_by_its_module(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(nn.Sequential(Positions(4)), iteration=1)
    ours, theirs = nn.Sequential(Positions(6)), nn.Sequential(Positions(6))
    assert judge(manager, path, ours, theirs)


def test_a_batch_norm_of_version_1_is_loaded(manager: CheckpointManager) -> None:
    state = nn.Sequential(nn.BatchNorm1d(3)).state_dict()
    del state["0.num_batches_tracked"]
    path = manager.save_checkpoint(state, iteration=1)
    ours, theirs = nn.Sequential(nn.BatchNorm1d(3)), nn.Sequential(nn.BatchNorm1d(3))
    assert not judge(manager, path, ours, theirs)
    state._metadata["0"]["version"] = 1
    path = manager.save_checkpoint(state, iteration=2)
    assert judge(manager, path, ours, theirs)
    plain = manager.save_checkpoint(dict(state), iteration=3)
    assert judge(manager, plain, ours, theirs)


class Calibrated(nn.Module):
    """Keeps a tensor of varying length as extra state."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.seen = torch.arange(length)

    def get_extra_state(self) -> object:
        return self.seen

    def set_extra_state(self, state: Any) -> None:
        self.seen = state


def test_extra_state_may_be_a_tensor_of_another_length(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(Calibrated(5), iteration=1)
    ours, theirs = Calibrated(0), Calibrated(0)
    assert judge(manager, path, ours, theirs)
    assert ours.seen.tolist() == [0, 1, 2, 3, 4]


class Growing(nn.Module):
    """Has a buffer that takes the size of the saved one."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(length))

    def _load_from_state_dict(self, state: dict, prefix: str, *rest: Any) -> None:
        self.queue = torch.empty_like(state[prefix + "queue"])
        super()._load_from_state_dict(state, prefix, *rest)


def test_a_buffer_may_take_the_size_of_the_saved_one(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(nn.ModuleList([Growing(7), nn.Linear(2, 2)]), iteration=1)
    ours, theirs = (nn.ModuleList([Growing(2), nn.Linear(2, 2)]) for _ in range(2))
    assert judge(manager, path, ours, theirs)


def test_a_refusal_gives_back_everything_a_module_changed(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(nn.ModuleList([Growing(7), nn.Linear(2, 3)]), iteration=1)
    model = nn.ModuleList([Growing(2), nn.Linear(2, 2)])
    kept = model[0].queue
    kept.fill_(3)
    with pytest.raises(MismatchError, match=r"1.weight: float32 \[3, 2\] in the checkpoint"):
        manager.load_checkpoint(path, model)
    assert model[0].queue is kept and kept.tolist() == [3, 3]
    report = manager.load_checkpoint(path, model, strict=False).report
    assert [each.partition(":")[0] for each in report.mismatched] == ["1.weight", "1.bias"]
    assert report.loaded == ["0.queue"] and len(model[0].queue) == 7
    assert not report.complete


def test_a_dry_run_asks_a_module_and_changes_nothing(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(Growing(7), iteration=1)
    model = Growing(2)
    kept = model.queue
    report = manager.load_checkpoint(path, model, dry_run=True).report
    assert report.loaded == ["queue"] and model.queue is kept and len(kept) == 2


def test_a_lazy_module_gets_its_shape_from_a_checkpoint(manager: CheckpointManager) -> None:
    saved = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    path = manager.save_checkpoint(saved, iteration=1)
    ours = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    manager.load_checkpoint(path, ours)
    assert torch.equal(ours[0].weight, saved[0].weight)
    ours(torch.randn(5, 3))
    other = nn.Sequential(nn.LazyLinear(4), nn.BatchNorm1d(5))
    with pytest.raises(MismatchError):
        manager.load_checkpoint(path, other)
    assert torch.nn.parameter.is_lazy(other[0].weight)
    manager.load_checkpoint(path, nn.Sequential(other[0], nn.BatchNorm1d(4)))


def test_a_lazy_module_without_a_shape_is_not_saved(manager: CheckpointManager) -> None:
    with pytest.raises(TypeError, match="weight.*has no shape yet"):
        manager.save_checkpoint(nn.LazyLinear(4), iteration=1)


def test_a_number_saved_by_old_torch_as_one_element_is_loaded(manager: CheckpointManager) -> None:
    class Number(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

    path = manager.save_checkpoint({"scale": torch.tensor([5.0])}, iteration=1)
    assert judge(manager, path, Number(), Number())


def test_a_module_that_saves_something_else_than_its_tensors(manager: CheckpointManager) -> None:
    class Halved(nn.Linear):
        def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination[prefix + "weight"] = destination[prefix + "weight"].double()

    path = manager.save_checkpoint(Halved(2, 2), iteration=1)
    assert judge(manager, path, Halved(2, 2), Halved(2, 2))


def test_a_model_may_have_numbers_for_names(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint({0: torch.ones(2), "1": 5, 2: [1]}, iteration=1)
    model = {0: torch.zeros(2), "1": 0, 2: []}
    kept = model[0]
    manager.load_checkpoint(path, model)
    assert model[0] is kept and kept.tolist() == [1, 1] and model["1"] == 5 and model[2] == [1]


def test_extra_state_may_be_a_stream_of_bytes(manager: CheckpointManager) -> None:
    model = Calibrated(0)
    model.seen = io.BytesIO(b"abc")
    path = manager.save_checkpoint(model, iteration=1)
    other = Calibrated(0)
    manager.load_checkpoint(path, other)
    assert isinstance(other.seen, io.BytesIO) and other.seen.getvalue() == b"abc"


# Trees of modules with versions and hooks


class Part(nn.Module):
    """A module with a version, and perhaps hooks that change what is loaded."""

    def __init__(self, shape: tuple, version: int, hook: str | None, children: list) -> None:
        super().__init__()
        self._version = version
        self.weight = nn.Parameter(torch.randn(shape))
        self.register_buffer("count", torch.tensor(version))
        self.parts = nn.ModuleList(children)
        if hook in ("rename", "add"):
            self.register_load_state_dict_pre_hook(getattr(Part, hook))
        if hook == "forgive":
            self.register_load_state_dict_post_hook(lambda _, keys: keys.missing_keys.clear())
        if hook == "double on save":
            self.register_state_dict_post_hook(Part.double_on_save)

    def _load_from_state_dict(self, state: dict, prefix: str, local: dict, *rest: Any) -> None:
        version = local.get("version")
        if version is not None and version < self._version and prefix + "weight" in state:
            state[prefix + "weight"] = state[prefix + "weight"] + version
        super()._load_from_state_dict(state, prefix, local, *rest)

    def rename(self, state: dict, prefix: str, *_: Any) -> None:
        if prefix + "old" in state:
            state[prefix + "weight"] = state.pop(prefix + "old")

    def add(self, state: dict, prefix: str, *_: Any) -> None:
        state.setdefault(prefix + "count", torch.tensor(7))

    def double_on_save(self, state: dict, prefix: str, _: dict) -> None:
        state[prefix + "count"] = state[prefix + "count"] * 2


class Still(nn.Module):
    """A module with nothing of its own."""

    def __init__(self, shape: tuple, children: list) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))
        self.parts = nn.ModuleList(children)


SHAPES = st.sampled_from([(2,), (3, 2), ()])
HOOKS = st.sampled_from([None, "rename", "add", "forgive", "double on save"])
TREES = st.recursive(
    st.just([]),
    lambda children: st.lists(
        st.tuples(st.booleans(), SHAPES, st.integers(1, 3), HOOKS, children), max_size=3
    ),
    max_leaves=6,
)


def tree(parts: list) -> nn.Module:
    def build(plain: bool, shape: tuple, version: int, hook: str | None, below: list) -> nn.Module:
        children = [build(*each) for each in below]
        return Still(shape, children) if plain else Part(shape, version, hook, children)

    return nn.ModuleList(build(*each) for each in parts)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    parts=TREES,
    changes=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["drop", "old", "shape", "more"]))),
    version=st.none() | st.integers(1, 3),
    with_metadata=st.booleans(),
    strict=st.booleans(),
)
def test_trees_of_modules_are_loaded_as_torch_loads_them(
    tmp_path_factory: pytest.TempPathFactory,
    parts: list,
    changes: list,
    version: int | None,
    with_metadata: bool,
    strict: bool,
) -> None:
    manager = CheckpointManager(tmp_path_factory.mktemp("trees"))
    torch.manual_seed(0)
    state = tree(parts).state_dict()
    if version is not None:
        for each in state._metadata.values():
            each["version"] = version
    for number, change in changes[: len(state)]:
        name = list(state)[number % len(state)] if state else ""
        if not name:
            continue
        if change == "drop" or change == "old":
            value = state.pop(name)
            if change == "old":
                state[name.replace("weight", "old")] = value
        elif change == "shape":
            state[name] = torch.zeros(5)
        else:
            state["more"] = torch.zeros(1)
    path = manager.save_checkpoint(state if with_metadata else dict(state), iteration=1)
    ours = tree(parts)
    theirs = copy.deepcopy(ours)
    before = copy.deepcopy(ours.state_dict())
    if strict:
        judge(manager, path, ours, theirs)
        return
    # PyTorch refuses another shape also where it is not strict; here it is left out.
    refused = torch_load(theirs, path, strict=False)
    try:
        report = manager.load_checkpoint(path, ours, strict=False).report
    except MismatchError:
        # A hook gave it the name under which it does not fit, so it could not be left out before.
        assert refused is not None
        assert_same(ours.state_dict(), before)
        return
    if refused is None:
        assert_same(ours.state_dict(), theirs.state_dict())
    else:
        assert report.mismatched
        for name in (each.partition(":")[0] for each in report.mismatched):
            # What was left out may come from a hook that adds what a state lacks.
            if not (name.endswith("count") and int(ours.state_dict()[name]) == 7):
                assert_same(ours.state_dict()[name], before[name])
