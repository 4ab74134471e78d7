"""Loading a model: into the memory of its tensors, or by the model's own way."""

from __future__ import annotations

import collections
import copy
import inspect
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

from scai import _native
from scai._files import THREADS
from scai._frozen import Base, Record
from scai._load import PartLoad, state_of
from scai._report import LoadReport
from scai._shards import Narrowing, is_shard, local, narrowing, shard_like
from scai._versions import count_writes
from scai.errors import MismatchError

Spec = tuple[str, str, list[int]]


class Matching(NamedTuple):
    """What counts as a match, as in `CheckpointManager.load_checkpoint`."""

    strict: bool
    remap: Mapping[str, str]
    cast: bool

    @property
    def table(self) -> list[tuple[str, str]]:
        """The remap table, as the engine takes it."""
        return list(self.remap.items())


def model_load(
    tree: _native.Tree, model: Any, what: str, matching: Matching, frozen: Record
) -> MappingLoad | ModuleLoad | ObjectLoad:
    """The load of a module, of anything else with its two methods, or of a mapping.

    Args:
        tree: the saved state.
        model: the module, object or mapping.
        what: how errors call it.
        matching: what counts as a match.
        frozen: the parameters that the checkpoint leaves out.
    """
    state = state_of(model, what)
    if not isinstance(state, Mapping):
        raise TypeError(f"the state_dict() of `{what}` is a {type(state).__name__}")
    own = _Own(model, state)
    if not own.is_mapping and not callable(getattr(model, "load_state_dict", None)):
        raise TypeError(f"`{what}` is a {type(model).__name__}, which has no load_state_dict()")
    own.check_has_memory(what)
    if frozen:
        own.leave_out(Base(frozen, own.state, matching.table), tree, matching.strict)
    if own.is_mapping:
        return MappingLoad(tree, own, what, matching)
    if not own.is_module:
        return ObjectLoad(tree, own, what, matching)
    if own.has_a_say():
        return ModuleLoad(tree, own, what, matching)
    load = MappingLoad(tree, own, what, matching._replace(strict=False))
    if matching.strict and not load.report.complete:
        if own.accepts(load.report):
            return ModuleLoad(tree, own, what, matching)
        # The same once more, for the error.
        return MappingLoad(tree, own, what, matching)
    return load


class _Own:
    """A model, and what it holds."""

    def __init__(self, model: Any, state: Mapping[Any, Any]) -> None:
        import torch

        self.model = model
        self.state = state
        self.is_mapping = isinstance(model, Mapping)
        self.is_module = isinstance(model, torch.nn.Module)
        self.specs: list[Spec] = []
        self.others: list[str] = []
        self.keys: dict[str, Any] = {}
        self.base: Base | None = None
        for key, value in state.items():
            name = key if isinstance(key, str) else str(key)
            self.keys[name] = key
            if is_ordinary(value):
                dtype = str(value.dtype).removeprefix("torch.")
                self.specs.append((name, dtype, list(value.shape)))
            else:
                self.others.append(name)
        if len(self.keys) != len(state):
            raise ValueError("two keys of a mapping are the same when converted to text; rename one")

    def leave_out(self, base: Base, tree: _native.Tree, strict: bool) -> None:
        """Expect no frozen parameter in the checkpoint that holds here what it held at the save.

        Raises:
            MismatchError: a strict load finds others.
        """
        self.base = base
        if strict and (base.other or base.absent):
            report = LoadReport(missing=base.other, unexpected=base.absent, hints=[base.hint])
            raise _mismatch(tree, report)
        self.specs = [spec for spec in self.specs if spec[0] not in base.same]
        self.others = [name for name in self.others if name not in base.same]
        for name in base.same:
            self.keys.pop(name)

    def parts(self) -> list[Narrowing]:
        """The parts of tensors that this process holds."""
        return [
            narrowing(name, self.state[key]) for name, key in self.keys.items() if is_shard(self.state[key])
        ]

    @property
    def kept(self) -> dict[str, Any]:
        """The frozen parameters that stay as they are."""
        return {} if self.base is None else {name: self.state[name] for name in self.base.same}

    def add_to(self, report: LoadReport) -> None:
        """Add what is to be said of frozen parameters."""
        if self.base is not None and (self.base.other or self.base.absent):
            report.unexpected += self.base.absent
            report.hints.append(self.base.hint)

    def check_has_memory(self, what: str) -> None:
        for name, value in self.state.items():
            if getattr(value, "is_meta", False) and not is_lazy(value):
                raise ValueError(
                    f"`{name}` of `{what}` is on the meta device, where there is no memory to "
                    f'load into; give it some first: {what}.to_empty(device="cpu")'
                )

    def has_a_say(self) -> bool:
        """Whether loading into the module is more than copying into its tensors."""
        return bool(self.others) or any(map(_has_a_say, self.model.modules()))

    def accepts(self, report: LoadReport) -> bool:
        """Whether what does not fit is something that PyTorch's own modules may accept."""
        from torch.nn.modules.batchnorm import _NormBase

        if any(name.endswith("num_batches_tracked") for name in report.missing):
            return any(isinstance(part, _NormBase) for part in self.model.modules())
        # A number was a tensor of one element before PyTorch 0.4.
        numbers = {name for name, _, shape in self.specs if not shape}
        return any(each.partition(":")[0] in numbers for each in report.mismatched)


def is_ordinary(value: Any) -> bool:
    """Whether a value is a tensor that is loaded by filling its memory."""
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and not value.is_quantized
        and not value.is_nested
        and not is_lazy(value)
    )


def is_lazy(value: Any) -> bool:
    """Whether a tensor gets its shape when the module is first used or loaded."""
    import torch

    lazy: bool = torch.nn.parameter.is_lazy(value)
    return lazy


_METHODS = (
    "load_state_dict",
    "state_dict",
    "_load_from_state_dict",
    "_save_to_state_dict",
    "get_extra_state",
)
_HOOKS = (
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
)


def _has_a_say(part: Any) -> bool:
    attributes = part.__dict__
    return (
        _class_has_a_say(type(part))
        or any(_have_a_say(attributes.get(hooks)) for hooks in _HOOKS)
        or any(method in attributes for method in _METHODS)
    )


def _have_a_say(hooks: Mapping[int, Any] | None) -> bool:
    """Whether hooks do anything with a state. Those of `fully_shard` only divide the parameters again, which
    asking for the state has done."""
    return any(not _is_of_fsdp(getattr(hook, "hook", hook)) for hook in (hooks or {}).values())


def _is_of_fsdp(hook: Any) -> bool:
    return f"{getattr(hook, '__module__', '')}.".startswith("torch.distributed.fsdp._fully_shard.")


_classes: dict[type, bool] = {}


def _class_has_a_say(cls: type) -> bool:
    known = _classes.get(cls)
    if known is None:
        from torch.nn import Module
        from torch.nn.modules.batchnorm import _NormBase

        # That one adds what files of old versions lack, see `accepts`.
        ordinary = {getattr(Module, name) for name in _METHODS} | {_NormBase._load_from_state_dict}
        known = _classes[cls] = any(getattr(cls, name) not in ordinary for name in _METHODS)
    return known


class MappingLoad:
    """A load into the memory of tensors: of a module without ways of its own, or of a mapping."""

    may_fail = False

    def __init__(self, tree: _native.Tree, own: _Own, what: str, matching: Matching) -> None:
        self.what = what
        self.target = own.model
        self._own = own
        if own.others and not isinstance(own.model, MutableMapping) and own.is_mapping:
            raise TypeError(f"`{what}` cannot be changed, and holds more than tensors")
        self._tree, self._others, report = tree.matched(
            own.specs, own.others, matching.strict, matching.table, matching.cast
        )
        self.report = LoadReport.of(report)
        own.add_to(self.report)
        self._values: dict[str, Any] = {}
        self._filling: _native.Filling | None = None
        self._copies: list[tuple[Any, Any]] = []
        self._filled: list[Any] = []
        self._has_begun = False

    def prepare(self) -> None:
        """Read what cannot be read into its place."""
        own = self._own
        template = {name: local(own.state[key]) for name, key in own.keys.items()}
        tree, _ = self._tree.narrowed(own.parts())
        loaded, self._filling = tree.decode_into(template, THREADS)
        for name, tensor in loaded.items():
            if template[name] is tensor:
                self._filled.append(tensor)
            else:
                self._copies.append((template[name], tensor))
        self._values = {name: other.decode(threads=THREADS) for name, other in self._others}

    def apply(self) -> None:
        """Nothing of it can be undone."""

    def fill(self) -> None:
        """Fill the tensors."""
        import torch

        assert self._filling is not None
        self._filling.check()
        self._has_begun = True
        self._filling.fill(THREADS)
        with torch.no_grad():
            for own, tensor in self._copies:
                own.copy_(tensor)
        # Autograd is to notice, as if torch had written.
        count_writes(self._filled)
        for name, value in self._values.items():
            self._own.model[self._own.keys[name]] = value

    def undo(self) -> list[str]:
        """Nothing can be undone once it has begun."""
        return [f"{self.what}.{name}" for name in self.report.loaded] if self._has_begun else []


class ObjectLoad(PartLoad):
    """A load of what is not a module and has a `load_state_dict` of its own."""

    def __init__(self, tree: _native.Tree, own: _Own, what: str, matching: Matching) -> None:
        super().__init__(tree.renamed(matching.table), own.model, what)
        self._own = own
        self._partly: tuple[_native.Tree, Any] | None = None
        if matching.strict:
            self.report = LoadReport(loaded=self._tree.keys())
        else:
            loaded, others, report = self._tree.matched(
                own.specs, own.others, False, [], matching.cast
            )
            self.report = LoadReport.of(report)
            own.add_to(self.report)
            self._partly = loaded, others

    def prepare(self) -> None:
        """Read its state; what was not found stays as it is."""
        if self._partly is None:
            super().prepare()
            return
        loaded, others = self._partly
        self._before = copy.deepcopy(self._own.state)
        self._state = {
            **self._own.state,
            **loaded.decode(threads=THREADS),
            **{name: other.decode(threads=THREADS) for name, other in others},
        }

    def undo(self) -> list[str]:
        """Give it back the state it had."""
        try:
            return super().undo()
        finally:
            # Whatever its own way does: where these are the tensors themselves, they are right.
            _copy_back(self._own.state, self._before)


def _copy_back(state: Mapping[Any, Any], before: Mapping[Any, Any]) -> None:
    import torch

    with torch.no_grad():
        for name, value in before.items():
            if is_ordinary(value) and is_ordinary(state[name]):
                state[name].copy_(value)


class ModuleLoad:
    """A load of a module that has a say: it is asked, with all that is in the file."""

    may_fail = True

    def __init__(self, tree: _native.Tree, own: _Own, what: str, matching: Matching) -> None:
        self.what = what
        self.target = own.model
        self.report = LoadReport()
        self._own = own
        self._tree = tree
        self._strict = matching.strict
        self._renamed = tree.renamed(matching.table) if matching.remap else tree
        self._state: Any = None
        self._before: _Before | None = None

    def prepare(self) -> None:
        """Read its state, and remember everything that a load may change."""
        tree, parts = self._renamed.narrowed(self._own.parts())
        state = tree.decode(threads=THREADS)
        for name in parts:
            state[name] = shard_like(state[name], self._own.state[self._own.keys[name]])
        if not isinstance(state, Mapping):
            raise ValueError(f"the saved state is a {type(state).__name__}, not a state dict")
        self._state = collections.OrderedDict(state)
        metadata = getattr(state, "_metadata", None)
        if metadata is not None:
            if self._renamed is not self._tree:
                metadata = _renamed(metadata, self._tree.keys(), self._renamed.keys())
            self._state._metadata = metadata
        self._state.update(self._own.kept)
        self._before = _Before(self.target)

    def apply(self) -> None:
        """Have the module load its state."""
        left_out: dict[str, Any] = {}
        while True:
            try:
                found = self._load()
                break
            except RuntimeError as error:
                refusal = _Refusal(str(error))
                # PyTorch refuses another shape also where it is not strict.
                differing = [name for name in refusal.mismatched if name in self._state]
                if self._strict or not differing:
                    if not refusal.is_known:
                        raise
                    raise self._mismatch(refusal) from error
                assert self._before is not None
                self._before.restore()
                for name in differing:
                    left_out[name] = self._state.pop(name)
        self.report = self._reported(found, left_out)
        self._state = None

    def _load(self) -> Any:
        state = self._state.copy()
        if (metadata := getattr(self._state, "_metadata", None)) is not None:
            state._metadata = metadata
        if self._strict or not _takes_strict(self.target.load_state_dict):
            return self.target.load_state_dict(state)
        return self.target.load_state_dict(state, strict=False)

    def _mismatch(self, refusal: _Refusal) -> MismatchError:
        report = LoadReport(
            missing=refusal.missing,
            unexpected=refusal.unexpected,
            mismatched=[self._differing(name, self._state.get(name)) for name in refusal.mismatched],
            hints=[*refusal.others, *self._hints()],
        )
        wrong = {*report.missing, *report.unexpected, *refusal.mismatched}
        report.loaded = [name for name in self._state if name not in wrong]
        return _mismatch(self._tree, report)

    def _reported(self, found: Any, left_out: dict[str, Any]) -> LoadReport:
        missing = [name for name in getattr(found, "missing_keys", []) if name not in left_out]
        kept = self._own.kept
        names = [name for name in state_of(self.target, self.what) if name not in kept]
        report = LoadReport(
            loaded=[name for name in names if name not in missing and name not in left_out],
            missing=missing,
            unexpected=list(getattr(found, "unexpected_keys", [])),
            mismatched=[self._differing(name, value) for name, value in left_out.items()],
        )
        specs = {name: (dtype, shape) for name, dtype, shape in self._own.specs}
        report.cast = [
            self._differing(name, value)
            for name, value in self._state.items()
            if is_ordinary(value) and name in specs and _spec(value)[0] != specs[name][0]
        ]
        if report.missing or report.unexpected:
            report.hints += self._hints()
        self._own.add_to(report)
        return report

    def _hints(self) -> list[str]:
        own = self._own
        hints: list[str] = self._renamed.matched(own.specs, own.others, False, [])[2]["hints"]
        return [hint for hint in hints if not hint.startswith("only the element types differ")]

    def _differing(self, name: str, value: Any) -> str:
        specs = {name: (dtype, shape) for name, dtype, shape in self._own.specs}
        if name not in specs or not is_ordinary(value):
            return name
        (theirs, their_shape), (ours, our_shape) = _spec(value), specs[name]
        return f"{name}: {theirs} {their_shape} in the checkpoint, {ours} {our_shape} in the model"

    def fill(self) -> None:
        """Nothing is left."""

    def undo(self) -> list[str]:
        """Give it back everything it had."""
        assert self._before is not None
        self._before.restore()
        return []


def _mismatch(tree: _native.Tree, report: LoadReport) -> MismatchError:
    place = f"checkpoint `{tree.path}`: " if tree.path else ""
    message = f"{place}the state does not match, and nothing was loaded\n{report}"
    return MismatchError(message, report.as_dict())


def _spec(tensor: Any) -> tuple[str, list[int]]:
    return str(tensor.dtype).removeprefix("torch."), list(tensor.shape)


def _takes_strict(load_state_dict: Any) -> bool:
    try:
        parameters = inspect.signature(load_state_dict).parameters
    except (TypeError, ValueError):
        return True
    kinds = [parameter.kind for parameter in parameters.values()]
    return "strict" in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def _renamed(
    metadata: Mapping[str, Any], before: Sequence[str], after: Sequence[str]
) -> collections.OrderedDict[str, Any]:
    """The `_metadata` of a state dict whose names were changed: its keys are prefixes of these."""
    modules: dict[str, str] = {}
    for old, new in zip(before, after, strict=True):
        for cut in (0, *(at + 1 for at, letter in enumerate(old) if letter == ".")):
            prefix, rest = old[:cut], old[cut:]
            if new.endswith(rest) and (len(new) == len(rest) or new[-len(rest) - 1] == "."):
                modules.setdefault(prefix.removesuffix("."), new[: -len(rest)].removesuffix("."))
    renamed = collections.OrderedDict(
        (modules[module], entry) for module, entry in metadata.items() if module in modules
    )
    renamed.setdefault("", metadata.get("", {}))
    return renamed


_KEYS = re.compile(r'(Missing|Unexpected) key\(s\) in state_dict: (.*)\. $')
_SIZE = re.compile(r"size mismatch for (.+?): copying a param with shape ")


class _Refusal:
    """What PyTorch says of a state dict that does not fit."""

    def __init__(self, message: str) -> None:
        first, *lines = message.split("\n\t")
        self.is_known = first.startswith("Error(s) in loading state_dict for ")
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.mismatched: list[str] = []
        self.others: list[str] = []
        for line in lines if self.is_known else ():
            if keys := _KEYS.match(line):
                names = self.missing if keys[1] == "Missing" else self.unexpected
                names += re.findall(r'"([^"]*)"', keys[2])
            elif size := _SIZE.match(line):
                self.mismatched.append(size[1])
            else:
                self.others.append(line.strip())


class _Before:
    """Everything of a module that a load may change: attributes, registries, tensors."""

    def __init__(self, model: Any) -> None:
        import torch

        parts = list(model.modules())
        self._parts = [(part, type(part), dict(part.__dict__)) for part in parts]
        self._registries = [
            (value, copy.copy(value))
            for part in parts
            for value in part.__dict__.values()
            if type(value) in (dict, list, set, collections.OrderedDict)
        ]
        tensors = {
            id(tensor): tensor
            for part in parts
            for tensor in (*part._parameters.values(), *part._buffers.values(), *_tensors_of(part))
            if tensor is not None
        }
        with torch.no_grad():
            self._tensors = [_Tensor(tensor) for tensor in tensors.values()]
        self._extra = [
            (part, copy.deepcopy(part.get_extra_state()))
            for part in parts
            if type(part).get_extra_state is not torch.nn.Module.get_extra_state
        ]

    def restore(self) -> None:
        import torch

        for part, cls, attributes in self._parts:
            if type(part) is not cls:
                part.__class__ = cls
            part.__dict__.clear()
            part.__dict__.update(attributes)
        for value, before in self._registries:
            if type(value) is list:
                value[:] = before
            else:
                value.clear()
                value.update(before)
        with torch.no_grad():
            for tensor in self._tensors:
                tensor.restore()
        for part, state in self._extra:
            part.set_extra_state(copy.deepcopy(state))


def _tensors_of(part: Any) -> Iterator[Any]:
    import torch

    yield from (value for value in part.__dict__.values() if isinstance(value, torch.Tensor))


class _Tensor:
    """A tensor, its memory, and what is in it."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self._class = type(tensor)
        self._memory = tensor.data
        has_content = not (is_lazy(tensor) or tensor.is_meta)
        self._content = tensor.detach().clone() if has_content else None

    def restore(self) -> None:
        tensor = self._tensor
        if type(tensor) is not self._class:
            tensor.__class__ = self._class
        moved = is_lazy(tensor) or tensor.is_meta or (
            is_ordinary(tensor)
            and (tensor.data_ptr(), tensor.shape) != (self._memory.data_ptr(), self._memory.shape)
        )
        if moved:
            tensor.data = self._memory
        if self._content is not None:
            self._memory.copy_(self._content)
