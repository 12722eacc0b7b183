"""Named settings for ``artifixer run``: how the first splats and the distilled ones are fitted.

``paper``    10,000 iterations (paper, appendix B) for either fit, and all frames; for a GPU.
             Frames count by ``evidence`` (the paper: ``uniform``), because that was better where
             it was measured (``benchmarks/distillation.py``)
``release``  as the public release: no regularisers; frames enter the distillation by LPIPS alone,
             30,000 iterations; needs the extra ``metrics``
``tiny``     a few minutes on two CPU cores at sizes around 200 pixels

Where ``reconstruct`` has a free-space loss, it fits the render that the generator gets; the row
``3dgut`` is always the fit without it.
"""

from dataclasses import dataclass, replace

from artifixer.enhance.distill import DistillConfig
from artifixer.recipes.reconstruct import RECIPES as RECONSTRUCT
from artifixer.splats.reconstruct import ReconstructConfig


@dataclass(frozen=True)
class RunRecipe:
    """Settings of both fits."""

    reconstruct: ReconstructConfig
    distill: DistillConfig
    size: str | None = None
    """Longest side of the photos in pixels where the user gives none. None: the model's, if it has
    one, else as they are."""


RECIPES = {
    "paper": RunRecipe(RECONSTRUCT["paper"], DistillConfig(RECONSTRUCT["paper"])),
    "release": RunRecipe(
        RECONSTRUCT["release"],
        DistillConfig(
            replace(RECONSTRUCT["release"], iterations=30_000), weights="lpips", photo_fraction=0.0
        ),
    ),
    "tiny": RunRecipe(
        RECONSTRUCT["tiny"],
        DistillConfig(replace(RECONSTRUCT["tiny"], iterations=2000), frames=80),
        size="192",
    ),
}
