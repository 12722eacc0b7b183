"""A missing optional package ends in one line that names the extra."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from artifixer.runtime.errors import InputError
from artifixer.runtime.extras import needs_extra

ROOT = Path(__file__).parents[2]


def test_a_missing_package_names_what_needs_it_and_the_extra():
    with (
        pytest.raises(
            InputError, match=r"Wan's text encoder needs the extra wan \(No module named"
        ),
        needs_extra("wan", "Wan's text encoder"),
    ):
        import a_package_that_does_not_exist  # noqa: F401


def test_every_extra_that_the_code_names_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = {
        name
        for path in (ROOT / "artifixer").rglob("*.py")
        for name in re.findall(r'needs_extra\(\s*"(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert "wan" in named
    assert named <= set(extras)


def test_the_embedded_model_loads_without_the_packages_of_the_large_ones():
    code = """
import sys
for name in ("diffusers", "transformers", "accelerate", "ftfy", "sentencepiece"):
    sys.modules[name] = None  # an import of it fails
import artifixer as af
print(af.load_model("tiny", device="cpu").config.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    assert done.stdout.split()
