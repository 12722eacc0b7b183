"""The initial model of a training: an existing one, checked against the recipe, or new weights."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import torch

from artifixer.runtime.errors import InputError
from artifixer.runtime.run_folder import is_run_folder
from artifixer.runtime.seeds import generator
from artifixer.video.initialise import initialise
from artifixer.video.model import Model, ModelConfig
from artifixer.video.model_files import load_model
from artifixer.video.model_zoo import NAMED_MODELS
from artifixer.video.transformer import VideoTransformer
from artifixer.video.vae import build_vae


def initial_model(
    config: ModelConfig, init: Path | None, seed: int, device: str, option: str = "--init"
) -> Model:
    """The initial model: the recipe's architecture with the weights of ``init``, or random ones.

    The autoencoder is on the device; the transformer is on the CPU, since it may be too large for
    one device. Raises ``InputError`` naming ``option`` when ``init`` is no model, has another
    architecture (naming the first difference), or another kind of camera scale.
    """
    if init is None:
        transformer = VideoTransformer(config.transformer)
        initialise(transformer, generator(seed, "initial weights"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vae = build_vae(config.vae)
        return Model(config, transformer, vae.to(device))
    check_is_model(init, option)
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
            f"{config.camera_scale}; weights are trained for one kind"
        )
    return replace(loaded, config=replace(config, vae=loaded.config.vae))


def model_folder(path: Path) -> Path:
    """The model in a run folder, or the path itself."""
    return path / "model" if (path / "model" / "config.json").is_file() else path


def check_is_model(path: Path, option: str) -> None:
    """Raise ``InputError`` naming ``option`` unless ``path`` is a model or the run folder of a
    finished training.
    """
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


def check_same_autoencoder(student: Model, teacher: Model, path: Path) -> None:
    """Raise ``InputError`` unless student and teacher have the same autoencoder: scores of other
    latents are meaningless for the student's.
    """
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
