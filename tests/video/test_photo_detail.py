import cv2
import pytest
import torch

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.rays import pixel_rays
from artifixer.video.conditions import ReferencePhotos
from artifixer.video.photo_detail import with_photo_detail

HEIGHT, WIDTH = 120, 160


def camera(x: float = 0.0, y: float = 0.0, distortion: float = 0.0) -> Cameras:
    """Looks along z from (x, y, 0)."""
    viewmat = torch.eye(4)
    viewmat[:2, 3] = -torch.tensor([x, y])
    Ks = torch.tensor([[140.0, 0, WIDTH / 2], [0, 140, HEIGHT / 2], [0, 0, 1]])
    radial = torch.tensor([[distortion, *[0.0] * 7]])
    return Cameras(viewmat[None], Ks[None], WIDTH, HEIGHT, "pinhole", radial)


def wall(view: Cameras, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Photo and depth of a textured wall at z = 3, which is slanted: z = 3 + 0.2 x."""
    center, directions = pixel_rays(view)
    directions = directions[0]
    along = (3 + 0.2 * center[0, 0]) / (directions[..., 2] - 0.2 * directions[..., 0])
    x, y = ((center[0] + directions * along[..., None])[..., axis] for axis in (0, 1))
    waves = torch.rand(12, 4, generator=torch.Generator().manual_seed(seed))
    channels = [
        sum(
            torch.sin(x * (8 * a - 4) * size + y * (8 * b - 4) * size + 6 * c + channel * d)
            for (a, b, c, d), size in zip(
                waves.tolist(), torch.linspace(0.5, 8, 12).tolist(), strict=True
            )
        )
        for channel in range(3)
    ]
    return 0.5 + 0.1 * torch.stack(channels, dim=-1), directions[..., 2] * along


def blurred(picture: torch.Tensor, sigma: float = 1.5) -> torch.Tensor:
    return torch.from_numpy(
        cv2.GaussianBlur(picture.numpy(), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    )


def error(picture: torch.Tensor, truth: torch.Tensor) -> float:
    """Root mean square away from the borders, where photos end."""
    inner = (slice(20, -20), slice(20, -20))
    return float((picture[inner] - truth[inner]).square().mean().sqrt())


def photos(*views: Cameras, seed: int = 0) -> ReferencePhotos:
    return ReferencePhotos(
        torch.stack([wall(view, seed)[0] for view in views]),
        Cameras(
            torch.cat([view.viewmats for view in views]),
            torch.cat([view.Ks for view in views]),
            WIDTH,
            HEIGHT,
            "pinhole",
            torch.cat([view.distortion for view in views]),
        ),
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
