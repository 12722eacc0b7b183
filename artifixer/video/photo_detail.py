"""Fine detail of the reference photos in frames, not in the paper: the frames' depth -> where each
pixel is in the photos -> their detail, where photo and frame agree.

Between few photos, renders of their splats are blurred, although the photos show the same surfaces
sharply. Each photo is warped into the frame by the frame's depth (depth-image-based rendering) and
aligned to it by optical flow (DIS: Kroeger et al. 2016), because depth from few photos is not exact
to the pixel. Where the two agree (normalised cross-correlation, mean, a mapping without folds) and
the photo is sharper, the frame's fine scales are replaced by the photo's. Coarse scales, empty
regions and everything on which no photo agrees stay as they are: nothing is generated.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.rays import lens_directions
from artifixer.video.conditions import ReferencePhotos

#: Lengths below are of frames whose longest side is this many pixels, and grow with the frame.
NOMINAL_SIDE = 256

#: Standard deviation in pixels between the coarse scales, which stay, and the fine ones.
FINE_SIGMA = 3.0

#: Standard deviation in pixels of the surroundings in which photo and frame are compared.
COMPARED_SIGMA = 3.0

#: Standard deviation in pixels by which agreement is smoothed, so that its borders are invisible.
AGREEMENT_SIGMA = 2.0

#: Correlation of a photo and a blurred render of the same surface; weights fall with the square.
FULL_CORRELATION = 0.7

#: Displacements by optical flow, pixels, at which the trust in a photo has fallen to 1/e.
FLOW_PIXELS = 6.0

#: Distance from the photo's border, pixels, over which trust in it rises.
BORDER_PIXELS = 6.0

#: Difference of the mean brightness of the surroundings at which the trust has fallen to 1/e.
BRIGHTNESS = 0.15

#: A mapping into a photo is trusted where its area is at least this fraction of its mean squared
#: stretch (1 for a similarity, 0 for a fold or a smear), and where the stretch is within the range.
LEAST_AREA, STRETCH_RANGE = 0.7, (0.15, 8.0)

#: Of several photos the one that agrees best counts most: by the agreement to this power, times
#: exp(-angle / VIEW_ANGLE) to the same power; the angle is between the viewing directions, radians.
SELECTIVITY, VIEW_ANGLE = 6.0, 0.3

#: Detail is added where the variance of the frame's fine scales lacks this much of the photo's;
#: the weight rises to 1 with the lack times the gain.
LACKING_GAIN = 3.0

#: Difference of the fine scales below which a frame counts as sharp.
VISIBLE = 0.01

#: Number of photos whose detail is looked at, per frame.
MAX_PHOTOS = 3

#: Opacity from which detail is added, and the range over which it rises to all of it.
OPAQUE_FROM, OPAQUE_RANGE = 0.8, 0.2

#: Smallest side for which optical flow is computed, pixels; smaller frames are unchanged.
MIN_SIDE = 32

#: Depth, world units, from which a pixel has no place: squares of positions still fit float32.
FARTHEST = 1e18

#: Standard deviation in photo pixels from which a photo from nearer is blurred to the frame's
#: resolution.
LEAST_SIGMA = 0.4

#: Wider blurs are computed on images reduced by a power of two.
WIDEST_SIGMA = 8.0

#: Avoids a division by zero.
TINY = 1e-6

#: OpenCV's number of threads is one of the process.
_one_thread = threading.Lock()


def with_photo_detail(
    frames: Float[Tensor, "frames height width 3"],
    opacity: Float[Tensor, "frames height width"],
    depth: Float[Tensor, "frames height width"],
    cameras: Cameras,
    photos: ReferencePhotos,
) -> Float[Tensor, "frames height width 3"]:
    """The frames with the detail of the photos, on the frames' device.

    frames: colours in about [0,1], without empty regions. opacity, depth (camera z in world units,
    not positive or not finite where unknown): of their renders. cameras: of the frames.
    """
    if min(frames.shape[1:3]) < MIN_SIDE:
        return frames
    planes = [tensor.to("cpu", torch.float32) for tensor in (frames, opacity, depth)]
    own, theirs = (views.to("cpu", torch.float32) for views in (cameras, photos.cameras))
    detailed = [
        _detailed(frame, alpha, z, own[index], photos.pixels, theirs, photos.masks)
        for index, (frame, alpha, z) in enumerate(zip(*planes, strict=True))
    ]
    return torch.stack(detailed).to(frames)


def _detailed(
    frame: Float[Tensor, "height width 3"],
    opacity: Float[Tensor, "height width"],
    depth: Float[Tensor, "height width"],
    camera: Cameras,
    photos: Float[Tensor, "views height width 3"],
    photo_cameras: Cameras,
    masks: Float[Tensor, "views height width"] | None,
) -> Float[Tensor, "height width 3"]:
    """One frame with the detail of the photos."""
    scale = max(frame.shape[:2]) / NOMINAL_SIDE
    points, known = _points(depth, camera)
    details, weights = [], []
    for mapping in _best_mappings(points, known, camera, photo_cameras, masks):
        detail, agreement = _agreeing_detail(frame, photos[mapping.view], mapping, scale)
        details.append(torch.cat([detail, agreement[..., None]], dim=-1))
        closeness = (agreement + TINY).log() - mapping.angles / VIEW_ANGLE
        weights.append(SELECTIVITY * closeness)
    if not details:
        return frame
    shares = torch.softmax(torch.stack(weights), dim=0)
    mean = (shares[..., None] * torch.stack(details)).sum(dim=0)
    opaque = ((opacity - OPAQUE_FROM) / OPAQUE_RANGE).clamp(0, 1)
    weight = (mean[..., 3] * opaque)[..., None]
    return frame + weight * (mean[..., :3] - (frame - _blurred(frame, FINE_SIGMA * scale)))


def _points(
    depth: Float[Tensor, "height width"], camera: Cameras
) -> tuple[Float[Tensor, "pixels 3"], Bool[Tensor, " pixels"]]:
    """World points of the pixels, and where they are known."""
    z = depth.flatten()
    directions = lens_directions(camera)[0]
    known = (z > 0) & (z < FARTHEST) & (directions[:, 2] > TINY)
    along = torch.where(known, z / directions[:, 2].clamp(min=TINY), 1.0)
    return camera.centers + directions * along[:, None] @ camera.viewmats[0, :3, :3], known


@dataclass(frozen=True)
class _Mapping:
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
            shown = shown * _sampled(self.mask[..., None], self.places, "nearest")[..., 0]
        return float(shown.mean())


def _best_mappings(
    points: Float[Tensor, "pixels 3"],
    known: Bool[Tensor, " pixels"],
    camera: Cameras,
    photo_cameras: Cameras,
    masks: Float[Tensor, "views height width"] | None,
) -> list[_Mapping]:
    """Those into the photos that show most of the frame from nearly its direction, at most
    ``MAX_PHOTOS``. One photo at a time: a mapping takes ten times the memory of a grey frame.
    """
    best: list[tuple[float, _Mapping]] = []
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
) -> _Mapping:
    """The mapping into one photo."""
    width, height = camera.width, camera.height
    (places,), _, (valid,) = photo_camera.project(points)
    # points near a photo's camera may be projected to any number
    size = places.new_tensor([width, height])
    places = places.nan_to_num(-1).clamp(-size, 2 * size).reshape(height, width, 2)
    own, theirs = (F.normalize(points - lens.centers, dim=-1) for lens in (camera, photo_camera))
    angles = torch.arccos((own * theirs).sum(dim=-1).clamp(-1, 1))
    return _Mapping(
        view,
        places,
        (valid & known).reshape(height, width),
        angles.reshape(height, width),
        mask,
        (_pixel_aspect(camera), _pixel_aspect(photo_camera)),
    )


def _pixel_aspect(camera: Cameras) -> float:
    return float((camera.Ks[0, 0, 0] / camera.Ks[0, 1, 1]).sqrt())


def _agreeing_detail(
    frame: Float[Tensor, "height width 3"],
    photo: Float[Tensor, "height width 3"],
    mapping: _Mapping,
    scale: float,
) -> tuple[Float[Tensor, "height width 3"], Float[Tensor, "height width"]]:
    """The fine scales of a photo in the frame, and by how much the two agree, 0 to 1."""
    photo = _without_finer_detail(photo, mapping)
    flow = _optical_flow(frame, _sampled(photo, mapping.places))
    place = _moved(mapping.places, flow)
    warped = _sampled(photo, place)
    smooth = _is_smooth_mapping(place, mapping.pixel_aspect, scale)
    trust = mapping.visible * _inside(place, scale) * smooth
    if mapping.mask is not None:
        trust = trust * _counts(mapping.mask, place, scale)
    trust = trust * torch.exp(-flow.square().sum(dim=-1) / (FLOW_PIXELS * scale) ** 2)
    usable = (trust > 0.02).to(frame)[..., None]
    agreement = _agreement(frame, warped, usable, scale) * trust
    agreement = _blurred(agreement[..., None], AGREEMENT_SIGMA * scale)[..., 0] * trust
    sigma = FINE_SIGMA * scale
    coarse = _blurred(warped * usable, sigma) / _blurred(usable, sigma).clamp(min=TINY)
    detail = warped - coarse
    return detail, agreement * _is_blurred(frame, detail, usable, scale)


def _without_finer_detail(
    photo: Float[Tensor, "height width 3"], mapping: _Mapping
) -> Float[Tensor, "height width 3"]:
    """The photo without what is finer than the frame's pixels, where it is from nearer: sampled at
    the frame's pixels, that would be patterns that no photo shows.
    """
    import cv2

    inside = (_inside(mapping.places, 1 / NOMINAL_SIDE) > 0) & mapping.visible
    if not bool(inside.any()):
        return photo
    down, across = torch.gradient(mapping.places, dim=(0, 1))
    steps = torch.hypot(down, across)[inside].median(dim=0).values
    sigmas = [0.5 * max(step**2 - 1, 0) ** 0.5 for step in steps.tolist()]
    # a blur by less changes nothing visible
    across_sigma, down_sigma = (sigma if sigma > LEAST_SIGMA else 0.0 for sigma in sigmas)
    if not across_sigma and not down_sigma:
        return photo
    blurred: np.ndarray = cv2.GaussianBlur(
        photo.contiguous().numpy(),
        (0 if across_sigma else 1, 0 if down_sigma else 1),
        sigmaX=across_sigma or 1.0,
        sigmaY=down_sigma or 1.0,
        borderType=cv2.BORDER_REPLICATE,
    )
    return torch.from_numpy(blurred)


def _counts(
    mask: Float[Tensor, "height width"], place: Float[Tensor, "height width 2"], scale: float
) -> Float[Tensor, "height width"]:
    """1 where the photo counts, falling to 0 at what its mask leaves out."""
    counts = (_sampled(mask[..., None], place, "bilinear") > 0.999).to(place)
    near = _blurred(counts, AGREEMENT_SIGMA * scale)
    return (counts * (2 * near - 1).clamp(min=0))[..., 0]


def _agreement(
    frame: Float[Tensor, "height width 3"],
    warped: Float[Tensor, "height width 3"],
    usable: Float[Tensor, "height width 1"],
    scale: float,
) -> Float[Tensor, "height width"]:
    """From the correlation of the brightness in the surroundings, and a factor for equal means."""
    sigma = COMPARED_SIGMA * scale
    total = _blurred(usable, sigma).clamp(min=TINY)

    def local_mean(image: Tensor) -> Tensor:
        return _blurred(image * usable, sigma) / total

    ours, theirs = (image.mean(dim=-1, keepdim=True) for image in (frame, warped))
    our_mean, their_mean = local_mean(ours), local_mean(theirs)
    ours, theirs = ours - our_mean, theirs - their_mean
    variances = local_mean(ours.square()) * local_mean(theirs.square())
    correlation = local_mean(ours * theirs) / (variances + TINY).sqrt()
    alike = torch.exp(-((our_mean - their_mean) / BRIGHTNESS).square())
    agreeing = (correlation / FULL_CORRELATION).clamp(0, 1).square()
    return (agreeing * alike)[..., 0]


def _is_blurred(
    frame: Float[Tensor, "height width 3"],
    detail: Float[Tensor, "height width 3"],
    usable: Float[Tensor, "height width 1"],
    scale: float,
) -> Float[Tensor, "height width"]:
    """1 where the frame has much less detail than the photo, 0 where it has as much: a render that
    is sharp is better than a photo that was resampled.
    """
    own = frame - _blurred(frame, FINE_SIGMA * scale)
    ours, theirs, apart = (
        _blurred(fine.square().mean(dim=-1, keepdim=True) * usable, COMPARED_SIGMA * scale)
        for fine in (own, detail, own - detail)
    )
    lacking = 1 - (ours + TINY) / (theirs + TINY)
    visible = apart / (apart + VISIBLE**2)
    return ((lacking * LACKING_GAIN).clamp(0, 1) * visible)[..., 0]


def _is_smooth_mapping(
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
    return _blurred(good.to(place)[..., None], scale)[..., 0].square()


def _inside(place: Float[Tensor, "height width 2"], scale: float) -> Float[Tensor, "height width"]:
    """1 inside of the photo, falling to 0 at its border."""
    height, width = place.shape[:2]
    distance = torch.minimum(place, place.new_tensor([width, height]) - place).amin(dim=-1)
    return (distance / (BORDER_PIXELS * scale)).clamp(0, 1)


def _optical_flow(
    frame: Float[Tensor, "height width 3"], warped: Float[Tensor, "height width 3"]
) -> Float[Tensor, "height width 2"]:
    """Where in ``warped`` each pixel of the frame is, relative to its own place."""
    import cv2

    grey = [
        (image.mean(dim=-1).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        for image in (frame, warped)
    ]
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)
    with _one_thread:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # the search goes by stripes, one for each thread
        try:
            flow: np.ndarray = search.calc(*grey, None)  # type: ignore[call-overload]
        finally:
            cv2.setNumThreads(threads)
    return torch.from_numpy(flow)


def _moved(
    place: Float[Tensor, "height width 2"], flow: Float[Tensor, "height width 2"]
) -> Float[Tensor, "height width 2"]:
    """The mapping at the pixels displaced by the flow, bilinear."""
    height, width = place.shape[:2]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1).to(flow) + 0.5
    return _sampled(place, pixels + flow, "bilinear")


def _sampled(
    image: Float[Tensor, "height width channels"],
    place: Float[Tensor, "height width 2"],
    mode: str = "bicubic",
) -> Float[Tensor, "height width channels"]:
    """Values at places in pixels; the border is repeated."""
    height, width = image.shape[:2]
    grid = place / place.new_tensor([width, height]) * 2 - 1
    sampled: Tensor = F.grid_sample(
        image.permute(2, 0, 1)[None],
        grid[None],
        mode=mode,
        padding_mode="border",
        align_corners=False,
    )
    return sampled[0].permute(1, 2, 0)


def _blurred(
    image: Float[Tensor, "height width channels"], sigma: float
) -> Float[Tensor, "height width channels"]:
    """Gaussian blur with a standard deviation of ``sigma`` pixels; the border is repeated. Wide
    blurs are computed on a smaller image.
    """
    import cv2

    height, width = image.shape[:2]
    shrink = 2 ** max(0, math.ceil(math.log2(sigma / WIDEST_SIGMA)))
    pixels: np.ndarray = image.contiguous().numpy()
    if shrink > 1:
        size = (math.ceil(width / shrink), math.ceil(height / shrink))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    pixels = cv2.GaussianBlur(pixels, (0, 0), sigma / shrink, borderType=cv2.BORDER_REPLICATE)
    if shrink > 1:
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(pixels).reshape(image.shape)
