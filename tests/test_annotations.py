"""Types and shapes of the package's annotations are checked while tests run."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from artifixer.geometry.transforms import invert_rigid, look_at
from artifixer.imaging.metrics import psnr
from artifixer.splats.render import Renders
from artifixer.video.attention import attend
from tests.first_calls import LIMIT, begin_test
from tests.unchecked import unchecked


def test_wrong_shapes_and_types_are_reported() -> None:
    with pytest.raises(TypeCheckError):
        invert_rigid(torch.zeros(2, 3, 3))
    with pytest.raises(TypeCheckError):
        invert_rigid(torch.zeros(2, 4, 4, dtype=torch.int64))
    with pytest.raises(TypeCheckError):
        psnr(torch.zeros(4, 4, 3), torch.zeros(4, 5, 3))


def test_fields_of_dataclasses_and_axes_of_one_name_are_checked() -> None:
    with pytest.raises(TypeCheckError):
        Renders(torch.zeros(2, 4, 5, 3), torch.zeros(2, 4, 5), torch.zeros(2, 4, 6))
    keys = torch.zeros(1, 7, 2, 8)
    assert attend(torch.zeros(1, 3, 2, 8), keys, keys).shape == (1, 3, 2, 8)
    with pytest.raises(TypeCheckError):
        attend(torch.zeros(1, 3, 2, 8), keys, keys[:, :6])
    with unchecked():
        assert (
            len(Renders(torch.zeros(2, 4, 5, 3), torch.zeros(2, 4, 5), torch.zeros(2, 4, 6))) == 2
        )


def test_the_first_calls_of_every_test_are_checked() -> None:
    """The limit counts for each test alone: a call that one test leaves out, the next checks."""
    for _ in range(LIMIT):
        invert_rigid(torch.eye(4)[None])
    with pytest.raises(IndexError):  # of the function itself
        invert_rigid(torch.zeros(2, 3, 3))
    begin_test()
    with pytest.raises(TypeCheckError):
        invert_rigid(torch.zeros(2, 3, 3))


def test_shapes_that_broadcast_are_right() -> None:
    up = torch.tensor([0.0, 0.0, 1.0])
    assert look_at(torch.ones(5, 3), torch.zeros(5, 3), up).shape == (5, 4, 4)
