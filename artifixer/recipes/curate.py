"""Named settings for ``artifixer curate``.

``tiny``   clips of 45 frames around 100 pixels, with fits of a few seconds and a free-space loss:
           for the small model, on a CPU.
``paper``  clips of 81 frames at 1024x576 from full reconstructions: for a GPU.
"""

from dataclasses import replace

from artifixer.curation.make_scene import CurationConfig
from artifixer.curation.sparse_splats import SparseConfig
from artifixer.recipes.reconstruct import RECIPES as RECONSTRUCT
from artifixer.splats.free_space import FreeSpaceConfig

#: Fits for the pairs that the embedded model was trained on. Not in the paper: a free-space loss,
#: at most one Gaussian per ten pixels, and removal of Gaussians that no photo shows.
TINY_FITS = replace(
    RECONSTRUCT["tiny"],
    free_space=FreeSpaceConfig(weight=0.3),
    gaussians_per_pixel=0.1,
    unseen_weight=0.01,
)

RECIPES = {
    "paper": CurationConfig(
        camera_scale="metric",
        normalised_groups=False,
        windows=4,
        sparse=SparseConfig(reconstruct=RECONSTRUCT["paper"]),
    ),
    "tiny": CurationConfig(
        sizes=((96, 96), (128, 96), (96, 128), (144, 80), (80, 144)),
        frames=(45, 45),
        groups=1,
        sparse=SparseConfig(
            reconstruct=TINY_FITS,
            iterations=(250, 600),
            max_gaussians=(2000, 4500),
            initial_points=(700, 1600),
        ),
    ),
}
