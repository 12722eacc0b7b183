"""Loading of weights from opened files into modules, one tensor at a time.

In: ``StoredTensors`` and a module without values. Names and shapes are compared with the module
before anything is read. A tensor of the right dtype and device is used without a copy; others are
converted one by one, so that host memory holds the model at most once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from artifixer.runtime.errors import InputError
from artifixer.video.checkpoints.tensor_files import StoredTensors, shape_text
from artifixer.video.initialise import initial_added_layer, is_added_layer

#: Maximum number of names per kind of problem in an error; further ones are counted.
NAMED_PROBLEMS = 3


def check_tensors(
    stored: StoredTensors, expected: Mapping[str, tuple[int, ...]], may_miss: Iterable[str] = ()
) -> None:
    """Raise ``InputError`` unless names and shapes are exactly the expected ones; names in
    ``may_miss`` may be missing.
    """
    optional = set(may_miss)
    missing = [name for name in expected if name not in stored.shapes and name not in optional]
    unexpected = [name for name in stored.shapes if name not in expected]
    wrong = [
        f"{name} is {shape_text(shape)} instead of {shape_text(expected[name])}"
        for name, shape in stored.shapes.items()
        if name in expected and tuple(shape) != tuple(expected[name])
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(name[:120] for name in names[:NAMED_PROBLEMS])}"
        f"{', ...' if len(names) > NAMED_PROBLEMS else ''}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", wrong),
        )
        if names
    ]
    if problems:
        raise InputError(
            f"{stored.path}: {len(stored.shapes)} tensors do not fit the model's {len(expected)}: "
            f"{'; '.join(problems)}"
        )


def check_fit(
    module: nn.Module, stored: StoredTensors, may_lack_added: bool = False
) -> dict[str, tuple[int, ...]]:
    """``check_tensors`` for the names and shapes of a module, which are returned. may_lack_added:
    allow layers that Wan 2.1 lacks to be missing.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_tensors(
        stored, expected, [name for name in expected if may_lack_added and is_added_layer(name)]
    )
    return expected


def load_into(
    module: nn.Module,
    stored: StoredTensors,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    added: torch.Generator | None = None,
) -> None:
    """Load weights into a module that was built on the device ``meta``; names and shapes are
    checked first (``check_tensors``).

    dtype: of the weights; None keeps the file's. added: allows the layers that the release adds to
    Wan 2.1 to be missing; ``initial_added_layer`` initialises them with this generator.
    ``InputError`` as in ``check_tensors``, and naming the first tensor that is not finite.
    """
    expected = check_fit(module, stored, may_lack_added=added is not None)
    for name, shape in expected.items():
        if name in stored.shapes:
            tensor = stored.read(name)
            if not tensor.is_floating_point():
                raise InputError(
                    f"{stored.path}: {name} is of {tensor.dtype}, expected floating-point weights"
                )
        else:
            assert added is not None, f"{name} is missing"
            tensor = initial_added_layer(name, shape, added)
        tensor = tensor.to(device=device, dtype=dtype)
        if not is_finite(tensor):
            raise InputError(
                f"{stored.path}: {name} holds values that are not finite, expected numbers"
            )
        _assign(module, name, tensor)


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite; True for a tensor on the device ``meta``. Processed in parts
    to bound the memory.
    """
    return tensor.is_meta or all(
        bool(torch.isfinite(part).all()) for part in tensor.reshape(-1).split(1 << 24)
    )


def _assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter or buffer; ``requires_grad`` is kept."""
    *path, leaf = name.split(".")
    owner = module.get_submodule(".".join(path))
    if leaf in owner._parameters:
        before = owner._parameters[leaf]
        assert before is not None, f"{name} is absent"
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=before.requires_grad)
    else:
        owner._buffers[leaf] = tensor
