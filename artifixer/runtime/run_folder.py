"""Output folders: files that appear whole or not at all, and runs that resume.

In: values and paths. Out: JSON and binary files written atomically, content hashes, and
``RunFolder``: a folder that knows which capture and settings it belongs to, which stages are
finished, and that only one process writes it.

Layout of a run folder::

    config.json            format, identity (which inputs), settings, environment (versions, commit, device)
    .run/lock, owner.txt   held by the process that writes; which one that is, as long as it does
    .run/owned.txt         relative paths this run has written, so that ``overwrite`` removes nothing else
    .run/stages/NAME.json  one marker per finished stage: its key and its outputs
"""

from __future__ import annotations

import dataclasses
import enum
import errno
import fnmatch
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

import artifixer
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import (
    check_regular,
    open_regular,
    path_inside,
    read_whole,
    reason,
    refuse_links,
)
from artifixer.runtime.system import (
    FolderLock,
    check_folder_name,
    flush_file,
    flush_folder,
    is_alive,
    put_in_place,
)

CONFIG_FORMAT = "artifixer-run"
CONFIG_VERSION = 1

#: Libraries whose versions can change results; recorded in config.json where installed.
RECORDED_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "numba",
    "pillow",
    "av",
    "pycolmap",
    "opencv-python-headless",
    "diffusers",
    "transformers",
    "gsplat",
)

#: What the operating system refuses for reasons the user can change, in the user's words.
WRITE_REFUSALS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EFBIG: "file larger than the system allows",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file, expected a folder",
    errno.EEXIST: "a part of the path is a file, expected a folder",
    errno.EISDIR: "is a folder, expected a file",
    errno.ENAMETOOLONG: "the name is too long",
}

#: Less free space than this counts as a full disk when a library reports a failed write without
#: saying why.
FULL_DISK_BYTES = 64 * 1024

#: Levels of lists and objects in a JSON file: more than any format here has, few enough to print a
#: value without running out of stack.
DEEPEST_JSON = 100

#: Bytes of a JSON file, more than any format here needs: lists of lists take twenty times as much
#: in memory.
LARGEST_JSON = 64 * 1024**2

#: First parts of the paths that the verbs write into their folders: nothing else is removed because
#: ``owned.txt`` lists it, since a received or damaged list may name what somebody else put there. A
#: new output gets its line here, or ``overwrite`` will leave it.
OUTPUT_NAMES = (
    *(
        "camera_scale.json",
        "cameras.json",
        "index.json",
        "manifest.json",
        "metrics.json",
        "metrics.jsonl",
        "split.json",
        "timing.json",
        "transforms.json",
    ),
    *(
        "log.txt",
        "preview.png",
        "report.html",
        "video.mp4",
        "splats.*",
        "checkpoint.safetensors",
        "pairs-*.tar",
    ),
    *(
        "cache",
        "checkpoints",
        "dataset",
        "export",
        "frames",
        "model",
        "opacity",
        "depth",
        "references",
        "rgb",
    ),
    *("renders", "renders_3d", "renders_input"),
    *("sfm", "splats", "state", "tensorboard", "validation", "videos", ".scenes"),
)

#: Links that the verbs make in their folders: photos for structure from motion, and the text
#: encoder that a model shares.
LINKED_NAMES = ("sfm/*/photos/*", "model/text_encoder", "model/tokenizer")

#: Width up to which a JSON list or object stays on one line.
JSON_LINE_WIDTH = 140

_PARTIAL_NAME = re.compile(r"^\.partial-(\d+)-\d+-")


# --------------------------------------------------------------------------------------------------
# atomic files


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary sibling of ``path`` to write to; it replaces ``path`` on success and disappears
    on failure.

    Missing parent folders are made. The temporary name keeps the suffix, so libraries that choose a
    format by name work. The bytes reach the disk before the name changes: after a crash there is
    the old file or the new one. Raises ``InputError`` naming ``path`` where the disk is full or the
    system refuses to write.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        with _refusals_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            assert temporary.is_file(), f"nothing was written for {path}"
            flush_file(temporary)
            put_in_place(temporary, path)
            flush_folder(path.parent)
    finally:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            temporary.unlink()


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
    """Write a file atomically; errors as in ``atomic_path``."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def append_text(path: str | Path, text: str) -> None:
    """Add text at the end of a file, which is made when missing; errors as in ``atomic_path``."""
    path = Path(path)
    with _refusals_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            check_regular(path, "a text file")
        with path.open("a", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` as JSON, atomically, the same bytes for the same value.

    Takes what ``to_json`` takes. Mappings are sorted by key and sets by value; sequences keep their
    order. Short lists and objects stay on one line, so that matrices and cameras can be read.
    """
    text = _json_text(to_json(value), indent=0) + "\n"
    # undecodable file names become JSON escapes
    write_bytes(path, text.encode(errors="backslashreplace"))


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises ``InputError`` naming the file when it is missing, unreadable, of more than
    ``LARGEST_JSON`` bytes, not JSON or nested absurdly deep.
    """
    path = Path(path)
    content = read_whole(path, "a JSON file", LARGEST_JSON)
    try:
        value = json.loads(content)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not text in UTF-8 (byte {error.start}), expected JSON"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: line {error.lineno}, column {error.colno}: {error.msg}, expected valid JSON"
        ) from error
    except ValueError as error:  # numbers of thousands of digits
        raise InputError(f"{path}: {error}, expected plain JSON") from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply, expected plain JSON") from error
    if _is_deeper(value, DEEPEST_JSON):
        raise InputError(f"{path}: nested deeper than {DEEPEST_JSON} levels, expected plain JSON")
    return value


def to_json(value: object) -> Any:
    """``value`` as plain JSON data: None, bool, int, float, str, list and dict with string keys.

    Dataclasses become objects, paths strings, enums their names, sets sorted lists, tensors and
    arrays nested lists. JSON has no NaN and no infinity: both become null. Other types raise
    ``TypeError``.
    """
    match value:
        case None | bool() | str():
            return value
        case enum.Enum():
            return value.name
        case int() | np.integer():
            return int(value)
        case float() | np.floating():
            return float(value) if math.isfinite(value) else None
        case np.bool_():
            return bool(value)
        case Path():
            return value.as_posix()
        case Tensor():
            return to_json(value.detach().cpu().tolist())
        case np.ndarray():
            return to_json(value.tolist())
        case Mapping():
            return {_json_key(key): to_json(item) for key, item in value.items()}
        case set() | frozenset():
            return sorted(to_json(item) for item in value)
        case list() | tuple():
            return [to_json(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    raise TypeError(f"{type(value).__name__} has no JSON form")


def fingerprint(*parts: object) -> str:
    """SHA-256 over the parts, in hex: equal for equal content, also between processes and machines.

    Takes what ``to_json`` takes and bytes. A ``Path`` stands for the content of its file, at any
    depth (``InputError`` when it cannot be read); tensors and arrays for dtype, shape and values.
    Order of mappings and sets does not matter; 1, 1.0, "1" and True differ.
    """
    digest = hashlib.sha256()
    for piece in _pieces(list(parts)):
        # lengths, so that no two different lists of pieces look alike
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------
# run folders


class RunFolder:
    """The output folder of one job: opened by one process at a time, resumable, and careful with
    files that are not its own.

    Use it as a context, or call ``close()``: the lock is held until then (or until the process
    ends, however it ends).
    """

    def __init__(self, root: Path, lock: FolderLock) -> None:
        """Use ``RunFolder.open``."""
        self.root = root
        self._lock = lock
        self._starts_anew = False
        self._made_folders: list[Path] = []
        self._owned = set(_read_owned(root))
        self._made: set[str] = set()  # by this process

    @classmethod
    def open(
        cls,
        path: str | Path,
        identity: Mapping[str, object],
        settings: Mapping[str, object],
        overwrite: bool = False,
        *,
        settings_may_change: bool = False,
        device: str | torch.device = "cpu",
    ) -> RunFolder:
        """Create the folder, or reopen it when it belongs to the same ``identity`` (which inputs)
        and ``settings``.

        overwrite: start anew; removes what the earlier run wrote, and nothing else.
        settings_may_change: other settings are taken over; stages then rerun where their key
        differs (see ``is_done``). device: recorded in config.json.

        Raises ``InputError`` naming the first fields that differ, for a folder with files that no
        run wrote, for a folder that another process is writing, and where the folder cannot be
        written.
        """
        root = Path(path)
        check_folder_name(root)
        wanted = {"identity": to_json(identity), "settings": to_json(settings)}
        _refuse_foreign(root)
        refuse_links(root, _may_link)
        made = [folder for folder in (root, *root.parents) if not folder.exists()]
        lock = _locked(root)
        try:
            run = cls(root, lock)
        except InputError:
            lock.close()
            raise
        try:
            run._made_folders = made
            config = run._read_config()
            run._starts_anew = config is None or overwrite
            if config is not None and overwrite:
                run._clear()
            elif config is not None:
                _refuse_differences(root, config, wanted, settings_may_change)
            if config is None or overwrite or any(config[name] != wanted[name] for name in wanted):
                header = {"format": CONFIG_FORMAT, "version": CONFIG_VERSION}
                write_json(
                    root / "config.json", {**header, **wanted, "environment": environment(device)}
                )
            _remove_leftovers(root)
        except BaseException as error:
            if isinstance(error, InputError) and run._starts_anew:
                run._discard()
            run.close()
            raise
        return run

    @contextmanager
    def discarded_on_bad_input(self) -> Iterator[None]:
        """Leave nothing of a run that has only begun when its input turns out to be unusable:
        neither files nor folders made for it.

        A run that was begun earlier keeps what it has.
        """
        try:
            yield
        except InputError:
            if self._starts_anew:
                self._discard()
            raise

    def path(self, *parts: str) -> Path:
        """A path inside the folder, remembered as this run's own: ``overwrite`` will remove it (a
        folder with all its content).
        """
        path = self.root.joinpath(*parts)
        if parts:
            self._own(self._relative(path))
        return path

    def is_done(self, stage: str, key: object) -> bool:
        """Whether ``stage`` was finished with this ``key`` (JSON data, usually a ``fingerprint``)
        and all its outputs are still there.
        """
        content = self._read_marker(stage)
        if content is None or content["key"] != to_json(key):
            return False
        outputs = [
            path_inside(self.root, output, self._marker(stage), "the run folder")
            for output in content["outputs"]
        ]
        return all(output.exists() for output in outputs)

    def key_of(self, stage: str) -> Any | None:
        """The key (JSON data) with which ``stage`` was finished, or None; its outputs may be gone."""
        content = self._read_marker(stage)
        return None if content is None else content["key"]

    def forget(self, stage: str) -> None:
        """Take back that ``stage`` is finished; its outputs stay where they are."""
        marker = self._marker(stage)
        if marker.exists():
            check_regular(marker, "the marker of a stage")
            marker.unlink()

    def mark_done(self, stage: str, key: object, outputs: Iterable[str | Path] = ()) -> None:
        """Record that ``stage`` is finished. ``outputs``: its files or folders, relative to the
        run's folder or inside it.
        """
        relative = [self._relative(self.root / output) for output in outputs]
        for output in relative:
            assert (self.root / output).exists(), (
                f"stage {stage} is marked done but {output} is missing in {self.root}"
            )
            self._own(output)
        write_json(self._marker(stage), {"key": key, "outputs": relative})

    def close(self) -> None:
        """Release the folder for other processes."""
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _marker(self, stage: str) -> Path:
        assert re.fullmatch(r"[\w.-]+", stage), (
            f"stage name {stage!r}: expected letters, digits, '_', '-' and '.'"
        )
        return self.root / ".run" / "stages" / f"{stage}.json"

    def _read_marker(self, stage: str) -> dict[str, Any] | None:
        """The stage's marker, checked; None when there is none."""
        marker = self._marker(stage)
        if not marker.exists():
            return None
        content = read_json(marker)
        outputs = content.get("outputs") if isinstance(content, dict) else None
        if (
            not isinstance(outputs, list)
            or not all(isinstance(output, str) for output in outputs)
            or "key" not in content
        ):
            raise InputError(
                f'{marker}: damaged; expected an object with "key" and a list of "outputs"; delete '
                "it to repeat the stage"
            )
        return content

    def _relative(self, path: Path) -> str:
        relative = Path(os.path.relpath(path, self.root))
        assert relative.parts and relative.parts[0] not in (".", "..", ".run"), (
            f"{path} is not inside the run folder {self.root}"
        )
        return relative.as_posix()

    def _own(self, relative: str) -> None:
        self._made.add(relative)
        if relative not in self._owned:
            self._owned.add(relative)
            write_bytes(
                self.root / ".run" / "owned.txt",
                "".join(f"{name}\n" for name in sorted(self._owned)).encode(),
            )

    def _read_config(self) -> dict[str, Any] | None:
        path = self.root / "config.json"
        if not path.exists():
            return None
        config = read_json(path)
        version = config.get("version") if isinstance(config, dict) else None
        if version != CONFIG_VERSION:
            raise InputError(
                f"{path}: format version {str(version)[:40]}, expected {CONFIG_VERSION}; choose "
                "another folder"
            )
        for name in ("identity", "settings"):
            if not isinstance(config.get(name), dict):
                raise InputError(
                    f'{path}: "{name}" is {str(config.get(name))[:40]!r}, expected an object; '
                    "choose another folder"
                )
        return config

    def _discard(self) -> None:
        self._clear()
        (self.root / "config.json").unlink(missing_ok=True)
        shutil.rmtree(self.root / ".run", ignore_errors=True)
        for folder in self._made_folders:  # from the inside out
            with suppress(OSError):  # not empty
                folder.rmdir()

    def _clear(self) -> None:
        """Remove markers first and keep config.json: a kill in between leaves a folder that is
        still recognised and claims nothing.
        """
        shutil.rmtree(self.root / ".run" / "stages", ignore_errors=True)
        # of what was put there since the folder was opened, nothing is followed either
        refuse_links(self.root, _may_link)
        removed = sorted(name for name in self._owned if _is_output(name) or name in self._made)
        for relative in removed:
            path = self.root / relative
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                with suppress(FileNotFoundError, NotADirectoryError):
                    path.unlink()
        for folder in sorted(
            {parent for name in removed for parent in Path(name).parents if parent.parts},
            reverse=True,
        ):
            with suppress(OSError):  # not empty: somebody else's files are in it
                (self.root / folder).rmdir()
        self._owned.clear()
        (self.root / ".run" / "owned.txt").unlink(missing_ok=True)


def is_run_folder(path: str | Path) -> bool:
    """Whether ``path`` is a folder that ``RunFolder`` made."""
    config = Path(path) / "config.json"
    if not config.is_file():
        return False
    try:
        content = read_json(config)
    except InputError:
        return False
    return isinstance(content, dict) and content.get("format") == CONFIG_FORMAT


def environment(device: str | torch.device = "cpu") -> dict[str, Any]:
    """What besides inputs, settings and seed can change numbers: versions, commit of the source
    tree (or None), platform, device.
    """
    device = torch.device(device)
    return {
        "artifixer": artifixer.__version__,
        "commit": _source_commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _installed_versions(RECORDED_PACKAGES),
    }


# --------------------------------------------------------------------------------------------------
# helpers


@contextmanager
def _refusals_named(path: Path) -> Iterator[None]:
    """Turn a refusal of the system to write ``path`` into an ``InputError`` that names it; other
    errors pass.
    """
    try:
        yield
    except Exception as error:
        refusal = _refusal(error, path.parent)
        if refusal is None:
            raise
        raise InputError(f"{path}: cannot write: {refusal}") from error


def _refusal(error: Exception, folder: Path) -> str | None:
    """Why the system refused to write, in the user's words; None when the error is not of that
    kind.
    """
    if isinstance(error, InputError):
        return None
    number = getattr(error, "errno", None)
    # libraries written in Rust, such as safetensors
    in_words = re.search(r"\(os error (\d+)\)", str(error))
    if number is None and in_words:
        number = int(in_words[1])
    if number is not None:
        return WRITE_REFUSALS.get(number)
    # numpy and Pillow report a failed write without its errno, so the disk itself is asked.
    if folder.is_dir() and shutil.disk_usage(folder).free < FULL_DISK_BYTES:
        return WRITE_REFUSALS[errno.ENOSPC]
    return None


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested more than ``levels`` deep."""
    level = [value]
    for _ in range(levels + 1):
        containers = [item for item in level if isinstance(item, (list, dict))]
        if not containers:
            return False
        level = [
            item
            for container in containers
            for item in (container.values() if isinstance(container, dict) else container)
        ]
    return True


def _json_key(key: object) -> str:
    if isinstance(key, enum.Enum):
        return key.name
    if isinstance(key, (str, int)) and not isinstance(key, bool):
        return str(key)
    raise TypeError(f"{key!r} cannot be a key in JSON")


def _json_text(value: Any, indent: int) -> str:
    """JSON indented by two, except that lists and objects that fit stay on one line."""
    line = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False)
    nested = isinstance(value, (list, dict)) and value
    if not nested or (indent and len(line) + indent <= JSON_LINE_WIDTH):
        return line
    space = " " * (indent + 2)
    if isinstance(value, list):
        items = [space + _json_text(item, indent + 2) for item in value]
        opening, closing = "[]"
    else:
        items = [
            f"{space}{json.dumps(key, ensure_ascii=False)}: {_json_text(value[key], indent + 2)}"
            for key in sorted(value)
        ]
        opening, closing = "{}"
    return opening + "\n" + ",\n".join(items) + "\n" + " " * indent + closing


def _pieces(value: object) -> Iterator[bytes]:
    """The value as a list of byte strings that tells any two values apart; containers announce
    their length.
    """
    match value:
        case Path():
            yield b"file"
            yield _file_digest(value)
        case Tensor():
            yield f"array {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}".encode()
            yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        case np.ndarray():
            yield f"array {value.dtype} {value.shape}".encode()
            yield np.ascontiguousarray(value).tobytes()
        case bytes():
            yield b"bytes"
            yield value
        case enum.Enum():
            yield f"enum {type(value).__name__}.{value.name}".encode()
        case Mapping():
            yield f"mapping {len(value)}".encode()
            for key in sorted(value, key=_json_key):
                yield _json_key(key).encode()
                yield from _pieces(value[key])
        case set() | frozenset():
            yield f"set {len(value)}".encode()
            yield from sorted(fingerprint(item).encode() for item in value)
        case list() | tuple():
            yield f"list {len(value)}".encode()
            for item in value:
                yield from _pieces(item)
        case None | bool() | int() | float() | str() | np.generic():
            plain = value.item() if isinstance(value, np.generic) else value
            yield f"{type(plain).__name__} {plain!r}".encode()
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield type(value).__name__.encode()
            yield from _pieces(
                {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            )
        case _:
            raise TypeError(f"{type(value).__name__} has no fingerprint")


def _file_digest(path: Path) -> bytes:
    if not path.exists():
        raise InputError(f"{path}: cannot read: No such file or directory")
    with open_regular(path, "a file") as file:
        try:
            return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise InputError(f"{path}: cannot read: {reason(error)}") from error


def _read_owned(root: Path) -> list[str]:
    """The paths in ``owned.txt``. It says what ``overwrite`` deletes, so a line that no run of ours
    wrote ends everything.
    """
    path = root / ".run" / "owned.txt"
    if not path.exists():
        return []
    try:
        names = read_whole(path, "a list of paths", LARGEST_JSON).decode().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not text in UTF-8 (byte {error.start}); choose another folder"
        ) from error
    for number, name in enumerate(names, start=1):
        plain = PurePosixPath(name)
        if (
            "\\" in name
            or name != plain.as_posix()
            or plain.is_absolute()
            or ".." in plain.parts
            or plain.parts[:1] in ((), (".run",))
        ):
            raise InputError(
                f"{path}: line {number} is {name[:80]!r}, expected a path of a result inside the "
                "folder; nothing was deleted, "
                "choose another folder"
            )
    return names


def _is_output(relative: str) -> bool:
    """Whether a path inside a run folder is one that verbs write."""
    first = relative.split("/")[0]
    return any(fnmatch.fnmatchcase(first, pattern) for pattern in OUTPUT_NAMES)


def _may_link(relative: PurePosixPath) -> bool:
    return any(fnmatch.fnmatchcase(relative.as_posix(), pattern) for pattern in LINKED_NAMES)


def _refuse_foreign(root: Path) -> None:
    """A folder may be used when it is new, empty, or made by us (a run killed at its very start
    leaves only hidden state).
    """
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file, expected a folder for the output")
    if not root.is_dir() or is_run_folder(root):
        return
    foreign = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.name != ".run" and not _PARTIAL_NAME.match(entry.name)
    )
    if foreign:
        raise InputError(
            f"{root}: holds files that no run wrote ({', '.join(foreign[:3])}); expected a new or "
            "empty folder"
        )


def _locked(root: Path) -> FolderLock:
    with _refusals_named(root):
        return FolderLock(root, root / ".run")


def _refuse_differences(
    root: Path, config: Mapping[str, Any], wanted: Mapping[str, Any], settings_may_change: bool
) -> None:
    for name, holds in (("identity", "another input"), ("settings", "other settings")):
        if name == "settings" and settings_may_change:
            continue
        differences = list(_differences(config[name], wanted[name]))
        if differences:
            shown = "; ".join(differences[:3]) + (
                f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
            )
            raise InputError(
                f"{root}: was made from {holds}: {shown}; use --overwrite to start anew, or "
                "another folder"
            )


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """One line per leaf that differs: its dotted name, the old value and the new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(
                old.get(key, "absent"), new.get(key, "absent"), f"{name}.{key}" if name else key
            )
    elif old != new:
        yield f"{name} is {_shortened(old)} there, {_shortened(new)} now"


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if value != "absent" else "absent"
    return text if len(text) <= 80 else text[:77] + "..."


def _remove_leftovers(root: Path) -> None:
    """Delete temporary files of processes that died while writing."""
    for path in root.rglob(".partial-*"):
        match = _PARTIAL_NAME.match(path.name)
        if match and not is_alive(int(match[1])):
            path.unlink(missing_ok=True)


@functools.cache
def _source_commit() -> str | None:
    """The git commit of the source tree this package runs from, "-dirty" with local changes; None
    for an installed package.
    """
    tree = Path(artifixer.__file__).parents[1]
    if not (tree / ".git").exists():
        return None
    command = [
        "git",
        "-C",
        str(tree),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def _installed_versions(names: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
