"""One training as a job: pairs and a model in, a stage's loop, a trained model out, in a folder
that resumes.

``RUN/`` holds ``model/`` (our format, at the end), ``checkpoints/``, ``metrics.jsonl``,
``validation/`` (pictures), ``timing.json``, ``config.json`` and ``log.txt``. Every stage takes a
model and gives a model: the autoencoder's stage gives one whose transformer is still untrained,
which the next stages start from.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.pairs.loader import OrderedPairs, PairSet
from artifixer.runtime.devices import repeatable
from artifixer.runtime.distributed import first_rank_value, joined_processes, rank, world_size
from artifixer.runtime.errors import InputError
from artifixer.runtime.progress import Progress
from artifixer.runtime.run_folder import RunFolder, fingerprint, is_run_folder
from artifixer.runtime.seeds import generator
from artifixer.training.autoencoder import AutoencoderStage, AutoencoderTraining, pixel_gains
from artifixer.training.bidirectional import bidirectional_stage
from artifixer.training.captions import CaptionedPairs, with_caption
from artifixer.training.checkpoint import MARKER
from artifixer.training.clips import frame_order
from artifixer.training.diffusion_forcing import diffusion_forcing_stage
from artifixer.training.ema import Ema
from artifixer.training.flow_matching import FlowMatchingStage, FlowMatchingTraining
from artifixer.training.loop import LoopConfig, train
from artifixer.training.parallel import ParallelConfig, distribute, whole_tensors
from artifixer.training.self_forcing import SelfForcingStage, SelfForcingTraining
from artifixer.training.validation import Rival, ValidationConfig, validate
from artifixer.video.models import (
    NAMED_MODELS,
    Model,
    ModelConfig,
    link_text_encoder,
    load_model,
    locate_model,
    save_model,
)
from artifixer.video.small_autoencoder import SmallAutoencoder
from artifixer.video.transformer import VideoTransformer, initialise
from artifixer.video.vae import build_vae, frames_to_video

StageName = Literal["autoencoder", "bidirectional", "diffusion_forcing", "self_forcing"]

#: Clips from which the pixel gains of latent channels are measured, and their pixel frames.
GAIN_CLIPS, GAIN_FRAMES = 4, 13

#: Batches that are drawn in other threads on a machine with a GPU, one thread each; more threads
#: only wait for the interpreter.
BATCHES_AHEAD = 2

#: Threads that decode pairs there before the first step.
DECODING_THREADS = 16

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything a training depends on besides pairs and initial weights.

    model: what is trained, and how it will be used. weigh_channels: weigh the latent channels in
    the losses by what they do to pixels. bidirectional_validation: of the bidirectional stage where
    it differs, for one that samples the teacher.
    """

    model: ModelConfig
    autoencoder: AutoencoderTraining
    autoencoder_loop: LoopConfig
    bidirectional: FlowMatchingTraining
    bidirectional_loop: LoopConfig
    diffusion_forcing: FlowMatchingTraining
    diffusion_forcing_loop: LoopConfig
    self_forcing: SelfForcingTraining
    self_forcing_loop: LoopConfig
    weigh_channels: bool = False
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    bidirectional_validation: ValidationConfig | None = None

    def loop(self, stage: StageName) -> LoopConfig:
        """The loop's settings of a stage."""
        found: LoopConfig = getattr(self, f"{stage}_loop")
        return found

    def validation_name(
        self, stage: StageName
    ) -> Literal["validation", "bidirectional_validation"]:
        """Which of the two a stage has."""
        is_own = stage == "bidirectional" and self.bidirectional_validation is not None
        return "bidirectional_validation" if is_own else "validation"


@dataclass(frozen=True)
class TrainingJob:
    """What to train. init: model folder or run folder to start from; teacher: the same, of the
    bidirectional model, for self forcing. validation_pairs: never trained on; None for no
    validation. rivals: what frames are compared with besides the render."""

    stage: StageName
    recipe: TrainingRecipe
    pairs: PairSet
    init: Path | None = None
    teacher: Path | None = None
    validation_pairs: PairSet | None = None
    device: str = "cpu"
    rivals: Mapping[str, Rival] | None = None


def run_training(job: TrainingJob, out: Path, overwrite: bool = False) -> Path:
    """Run the job into the folder ``out``, or continue it; gives the folder of the trained model.

    Raises ``InputError`` for bad pairs, initial weights of another architecture, self forcing
    without a teacher, and a folder that holds another training.
    """
    for option, pairs_read in (("--pairs", job.pairs), ("--validation", job.validation_pairs)):
        if job.stage != "autoencoder":  # it sees no cameras
            _check_camera_scale(pairs_read, job.recipe.model, option)
    _refuse_missing_models(job)
    with (
        joined_processes(job.device) as device,
        _opened(job, out, overwrite),
        repeatable(device),
        warnings.catch_warnings(),
    ):
        # norms stay in float32, which is meant
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
        job = replace(job, device=device)
        recipe, loop = job.recipe, job.recipe.loop(job.stage)
        model = initial_model(recipe.model, job.init, loop.seed, device)
        pairs = CaptionedPairs(
            job.pairs,
            loop.seed,
            loop.batch * loop.accumulation * world_size(),
            model.text_encoder,
            device,
        )
        log, output = (out / "log.txt", {}) if rank() == 0 else (None, {"output": None})
        with Progress(log_file=log, **output) as progress:  # type: ignore[arg-type]
            progress.note(
                f"{job.stage}: {len(pairs)} pairs, {_parameters(model):,} parameters, "
                f"{world_size()} processes on {device}"
            )
            if recipe.model.takes_text and model.text_encoder is None:
                progress.note(
                    "no text encoder beside the initial weights: captions are not read, all clips "
                    "are without text"
                )
            if torch.device(device).type == "cuda":
                pairs.read_all(threads=DECODING_THREADS)
            trained = _STAGES[job.stage](job, model, pairs, out, progress)
        if rank() == 0:
            save_model(out / "model", trained)
            if trained.text_encoder is not None:
                link_text_encoder(out / "model", trained.text_encoder.folder)
    return out / "model"


def _check_camera_scale(pairs: PairSet | None, model: ModelConfig, option: str) -> None:
    """Pairs of the other kind show the model cameras up to 100 times nearer or farther than those
    it is used with.
    """
    for stored in () if pairs is None else pairs.pairs:
        kind = stored.entry.camera_scale_kind
        if kind != model.camera_scale:
            raise InputError(
                f"{option} {stored.folder}: {stored.entry.name} has camera scale {kind}, model "
                f"{model.name} expects "
                f"{model.camera_scale}; curate with --camera-scale {model.camera_scale}"
            )


def initial_model(
    config: ModelConfig, init: Path | None, seed: int, device: str, option: str = "--init"
) -> Model:
    """The model to start from: the recipe's architecture with the weights of ``init``, or freshly
    drawn ones.

    The autoencoder is on the device; the transformer still on the CPU, since it may be too large
    for one device. Raises ``InputError`` naming ``option`` when ``init`` is no model, the first
    difference when it has another architecture, and when its camera scale is of another kind.
    """
    if init is None:
        transformer = VideoTransformer(config.transformer)
        initialise(transformer, generator(seed, "initial weights"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vae = build_vae(config.vae)
        return Model(config, transformer, vae.to(device))
    _check_is_model(init, option)
    loaded = load_model(model_folder(init), "cpu", torch.float32)
    loaded.vae.to(device)
    for part in ("transformer", "vae"):
        ours, theirs = getattr(config, part), getattr(loaded.config, part)
        if type(ours) is not type(theirs):
            raise InputError(
                f"{option} {init}: its {part} is {type(theirs).__name__}, the recipe's "
                f"{type(ours).__name__}"
            )
        for name in (entry.name for entry in fields(ours)):
            before, wanted = getattr(theirs, name), getattr(ours, name)
            if before != wanted and not name.startswith("latents_"):
                raise InputError(
                    f"{option} {init}: {part} {name} is {before}, the recipe has {wanted}"
                )
    if loaded.config.camera_scale != config.camera_scale:
        raise InputError(
            f"{option} {init}: model {loaded.config.name} has camera scale "
            f"{loaded.config.camera_scale}, the recipe's model {config.name} has "
            f"{config.camera_scale}; weights know one unit of length"
        )
    return replace(loaded, config=replace(config, vae=loaded.config.vae))


def model_folder(path: Path) -> Path:
    """The model in a run folder, or the path itself."""
    return path / "model" if (path / "model" / "config.json").is_file() else path


def _refuse_missing_models(job: TrainingJob) -> None:
    """Self forcing without one of its two models: a student that judged itself would have nothing
    to learn.
    """
    if job.stage == "self_forcing" and job.init is None:
        raise InputError(
            "self_forcing: needs --init, a causal model trained by diffusion_forcing, and "
            "--teacher, a bidirectional one"
        )
    if job.stage == "self_forcing" and job.teacher is None:
        raise InputError(
            "self_forcing: needs --teacher, the bidirectional model that the causal one of --init "
            "was trained from"
        )


def _check_is_model(path: Path, option: str) -> None:
    """What ``load_model`` would say without naming the option, or not at all."""
    if str(path) in NAMED_MODELS:
        return
    if not path.exists():
        raise InputError(
            f"{option} {path}: does not exist; expected a model, or the run folder of a finished "
            "training"
        )
    if is_run_folder(path) and not (path / "model" / "config.json").is_file():
        raise InputError(
            f"{option} {path}: this training is not finished, it has no model/ yet; run its "
            "command again"
        )


def _check_same_autoencoder(student: Model, teacher: Model, path: Path) -> None:
    """A teacher that was trained on other latents cannot judge the student's."""
    ours, theirs = (
        {"config": model.vae.config, **model.vae.network.state_dict()}
        for model in (student, teacher)
    )
    for name, value in ours.items():
        if not (
            torch.equal(value, theirs[name])
            if isinstance(value, torch.Tensor)
            else value == theirs[name]
        ):
            raise InputError(
                f"--teacher {path}: has another autoencoder than --init ({name} differs); expected "
                "both trained on the same"
            )


def _train_autoencoder(
    job: TrainingJob, model: Model, pairs: OrderedPairs, out: Path, progress: Progress
) -> Model:
    network, loop = model.vae.network, job.recipe.autoencoder_loop
    if not isinstance(network, SmallAutoencoder):
        raise InputError(
            "autoencoder: the recipe's model has Wan's autoencoder, which is used as it is; "
            "expected a small one"
        )
    stage = AutoencoderStage(
        network, job.recipe.autoencoder, pairs, loop.seed, job.recipe.parallel.compute
    )
    train(stage, pairs, loop, out, progress, ahead=_ahead(job))
    vae = stage.trained_vae(pairs, loop.seed)
    return replace(model, config=replace(model.config, vae=vae.config), vae=vae)


def _train_flow_matching(
    job: TrainingJob, model: Model, pairs: OrderedPairs, out: Path, progress: Progress
) -> Model:
    """Both flow-matching stages: they differ in settings and in whether the network is causal."""
    recipe = job.recipe
    is_causal = job.stage == "diffusion_forcing"
    settings, loop = (
        (recipe.diffusion_forcing if is_causal else recipe.bidirectional),
        recipe.loop(job.stage),
    )
    if recipe.weigh_channels and not settings.channel_weights:
        settings = replace(
            settings,
            channel_weights=_channel_weights(
                _pixel_gains(model, pairs, recipe.loop(job.stage).seed)
            ),
        )
    _distributed(model.transformer, job)
    build = diffusion_forcing_stage if is_causal else bidirectional_stage
    stage: FlowMatchingStage = build(model, settings, loop.seed, recipe.parallel.compute)
    measured = replace(getattr(recipe, recipe.validation_name(job.stage)), is_causal=is_causal)
    validation = _validation(job, model, stage.ema, measured, out, progress)
    train(stage, pairs, loop, out, progress, validation, _ahead(job))
    return _with_average(model, stage.ema)


def _train_self_forcing(
    job: TrainingJob, model: Model, pairs: OrderedPairs, out: Path, progress: Progress
) -> Model:
    recipe, config, settings = job.recipe, job.recipe.model, job.recipe.self_forcing
    if recipe.self_forcing.negative_prompt and model.text_encoder is None:
        raise InputError(
            f"--init {job.init}: has no text_encoder/ and tokenizer/ of Wan 2.1; expected them for "
            "the negative prompt"
        )
    teacher = _teacher(job, model)
    critic = deepcopy(teacher)
    networks = (model.transformer, critic, teacher)
    for network in networks:
        _distributed(network, job)
    seed = recipe.self_forcing_loop.seed
    prompt = settings.negative_prompt
    negative = model.encode_prompt(prompt).embedding if prompt else None
    if recipe.weigh_channels and not settings.channel_weights:
        settings = replace(
            settings,
            channel_weights=_channel_weights(
                _pixel_gains(model, pairs, recipe.loop(job.stage).seed)
            ),
        )
    stage = SelfForcingStage(
        *networks, model.vae, settings, config.sampling(), seed, recipe.parallel.compute, negative
    )
    validation = _validation(job, model, stage.ema, recipe.validation, out, progress)
    train(stage, pairs, recipe.self_forcing_loop, out, progress, validation, _ahead(job))
    return _with_average(model, stage.ema)


def _teacher(job: TrainingJob, student: Model) -> VideoTransformer:
    """The bidirectional network; its own autoencoder, which must be the student's, is not kept."""
    assert job.teacher is not None, "self forcing without a teacher"
    teaching = initial_model(
        job.recipe.model, job.teacher, job.recipe.self_forcing_loop.seed, job.device, "--teacher"
    )
    _check_same_autoencoder(student, teaching, job.teacher)
    return teaching.transformer


#: A new stage is a file in this folder, a function here and its line.
_STAGES: dict[str, Callable[[TrainingJob, Model, OrderedPairs, Path, Progress], Model]] = {
    "autoencoder": _train_autoencoder,
    "bidirectional": _train_flow_matching,
    "diffusion_forcing": _train_flow_matching,
    "self_forcing": _train_self_forcing,
}
assert set(_STAGES) == set(get_args(StageName))


def _ahead(job: TrainingJob) -> int:
    """Batches to draw in other threads: on a CPU those would take the training's own cores."""
    return BATCHES_AHEAD if torch.device(job.device).type == "cuda" else 0


def _distributed(network: VideoTransformer, job: TrainingJob) -> None:
    network.checkpoint_layers = job.recipe.parallel.checkpoint_layers
    network.attention_backend = job.recipe.parallel.attention
    distribute(network, network.layers, job.recipe.parallel, torch.device(job.device))


def _pixel_gains(model: Model, pairs: OrderedPairs, seed: int) -> Float[Tensor, " channels"]:
    """What each latent channel does to pixels, in clips from anywhere in the first pairs."""
    clips = []
    for index in range(GAIN_CLIPS):
        pair = pairs.stored_pair(index % len(pairs))
        order = frame_order(pair.frames, GAIN_FRAMES, generator(seed, "pixel gains", sample=index))
        clips.append(frames_to_video(pair.clean_frames[order], model.device))
    return pixel_gains(model.vae, clips)


def _channel_weights(gains: Float[Tensor, " channels"]) -> tuple[float, ...]:
    """Pixel gains, 0.7 of them beside 0.3 for every channel, so that none is forgotten."""
    return tuple(float(f"{value:.4g}") for value in (0.7 * gains + 0.3).tolist())


def _validation(
    job: TrainingJob,
    model: Model,
    ema: Ema | None,
    config: ValidationConfig,
    out: Path,
    progress: Progress,
) -> Callable[[int], Mapping[str, float]] | None:
    """Measures the averaged weights on the validation pairs; the picture goes to ``validation/``."""
    if job.validation_pairs is None:
        return None
    pairs = [
        with_caption(stored.read(), model.text_encoder)
        for stored in job.validation_pairs.pairs[: config.pairs]
    ]

    def measure(step: int) -> Mapping[str, float]:
        picture = out / "validation" / f"step_{step:08d}.png" if rank() == 0 else None
        model.transformer.eval()
        with ema.in_module() if ema is not None else nullcontext():
            figures = validate(
                model, pairs, config, job.recipe.parallel.compute, job.rivals, picture
            )
        model.transformer.train()
        progress.note(
            f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        )
        return figures

    return measure


def _with_average(model: Model, ema: Ema | None) -> Model:
    """The model with averaged weights, on the first process's CPU; the same model on the others,
    which don't save it.
    """
    with ema.in_module() if ema is not None else nullcontext():
        tensors = whole_tensors(model.transformer)
    if rank() != 0:
        return model
    with torch.device("meta"):
        whole = VideoTransformer(model.config.transformer)
    whole.load_state_dict(tensors, assign=True)
    return replace(model, transformer=whole.eval().requires_grad_(False))


@contextmanager
def _opened(job: TrainingJob, out: Path, overwrite: bool) -> Iterator[None]:
    """The run folder, held by the first process; what it refuses stops all. Bad input before the
    first checkpoint leaves no folder.
    """
    run = _on_first_rank(
        lambda: RunFolder.open(out, _identity(job), _settings(job), overwrite, device=job.device)
    )
    try:
        if run is not None:
            for part in (
                "model",
                "checkpoints",
                "metrics.jsonl",
                "validation",
                "timing.json",
                "log.txt",
                "tensorboard",
            ):
                run.path(part)
        yield
    except InputError:
        if run is None or any(out.glob(f"checkpoints/*/{MARKER}")):
            raise
        with run.discarded_on_bad_input():
            raise
    finally:
        if run is not None:
            run.close()


def _on_first_rank(action: Callable[[], T]) -> T | None:
    """The action's result on the first process, None on the others; its ``InputError`` on all of
    them.
    """
    result, refusal = None, None
    if rank() == 0:
        try:
            result = action()
        except InputError as error:
            refusal = str(error)
    refusal = first_rank_value(refusal)
    if refusal is not None:
        raise InputError(refusal)
    return result


def _identity(job: TrainingJob) -> dict[str, Any]:
    """Which pairs and which initial weights."""
    named: dict[str, Any] = {"stage": job.stage, "pairs": job.pairs.identity}
    for name, path in (("init", job.init), ("teacher", job.teacher)):
        if path is None:
            named[name] = None
            continue
        _check_is_model(path, f"--{name}")
        files = sorted(model_folder(path).glob("*.safetensors"))
        named[name] = fingerprint(*files) if files else locate_model(path).identity
    return named


def _settings(job: TrainingJob) -> dict[str, Any]:
    """What may not change between a training and its continuation: all that has an effect on the
    weights.
    """
    recipe = job.recipe
    return {
        "model": asdict(recipe.model),
        "stage": asdict(getattr(recipe, job.stage)),
        "loop": asdict(recipe.loop(job.stage)),
        "weigh_channels": recipe.weigh_channels,
        "compute": recipe.parallel.compute,
    }


def _parameters(model: Model) -> int:
    return sum(
        parameter.numel()
        for module in (model.transformer, model.vae.network)
        for parameter in module.parameters()
    )
