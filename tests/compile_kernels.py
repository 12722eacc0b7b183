"""``python -m tests.compile_kernels``: compiles all kernels into the package's cache, once, before
the many processes of the tests need them at the same time and each compiles its own. Nothing else
is left, and nothing is lost where it fails: whoever needs a kernel compiles it.
"""

from __future__ import annotations

import contextlib
import io
import tempfile

from artifixer import cli

#: Casts rays, renders, and goes back through the renderer.
SMALL_FIT = "reconstruct procedural:1:frames=8,width=32,height=24 --iterations 2 --out"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        cli.main([*SMALL_FIT.split(), f"{folder}/fit"])


if __name__ == "__main__":
    main()
