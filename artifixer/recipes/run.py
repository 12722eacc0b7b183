"""Named settings for ``artifixer run``: the fits of the first and of the distilled splats.

``paper``    10,000 iterations (paper, appendix B) for either fit, and all frames; for a GPU
``release``  as the public release: no regularisers; frames enter the distillation by LPIPS alone,
             30,000 iterations; needs the extra ``metrics``
``tiny``     a few minutes on two CPU cores at sizes around 250 pixels

Dropout and the free-space loss of ``reconstruct`` apply to a second fit, whose renders are the
model's input; the row ``3dgut`` is always the plain fit. The recipe ``tiny`` has two fits with
dropout, and the input is the median of three renders (docs/benchmarks.md#dropout); those of the
paper and of the release have neither.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from artifixer.enhance.distill import DistillConfig
from artifixer.recipes.reconstruct import RECIPES as RECONSTRUCT
from artifixer.splats.reconstruct import ReconstructConfig


@dataclass(frozen=True)
class RunRecipe:
    """Settings of both fits."""

    reconstruct: ReconstructConfig
    """Settings of the first fit."""
    distill: DistillConfig
    """Settings of the 3D distillation."""
    input_fits: int = 1
    """Number of fits with dropout or a free-space loss."""
    size: str | None = None
    """Default of ``--size``. None: the model's default size if it has one, otherwise the photos'
    size."""

    def with_iterations(self, iterations: int | None) -> RunRecipe:
        """The recipe with this number of iterations of both fits; None for its own numbers. Raises
        ``InputError`` for a bad number.
        """
        if iterations is None:
            return self
        second = self.distill.reconstruct.with_iteration_count(iterations)
        return replace(
            self,
            reconstruct=self.reconstruct.with_iteration_count(iterations),
            distill=replace(self.distill, reconstruct=second),
        )


RECIPES = {
    "paper": RunRecipe(RECONSTRUCT["paper"], DistillConfig(RECONSTRUCT["paper"])),
    "release": RunRecipe(
        RECONSTRUCT["release"],
        DistillConfig(
            replace(RECONSTRUCT["release"], iterations=30_000), weights="lpips", photo_fraction=0.0
        ),
    ),
    "tiny": RunRecipe(
        replace(RECONSTRUCT["tiny"], dropout=0.3),
        DistillConfig(replace(RECONSTRUCT["tiny"], iterations=2000), frames=80),
        input_fits=2,
        size="256",
    ),
}
