"""Named settings for ``artifixer train``, for each of its stages.

``tiny``     the embedded model, with a small autoencoder of its own: about an hour on two CPU cores
``small``    the same with a network twice as large and large batches, for one GPU
``paper``    Wan 2.1 14B as in the paper (section 5.1): 15,000 teacher, 5,000 causal, 2,000
             self-forcing steps, on 128 processes
``release``  as the public release: 25,000, 10,000 and 400 steps, its dropout and numbers of
             references

For diagnostics (paper section 5.4, Table 4), each in three variants: opacity mixing, ``-direct``
(the flow starts at the render) and ``-concatenation`` (it starts at noise, and the render's latents
are concatenated to the noisy ones). The variant without a Diffusion Forcing start has no recipe of
its own: self-forcing starts from a bidirectional model (``--init``).

``paper-diagnostic``  as ``paper``, with the truncated schedule: 10,000, 2,000 and 600 steps
``reproduce``         networks of the size of ``tiny``, with one source each and the paper's 4 steps
"""

from dataclasses import replace
from typing import Any

from artifixer.training.autoencoder import AutoencoderTraining
from artifixer.training.clips import ClipConfig
from artifixer.training.flow_matching import FlowMatchingTraining
from artifixer.training.loop import LoopConfig
from artifixer.training.parallel import ParallelConfig
from artifixer.training.recipe import TrainingRecipe
from artifixer.training.self_forcing import SelfForcingTraining
from artifixer.training.small_clips import SmallClipConfig
from artifixer.training.small_model import SmallFlowTraining, SmallSelfForcingTraining
from artifixer.training.validation import ValidationConfig
from artifixer.video.flow import SourceKind
from artifixer.video.model import ModelConfig
from artifixer.video.model_zoo import NAMED_MODELS
from artifixer.video.small_autoencoder import SmallAutoencoderConfig
from artifixer.video.teacher import TEACHER_FRAMES, TeacherConfig
from artifixer.video.text import WAN_NEGATIVE_PROMPT
from artifixer.video.transformer_config import VideoTransformerConfig


def _large(clips: ClipConfig, steps: tuple[int, int, int], model: str = "14b") -> TrainingRecipe:
    """A recipe for large models: one pair per process, constant learning rates, sharded weights,
    activation checkpointing. steps: of the bidirectional, causal and self-forcing stages.
    """
    config = NAMED_MODELS[model].config
    assert config is not None, f"{model} is embedded"
    flow = FlowMatchingTraining(clips)
    return TrainingRecipe(
        model=config,
        autoencoder=AutoencoderTraining(),
        autoencoder_loop=LoopConfig(steps=0),
        bidirectional=flow,
        bidirectional_loop=LoopConfig(steps[0]),
        diffusion_forcing=flow,
        diffusion_forcing_loop=LoopConfig(steps[1]),
        self_forcing=SelfForcingTraining(clips, negative_prompt=WAN_NEGATIVE_PROMPT),
        self_forcing_loop=LoopConfig(steps[2], validation_interval=100),
        parallel=ParallelConfig(checkpoint_layers=True),
        validation=ValidationConfig(steps=(4,)),
        bidirectional_validation=ValidationConfig(
            steps=(50,), teacher=TeacherConfig(), clip_frames=TEACHER_FRAMES
        ),
    )


TINY_MODEL = ModelConfig(
    name="tiny",
    transformer=VideoTransformerConfig(
        width=192,
        ffn_width=576,
        heads=4,
        layers=4,
        latent_channels=48,
        text_width=16,
        text_tokens=1,
        frequency_width=128,
        spatial_factor=4,
        # tokens have as many values as the network has channels, too few to pass noise through
        noise_free_skip=True,
    ),
    # reconstructions keep a quarter of the gradient energy with 16 channels, two thirds with 48
    vae=SmallAutoencoderConfig(z_dim=48),
    camera_scale="median_depth",
    takes_text=False,
    source="direct",
    keep_residual=True,
    second_strength=0.25,
    smooth_cells=8,  # one token: it knows colours and no detail, and its tokens have borders
    default_size=256,
    steps=1,
    adapts_steps=True,
    block_frames=2,
    window_frames=6,  # a block and the two before it: the longer clips below have as many
    sink_frames=0,
)

#: The clips of a step share the number of references. Renders are dropped less often than in the
#: paper, because they are never missing at inference. Strides give camera distances of videos
#: several times as long.
TINY_CLIPS = SmallClipConfig(
    frames=(13, 21),
    strides=(1, 1, 2, 3),
    references=(0, 5),
    share_references=True,
    tail_drop=0.15,
    render_drop=0.03,
    reference_drop=0.05,
    augment=True,
)

#: One network for both sources. With the direct source, training is mostly at the source end of the
#: flow, because without noise a single step is best. Some clips are replaced by the model's own
#: first result, for ArtiFixer 3D+.
TINY_FLOW = SmallFlowTraining(
    TINY_CLIPS,
    source="direct",
    source_fraction=0.9,
    mixing_fraction=0.3,
    mixing_source_fraction=0.4,
    easy_power=0.5,
    second_fraction=0.2,
    second_from=300,
    learning_rate=1.2e-3,
    betas=(0.9, 0.98),
    ema_decay=0.995,
    ema_warm=True,
)

#: From here on all pixels have the same weight: most of the possible gain is in empty regions.
TINY_CAUSAL = replace(TINY_FLOW, easy_power=0.0)

#: The direct source has no noise and thus no distribution to match: its rollouts are trained on the
#: clean clip. Rollouts from the mixing source match the teacher's distribution.
TINY_SELF_FORCING = SmallSelfForcingTraining(
    TINY_CLIPS,
    student_interval=1,
    guidance=1.0,
    matching_weight=0.3,
    mixing_fraction=0.3,
    clean_weight=1.0,
    student_learning_rate=1e-4,
    critic_learning_rate=4e-4,
    betas=(0.9, 0.98),
    gradient_limit=1.0,
    ema_decay=0.99,
)

#: The stages took 6, 19, 28 and 8 minutes on two shared cores, as two processes with one thread
#: each; by the speeds in docs/benchmarks.md about 6, 17, 25 and 8 minutes on two free cores.
TINY = TrainingRecipe(
    model=TINY_MODEL,
    autoencoder=AutoencoderTraining(crop=80),
    autoencoder_loop=LoopConfig(
        600, batch=2, warmup=50, cooldown=0.6, save_interval=100, validation_interval=0
    ),
    bidirectional=TINY_FLOW,
    bidirectional_loop=LoopConfig(
        1000, batch=2, warmup=100, cooldown=0.5, save_interval=100, validation_interval=500
    ),
    diffusion_forcing=TINY_CAUSAL,
    diffusion_forcing_loop=LoopConfig(
        1200, batch=2, warmup=50, cooldown=0.5, save_interval=100, validation_interval=400
    ),
    self_forcing=TINY_SELF_FORCING,
    self_forcing_loop=LoopConfig(
        300, batch=2, warmup=20, cooldown=0.5, save_interval=100, validation_interval=300
    ),
    # PyTorch's fused attention has a slower backward pass for clips this small
    parallel=ParallelConfig(attention="plain"),
    validation=ValidationConfig(pairs=16, steps=(1,)),
)

#: Steps between checkpoints and between validations: a few minutes on a GPU.
_INTERVALS: dict[str, int] = {"save_interval": 500, "validation_interval": 1000}

SMALL = replace(
    TINY,
    model=replace(
        TINY_MODEL,
        name="small",
        transformer=replace(TINY_MODEL.transformer, width=256, ffn_width=768, heads=4, layers=5),
    ),
    autoencoder_loop=replace(TINY.autoencoder_loop, batch=32, **_INTERVALS),
    bidirectional=replace(TINY_FLOW, ema_decay=0.998),
    bidirectional_loop=replace(TINY.bidirectional_loop, batch=48, **_INTERVALS),
    diffusion_forcing=replace(TINY_CAUSAL, ema_decay=0.998),
    diffusion_forcing_loop=replace(TINY.diffusion_forcing_loop, batch=48, **_INTERVALS),
    self_forcing=replace(TINY_SELF_FORCING, ema_decay=0.998),
    self_forcing_loop=replace(TINY.self_forcing_loop, batch=32, **_INTERVALS),
    parallel=ParallelConfig(),
)


def with_source(recipe: TrainingRecipe, source: SourceKind) -> TrainingRecipe:
    """The recipe with another start of the flow and otherwise the same settings."""
    model = recipe.model
    network = replace(model.transformer, concatenate_render=source == "noise")
    changes: dict[str, Any] = {
        "model": replace(model, transformer=network, source=source),
        "self_forcing": replace(recipe.self_forcing, matches_direct=source == "direct"),
    }
    for stage in ("bidirectional", "diffusion_forcing"):
        settings = getattr(recipe, stage)
        if isinstance(settings, SmallFlowTraining):
            changes[stage] = replace(settings, source=source)
    teacher = recipe.bidirectional_validation
    if teacher is not None and teacher.teacher is not None:
        own = replace(teacher, teacher=replace(teacher.teacher, source=source))
        changes["bidirectional_validation"] = own
    return replace(recipe, **changes)


PAPER_DIAGNOSTIC = _large(ClipConfig(), (10_000, 2_000, 600))

#: One source per network and the paper's four steps, so that the variants of Table 4 differ in the
#: source alone. Distribution matching is used with the direct source too, as in the paper.
REPRODUCE_FLOW = SmallFlowTraining(
    replace(TINY_CLIPS, frames=(13,)),
    source="mixing",
    source_fraction=0.25,
    learning_rate=1.2e-3,
    betas=(0.9, 0.98),
    ema_decay=0.98,
    ema_warm=True,
)

REPRODUCE = replace(
    TINY,
    model=replace(
        TINY_MODEL,
        name="reproduce",
        source="mixing",
        steps=4,
        smooth_cells=0,
        second_strength=1.0,
        adapts_steps=False,
    ),
    autoencoder_loop=replace(TINY.autoencoder_loop, steps=300),
    bidirectional=REPRODUCE_FLOW,
    bidirectional_loop=replace(TINY.bidirectional_loop, steps=400, validation_interval=0),
    diffusion_forcing=REPRODUCE_FLOW,
    diffusion_forcing_loop=replace(TINY.diffusion_forcing_loop, steps=400, validation_interval=0),
    self_forcing=replace(
        TINY_SELF_FORCING, clips=REPRODUCE_FLOW.clips, mixing_fraction=0.0, ema_decay=0.98
    ),
    self_forcing_loop=replace(TINY.self_forcing_loop, steps=100, validation_interval=0),
)

RECIPES = {
    "paper-diagnostic": PAPER_DIAGNOSTIC,
    "paper-diagnostic-direct": with_source(PAPER_DIAGNOSTIC, "direct"),
    "paper-diagnostic-concatenation": with_source(PAPER_DIAGNOSTIC, "noise"),
    "reproduce": REPRODUCE,
    "reproduce-direct": with_source(REPRODUCE, "direct"),
    "reproduce-concatenation": with_source(REPRODUCE, "noise"),
    "tiny": TINY,
    "small": SMALL,
    "paper": _large(ClipConfig(), (15_000, 5_000, 2_000)),
    "release": _large(
        ClipConfig(references="release", render_drop=0.1, text_drop=0.1, reference_drop=0.1),
        (25_000, 10_000, 400),
    ),
}
