"""The checkpoint of a fit: a file of tensors from which an interrupted reconstruction continues.

In: tensors by name (the splats, Adam's moments, the depth maps of the free-space loss) and the
identity of the call that they belong to. Out: the same, checked. Files are complete or absent.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from artifixer.runtime.errors import InputError
from artifixer.runtime.files import PARSER_ERRORS, atomic_path, check_regular, reason
from artifixer.splats.free_space import STATE_PREFIX
from artifixer.splats.splats import Splats
from artifixer.splats.trainable import MOMENTS

#: The state is saved when this many seconds have passed, and when saving takes no more than the
#: fraction below of the time. The moment has no influence on the result.
SECONDS_BETWEEN_CHECKPOINTS = 1.0
SAVING_FRACTION = 0.03


@dataclass(frozen=True)
class FitState:
    """State after ``iteration`` iterations; tensors by the names of ``state_tensors``."""

    iteration: int
    tensors: dict[str, Tensor]


class FitCheckpoint:
    """The checkpoint of one call of ``reconstruct``, and when it is saved.

    path: the file, or None for no checkpoint. identity: fingerprint of what the call depends on.
    """

    def __init__(self, path: Path | None, identity: str) -> None:
        self._path, self._identity = path, identity
        self._next_save = time.monotonic() + SECONDS_BETWEEN_CHECKPOINTS

    def load(
        self, device: str, like: Splats, depth_sizes: Sequence[tuple[int, int]], iterations: int
    ) -> FitState | None:
        """The saved state; None where there is none or it belongs to another call.

        like: splats whose tensors have the shapes of the state's but for their count. depth_sizes:
        (height, width) of each depth map of the free-space loss. Raises ``InputError`` for a
        damaged file.
        """
        if self._path is None or not self._path.exists():
            return None
        metadata, tensors = self._read(device)
        if metadata.get("identity") != self._identity:
            return None
        iteration = metadata.get("iteration", "")
        if not re.fullmatch(r"\d{1,9}", iteration) or int(iteration) > iterations:
            raise self._damaged(f"{iteration[:20]!r} iterations")
        problem = _problem(tensors, like, depth_sizes)
        if problem is not None:
            raise self._damaged(problem)
        return FitState(int(iteration), tensors)

    def is_due(self) -> bool:
        """Whether enough time has passed to save the state again."""
        return self._path is not None and time.monotonic() > self._next_save

    def save(self, state: FitState) -> None:
        """Write the file; does nothing without a path."""
        # not save_file, whose own temporary file would stay when the process is killed
        from safetensors.torch import save

        if self._path is None:
            return
        began = time.monotonic()
        contiguous = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
        metadata = {"identity": self._identity, "iteration": str(state.iteration)}
        with atomic_path(self._path) as temporary:
            temporary.write_bytes(save(contiguous, metadata=metadata))
        ended = time.monotonic()
        self._next_save = ended + max(
            SECONDS_BETWEEN_CHECKPOINTS, (ended - began) / SAVING_FRACTION
        )

    def _read(self, device: str) -> tuple[dict[str, str], dict[str, Tensor]]:
        """Metadata and tensors; no tensors where they belong to another call."""
        from safetensors import SafetensorError, safe_open

        assert self._path is not None
        check_regular(self._path, "a checkpoint")
        try:
            with safe_open(str(self._path), framework="pt", device=device) as file:
                metadata = file.metadata() or {}
                names = list(file.keys()) if metadata.get("identity") == self._identity else []
                # copies: tensors of the mapped file would keep it open, and Windows replaces no open
                # file
                return metadata, {name: file.get_tensor(name).clone() for name in names}
        except (SafetensorError, *PARSER_ERRORS) as error:
            raise self._damaged(reason(error)) from error

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self._path}: damaged checkpoint ({what}); delete it to begin anew")


def _problem(
    tensors: Mapping[str, Tensor], like: Splats, depth_sizes: Sequence[tuple[int, int]]
) -> str | None:
    """What is wrong with tensors that should be those of splats, of Adam, and of depth maps; None
    where nothing is.
    """
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in vars(like).items()}
    count = len(tensors["means"]) if "means" in tensors and tensors["means"].ndim else 0
    expected = {name: (count, *rest) for name, rest in shapes.items()}
    expected |= {f"adam.{name}.{moment}": expected[name] for name in shapes for moment in MOMENTS}
    expected |= {f"adam.{name}.step": () for name in shapes}
    expected |= {f"{STATE_PREFIX}{view}": size for view, size in enumerate(depth_sizes)}
    for name, tensor in tensors.items():
        is_depth = name.startswith(STATE_PREFIX)  # not a number where no splat is seen
        if tuple(tensor.shape) != expected.get(name) or tensor.dtype != torch.float32:
            return f"{name[:60]} is {tensor.dtype} {tuple(tensor.shape)}"
        if not is_depth and not bool(torch.isfinite(tensor).all()):
            return f"{name} holds values that are not finite"
    # each complete or absent
    parts = {f"adam.{name}.": len(MOMENTS) + 1 for name in shapes} | {
        STATE_PREFIX: len(depth_sizes)
    }
    for part, size in parts.items():
        if sum(name.startswith(part) for name in tensors) not in (0, size):
            return f"a part of {part} is missing"
    return None if shapes.keys() <= tensors.keys() else "a part of the splats is missing"
