from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import pytest
import torch

from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.video.conditions import ReferencePhotos
from artifixer.video.photo_detail import with_photo_detail
from tests.textured_wall import HEIGHT, WIDTH, blurred, camera, wall


def error(picture: torch.Tensor, truth: torch.Tensor) -> float:
    """Root mean square away from the borders, where photos end."""
    inner = (slice(20, -20), slice(20, -20))
    return float((picture[inner] - truth[inner]).square().mean().sqrt())


def photos(*views: Cameras, seed: int = 0) -> ReferencePhotos:
    return ReferencePhotos(
        torch.stack([wall(view, seed)[0] for view in views]),
        concatenate(views),
    )


def detailed(
    frame: torch.Tensor,
    depth: torch.Tensor,
    references: ReferencePhotos,
    opacity: torch.Tensor | None = None,
    view: Cameras | None = None,
) -> torch.Tensor:
    opacity = torch.ones_like(depth) if opacity is None else opacity
    (out,) = with_photo_detail(
        frame[None], opacity[None], depth[None], view or camera(), references
    )
    return out


NEIGHBOURS = (camera(-0.4), camera(0.3, 0.2))


@pytest.mark.parametrize("depth_error", [0.0, 0.03])
def test_a_blurred_render_gets_the_detail_of_the_photos(depth_error: float):
    """Also where a wrong depth puts the photos' pixels beside their places."""
    truth, depth = wall(camera())
    frame = blurred(truth)
    out = detailed(frame, depth * (1 + depth_error), photos(*NEIGHBOURS))
    assert error(out, truth) < 0.8 * error(frame, truth)


def test_lens_distortion_of_photos_and_frames_is_followed():
    view, others = camera(distortion=-0.2), (camera(-0.4, distortion=-0.1), camera(0.3))
    truth, depth = wall(view)
    frame = blurred(truth)
    out = detailed(frame, depth, photos(*others), view=view)
    assert error(out, truth) < 0.8 * error(frame, truth)


def test_a_sharp_render_stays():
    truth, depth = wall(camera())
    assert error(detailed(truth, depth, photos(*NEIGHBOURS)), truth) < 0.005


def test_photos_of_something_else_add_nothing():
    truth, depth = wall(camera())
    frame = blurred(truth)
    out = detailed(frame, depth, photos(*NEIGHBOURS, seed=1))
    assert error(out, frame) < 0.1 * error(truth, frame)


def test_empty_pixels_and_pixels_of_unknown_depth_stay():
    truth, depth = wall(camera())
    frame, opacity = blurred(truth), torch.ones_like(depth)
    opacity[:, :60] = 0.5
    depth[:, 100:] = torch.nan
    out = detailed(frame, depth, photos(*NEIGHBOURS), opacity)
    assert torch.equal(out[:, :60], frame[:, :60])
    assert torch.equal(out[:, 101:], frame[:, 101:])
    assert not torch.equal(out[:, 70:90], frame[:, 70:90])


@pytest.mark.parametrize("depth", [0.0, 1e-30, 1e30, torch.inf, torch.nan])
def test_frames_are_finite_for_any_depth(depth: float):
    frame = blurred(wall(camera())[0])
    assert bool(
        detailed(frame, torch.full((HEIGHT, WIDTH), depth), photos(*NEIGHBOURS)).isfinite().all()
    )


def test_a_photo_behind_the_camera_adds_nothing():
    truth, depth = wall(camera())
    frame, behind = blurred(truth), camera()
    behind.viewmats[0, 2, 3] = -10
    assert torch.equal(detailed(frame, depth, photos(behind)), frame)


def test_small_frames_stay():
    frame = torch.rand(1, 31, 40, 3)
    ones = torch.ones(1, 31, 40)
    assert with_photo_detail(frame, ones, ones, camera(), photos(*NEIGHBOURS)) is frame


def test_the_number_of_threads_does_not_matter():
    truth, depth = wall(camera())
    before, frames = cv2.getNumThreads(), []
    try:
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            frames.append(detailed(blurred(truth), depth, photos(*NEIGHBOURS)))
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    assert torch.equal(*frames)


def test_threads_do_not_share_the_number_of_threads_of_opencv():
    """Restoring it in one thread must not change it below the optical flow of another."""
    truth, depth = wall(camera())
    frame, references, before = blurred(truth), photos(*NEIGHBOURS), cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        expected = detailed(frame, depth, references)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: detailed(frame, depth, references), range(24)))
        assert all(torch.equal(out, expected) for out in found)
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_masked_parts_of_photos_add_nothing():
    """Masks hide what moved: it may look like the frame there, but is not the captured scene."""
    truth, depth = wall(camera())
    frame, references = blurred(truth), photos(*NEIGHBOURS)
    masks = torch.ones(2, HEIGHT, WIDTH)
    masks[:, :, :90] = 0
    # what moved: photos are brighter by stripes there
    marked = references.pixels.clone()
    marked[:, :, :85] += 0.05 * torch.sin(torch.arange(85.0))[:, None]
    full = detailed(frame, depth, references)
    outs = [
        detailed(frame, depth, replace(references, pixels=pixels, masks=masks))
        for pixels in (references.pixels, marked)
    ]
    right = (slice(20, -20), slice(120, -20))
    for out in outs:
        # the left half of the frame is in the masked part of both photos
        assert torch.equal(out[:, :50], frame[:, :50])
        assert (out - truth)[right].std() < 0.8 * (frame - truth)[right].std()
    assert not torch.equal(full[:, 20:50], frame[:, 20:50])
    nothing = replace(references, masks=torch.zeros(2, HEIGHT, WIDTH))
    assert torch.equal(detailed(frame, depth, nothing), frame)


@pytest.mark.parametrize("axis", [0, 1])
def test_photos_of_another_aspect_ratio_keep_their_detail(axis: int):
    """Such as upright photos, which are stretched to the size of wide renders."""
    truth, depth = wall(camera())
    frame = blurred(truth)
    stretched = [camera(-0.4), camera(0.3, 0.2)]
    for view in stretched:
        view.Ks[:, axis, axis] *= 0.31  # 9:16 in place of 16:9
    out = detailed(frame, depth, photos(*stretched))
    assert error(out, truth) < 0.8 * error(frame, truth)


def test_one_pixel_of_absurd_depth_does_not_switch_off_the_detail():
    truth, depth = wall(camera())
    frame = blurred(truth)
    depth[0, 0] = 3.4e38
    out = detailed(frame, depth, photos(*NEIGHBOURS))
    assert error(out, truth) < 0.8 * error(frame, truth)


def test_texture_of_a_nearer_photo_that_is_finer_than_the_frames_pixels_is_no_pattern():
    """The photo's focal length is twice that of the frame, which cannot show its fine stripes."""
    truth, depth = wall(camera())
    frame, view = blurred(truth), camera(0.1)
    view.Ks[:, [0, 1], [0, 1]] *= 2
    pixels = photos(view).pixels
    pixels += 0.1 * torch.sin(torch.arange(WIDTH) * 1.9)[:, None]
    out = detailed(frame, depth, ReferencePhotos(pixels, view))
    middle = (slice(45, -45), slice(60, -60))
    assert (out - truth)[middle].std() < 0.85 * (frame - truth)[middle].std()
