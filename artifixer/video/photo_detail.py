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

import threading

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.imaging.blur import blurred
from artifixer.video.conditions import ReferencePhotos
from artifixer.video.photo_mapping import (
    NOMINAL_SIDE,
    TINY,
    VIEW_ANGLE,
    PhotoMapping,
    best_mappings,
    inside_photo,
    moved,
    sampled,
    smooth_mapping,
    unmasked,
    world_points,
)

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

#: Difference of the mean brightness of the surroundings at which the trust has fallen to 1/e.
BRIGHTNESS = 0.15

#: Of several photos the one that agrees best counts most: by the agreement and the weight of its
#: viewing direction (``VIEW_ANGLE``) to this power.
SELECTIVITY = 6.0

#: Detail is added where the variance of the frame's fine scales lacks this much of the photo's;
#: the weight rises to 1 with the lack times the gain.
LACKING_GAIN = 3.0

#: Difference of the fine scales below which a frame counts as sharp.
VISIBLE = 0.01

#: Opacity from which detail is added, and the range over which it rises to all of it.
OPAQUE_FROM, OPAQUE_RANGE = 0.8, 0.2

#: Smallest side for which optical flow is computed, pixels; smaller frames are unchanged.
MIN_SIDE = 32

#: Standard deviation in photo pixels from which a photo from nearer is blurred to the frame's
#: resolution.
LEAST_SIGMA = 0.4

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
    points, known = world_points(depth, camera)
    details, weights = [], []
    for mapping in best_mappings(points, known, camera, photo_cameras, masks):
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
    return frame + weight * (mean[..., :3] - (frame - blurred(frame, FINE_SIGMA * scale)))


def _agreeing_detail(
    frame: Float[Tensor, "height width 3"],
    photo: Float[Tensor, "height width 3"],
    mapping: PhotoMapping,
    scale: float,
) -> tuple[Float[Tensor, "height width 3"], Float[Tensor, "height width"]]:
    """The fine scales of a photo in the frame, and by how much the two agree, 0 to 1."""
    photo = _without_finer_detail(photo, mapping)
    flow = _optical_flow(frame, sampled(photo, mapping.places))
    place = moved(mapping.places, flow)
    warped = sampled(photo, place)
    smooth = smooth_mapping(place, mapping.pixel_aspect, scale)
    trust = mapping.visible * inside_photo(place, scale) * smooth
    if mapping.mask is not None:
        trust = trust * unmasked(mapping.mask, place, scale)
    trust = trust * torch.exp(-flow.square().sum(dim=-1) / (FLOW_PIXELS * scale) ** 2)
    usable = (trust > 0.02).to(frame)[..., None]
    agreement = _agreement(frame, warped, usable, scale) * trust
    agreement = blurred(agreement[..., None], AGREEMENT_SIGMA * scale)[..., 0] * trust
    sigma = FINE_SIGMA * scale
    coarse = blurred(warped * usable, sigma) / blurred(usable, sigma).clamp(min=TINY)
    detail = warped - coarse
    return detail, agreement * _is_blurred(frame, detail, usable, scale)


def _without_finer_detail(
    photo: Float[Tensor, "height width 3"], mapping: PhotoMapping
) -> Float[Tensor, "height width 3"]:
    """The photo without what is finer than the frame's pixels, where it is from nearer: sampled at
    the frame's pixels, that would be patterns that no photo shows.
    """
    import cv2

    inside = (inside_photo(mapping.places, 1 / NOMINAL_SIDE) > 0) & mapping.visible
    if not bool(inside.any()):
        return photo
    down, across = torch.gradient(mapping.places, dim=(0, 1))
    steps = torch.hypot(down, across)[inside].median(dim=0).values
    sigmas = [0.5 * max(step**2 - 1, 0) ** 0.5 for step in steps.tolist()]
    # a blur by less changes nothing visible
    across_sigma, down_sigma = (sigma if sigma > LEAST_SIGMA else 0.0 for sigma in sigmas)
    if not across_sigma and not down_sigma:
        return photo
    coarser: np.ndarray = cv2.GaussianBlur(
        photo.contiguous().numpy(),
        (0 if across_sigma else 1, 0 if down_sigma else 1),
        sigmaX=across_sigma or 1.0,
        sigmaY=down_sigma or 1.0,
        borderType=cv2.BORDER_REPLICATE,
    )
    return torch.from_numpy(coarser)


def _agreement(
    frame: Float[Tensor, "height width 3"],
    warped: Float[Tensor, "height width 3"],
    usable: Float[Tensor, "height width 1"],
    scale: float,
) -> Float[Tensor, "height width"]:
    """From the correlation of the brightness in the surroundings, and a factor for equal means."""
    sigma = COMPARED_SIGMA * scale
    total = blurred(usable, sigma).clamp(min=TINY)

    def local_mean(image: Tensor) -> Tensor:
        return blurred(image * usable, sigma) / total

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
    own = frame - blurred(frame, FINE_SIGMA * scale)
    ours, theirs, apart = (
        blurred(fine.square().mean(dim=-1, keepdim=True) * usable, COMPARED_SIGMA * scale)
        for fine in (own, detail, own - detail)
    )
    lacking = 1 - (ours + TINY) / (theirs + TINY)
    visible = apart / (apart + VISIBLE**2)
    return ((lacking * LACKING_GAIN).clamp(0, 1) * visible)[..., 0]


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
