"""The names of ``import artifixer``: lazy, complete, and equal to what the command line does."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import artifixer as af
from artifixer.runtime.errors import InputError


def test_importing_the_package_imports_neither_torch_nor_numpy():
    code = (
        "import sys, artifixer; print([m for m in ('torch', 'numpy', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists_has_a_docstring_and_is_known_to_type_checkers():
    tree = ast.parse(Path(af.__file__).read_text(encoding="utf-8"))
    typed = {
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "artifixer.api"
        for name in node.names
    }
    assert typed == set(af.__all__)
    for name in af.__all__:
        assert getattr(af, name).__doc__, name
    assert set(af.__all__) <= set(dir(af))


def test_no_public_name_is_the_name_of_a_room():
    # The import system would put the room in the function's place.
    rooms = {path.name for path in Path(af.__file__).parent.iterdir() if path.is_dir()}
    assert not rooms & set(af.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'repairs'"):
        _ = af.repairs


def test_an_unknown_photo_is_named():
    scene = af.load_scene("procedural:7", size=32)
    with pytest.raises(InputError, match=r"photo 'nobody.png': not in scene"):
        af.reconstruct(scene, ["nobody.png"], iterations=1)


def test_an_unknown_recipe_is_named():
    scene = af.load_scene("procedural:7", size=32)
    with pytest.raises(InputError, match="recipe 'huge': unknown; expected auto or one of"):
        af.reconstruct(scene, recipe="huge")


def test_an_option_that_run_does_not_have_is_refused(tmp_path):
    with pytest.raises(TypeError, match="veiws"):
        af.repair("procedural:7", tmp_path / "out", veiws=4)


def test_reconstruct_gives_the_splats_of_the_command_line(tmp_path):
    from artifixer.cli import main
    from artifixer.splats.ply import read_splats

    capture = "procedural:7:frames=8,width=48,height=36"
    words = ["reconstruct", capture, "--out", str(tmp_path / "run"), "--size", "48"]
    assert main([*words, "--views", "3", "--iterations", "12", "--device", "cpu"]) == 0
    import json

    train = json.loads((tmp_path / "run" / "split.json").read_text())["train"]
    ours = af.reconstruct(af.load_scene(capture, size=48), train, iterations=12, device="cpu")
    theirs = read_splats(tmp_path / "run" / "splats.ply")
    assert np.array_equal(ours.means.numpy(), theirs.means.numpy())


def test_equal_frames_have_infinite_psnr_and_others_the_formulas_value():
    random = np.random.default_rng(0)
    photo = random.integers(0, 200, (24, 32, 3), dtype=np.uint8)
    assert af.evaluate([photo], [photo]).psnr == float("inf")
    # Every value is 10 off: 20 log10(255 / 10).
    assert af.evaluate([photo], [photo + 10]).psnr == pytest.approx(28.1308, abs=1e-3)
