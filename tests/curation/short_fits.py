"""Settings of pairs that take a second: small clips, fits of a dozen steps."""

from artifixer.curation.make_scene import CurationConfig
from artifixer.curation.sparse_splats import SparseConfig
from artifixer.recipes.curate import RECIPES

CONFIG = CurationConfig(
    sizes=((32, 16), (16, 32)),
    frames=(5, 9),
    points_per_photo=(20, 30),
    groups=1,
    sparse=SparseConfig(
        reconstruct=RECIPES["tiny"].sparse.reconstruct,
        iterations=(12, 20),
        max_gaussians=(80, 160),
        initial_points=(60, 80),
    ),
)
