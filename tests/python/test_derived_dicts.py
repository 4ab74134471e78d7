"""Dicts of classes of one's own are dicts to PyTorch, and come back as what they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import scai
import torch


class Easy(dict):
    """As the package `easydict` has it: entries are attributes as well."""

    def __init__(self, values: dict | None = None, **more: object) -> None:
        for name, value in {**(values or {}), **more}.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        value = type(self)(value) if type(value) is dict else value
        super().__setattr__(name, value)
        super().__setitem__(name, value)

    __setitem__ = __setattr__


class Marked(dict):
    mark: object = None


def test_a_dict_whose_entries_are_attributes_is_a_dict_to_torch(tmp_path: Path) -> None:
    config = Easy({"lr": 0.1, "net": {"width": 3, "w": torch.ones(2)}, "path": Path("a")})
    scai.save({"config": config}, tmp_path / "a.pt")
    seen = torch.load(tmp_path / "a.pt")["config"]
    assert type(seen) is dict and list(seen) == ["lr", "net", "path"]
    assert type(seen["net"]) is dict and seen["net"]["w"].tolist() == [1, 1]
    back = scai.load(tmp_path / "a.pt")["config"]
    assert type(back) is Easy and type(back.net) is Easy
    assert back.net is back["net"] and back.net.w is back["net"]["w"] and back.path == Path("a")
    back.lr = 0.2
    assert back["lr"] == 0.2


def test_a_derived_dict_with_an_attribute_is_a_dict_to_torch(tmp_path: Path) -> None:
    marked = Marked(a=1)
    marked.mark = "best"
    scai.save([marked], tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt") == [{"a": 1}]
    (back,) = scai.load(tmp_path / "a.pt")
    assert type(back) is Marked and back == {"a": 1} and back.mark == "best"
    marked.mark = torch.ones(1)
    scai.save([marked], tmp_path / "a.pt")
    (back,) = scai.load(tmp_path / "a.pt")
    assert back.mark.tolist() == [1]


def test_attributes_of_a_tensor_are_not_dropped_without_a_word(tmp_path: Path) -> None:
    tensor, parameter = torch.ones(2), torch.nn.Parameter(torch.ones(2))
    tensor.origin, parameter.group = "here", 3
    with pytest.warns(UserWarning, match=r"\['origin'\] of the tensor `a.t` are not saved"):
        scai.save({"a": {"t": tensor}}, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match=r"\['group'\] of the tensor `0` are not saved"):
        scai.save([parameter], tmp_path / "a.pt")
