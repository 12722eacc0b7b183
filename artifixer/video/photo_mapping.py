"""Where the pixels of a frame are in reference photos: depth and cameras -> places, and how far
they can be trusted. For ``photo_detail.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.rays import lens_directions
from artifixer.imaging.blur import blurred
from artifixer.imaging.sampling import sample_grid

#: Lengths of this module and of ``photo_detail.py`` are of frames whose longest side is this many
#: pixels, and grow with the frame.
NOMINAL_SIDE = 256

#: Weight of a photo by the angle between the viewing directions, radians: exp(-angle / VIEW_ANGLE).
VIEW_ANGLE = 0.3

#: Number of photos whose detail is looked at, per frame.
MAX_PHOTOS = 3

#: Distance from the photo's border, pixels, over which trust in it rises.
BORDER_PIXELS = 6.0

#: A mapping into a photo is trusted where its area is at least this fraction of its mean squared
#: stretch (1 for a similarity, 0 for a fold or a smear), and where the stretch is within the range.
LEAST_AREA, STRETCH_RANGE = 0.7, (0.15, 8.0)

#: Standard deviation in pixels by which the border of a mask is softened.
MASK_SIGMA = 2.0

#: Depth, world units, from which a pixel has no place: squares of positions still fit float32.
FARTHEST = 1e18

#: Avoids a division by zero.
TINY = 1e-6


def world_points(
    depth: Float[Tensor, "height width"], camera: Cameras
) -> tuple[Float[Tensor, "pixels 3"], Bool[Tensor, " pixels"]]:
    """World points of the pixels, and where they are known."""
    z = depth.flatten()
    directions = lens_directions(camera)[0]
    known = (z > 0) & (z < FARTHEST) & (directions[:, 2] > TINY)
    along = torch.where(known, z / directions[:, 2].clamp(min=TINY), 1.0)
    return camera.centers + directions * along[:, None] @ camera.viewmats[0, :3, :3], known


@dataclass(frozen=True)
class PhotoMapping:
    """Where the pixels of a frame are in a photo."""

    view: int
    """Index of the photo."""

    places: Float[Tensor, "height width 2"]
    """Pixels in the photo."""

    visible: Bool[Tensor, "height width"]
    """Whether the place is known and in front of the photo's camera."""

    angles: Float[Tensor, "height width"]
    """Angles between the directions from the frame's camera and from the photo's, radians."""

    mask: Float[Tensor, "height width"] | None
    """Of the photo, at the photo's pixels."""

    pixel_aspect: tuple[float, float]
    """Square roots of the ratios of horizontal to vertical focal length, of the frame and of the
    photo."""

    @property
    def shown(self) -> float:
        """How much of the frame the photo shows, from nearly its direction."""
        size = self.places.new_tensor([self.places.shape[1], self.places.shape[0]])
        inside = ((self.places > 0) & (self.places < size)).all(dim=-1) & self.visible
        shown = inside * torch.exp(-self.angles / VIEW_ANGLE)
        if self.mask is not None:
            shown = shown * sampled(self.mask[..., None], self.places, "nearest")[..., 0]
        return float(shown.mean())


def best_mappings(
    points: Float[Tensor, "pixels 3"],
    known: Bool[Tensor, " pixels"],
    camera: Cameras,
    photo_cameras: Cameras,
    masks: Float[Tensor, "views height width"] | None,
) -> list[PhotoMapping]:
    """Those into the photos that show most of the frame from nearly its direction, at most
    ``MAX_PHOTOS``. One photo at a time: a mapping takes ten times the memory of a grey frame.
    """
    best: list[tuple[float, PhotoMapping]] = []
    for view in range(len(photo_cameras)):
        mask = None if masks is None else masks[view]
        mapping = _mapping(view, points, known, camera, photo_cameras[view], mask)
        best = sorted([*best, (mapping.shown, mapping)], key=lambda pair: -pair[0])[:MAX_PHOTOS]
    return [mapping for shown, mapping in best if shown > 0]


def _mapping(
    view: int,
    points: Float[Tensor, "pixels 3"],
    known: Bool[Tensor, " pixels"],
    camera: Cameras,
    photo_camera: Cameras,
    mask: Float[Tensor, "height width"] | None,
) -> PhotoMapping:
    """The mapping into one photo."""
    width, height = camera.width, camera.height
    (places,), _, (valid,) = photo_camera.project(points)
    # points near a photo's camera may be projected to any number
    size = places.new_tensor([width, height])
    places = places.nan_to_num(-1).clamp(-size, 2 * size).reshape(height, width, 2)
    own, theirs = (F.normalize(points - lens.centers, dim=-1) for lens in (camera, photo_camera))
    angles = torch.arccos((own * theirs).sum(dim=-1).clamp(-1, 1))
    return PhotoMapping(
        view,
        places,
        (valid & known).reshape(height, width),
        angles.reshape(height, width),
        mask,
        (_pixel_aspect(camera), _pixel_aspect(photo_camera)),
    )


def _pixel_aspect(camera: Cameras) -> float:
    return float((camera.Ks[0, 0, 0] / camera.Ks[0, 1, 1]).sqrt())


def unmasked(
    mask: Float[Tensor, "height width"], place: Float[Tensor, "height width 2"], scale: float
) -> Float[Tensor, "height width"]:
    """1 where the photo counts, falling to 0 at what its mask leaves out."""
    counts = (sampled(mask[..., None], place, "bilinear") > 0.999).to(place)
    near = blurred(counts, MASK_SIGMA * scale)
    return (counts * (2 * near - 1).clamp(min=0))[..., 0]


def smooth_mapping(
    place: Float[Tensor, "height width 2"], pixel_aspect: tuple[float, float], scale: float
) -> Float[Tensor, "height width"]:
    """1 where the mapping into the photo is nearly a similarity, 0 at folds and smears. Photos of
    another aspect ratio are stretched to the frame's size: pixels are compared as if square.
    """
    own, theirs = pixel_aspect
    down, across = torch.gradient(place / place.new_tensor([theirs, 1 / theirs]), dim=(0, 1))
    down, across = down / own, across * own
    area = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
    stretch = (across.square() + down.square()).sum(dim=-1) / 2
    low, high = STRETCH_RANGE
    good = (area > LEAST_AREA * stretch) & (stretch > low) & (stretch < high)
    return blurred(good.to(place)[..., None], scale)[..., 0].square()


def inside_photo(
    place: Float[Tensor, "height width 2"], scale: float
) -> Float[Tensor, "height width"]:
    """1 inside of the photo, falling to 0 at its border."""
    height, width = place.shape[:2]
    distance = torch.minimum(place, place.new_tensor([width, height]) - place).amin(dim=-1)
    return (distance / (BORDER_PIXELS * scale)).clamp(0, 1)


def moved(
    place: Float[Tensor, "height width 2"], flow: Float[Tensor, "height width 2"]
) -> Float[Tensor, "height width 2"]:
    """The mapping at the pixels displaced by the flow, bilinear."""
    height, width = place.shape[:2]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1).to(flow) + 0.5
    return sampled(place, pixels + flow, "bilinear")


def sampled(
    image: Float[Tensor, "height width channels"],
    place: Float[Tensor, "height width 2"],
    mode: str = "bicubic",
) -> Float[Tensor, "height width channels"]:
    """Values at places in pixels; the border is repeated."""
    height, width = image.shape[:2]
    grid = place / place.new_tensor([width, height]) * 2 - 1
    return sample_grid(image, grid, mode)
