"""Named settings for ``benchmarks/reproduce.py``: the paper's Table 4 at small scale.

``full``   networks of the size of ``tiny`` on procedural scenes of 96 pixels, two seeds; 3.2
           hours on two cores that other work shared (docs/reproduction.md)
``quick``  the same job in seconds with networks that learn nothing: for tests
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

from artifixer.curation.make_scene import CurationConfig
from artifixer.curation.sparse_splats import SparseConfig
from artifixer.enhance.distill import DistillConfig
from artifixer.recipes.curate import RECIPES as CURATE
from artifixer.recipes.run import RECIPES as RUN
from artifixer.recipes.train import RECIPES as TRAIN
from artifixer.recipes.train import TINY_CLIPS, with_source
from artifixer.splats.initial import InitialConfig
from artifixer.splats.mcmc import McmcConfig
from artifixer.splats.reconstruct import ReconstructConfig
from artifixer.training.parallel import ParallelConfig
from artifixer.training.recipe import StageName, TrainingRecipe
from artifixer.video.small_autoencoder import SmallAutoencoderConfig


@dataclass(frozen=True)
class ReproductionRecipe:
    """Everything that the reproduction's figures depend on."""

    seeds: tuple[int, ...]
    """One training of all variants per seed."""

    pairs: str
    """Source of the training pairs, as an argument of ``artifixer curate``."""

    curation: CurationConfig
    """Settings of the training pairs."""

    variants: Mapping[str, TrainingRecipe]
    """Recipes by the names of ``--diagnostic-models``, with the same steps and clips."""

    validation: tuple[str, ...]
    """Captures that are not trained on."""

    views: int
    """Number of training photos of each validation capture."""

    reconstruct: ReconstructConfig
    """Settings of the first fit of the validation captures."""

    distill: DistillConfig
    """Settings of the 3D distillation."""


_STAGES: tuple[StageName, ...] = get_args(StageName)


def _variants(mixing: TrainingRecipe) -> dict[str, TrainingRecipe]:
    return {
        "mixing": mixing,
        "direct": with_source(mixing, "direct"),
        "concatenation": with_source(mixing, "noise"),
    }


def _captures(first: int, count: int, options: str) -> tuple[str, ...]:
    return tuple(f"procedural:{seed}:{options}" for seed in range(first, first + count))


_FULL_FIT = replace(RUN["tiny"].reconstruct.plain(), iterations=600)

#: The embedded model was trained on scenes with other seeds.
FULL = ReproductionRecipe(
    seeds=(0, 1),
    pairs="procedural:96:31",
    curation=replace(CURATE["tiny"], sizes=((96, 64), (64, 96)), frames=(21, 21)),
    variants=_variants(TRAIN["reproduce"]),
    validation=_captures(900, 6, "frames=21,width=96,height=64"),
    views=4,
    reconstruct=_FULL_FIT,
    distill=DistillConfig(_FULL_FIT, frames=40),
)


def _quick_training() -> TrainingRecipe:
    whole = TRAIN["reproduce"]
    model = whole.model
    vae = SmallAutoencoderConfig(width=8, depth=1, encoder_width=8, z_dim=8)
    network = replace(
        model.transformer,
        width=48,
        ffn_width=64,
        heads=2,
        layers=1,
        latent_channels=8,
        frequency_width=16,
    )
    clips = replace(TINY_CLIPS, frames=(5,), strides=(1,))
    flow = replace(whole.bidirectional, clips=clips)
    loops = {
        f"{stage}_loop": replace(whole.loop(stage), steps=2, batch=1, warmup=0) for stage in _STAGES
    }
    small = replace(
        whole,
        model=replace(
            model, transformer=network, vae=vae, block_frames=1, window_frames=3, steps=2
        ),
        autoencoder=replace(whole.autoencoder, crop=16),
        bidirectional=flow,
        diffusion_forcing=flow,
        self_forcing=replace(whole.self_forcing, clips=clips),
        parallel=ParallelConfig(attention="plain", compute="float32"),
    )
    return replace(small, **loops)  # type: ignore[arg-type]


_QUICK_FIT = replace(
    _FULL_FIT,
    iterations=12,
    initial=InitialConfig(points=250),
    mcmc=McmcConfig(max_gaussians=300, every=10, growth=1.2),
)

QUICK = ReproductionRecipe(
    seeds=(0,),
    pairs="procedural:2:31",
    curation=CurationConfig(
        sizes=((32, 16),),
        frames=(9, 9),
        points_per_photo=(20, 30),
        groups=1,
        sparse=SparseConfig(
            reconstruct=CURATE["tiny"].sparse.reconstruct,
            iterations=(12, 20),
            max_gaussians=(80, 160),
            initial_points=(60, 80),
        ),
    ),
    variants=_variants(_quick_training()),
    validation=_captures(900, 1, "frames=6,width=32,height=32,points_per_photo=40"),
    views=3,
    reconstruct=_QUICK_FIT,
    distill=DistillConfig(_QUICK_FIT, frames=3),
)

RECIPES = {"full": FULL, "quick": QUICK}
