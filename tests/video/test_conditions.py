"""Conditions: cameras against the release, blocks against whole clips, dropping and slicing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.spatial.transform import Rotation

from artifixer.geometry.cameras import DISTORTION_NAMES, Cameras
from artifixer.geometry.transforms import quaternion_to_matrix, rotation_angle
from artifixer.video.camera_conditions import (
    normalised_Ks,
    pooled_cameras,
    ray_map,
    weights_cameras,
)
from artifixer.video.conditions import ClipCameras, Conditions, RolloutContext, clip_conditions
from tests.unchecked import unchecked
from tests.video.parity_cases import cases_of, manifest_of, read_case

#: float32 against the release's own tensors.
PARITY_TOLERANCE = 1e-4

#: float32 on another processor, in moments of up to some units.
FROZEN_TOLERANCE = 1e-5

#: Poses are computed in float64 and kept in float32.
POSE_ROUNDING = 1e-6

TEXT = torch.ones(1, 3, 8)


def path(frames: int, seed: int = 0) -> Cameras:
    """Cameras that turn and wander, with their own lenses."""
    draw = torch.Generator().manual_seed(seed)
    viewmats = torch.eye(4).repeat(frames, 1, 1)
    viewmats[:, :3, :3] = quaternion_to_matrix(
        torch.tensor([3.0, 0, 0, 0]) + torch.randn(frames, 4, generator=draw)
    )
    viewmats[:, :3, 3] = torch.randn(frames, 3, generator=draw) * 5
    Ks = torch.tensor([[20.0, 0, 15.5], [0, 21, 8.5], [0, 0, 1]]) + torch.rand(
        frames, 3, 3, generator=draw
    ) * torch.eye(3)
    Ks[:, 2, 2] = 1
    return replace(
        Cameras.pinhole(viewmats, Ks, 32, 16),
        distortion=torch.rand(frames, 8, generator=draw) * 0.01,
    )


def opengl_cameras(
    camera_to_world: torch.Tensor, lenses: list[dict[str, float]], size: tuple[int, int]
) -> Cameras:
    """Poses and intrinsics as ``transforms.json`` holds them, resized to ``size`` (width,
    height).
    """
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
    viewmats = torch.linalg.inv(camera_to_world.double() @ flip).float()
    Ks = torch.tensor(
        [
            [[lens["fl_x"], 0, lens["cx"]], [0, lens["fl_y"], lens["cy"]], [0, 0, 1]]
            for lens in lenses
        ]
    )
    distortion = torch.tensor(
        [[lens.get(name, 0.0) for name in DISTORTION_NAMES] for lens in lenses]
    )
    return Cameras(
        viewmats, Ks, int(lenses[0]["w"]), int(lenses[0]["h"]), "pinhole", distortion
    ).resized(*size)


@pytest.mark.parametrize("case", ["full", "partial", "perframe"])
def test_cameras_equal_the_release(parity_folder, case):
    for name in cases_of(parity_folder, "e", [f"{case}_w2cs", "c2w", "neighbor_c2w"]):
        check_cameras(
            read_case(parity_folder, name),
            json.loads((parity_folder / "protocol.json").read_text()),
            case,
        )


def check_cameras(stored: dict[str, torch.Tensor], protocol: dict[str, Any], case: str) -> None:
    """Pooled cameras, rays and references of the release, from its poses and the lenses that
    ``protocol`` tells of.
    """
    camera = protocol["camera"]
    frames = camera["full_uses_first_frames"] if case == "full" else len(stored["c2w"])
    lenses = [
        dict(protocol["intrinsics"])
        for _ in range(len(stored["c2w"]) + len(stored["neighbor_c2w"]))
    ]
    if case == "perframe":  # as camera["per_frame_overrides"] says in words
        for i in range(1, len(lenses), 2):
            lenses[i] |= {"fl_x": 700 + 3 * i, "cx": lenses[i]["cx"] - i, "k1": 0.01 * i}
    size = camera["width"], camera["height"]
    targets = opengl_cameras(stored["c2w"][:frames], lenses[:frames], size)
    references = opengl_cameras(stored["neighbor_c2w"], lenses[len(stored["c2w"]) :], size)

    context = RolloutContext(targets[0], camera["scale"], 4, TEXT).with_references(
        torch.zeros(1, 1, len(references), 4, 6), references
    )
    latents = stored[f"{case}_w2cs"].shape[0]
    made = context.conditions(
        torch.zeros(1 + 4 * (latents - 1), size[1], size[0]), targets, is_first=True
    )
    ours = {
        "w2cs": made.viewmats, "Ks": made.Ks, "camera_rays": made.rays,
        "neighbor_w2cs": made.reference_viewmats, "neighbor_Ks": made.reference_Ks,
    }  # fmt: skip
    for name, values in ours.items():
        assert values is not None
        torch.testing.assert_close(
            values[0],
            stored[f"{case}_{name}"],
            rtol=0,
            atol=PARITY_TOLERANCE,
            msg=lambda text, name=name: f"{name}: {text}",
        )


#: Outputs of ``frozen_cameras``, kept while the test above passed.
FROZEN = Path(__file__).parent / "frozen" / "cameras.safetensors"


def frozen_cameras() -> dict[str, torch.Tensor]:
    """Pooled cameras, references, and some rays of made cameras, as the weights read them."""
    targets, references = path(9), path(2, seed=1)
    context = RolloutContext(targets[0], 0.023, 4, TEXT).with_references(
        torch.zeros(1, 1, 2, 4, 6), references
    )
    made = context.conditions(torch.zeros(9, 16, 32), targets, is_first=True)
    assert made.reference_viewmats is not None and made.reference_Ks is not None
    return {
        "viewmats": made.viewmats.clone(),
        "Ks": made.Ks.clone(),
        "rays": made.rays[:, :, ::5, ::11].clone(),
        "reference_viewmats": made.reference_viewmats.clone(),
        "reference_Ks": made.reference_Ks.clone(),
    }


def test_cameras_are_what_they_were_when_they_equalled_the_release():
    kept, now = load_file(FROZEN), frozen_cameras()
    assert kept.keys() == now.keys()
    for name, value in now.items():
        assert value.std() > 0.01
        torch.testing.assert_close(value, kept[name], rtol=0, atol=FROZEN_TOLERANCE)


def test_cameras_of_the_releases_rollouts(parity_folder):
    manifest = manifest_of(parity_folder)
    height, width = manifest["pixels"]
    temporal = 2 ** sum(manifest["vae"]["temperal_downsample"])
    for name in cases_of(parity_folder, "b", ["c2w", "neighbor_c2w", "w2cs"]):
        stored = read_case(parity_folder, name)
        lens = manifest["camera"]["intrinsics"]
        targets = opengl_cameras(stored["c2w"], [lens] * len(stored["c2w"]), (width, height))
        references = opengl_cameras(
            stored["neighbor_c2w"], [lens] * len(stored["neighbor_c2w"]), (width, height)
        )
        moved = weights_cameras(
            pooled_cameras(targets, temporal, True), targets[0], manifest["camera"]["scale"]
        )
        seen = weights_cameras(references, targets[0], manifest["camera"]["scale"])
        ours = {"w2cs": moved.viewmats, "Ks": normalised_Ks(moved), "camera_rays": ray_map(moved)}
        ours |= {"neighbor_w2cs": seen.viewmats, "neighbor_Ks": normalised_Ks(seen)}
        for key, values in ours.items():
            torch.testing.assert_close(
                values,
                stored[key][0],
                rtol=0,
                atol=PARITY_TOLERANCE,
                msg=lambda text, key=key: f"{key}: {text}",
            )


def test_conditions_of_a_long_path_come_block_by_block(parity_folder):
    """The 60 stored poses, in blocks of 7 latent frames: the last one has 7 cameras for 28 frames
    of padding-filled opacity.
    """
    lens = json.loads((parity_folder / "protocol.json").read_text())["intrinsics"]
    for name in cases_of(parity_folder, "f"):
        poses = read_case(parity_folder, name)["c2w"]
        check_streaming(opengl_cameras(poses, [lens] * len(poses), (48, 32)))


def test_conditions_come_block_by_block():
    check_streaming(path(60))


def check_streaming(cameras: Cameras) -> None:
    """Blocks made from their own cameras equal the whole path's; padding stands still at the mean
    of the last group.
    """
    context = RolloutContext(cameras[0], 0.023, 4, TEXT)
    opacity = torch.rand(
        81, cameras.height, cameras.width, generator=torch.Generator().manual_seed(0)
    )
    whole = context.conditions(opacity, cameras, is_first=True, latent_frames=21)
    assert torch.equal(whole.rays[:, 16:], whole.rays[:, 15:16].expand(-1, 5, -1, -1, -1))
    for block in range(3):
        frames = slice(max(0, 1 + 4 * (7 * block - 1)), 1 + 4 * (7 * block + 6))
        made = context.conditions(opacity[frames], cameras[frames], is_first=block == 0)
        expected = whole.latent_slice(7 * block, 7)
        assert torch.equal(made.opacity, expected.opacity)
        for name in ("rays", "viewmats", "Ks"):
            torch.testing.assert_close(
                getattr(made, name), getattr(expected, name), rtol=0, atol=POSE_ROUNDING
            )


@pytest.mark.parametrize("lenses", ["alike", "mixed"])
def test_clips_together_have_the_conditions_of_each_alone(lenses: str):
    """Other paths, lenses, units and references per clip."""
    clips, scales = [path(13), path(60)[30:43], path(26)[::2]], [0.02, 0.3, 1.0]
    clips[1] = replace(clips[1], Ks=1.3 * clips[1].Ks)
    if lenses == "mixed":
        clips[2] = replace(clips[2], model="fisheye", distortion=torch.zeros(13, 8))
    references = [clip[[1, 5]] for clip in clips]
    random = torch.Generator().manual_seed(0)
    opacity = torch.rand(3, 13, clips[0].height, clips[0].width, generator=random)
    text = torch.rand(3, *TEXT.shape[1:], generator=random)
    cameras = [ClipCameras(*parts) for parts in zip(clips, references, scales, strict=True)]
    made = clip_conditions(opacity, text, cameras, 4)
    for i, (clip, scale) in enumerate(zip(clips, scales, strict=True)):
        context = RolloutContext(clip[0], scale, 4, text[i : i + 1]).with_references(
            torch.zeros(1, 0, 2, 1, 1), references[i]
        )
        for name, expected in vars(context.conditions(opacity[i], clip, is_first=True)).items():
            if expected is not None:
                torch.testing.assert_close(
                    getattr(made, name)[i : i + 1],
                    expected,
                    rtol=0,
                    atol=POSE_ROUNDING,
                    msg=lambda text, n=name: f"{n}: {text}",
                )


def test_the_first_camera_is_the_identity_and_lengths_are_scaled():
    cameras = path(5)
    moved = weights_cameras(cameras, cameras[2], 0.1)
    torch.testing.assert_close(moved.viewmats[2], torch.eye(4), rtol=0, atol=POSE_ROUNDING)
    before, after = (
        torch.cdist(cameras.centers, cameras.centers),
        torch.cdist(moved.centers, moved.centers),
    )
    torch.testing.assert_close(after, 0.1 * before, rtol=1e-4, atol=POSE_ROUNDING)


def test_conditions_do_not_depend_on_the_captures_world():
    """Another place, orientation and unit of length of the world, with the scale that undoes the
    unit.
    """
    cameras = path(9)
    rotation, unit = quaternion_to_matrix(torch.tensor([0.3, -0.5, 0.7, 0.2])), 3.0
    poses = cameras.camera_to_world
    poses[:, :3, :3] = rotation @ poses[:, :3, :3]
    poses[:, :3, 3] = unit * poses[:, :3, 3] @ rotation.mT + torch.tensor([4.0, -2, 1])
    elsewhere = replace(cameras, viewmats=torch.linalg.inv(poses))
    made = [
        RolloutContext(batch[0], scale, 4, TEXT).conditions(
            torch.zeros(9, 16, 32), batch, is_first=True
        )
        for batch, scale in ((cameras, 0.05), (elsewhere, 0.05 / unit))
    ]
    torch.testing.assert_close(made[0].rays, made[1].rays, rtol=0, atol=1e-5)
    torch.testing.assert_close(made[0].viewmats, made[1].viewmats, rtol=0, atol=1e-5)


def test_pooled_rotations_are_the_chordal_mean():
    cameras = path(8)
    pooled = pooled_cameras(cameras, 4, is_first=False)
    for group in range(2):
        members = cameras[slice(4 * group, 4 * group + 4)]
        expected = (
            Rotation.from_matrix(members.camera_to_world[:, :3, :3].double().numpy())
            .mean()
            .as_matrix()
        )
        angle = rotation_angle(
            pooled[group].camera_to_world[0, :3, :3].double(), torch.from_numpy(expected)
        )
        assert float(angle) < POSE_ROUNDING
        torch.testing.assert_close(
            pooled.centers[group], members.centers.mean(dim=0), rtol=0, atol=1e-5
        )
        torch.testing.assert_close(pooled.Ks[group], members.Ks.mean(dim=0))
        torch.testing.assert_close(pooled.distortion[group], members.distortion.mean(dim=0))


@pytest.mark.parametrize("is_first", [True, False])
def test_an_incomplete_group_repeats_its_last_camera(is_first):
    cameras = path(7)
    filled = cameras[[0, 1, 2, 3, 4, 5, 6, 6, 6][: 9 if is_first else 8]]
    assert torch.equal(
        pooled_cameras(cameras, 4, is_first).viewmats, pooled_cameras(filled, 4, is_first).viewmats
    )


def test_rays_are_unit_directions_with_their_moments():
    rays = ray_map(path(3))
    moments, directions = rays.split(3, dim=-1)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(3, 16, 32))
    torch.testing.assert_close(
        (moments * directions).sum(dim=-1), torch.zeros(3, 16, 32), rtol=0, atol=1e-5
    )


def test_views_of_one_lens_have_the_rays_that_each_has_alone():
    one = path(3)
    shared = replace(
        one, Ks=one.Ks[:1].expand(3, -1, -1), distortion=one.distortion[:1].expand(3, -1)
    )
    for cameras in (one, shared):
        torch.testing.assert_close(
            ray_map(cameras),
            torch.cat([ray_map(cameras[view]) for view in range(3)]),
            rtol=0,
            atol=1e-5,
        )


def conditions(batch: int = 2, latent_frames: int = 4, temporal: int = 4) -> Conditions:
    draw = torch.Generator().manual_seed(0)
    made = {
        "opacity": (batch, 1 + temporal * (latent_frames - 1), 4, 6),
        "rays": (batch, latent_frames, 4, 6, 6),
        "viewmats": (batch, latent_frames, 4, 4),
        "Ks": (batch, latent_frames, 3, 3),
        "text": (batch, 5, 8),
        "reference_latents": (batch, 3, 2, 2, 3),
        "reference_viewmats": (batch, 2, 4, 4),
        "reference_Ks": (batch, 2, 3, 3),
    }
    return Conditions(
        **{name: torch.rand(shape, generator=draw) + 0.1 for name, shape in made.items()}
    )


def test_dropping_for_all_clips():
    full = conditions()
    bare = full.drop(renders=True, text=True, references=True)
    assert not bare.opacity.any() and not bare.text.any()
    assert (
        bare.reference_latents is None
        and bare.reference_viewmats is None
        and bare.reference_Ks is None
    )
    assert torch.equal(bare.rays, full.rays) and torch.equal(bare.viewmats, full.viewmats)
    assert full.opacity.all() and full.text.all(), "the original is not touched"
    assert full.drop() is full


def test_dropping_for_some_clips():
    full, marked = conditions(), torch.tensor([True, False])
    partly = full.drop(renders=marked, text=marked, references=marked)
    for dropped, kept in ((partly.opacity, full.opacity), (partly.text, full.text)):
        assert not dropped[0].any()
        assert torch.equal(dropped[1], kept[1])
    assert partly.reference_latents is full.reference_latents
    assert partly.use_references is not None and partly.use_references.tolist() == [0, 1]
    twice = partly.drop(references=~marked).use_references
    assert twice is not None and twice.tolist() == [0, 0]


@pytest.mark.parametrize("temporal", [1, 2, 4])
def test_slices_partition_the_clip(temporal):
    whole = conditions(latent_frames=6, temporal=temporal)
    pieces = [whole.latent_slice(first, 2) for first in (0, 2, 4)]
    assert [piece.latent_frames for piece in pieces] == [2, 2, 2]
    for name in ("opacity", "rays", "viewmats", "Ks"):
        assert torch.equal(
            torch.cat([getattr(piece, name) for piece in pieces], dim=1), getattr(whole, name)
        )
    assert all(
        piece.text is whole.text and piece.reference_latents is whole.reference_latents
        for piece in pieces
    )


def test_a_single_latent_frame_and_wrong_slices():
    one = conditions(latent_frames=1)
    assert one.latent_slice(0, 1) is one
    with pytest.raises(AssertionError, match=r"2\+3 of 4"):
        conditions().latent_slice(2, 3)
    later = replace(conditions(latent_frames=3), opacity=torch.zeros(2, 12, 4, 6))
    with pytest.raises(AssertionError, match="do not start a clip"):
        later.latent_slice(0, 2)


@pytest.mark.parametrize(
    ("temporal", "latent_frames"), [(2, 2), (4, 2), (4, 4), (8, 2), (8, 8), (4, 3)]
)
def test_a_later_piece_is_not_taken_for_the_start_of_a_clip(temporal, latent_frames):
    """Some lengths divide evenly either way, and would be misread."""
    later = replace(
        conditions(latent_frames=latent_frames),
        opacity=torch.zeros(2, temporal * latent_frames, 4, 6),
    )
    with pytest.raises(AssertionError, match="do not start a clip"):
        later.latent_slice(0, 1)


def test_inconsistent_parts_are_refused():
    full = conditions()
    with pytest.raises(AssertionError, match="come together"):
        replace(full, reference_Ks=None)
    with unchecked(), pytest.raises(AssertionError, match="viewmats"):
        replace(full, viewmats=full.viewmats[:, :2])
    with unchecked(), pytest.raises(AssertionError, match="opacity"):
        replace(full, opacity=full.opacity[..., :3])


def test_matrices_stay_float32_in_low_precision():
    low = conditions().drop(references=torch.tensor([True, False])).to(dtype=torch.bfloat16)
    narrow = {
        name
        for name, value in vars(low).items()
        if value is not None and value.dtype == torch.bfloat16
    }
    assert narrow == {"opacity", "rays", "text", "reference_latents", "use_references"}


# keeps the outputs of today; only right while test_cameras_equal_the_release passes
if __name__ == "__main__":
    torch.set_num_threads(1)
    save_file(frozen_cameras(), FROZEN)
