"""``artifixer enhance`` and ``artifixer models`` as a user runs them: a killed process continues,
errors are one line.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from artifixer.cli import main
from artifixer.pipeline import enhance
from artifixer.runtime.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_STOPPED
from artifixer.video.checkpoints.ours import save_model
from tests.in_process import in_process
from tests.pipeline.test_enhance_verb import frames_in, write_renders
from tests.video.made_models import SMALL, WAN_LIKE, made_model, save_text_encoder

FRAMES = 24

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    save_model(folder / "model", made_model())
    return write_renders(folder / "renders", FRAMES), folder / "model"


def words(inputs: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    return [
        "enhance",
        str(inputs[0]),
        "--model",
        str(inputs[1]),
        "--out",
        str(out),
        "--device",
        "cpu",
        *more,
    ]


def signalled(number: int, frame: str, command: list[str], output: Path) -> int:
    """The command in a process of its own, which gets a signal after it has written a frame: how it
    ended. What it says goes to the file ``output``.
    """

    def work() -> int:
        write = enhance.write_png

        def write_png(path: Path, pixels: Any) -> None:
            write(path, pixels)
            if path.name == frame:
                os.kill(os.getpid(), number)

        enhance.write_png = write_png
        return main(command)

    return in_process(work, output)


@pytest.mark.posix
def test_killed_and_stopped_runs_end_with_the_frames_of_an_undisturbed_one(
    inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    assert main(words(inputs, tmp_path / "whole")) == EXIT_DONE
    expected = frames_in(tmp_path / "whole")
    assert len(expected) == FRAMES
    for number, code, written in (
        (signal.SIGKILL, -signal.SIGKILL, 16),
        (signal.SIGTERM, EXIT_STOPPED, 21),
    ):
        out = tmp_path / number.name
        said = tmp_path / "said"
        assert signalled(number, "00015.png", words(inputs, out), said) == code, said.read_text()
        before = frames_in(out)
        assert before == expected[:written]
        assert main(words(inputs, out)) == EXIT_DONE
        assert frames_in(out) == expected
        assert (out / "video.mp4").read_bytes() == (tmp_path / "whole" / "video.mp4").read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--steps", "none"), "--steps none: expected a number from 1 to 99"),
        (("--steps", "0"), "--steps 0"),
        (("--mode", "invent"), "invent"),
        (("--drop", "renders,tests"), "--drop tests: expected renders, references, text"),
        (("--references", "-1"), "--references -1"),
        (("--prompt", "a house"), "takes no text; models that do: 1.3b, 14b"),
        (("--camera-scale", "0"), "--camera-scale 0: expected a positive finite number"),
        (
            ("--guidance", "5"),
            "--guidance 5.0: blocks are made without guidance; expected --sampler teacher beside "
            "it",
        ),
        (("--negative-prompt", "blur"), "--negative-prompt blur: blocks are made without guidance"),
        (("--sampler", "dreams"), "dreams"),
        (("--fps", "0"), "--fps 0"),
        (("--strength", "1.5"), "--strength 1.5: expected 0 to 1"),
        (("--device", "tpu"), "--device tpu"),
        (("--model", "15b"), "--model 15b: neither a file or folder nor one of tiny, 1.3b, 14b"),
        (("--model", "14b"), "--model tiny works now"),
    ],
)
def test_wrong_options_are_one_line(
    inputs: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, str],
    message: str,
) -> None:
    assert_refused(words(inputs, tmp_path / "out", *more), message, capsys)


def assert_refused(command: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == EXIT_BAD_INPUT
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("artifixer: error: ")
    assert message in captured.err


def test_bad_render_folders_are_one_line(
    inputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renders = write_renders(tmp_path / "renders", 3)
    command, cameras = words((renders, inputs[1]), tmp_path / "out"), renders / "cameras.json"
    content = cameras.read_text()
    for number in ("NaN", "Infinity", "1e300"):
        assert '"fx": 18.0' in content
        cameras.write_text(content.replace('"fx": 18.0', f'"fx": {number}', 1))
        assert_refused(command, 'cameras.json: frame 0 has "fx" =', capsys)
    cameras.write_text(content.replace('"width": 20', '"width": 21', 1))
    assert_refused(command, "20x14 pixels; expected 21x14 as its camera", capsys)
    cameras.write_text(content)
    (renders / "opacity" / "00002.png").unlink()
    assert_refused(command, "2 images; expected 00000.png to 00002.png", capsys)
    cameras.unlink()
    assert_refused(command, "has no cameras.json; expected a render folder", capsys)
    assert not (tmp_path / "out").exists()


def test_options_reach_the_frames(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    renders = write_renders(tmp_path / "renders", 3)
    save_model(tmp_path / "direct", made_model(replace(SMALL, source="direct", generate_steps=3)))
    outputs = {}
    for name, more in {
        "plain": (),
        "improve": ("--model", str(tmp_path / "direct")),
        "generate": ("--model", str(tmp_path / "direct"), "--mode", "generate"),
        "three steps": ("--steps", "3"),
        "seed": ("--seed", "1"),
        "steps": ("--steps", "4"),
        "adaptive": ("--steps", "adaptive"),
        "drop": ("--drop", "references"),
        "none": ("--references", "0"),
        "residual": ("--residual", "keep"),
        "scale": ("--camera-scale", "4"),
    }.items():
        assert main(words((renders, inputs[1]), tmp_path / name, *more)) == EXIT_DONE
        outputs[name] = frames_in(tmp_path / name)
    assert outputs["drop"] == outputs["none"]
    assert outputs["adaptive"] == outputs["steps"]  # half of the renders is empty
    # the same weights with the source and the steps of that mode
    assert outputs["generate"] == outputs["three steps"]
    assert len({tuple(frames) for frames in outputs.values()}) == len(outputs) - 3


def test_the_teacher_samples_a_trained_bidirectional_model(
    inputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with text encoder, all options, killed after a clip of two and continued; and what
    it refuses.
    """
    renders, model = write_renders(tmp_path / "renders", 86), tmp_path / "model"
    save_model(model, made_model(WAN_LIKE))
    save_text_encoder(model, WAN_LIKE.transformer.text_width)
    asked = (
        "--sampler",
        "teacher",
        "--steps",
        "2",
        "--guidance",
        "5",
        "--prompt",
        "a red house",
        "--camera-scale",
        "0.1",
    )
    given = renders, model
    assert (
        main(words(given, tmp_path / "whole", *asked, "--negative-prompt", "the sea")) == EXIT_DONE
    )
    expected = frames_in(tmp_path / "whole")
    assert len(expected) == 86
    timing = json.loads((tmp_path / "whole" / "timing.json").read_text())
    assert (timing["blocks"], timing["network_calls"]) == (2, 2 * 2 * 2)
    assert main(words(given, tmp_path / "other", *asked)) == EXIT_DONE
    assert frames_in(tmp_path / "other") != expected
    out, said = tmp_path / "killed", tmp_path / "said"
    command = words(given, out, *asked, "--negative-prompt", "the sea")
    ended = signalled(signal.SIGKILL, "00083.png", command, said)
    assert ended == -signal.SIGKILL, said.read_text()
    assert frames_in(out) == expected[:84]
    assert main(words(given, out, *asked, "--negative-prompt", "the sea")) == EXIT_DONE
    assert frames_in(out) == expected
    assert json.loads((out / "timing.json").read_text())["network_calls"] == 0, (
        "both clips were made before the kill"
    )
    capsys.readouterr()
    for more, message in (
        (("--steps", "adaptive"), "--steps adaptive: the teacher takes a number of steps"),
        (("--guidance", "-1"), "--guidance -1: expected 0 to 100"),
    ):
        assert_refused(
            words(inputs, tmp_path / "out", "--sampler", "teacher", *more), message, capsys
        )
    assert_refused(
        words(inputs, tmp_path / "out", "--sampler", "teacher", "--negative-prompt", "blur"),
        "takes no text",
        capsys,
    )


def test_models_are_listed_and_converted(
    inputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--device", "cpu"]) == EXIT_DONE
    shown = capsys.readouterr().out
    for part in (
        "16,910,955,584 parameters",
        "nvidia/ArtiFixer",
        "licence",
        "camera scale  metric",
        "window cache",
        "39.64",
    ):
        assert part in shown
    assert main(["models", str(inputs[1]), "--size", "64x64", "--device", "cpu"]) == EXIT_DONE
    assert "at 64x64 with 6 references" in capsys.readouterr().out
    out = tmp_path / "half"
    assert (
        main(["models", "--convert", str(inputs[1]), "--out", str(out), "--dtype", "bfloat16"])
        == EXIT_DONE
    )
    assert (out / "transformer.safetensors").stat().st_size < 0.7 * (
        inputs[1] / "transformer.safetensors"
    ).stat().st_size
    capsys.readouterr()
    assert_refused(["models", "--convert", str(inputs[1])], "expected --out FOLDER", capsys)
    assert_refused(["models", "--references", "-2"], "--references -2", capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: dict(list(tensors.items())[4:]), "4 missing: "),
        (
            lambda tensors: tensors | {name: torch.ones(1) for name in "abcd"},
            "91 tensors do not fit the model's 87: 4 unexpected: a, b, c, ...",
        ),
        (
            lambda tensors: tensors | {"head.bias": torch.zeros(3)},
            "1 of another shape: head.bias is 3 instead of 24",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_weights_that_do_not_fit_are_one_line(
    inputs: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Tensors], Tensors],
    message: str,
) -> None:
    save_model(tmp_path / "model", made_model())
    weights = tmp_path / "model" / "transformer.safetensors"
    save_file(change(load_file(weights)), weights)
    assert_refused(words((inputs[0], tmp_path / "model"), tmp_path / "out"), message, capsys)
    assert not (tmp_path / "out").exists()


def test_configurations_that_contradict_are_one_line(
    inputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "model", made_model())
    config = tmp_path / "model" / "config.json"
    content = config.read_text()
    for key, value, other, message in (
        ("transformer_width", 48, 96, "84 of another shape: head.weight is 24x48 instead of 24x96"),
        (
            "transformer_latent_channels",
            6,
            7,
            "config.json: latent channels of the transformer is 7, of the autoencoder 6",
        ),
        ("transformer_heads", 2, 5, "config.json: width 48 is not a multiple of 5 heads"),
    ):
        assert f'"{key}": {value}' in content
        config.write_text(content.replace(f'"{key}": {value}', f'"{key}": {other}'))
        assert_refused(words((inputs[0], tmp_path / "model"), tmp_path / "out"), message, capsys)
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_fit_is_one_line(
    inputs: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for free, message in (
        (400_000, "small at 16x16 with 3 references needs 0.00105 GB (weights "),
        (400_000, "cpu has 0.0004 GB free: 0.000651 GB too much; nothing known would fit"),
        (
            1_049_000,
            "cpu has 0.00105 GB free: 2.46e-06 GB too much; what would fit: --references 2",
        ),
    ):
        monkeypatch.setattr(
            "artifixer.video.memory_estimate.free_memory", lambda device, free=free: free
        )
        assert_refused(words(inputs, tmp_path / "out"), message, capsys)
    assert not (tmp_path / "out").exists()


def test_warnings_are_said_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt over 512 tokens, and no references for a model that was trained with them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = replace(WAN_LIKE, transformer=replace(WAN_LIKE.transformer, text_tokens=512))
    save_model(tmp_path / "model", made_model(config))
    save_text_encoder(tmp_path / "model", config.text.width)
    command = words(
        (write_renders(tmp_path / "renders", 3), tmp_path / "model"),
        tmp_path / "out",
        "--prompt",
        "the sea " * 300,
    )
    assert main([*command, "--references", "0"]) == EXIT_DONE
    said, kept = (
        capsys.readouterr().err,
        json.loads((tmp_path / "out" / "timing.json").read_text())["warnings"],
    )
    for warning in (
        "no reference photos; model wan-like was trained with them",
        "the last 89 tokens were cut, the model reads 512",
    ):
        assert warning in said and any(warning in line for line in kept)


def test_broken_models_are_one_line(
    inputs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "model", made_model())
    command = words((inputs[0], tmp_path / "model"), tmp_path / "out")
    weights = tmp_path / "model" / "transformer.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    assert_refused(command, "truncated or damaged", capsys)
    weights.unlink()
    assert_refused(command, "does not exist, expected weights", capsys)
    torch.save({"weight": torch.zeros(2000)}, tmp_path / "short.pt")
    (tmp_path / "short.pt").write_bytes((tmp_path / "short.pt").read_bytes()[:4000])
    assert_refused(
        words((inputs[0], tmp_path / "short.pt"), tmp_path / "out"),
        "short.pt: truncated or damaged",
        capsys,
    )
    torch.save({"weight": torch.zeros(2), "extra": [print]}, tmp_path / "evil.pt")
    assert_refused(
        words((inputs[0], tmp_path / "evil.pt"), tmp_path / "out"),
        "may run code, not loaded",
        capsys,
    )
    assert not (tmp_path / "out").exists()
