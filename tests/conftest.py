"""What all tests share: one torch thread per worker, reproducible property tests, and the data that
lies outside the repository.
"""

import gc
import os
import signal
import sys

# before torch is loaded: spinning threads starve the other workers, and so do several threads of
# the processes that tests start, since there is a worker per core
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

from tests.first_calls import begin_test, check_first_calls

torch.set_num_threads(1)

# While the tests are loaded: they make a million objects that stay, and going through them for
# garbage takes seconds.
gc.disable()

_ROOT = Path(__file__).parents[1]


#: Modules without checks of types and shapes, with the reason.
_UNCHECKED = {
    "scenes/procedural/raycast.py": "numba compiles its functions as they are written",
    "scenes/procedural/texture_patterns.py": "numba compiles its functions as they are written",
    "splats/rasterizers/numba_compositing.py": "numba compiles its functions as they are written",
    "splats/rasterizers/numba_projection.py": "numba compiles its functions as they are written",
    "splats/rasterizers/constants.py": "constants for the kernels",
    "splats/rasterizers/gsplat_cuda.py": "twins are compared, and their helpers are called often",
    "splats/rasterizers/numba_cpu.py": "twins are compared, and their helpers are called often",
    "splats/rasterizers/reference.py": "twins are compared, and their helpers are called often",
}


def _checked_modules() -> list[str]:
    """All modules but ``_UNCHECKED`` and packages' own."""
    package = _ROOT / "artifixer"
    assert all((package / name).is_file() for name in _UNCHECKED), "a module that is no more"
    return [
        ".".join(path.relative_to(_ROOT).with_suffix("").parts)
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).as_posix() not in _UNCHECKED
        and path.name not in ("__init__.py", "__main__.py")
    ]


# before the package is loaded: types and shapes of arguments, results and dataclass fields are
# checked at run time. Processes that tests start are not checked: they are the program as it ships.
# An int is a float, as for mypy.
check_first_calls()
install_import_hook(
    _checked_modules(), "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

# No deadline: the first example of many tests compiles kernels. Derandomised: a run fails because
# of a change, not because of its day.
hypothesis.settings.register_profile("artifixer", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("artifixer")


if sys.platform == "win32":
    #: Files that cannot even be loaded there.
    collect_ignore = ["flows/test_bad_input.py", "flows/test_kills.py", "training/test_deaths.py"]

    _kill = os.kill

    def _kill_or_raise(process: int, number: int) -> None:
        """On Windows ``os.kill`` ends a process; tests that send SIGTERM to their own process mean
        the signal.
        """
        if process == os.getpid() and number == signal.SIGTERM:
            signal.raise_signal(number)
        else:
            _kill(process, number)

    os.kill = _kill_or_raise


#: Files that wait more than they compute, or take longest: first, so that other workers fill the
#: waiting and none is left alone with them at the end.
_FIRST = ("tests/viewer/test_browser.py", "tests/test_examples.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(_FIRST))  # keeps the order otherwise
    if sys.platform == "win32":
        for item in items:
            if item.get_closest_marker("posix"):
                item.add_marker(pytest.mark.skip(reason="needs a POSIX system"))


def pytest_collection_finish() -> None:
    """From here on garbage is looked for among what the tests make."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Nor does the end of the process need to go through all objects."""
    gc.freeze()


def pytest_runtest_setup() -> None:
    begin_test()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Whatever ran before in this worker: sums of several threads differ from those of one in their
    last bits.
    """
    torch.set_num_threads(1)


def _folder_from(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    folder = Path(value)
    assert folder.is_dir(), f"{variable}={value}: not a folder"
    return folder


@pytest.fixture(scope="session")
def captures_folder() -> Path:
    """Real captures for tests; skips where ``ARTIFIXER_CAPTURES`` is unset."""
    return _folder_from("ARTIFIXER_CAPTURES")


@pytest.fixture(scope="session")
def parity_folder() -> Path:
    """Tensors made by the public release; skips where ``ARTIFIXER_PARITY_FOLDER`` is unset."""
    return _folder_from("ARTIFIXER_PARITY_FOLDER")
