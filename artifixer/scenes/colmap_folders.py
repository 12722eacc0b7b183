"""Where the COLMAP models of a capture lie, which of several is read, and where its photos are.

Mapping that falls into parts leaves numbered models (``sparse/0``, ``sparse/1``): the one with the
most images is read unless the user chooses another, and a note names the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.scenes.colmap_files import image_count
from artifixer.scenes.colmap_model import model_file


def find_model(capture: Path) -> Path | None:
    """Folder of the COLMAP model of a capture, or None: the one with the most images where mapping
    gave several.
    """
    return _largest_model(
        capture,
        (
            "sparse/*",
            "sparse",
            ".",
            "distorted/sparse/*",
            "distorted/sparse",
            "dense/*/sparse",
            "dense/sparse",
        ),
    )


def find_nerfstudio_model(capture: Path) -> Path | None:
    """Folder of the COLMAP model that nerfstudio keeps beside its own files, or None."""
    return _largest_model(capture, ("colmap/sparse/*", "colmap/sparse"))


def models_in(folder: Path) -> list[Path]:
    """The numbered models in a folder, such as the ``sparse`` of a capture."""
    return _models_at(folder, "*")


def numbered_model(capture: Path, model_folder: Path, number: int) -> Path:
    """The model with a number among those beside ``model_folder``, which is read by default.

    Raises InputError, naming those there are, for another number.
    """
    models = _numbered_siblings(model_folder)
    chosen = next((model for label, model in models if int(label[:9]) == number), None)
    if chosen is None:
        known = ", ".join(
            f"{label} with {counted(max(image_count(model), 0), 'image')}"
            for label, model in models
        )
        raise InputError(
            f"--sparse-model {number}: {capture} has no COLMAP model of that number; expected "
            + (f"one of {known}" if models else f"none: {model_folder} is the only model")
        )
    return chosen


def is_model(folder: Path) -> bool:
    """Whether ``folder`` holds any part of a model; ``read_model`` tells what is missing."""
    return any(
        is_regular(model_file(folder, name, suffix))
        for name in ("cameras", "images")
        for suffix in (".bin", ".txt")
    )


def other_models_note(capture: Path, model_folder: Path) -> tuple[str, ...]:
    """One line about the parts into which mapping fell besides the one that is read."""
    others = [model for _, model in _numbered_siblings(model_folder) if model != model_folder]
    if not others:
        return ()
    counts = ", ".join(
        f"{_place(capture, model)} with {counted(max(image_count(model), 0), 'image')}"
        for model in others
    )
    return (
        f"read {_place(capture, model_folder)}; left out {counts} (--sparse-model N chooses "
        "another)",
    )


def photo_home(capture: Path, model_folder: Path) -> Path:
    """The folder whose photos a model describes: the capture's, or what holds the model when that
    is given as the capture.
    """
    where = model_folder.resolve()
    where = where.parent if where.name.isdecimal() else where
    if where.name != "sparse":
        return capture
    if model_folder == capture:
        return where.parent
    inner = model_folder.parent.parent if model_folder.name.isdecimal() else model_folder.parent
    return (
        inner
        if inner.relative_to(capture).parts[:1] == ("dense",) and (inner / "images").is_dir()
        else capture
    )


# Models in their folders --------------------------------------------------------------------------


def _numbered_siblings(model_folder: Path) -> list[tuple[str, Path]]:
    """Number and folder of every model where ``model_folder`` is one of several numbered ones."""
    above = model_folder.parent
    if model_folder.name.isdecimal():  # sparse/0
        return [(model.name, model) for model in _models_at(above, "*")]
    if above.name.isdecimal():  # dense/0/sparse
        place = f"*/{model_folder.name}"
        return [(model.parent.name, model) for model in _models_at(above.parent, place)]
    return []


def _largest_model(capture: Path, places: Sequence[str]) -> Path | None:
    """The largest model of the first place that has any; of equal ones the first."""
    for place in places:
        models = _models_at(capture, place)
        if models:
            return models[0] if len(models) == 1 else max(models, key=image_count)
    return None


def _models_at(capture: Path, place: str) -> list[Path]:
    """Models in a folder, or with ``*`` in the place's numbered folders, in the order of their
    numbers.
    """
    if "*" not in place:
        return [capture / place] if is_model(capture / place) else []
    before, after = place.split("*")
    folder = capture / before
    numbered = (
        [path for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    )
    models = (
        path / after.strip("/")
        for path in sorted(numbered, key=lambda path: (int(path.name[:9]), path.name))
    )
    return [model for model in models if is_model(model)]


def _place(capture: Path, model_folder: Path) -> str:
    """A model's folder as notes name it."""
    inside = model_folder.is_relative_to(capture) and model_folder != capture
    return model_folder.relative_to(capture).as_posix() if inside else model_folder.name
