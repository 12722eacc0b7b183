"""One training job: training pairs and an initial model -> a trained model in a resumable run
folder.

``RUN/`` holds ``model/`` (our format, written at the end), ``checkpoints/``, ``metrics.jsonl``,
``validation/`` (pictures), ``timing.json``, ``config.json`` and ``log.txt``. Every stage takes and
returns a model; the autoencoder stage returns one with an untrained transformer for the next
stages.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch

from artifixer.pairs.loader import OrderedPairs, PairSet
from artifixer.runtime.added_settings import without_added
from artifixer.runtime.counts import counted
from artifixer.runtime.devices import repeatable
from artifixer.runtime.distributed import broadcast_object, joined_processes, rank, world_size
from artifixer.runtime.errors import InputError
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.progress import Progress
from artifixer.runtime.run_folder import RunFolder
from artifixer.training.autoencoder import AutoencoderStage
from artifixer.training.captions import CaptionedPairs, with_caption
from artifixer.training.checkpoint import MARKER
from artifixer.training.ema import Ema
from artifixer.training.flow_matching import (
    FlowMatchingKind,
    FlowMatchingStage,
    FlowMatchingTraining,
)
from artifixer.training.initial_model import (
    check_is_model,
    check_same_autoencoder,
    initial_model,
    model_folder,
)
from artifixer.training.loop import train
from artifixer.training.parallel import compile_layers, distribute, whole_tensors
from artifixer.training.recipe import StageName, TrainingJob
from artifixer.training.self_forcing import SelfForcingStage, SelfForcingTraining
from artifixer.training.small_model import (
    SmallFlowStage,
    SmallFlowTraining,
    SmallSelfForcingStage,
    SmallSelfForcingTraining,
    with_channel_weights,
)
from artifixer.training.validation import ValidationConfig, validate
from artifixer.video.checkpoints.ours import link_text_encoder, save_model
from artifixer.video.model import Model, ModelConfig
from artifixer.video.model_files import locate_model
from artifixer.video.small_autoencoder import SmallAutoencoder
from artifixer.video.transformer import VideoTransformer

#: Batches that are prefetched on a machine with a GPU, with one thread each; more threads contend
#: for the interpreter's lock.
BATCHES_AHEAD = 2

#: Threads that decode pairs on a machine with a GPU before the first step.
DECODING_THREADS = 16

#: Keys of ``config.json`` for settings that were renamed, so that trainings of earlier versions
#: continue.
STORED_NAMES = {
    "save_interval": "save_every",
    "validation_interval": "validate_every",
    "render_fraction": "render_share",
}

T = TypeVar("T")


def run_training(job: TrainingJob, out: Path, overwrite: bool = False) -> Path:
    """Run or continue the job in the folder ``out``; returns the folder of the trained model.

    Raises ``InputError`` for bad pairs, initial weights of another architecture, self forcing
    without a teacher, and a folder that holds another training.
    """
    for option, pairs_read in (("--pairs", job.pairs), ("--validation", job.validation_pairs)):
        if job.stage != "autoencoder":  # it reads no cameras
            _check_camera_scale(pairs_read, job.recipe.model, option)
    _refuse_missing_models(job)
    with (
        joined_processes(job.device) as device,
        _opened(job, out, overwrite),
        repeatable(device),
        warnings.catch_warnings(),
    ):
        # norms are in float32 on purpose
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
                f"{job.stage}: {counted(len(pairs), 'pair')}, {_parameters(model):,} parameters, "
                f"{counted(world_size(), 'process')} on {device}"
            )
            if recipe.model.takes_text and model.text_encoder is None:
                progress.note(
                    "no text encoder beside the initial weights: captions are ignored and all "
                    "clips are without text"
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
    """Raise ``InputError`` for pairs whose camera scale is of another kind than the model's: their
    translations would be wrong by a factor of up to 100.
    """
    for stored in () if pairs is None else pairs.pairs:
        kind = stored.entry.camera_scale_kind
        if kind != model.camera_scale:
            raise InputError(
                f"{option} {stored.folder}: {stored.entry.name} has camera scale {kind}, model "
                f"{model.name} expects "
                f"{model.camera_scale}; curate with --camera-scale {model.camera_scale}"
            )


def _refuse_missing_models(job: TrainingJob) -> None:
    """Raise ``InputError`` for self forcing without ``--init`` or without ``--teacher``."""
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
    """Both flow-matching stages; they differ in their settings and in the causal mask."""
    recipe, loop = job.recipe, job.recipe.loop(job.stage)
    is_causal = job.stage == "diffusion_forcing"
    settings = recipe.diffusion_forcing if is_causal else recipe.bidirectional
    settings = with_channel_weights(settings, model, pairs, loop.seed)
    _distributed(model.transformer, job)
    stage = flow_matching_stage(
        "diffusion_forcing" if is_causal else "bidirectional",
        model,
        settings,
        loop.seed,
        recipe.parallel.compute,
    )
    measured = replace(getattr(recipe, recipe.validation_name(job.stage)), is_causal=is_causal)
    validation = _validation(job, model, stage.ema, measured, out, progress)
    train(stage, pairs, loop, out, progress, validation, _ahead(job))
    return _with_average(model, stage.ema)


def flow_matching_stage(
    kind: FlowMatchingKind, model: Model, settings: FlowMatchingTraining, seed: int, compute: str
) -> FlowMatchingStage:
    """The stage of these settings: the paper's, or that of a small model."""
    if isinstance(settings, SmallFlowTraining):
        return SmallFlowStage(kind, model, settings, seed, compute)
    return FlowMatchingStage(kind, model, settings, seed, compute)


def self_forcing_class(settings: SelfForcingTraining) -> type[SelfForcingStage]:
    """The stage of these settings: the paper's, or that of a small model."""
    is_small = isinstance(settings, SmallSelfForcingTraining)
    return SmallSelfForcingStage if is_small else SelfForcingStage


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
    settings = with_channel_weights(settings, model, pairs, seed)
    stage = self_forcing_class(settings)(
        *networks, model.vae, settings, config.sampling(), seed, recipe.parallel.compute, negative
    )
    validation = _validation(job, model, stage.ema, recipe.validation, out, progress)
    train(stage, pairs, recipe.self_forcing_loop, out, progress, validation, _ahead(job))
    return _with_average(model, stage.ema)


def _teacher(job: TrainingJob, student: Model) -> VideoTransformer:
    """The bidirectional network. Its autoencoder must equal the student's and is discarded."""
    assert job.teacher is not None, "self forcing without a teacher"
    teaching = initial_model(
        job.recipe.model, job.teacher, job.recipe.self_forcing_loop.seed, job.device, "--teacher"
    )
    check_same_autoencoder(student, teaching, job.teacher)
    return teaching.transformer


#: A new stage is a file in this folder, a function here and a line in this table.
_STAGES: dict[str, Callable[[TrainingJob, Model, OrderedPairs, Path, Progress], Model]] = {
    "autoencoder": _train_autoencoder,
    "bidirectional": _train_flow_matching,
    "diffusion_forcing": _train_flow_matching,
    "self_forcing": _train_self_forcing,
}
assert set(_STAGES) == set(get_args(StageName))


def _ahead(job: TrainingJob) -> int:
    """Batches to prefetch: none on a CPU, where the threads would compete with the training."""
    return BATCHES_AHEAD if torch.device(job.device).type == "cuda" else 0


def _distributed(network: VideoTransformer, job: TrainingJob) -> None:
    network.checkpoint_layers = job.recipe.parallel.checkpoint_layers
    network.attention_backend = job.recipe.parallel.attention
    distribute(network, network.layers, job.recipe.parallel, torch.device(job.device))
    compile_layers(network.layers, job.recipe.parallel)


def _validation(
    job: TrainingJob,
    model: Model,
    ema: Ema | None,
    config: ValidationConfig,
    out: Path,
    progress: Progress,
) -> Callable[[int], Mapping[str, float]] | None:
    """A function that measures the averaged weights on the validation pairs and writes a picture to
    ``validation/``; None without validation pairs.
    """
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
                model, pairs, config, job.recipe.parallel.compute, job.baselines, picture
            )
        model.transformer.train()
        progress.note(
            f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        )
        return figures

    return measure


def _with_average(model: Model, ema: Ema | None) -> Model:
    """The model with averaged weights on the CPU of the first process; the unchanged model on the
    others, which do not save it.
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
    """The run folder, locked by the first process, whose ``InputError`` stops all. Bad input before
    the first checkpoint leaves no folder.
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
    """The action's result on the first process, None on the others; its ``InputError`` is raised on
    all of them.
    """
    result, refusal = None, None
    if rank() == 0:
        try:
            result = action()
        except InputError as error:
            refusal = str(error)
    refusal = broadcast_object(refusal)
    if refusal is not None:
        raise InputError(refusal)
    return result


def _identity(job: TrainingJob) -> dict[str, Any]:
    """Identity of the inputs: pairs and initial weights."""
    named: dict[str, Any] = {"stage": job.stage, "pairs": job.pairs.identity}
    for name, path in (("init", job.init), ("teacher", job.teacher)):
        if path is None:
            named[name] = None
            continue
        check_is_model(path, f"--{name}")
        files = sorted(model_folder(path).glob("*.safetensors"))
        named[name] = fingerprint(*files) if files else locate_model(path).identity
    return named


def _settings(job: TrainingJob) -> dict[str, Any]:
    """Settings that must not change when a training is continued: all that affect the weights."""
    recipe = job.recipe
    return {
        "model": recipe.model,
        "stage": _stored_names(getattr(recipe, job.stage)),
        "loop": _stored_names(recipe.loop(job.stage)),
        "compute": recipe.parallel.compute,
    }


def _stored_names(settings: object) -> dict[str, Any]:
    stored = without_added(settings)
    return {STORED_NAMES.get(name, name): value for name, value in stored.items()}


def _parameters(model: Model) -> int:
    return sum(
        parameter.numel()
        for module in (model.transformer, model.vae.network)
        for parameter in module.parameters()
    )
