"""Importing any module of the package touches no GPU, no network and no heavy library, and changes
no foreign state.
"""

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import artifixer

PACKAGE = Path(artifixer.__file__).parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(PACKAGE)], "artifixer.")
    if not module.name.endswith("__main__")
)

#: Libraries that are slow to load, optional, or that touch the GPU or the network: loaded by the
#: function that uses them.
HEAVY = (
    "av",
    "cv2",
    "diffusers",
    "gsplat",
    "lpips",
    "pycolmap",
    "torch_fidelity",
    "torchmetrics",
    "torchvision",
    "transformers",
)

#: Runs in a fresh process: imports the modules named in argv one by one, and reports which of them
#: did what.
PROBE = """
import importlib, json, os, sys

faults = []

def audit(event, arguments):
    if event in (
        "socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.system"
    ):
        faults.append([current, event])
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        if not str(arguments[0]).endswith(".nbi") and "__pycache__" not in str(arguments[0]):
            faults.append([current, f"writes {arguments[0]}"])

import torch, numba, numpy, tyro  # what these do at import is not ours

def settings():
    return (
        dict(os.environ),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.random.initial_seed(),
        torch.are_deterministic_algorithms_enabled(),
    )

current = None
sys.addaudithook(audit)
for current in sys.argv[1:]:
    before = settings()
    importlib.import_module(current)
    if settings() != before:
        faults.append([current, "changes the environment or torch's settings"])
    if torch.cuda.is_initialized():
        faults.append([current, "initialises CUDA"])
print(json.dumps({"faults": faults, "loaded": sorted(sys.modules)}))
"""


def run_python(program: str, *words: str) -> str:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        # -B: byte code that Python itself would write in a fresh clone is no side effect
        [sys.executable, "-B", "-c", program, *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def report() -> dict[str, list]:
    """What importing all modules did."""
    return json.loads(run_python(PROBE, *MODULES))


def test_modules_import_without_side_effects(report: dict[str, list]) -> None:
    assert report["faults"] == []


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_library_is_not_loaded(report: dict[str, list], library: str) -> None:
    assert library not in report["loaded"]


def test_the_package_and_its_help_need_no_torch() -> None:
    program = (
        "import sys, artifixer, artifixer.cli; artifixer.cli.main(['--help']); "
        "print(*sorted(sys.modules))"
    )
    loaded = run_python(program).splitlines()[-1].split()
    assert not {"torch", "numpy", "numba", "tyro", "rich"} & set(loaded)
