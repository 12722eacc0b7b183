"""Named settings for ``artifixer curate``.

``tiny``   clips of 45 frames around 100 pixels, with fits of a few seconds: for the small model, on a CPU.
``paper``  clips of 81 frames at 1024x576 from full reconstructions, camera scale in metres: for a GPU.
"""

from artifixer.curation.jobs import CurationConfig
from artifixer.curation.sparse_splats import SparseConfig
from artifixer.recipes.reconstruct import RECIPES as RECONSTRUCT

RECIPES = {
    "paper": CurationConfig(camera_scale="metric", sparse=SparseConfig(reconstruct=RECONSTRUCT["paper"])),
    "tiny": CurationConfig(
        sizes=((96, 96), (128, 96), (96, 128), (144, 80), (80, 144)),
        frames=(45, 45),
        groups=1,
        sparse=SparseConfig(
            reconstruct=RECONSTRUCT["tiny"],
            iterations=(250, 600),
            max_gaussians=(2000, 4500),
            initial_points=(700, 1600),
        ),
    ),
}
