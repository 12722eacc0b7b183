"""Names of devices."""

import pytest
import torch

from artifixer.runtime.devices import resolve_device
from artifixer.runtime.errors import InputError


def test_auto_takes_a_gpu_when_there_is_one() -> None:
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["tpu", "", "cuda:x", "meta", "cuda:99"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(
        InputError,
        match=rf"--device {name}: "
        r"(expected auto, cpu, cuda or cuda:N|this machine offers no such GPU)",
    ):
        resolve_device(name)
