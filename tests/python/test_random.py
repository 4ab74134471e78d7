"""The generators of random numbers go on where they were."""

from __future__ import annotations

import copy
import io
import random
import warnings

import numpy as np
import pytest
import torch
from scai._random import capture, restore


@pytest.fixture(autouse=True)
def leave_the_generators_as_they_were():
    bits = np.random.get_bit_generator()
    state = capture()
    yield
    np.random.set_bit_generator(bits)
    restore(state)


def draw() -> tuple:
    return (
        random.random(),
        random.gauss(0, 1),
        random.getrandbits(100),
        np.random.rand(3).tolist(),
        np.random.standard_normal(),
        np.random.randint(1 << 40),
        torch.rand(5).tolist(),
        torch.randn(3).tolist(),
        torch.randperm(9).tolist(),
    )


def through_a_file(state: object) -> object:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_every_generator_goes_on_where_it_was() -> None:
    draw()
    random.gauss(0, 1)  # leaves a second number in store
    np.random.standard_normal()
    torch.randn(1)
    state = through_a_file(capture())
    expected = draw(), draw()
    draw()
    restore(state)
    assert (draw(), draw()) == expected


@pytest.mark.parametrize("name", ["PCG64", "Philox", "SFC64", "PCG64DXSM", "MT19937"])
def test_another_bit_generator_of_numpy_goes_on(name: str) -> None:
    np.random.set_bit_generator(getattr(np.random, name)(3))
    np.random.standard_normal()
    state = through_a_file(capture())
    expected = draw()
    restore(state)
    assert draw() == expected
    np.random.set_bit_generator(np.random.MT19937(1))
    restore(state)
    assert draw() == expected


def test_capturing_draws_nothing() -> None:
    state = capture()
    expected = draw()
    restore(state)
    capture()
    assert draw() == expected


BROKEN = [
    None,
    {},
    [],
    {"torch": torch.get_rng_state()},
    {"python": 5},
    {"python": (3, (1, 2), None)},
    {"python": (9, random.getstate()[1], None)},
    {"python": random.getstate(), "torch": torch.zeros(3, dtype=torch.uint8)},
    {"python": random.getstate(), "torch": torch.zeros(5056)},
    {"python": random.getstate(), "torch": 7},
    {"python": random.getstate(), "numpy": {}},
    {"python": random.getstate(), "numpy": {"bit_generator": "os"}},
    {"python": random.getstate(), "numpy": {"bit_generator": "MT19937"}},
    {
        "python": random.getstate(),
        "numpy": {
            "bit_generator": "MT19937",
            "state": {"key": [1], "pos": 1},
            "has_gauss": 0,
            "gauss": 0.0,
        },
    },
    {"python": random.getstate(), "cuda": 5},
]


@pytest.mark.parametrize("state", BROKEN, ids=lambda state: f"{state!r:.50}")
def test_a_broken_state_changes_nothing(state: object) -> None:
    before = copy.deepcopy(capture())
    expected = draw()
    restore(before)
    with pytest.raises(ValueError, match="random state|random generators"):
        restore(state)
    assert draw() == expected


def test_what_is_broken_last_still_changes_nothing() -> None:
    random.seed(1)
    state = {**capture(), "torch": torch.zeros(3, dtype=torch.uint8)}
    random.seed(2)
    expected = random.random()
    random.seed(2)
    with pytest.raises(ValueError, match="torch"):
        restore(state)
    assert random.random() == expected


def test_devices_that_are_not_here_are_left_out_with_a_warning() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    state = {**capture(), "cuda": [torch.zeros(16, dtype=torch.uint8)] * 2}
    expected = draw()
    with pytest.warns(UserWarning, match="2 cuda devices, of which 0 are here"):
        restore(state)
    assert draw() == expected


def test_parts_that_are_not_known_are_told() -> None:
    with pytest.warns(UserWarning, match="`tpu`"):
        restore({**capture(), "tpu": 1})


def test_a_complete_state_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restore(through_a_file(capture()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_cuda_device_goes_on_where_it_was() -> None:
    torch.rand(1, device="cuda")
    state = through_a_file(capture())
    assert len(state["cuda"]) == torch.cuda.device_count()
    expected = torch.rand(9, device="cuda")
    restore(state)
    assert torch.equal(torch.rand(9, device="cuda"), expected)
    # A load with map_location moves the states themselves.
    state["cuda"] = [each.cuda() for each in state["cuda"]]
    state["torch"] = state["torch"].cuda()
    restore(state)
    assert torch.equal(torch.rand(9, device="cuda"), expected)
