"""The environment of a run: versions and device, on which results can depend besides inputs,
settings and seed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import artifixer

#: Libraries whose versions can change results; recorded in config.json where installed.
RECORDED_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "numba",
    "pillow",
    "av",
    "pycolmap",
    "opencv-python-headless",
    "diffusers",
    "transformers",
    "gsplat",
)


def environment(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Versions, commit of the source tree (or None), platform and device."""
    device = torch.device(device)
    return {
        "artifixer": artifixer.__version__,
        "commit": _source_commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _installed_versions(RECORDED_PACKAGES),
    }


@functools.cache
def _source_commit() -> str | None:
    """Git commit of the source tree that this package runs from, with "-dirty" if there are local
    changes; None for an installed package.
    """
    tree = Path(artifixer.__file__).parents[1]
    if not (tree / ".git").exists():
        return None
    command = [
        "git",
        "-C",
        str(tree),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def _installed_versions(names: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
