"""The bidirectional teacher as a sampler of ``enhance``: clips, guidance, continuing, and that
validation samples the same way.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from artifixer.enhance import enhance as enhance_module
from artifixer.enhance.enhance import EnhanceConfig, EnhanceReport, enhance, teacher_config
from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.errors import InputError
from artifixer.scenes.view import View
from artifixer.splats.render import Renders
from artifixer.training.validation import ValidationConfig, generated_clip
from artifixer.video.checkpoints.ours import save_model
from artifixer.video.memory_estimate import MemoryPlan, memory_estimate
from artifixer.video.model import Model
from artifixer.video.model_files import load_model
from artifixer.video.model_zoo import NAMED_MODELS
from artifixer.video.teacher import TeacherConfig
from artifixer.video.text import WAN_NEGATIVE_PROMPT
from tests.enhance.test_enhance import frames_of, made_cameras, made_references, made_renders
from tests.video.made_models import SMALL, WAN_LIKE, made_model, save_text_encoder


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model with a text encoder."""
    folder = tmp_path_factory.mktemp("reading")
    save_model(folder, made_model(WAN_LIKE))
    save_text_encoder(folder, WAN_LIKE.transformer.text_width)
    return load_model(folder)


def test_the_releases_settings_are_the_default() -> None:
    model = made_model()
    assert teacher_config(model, EnhanceConfig()) == TeacherConfig(
        steps=50, guidance=5.0, shift=3.0, source="mixing"
    )
    asked = EnhanceConfig(steps=8, guidance=2.5)
    assert teacher_config(made_model(replace(SMALL, source="direct")), asked) == TeacherConfig(
        8, 2.5, 3.0, "direct"
    )
    with pytest.raises(InputError, match="--steps adaptive: the teacher takes a number of steps"):
        enhance(
            made_renders(2),
            made_cameras(2),
            [],
            model,
            EnhanceConfig(sampler="teacher", steps="adaptive"),
        )


@pytest.mark.parametrize("views", [1, 2, 5, 6, 85])
def test_any_number_of_frames(views: int) -> None:
    """One clip of up to 81 frames, however many blocks these would be; the last clip is filled up
    to whole latent frames.
    """
    report = EnhanceReport()
    frames_of(
        made_model(),
        made_renders(views),
        made_cameras(views),
        made_references(1),
        report,
        sampler="teacher",
        steps=2,
    )
    clips = 1 + (views > 81)
    assert (report.blocks, report.network_calls) == (clips, 2 * clips)


def test_later_frames_matter_to_earlier_ones() -> None:
    """The teacher looks at the whole clip; blocks never look ahead."""
    renders, other = made_renders(13), made_renders(13, seed=1)
    changed = Renders(
        *(
            torch.cat([ours[:9], theirs[9:]])
            for ours, theirs in zip(vars(renders).values(), vars(other).values(), strict=True)
        )
    )
    for sampler, is_same in (("blocks", True), ("teacher", False)):
        first, second = (
            frames_of(made_model(), given, made_cameras(13), sampler=sampler, steps=2)[:5]
            for given in (renders, changed)
        )
        assert np.array_equal(first, second) == is_same


def test_clips_are_rollouts_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each starts at its own camera, also seen from the references, and its last frames
    fill it up.
    """
    monkeypatch.setattr(enhance_module, "TEACHER_FRAMES", 9)
    model, renders, cameras, references = (
        made_model(replace(SMALL, source="direct")),
        made_renders(15),
        made_cameras(15),
        made_references(2),
    )
    settings = {"sampler": "teacher", "steps": 2, "camera_scale": 0.7, "keep_residual": True}
    whole = frames_of(model, renders, cameras, references, **settings)
    for part in (slice(0, 9), slice(9, 15)):
        alone = Renders(renders.rgb[part], renders.opacity[part], renders.depth[part])
        assert np.array_equal(
            frames_of(model, alone, cameras[part], references, **settings), whole[part]
        )


def test_guidance_leads_away_from_the_negative_prompt(reading: Model) -> None:
    inputs = made_renders(5), made_cameras(5), made_references(1)

    def frames(report: EnhanceReport | None = None, **config: object) -> np.ndarray:
        settings = {
            "sampler": "teacher",
            "steps": 2,
            "camera_scale": 0.5,
            "prompt": "a red house",
        } | config
        return frames_of(reading, *inputs, report, **settings)

    report = EnhanceReport()
    plain, guided = frames(guidance=1.0), frames(report)
    assert report.network_calls == 2 * 2 and report.warnings == []
    assert not np.array_equal(plain, guided)
    assert np.array_equal(guided, frames(guidance=5.0, negative_prompt=WAN_NEGATIVE_PROMPT))
    away = frames(negative_prompt="the sea")
    assert (
        len(
            {
                image.tobytes()
                for image in (plain, guided, away, frames(negative_prompt=""), frames(guidance=2.0))
            }
        )
        == 5
    )
    assert np.array_equal(frames(guidance=1.0, negative_prompt="the sea"), plain)


def test_a_model_that_reads_nothing_goes_without_guidance() -> None:
    inputs, report = (made_renders(5), made_cameras(5), made_references(1)), EnhanceReport()
    guided = frames_of(made_model(), *inputs, report, sampler="teacher", steps=2, guidance=5.0)
    assert report.network_calls == 2
    assert report.warnings == ["model small reads no prompts: guidance has no effect"]
    silent = EnhanceReport()
    assert np.array_equal(
        frames_of(made_model(), *inputs, silent, sampler="teacher", steps=2), guided
    )
    assert silent.warnings == []


def test_a_finished_clip_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enhance_module, "TEACHER_FRAMES", 5)
    saved: dict[int, torch.Tensor] = {}

    class Store:
        def load(self, block: int) -> torch.Tensor | None:
            return saved.get(block)

        def save(self, block: int, noisy_latents: torch.Tensor) -> None:
            saved[block] = noisy_latents.clone()

    model, inputs = made_model(), (made_renders(12), made_cameras(12), made_references(1))
    config = EnhanceConfig(sampler="teacher", steps=2)
    whole = np.concatenate(
        [block.frames for block in enhance(*inputs, model, config, store=Store())]
    )
    assert sorted(saved) == [0, 1, 2]
    del saved[1], saved[2]
    report = EnhanceReport()
    resumed = np.concatenate(
        [block.frames for block in enhance(*inputs, model, config, report, Store())]
    )
    assert np.array_equal(resumed, whole)
    assert report.network_calls == 2 * 2 and sorted(saved) == [0, 1, 2]


@pytest.mark.parametrize("sampler", ["teacher", "blocks"])
def test_validation_samples_as_enhance_does(sampler: str) -> None:
    """What is validated is what ships: the same frames of the same pair."""
    is_teacher = sampler == "teacher"
    model, renders, references = made_model(), made_renders(13, 24, 16), made_references(2)
    photos = [
        np.ascontiguousarray(np.resize(reference.photo.read(), (16, 24, 3)))
        for reference in references
    ]
    cameras, views = made_cameras(13, 24, 16), made_cameras(2, 24, 16)
    pair = TrainingPair(
        "pair",
        torch.zeros(13, 16, 24, 3, dtype=torch.uint8),
        (renders.rgb * 255).round().to(torch.uint8),
        (renders.opacity * 255).round().to(torch.uint8),
        cameras,
        torch.from_numpy(np.stack(photos)),
        views,
        0.5,
        "median_depth",
    )
    config = ValidationConfig(
        steps=(3,), is_causal=not is_teacher, teacher=TeacherConfig() if is_teacher else None
    )
    clip = generated_clip(model, pair, 3, config)
    seen = [View.of_pixels(views[index], photo) for index, photo in enumerate(photos)]
    expected = frames_of(model, renders, cameras, seen, sampler=sampler, steps=3, camera_scale=0.5)
    assert np.array_equal(clip.frames.numpy(), expected)
    assert clip.blocks[0].calls == 3 and len(clip.blocks) == (1 if is_teacher else 2)


def test_the_teacher_needs_no_cache_of_frames_but_room_for_a_clip(tmp_path: Path) -> None:
    config = NAMED_MODELS["14b"].config
    assert config is not None
    blocks, teacher = (
        memory_estimate(config, MemoryPlan(960, 544, clip_frames=frames)) for frames in (None, 81)
    )
    assert teacher.window == 0 < blocks.window
    # 21 latent frames at once instead of 7
    assert teacher.activations == pytest.approx(3 * blocks.activations, rel=0.01)
