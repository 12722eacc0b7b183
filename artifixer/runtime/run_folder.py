"""Run folders: the resumable output folder of a verb, written by one process at a time.

``RunFolder`` records which inputs and settings it belongs to, which stages are finished
(``runtime/stages`` runs them), and which files the run has written.

Layout::

    config.json            format, identity of the inputs, settings, environment (versions, device)
    .run/lock, owner.txt   lock of the writing process; its id and machine
    .run/owned.txt         relative paths that this run has written, which ``overwrite`` deletes
    .run/stages/NAME.json  marker of a finished stage: its key, its outputs, and the files in output
                           folders
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from artifixer.runtime.added_settings import with_added
from artifixer.runtime.environment import environment
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import (
    check_regular,
    is_partial,
    path_inside,
    refuse_links,
    remove_leftovers,
    write_bytes,
    write_refusals_named,
)
from artifixer.runtime.json_io import read_json, to_json, write_json
from artifixer.runtime.owned_names import is_output, may_link, read_owned
from artifixer.runtime.system import FolderLock, check_folder_name

CONFIG_FORMAT = "artifixer-run"

CONFIG_VERSION = 1


class RunFolder:
    """The output folder of a job: resumable, locked by one process, and never touching files that
    it has not written.

    Use it as a context manager, or call ``close()``: the lock is held until then, or until the
    process ends.
    """

    def __init__(self, root: Path, lock: FolderLock) -> None:
        """Use ``RunFolder.open``."""
        self.root = root
        self._lock = lock
        self._starts_anew = False
        self._made_folders: list[Path] = []
        self._owned = set(read_owned(root))
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
        """Create the folder, or reopen it if it belongs to the same ``identity`` (of the inputs)
        and ``settings``, which may have added settings that it lacks (``runtime/added_settings``).

        overwrite: start anew, deleting what the earlier run has written and nothing else.
        settings_may_change: accept other settings than before; stages are then repeated if their
        key differs (see ``is_done``). device: recorded in config.json.

        Raises ``InputError`` naming the first fields that differ, for a folder with files that no
        run has written, for a folder that another process is writing, and if the folder cannot be
        written.
        """
        root = Path(path)
        check_folder_name(root)
        wanted = {"identity": to_json(identity), "settings": to_json(settings)}
        _refuse_foreign(root)
        refuse_links(root, may_link)
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
                stored = config | {"settings": with_added(config["settings"], settings)}
                _refuse_differences(root, stored, wanted, settings_may_change)
            if config is None or overwrite or any(config[name] != wanted[name] for name in wanted):
                header = {"format": CONFIG_FORMAT, "version": CONFIG_VERSION}
                write_json(
                    root / "config.json", {**header, **wanted, "environment": environment(device)}
                )
            remove_leftovers(root)
        except BaseException as error:
            if isinstance(error, InputError) and run._starts_anew:
                run._discard()
            run.close()
            raise
        return run

    @contextmanager
    def discarded_on_bad_input(self) -> Iterator[None]:
        """On ``InputError`` inside the context, delete all files and folders of a run that this
        process has started; a resumed run is kept.
        """
        try:
            yield
        except InputError:
            if self._starts_anew:
                self._discard()
            raise

    def path(self, *parts: str) -> Path:
        """A path inside the folder, recorded as written by this run: ``overwrite`` will delete it,
        a folder with its content.
        """
        path = self.root.joinpath(*parts)
        if parts:
            self._own(self._relative(path))
        return path

    def is_done(self, stage: str, key: object) -> bool:
        """Whether ``stage`` was finished with this ``key`` (a value of ``to_json``, which may have
        added settings that the marker lacks) and all its output files still exist.
        """
        content = self._read_marker(stage)
        if content is None or with_added(content["key"], key) != to_json(key):
            return False
        return not self.missing_outputs(stage)

    def missing_outputs(self, stage: str) -> list[str]:
        """Relative paths of the outputs of a finished stage that no longer exist, including files
        in output folders.
        """
        content = self._read_marker(stage)
        if content is None:
            return []
        marker = self._marker(stage)
        return [
            name
            for name in (*content["outputs"], *content.get("files", []))
            if not path_inside(self.root, name, marker, "the run folder").exists()
        ]

    def key_of(self, stage: str) -> Any | None:
        """The key (JSON data) with which ``stage`` was finished, or None; the outputs may no longer
        exist.
        """
        content = self._read_marker(stage)
        return None if content is None else content["key"]

    def forget(self, stage: str) -> None:
        """Mark ``stage`` as not finished; its outputs are kept."""
        marker = self._marker(stage)
        if marker.exists():
            check_regular(marker, "the marker of a stage")
            marker.unlink()

    def mark_done(
        self,
        stage: str,
        key: object,
        outputs: Iterable[str | Path] = (),
        scratch: Iterable[str] = (),
    ) -> None:
        """Mark ``stage`` as finished. outputs: its files or folders, absolute or relative to the
        run folder. scratch: relative paths inside outputs that are about to be deleted.
        """
        relative = [self._relative(self.root / output) for output in outputs]
        for output in relative:
            assert (self.root / output).exists(), (
                f"stage {stage} is marked done but {output} is missing in {self.root}"
            )
            self._own(output)
        temporary = {self.root / name for name in scratch}
        files = [
            self._relative(path)
            for output in relative
            for path in sorted((self.root / output).rglob("*"))
            if path.is_file() and temporary.isdisjoint((path, *path.parents))
        ]
        write_json(self._marker(stage), {"key": key, "outputs": relative, "files": files})

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
        content: dict[str, Any] = read_json(marker)
        is_object = isinstance(content, dict)
        # markers of earlier versions list no files
        lists = [content.get("outputs"), content.get("files", [])] if is_object else []
        if (
            not lists
            or not all(isinstance(names, list) for names in lists)
            or not all(isinstance(name, str) for names in lists for name in names)
            or "key" not in content
        ):
            raise InputError(
                f'{marker}: damaged; expected an object with "key" and lists of "outputs" and '
                '"files"; delete it to repeat the stage'
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
        config: dict[str, Any] = read_json(path)
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
        """Delete what the run has written. Markers are deleted first and config.json is kept, so
        that a kill in between leaves a valid run folder without finished stages.
        """
        shutil.rmtree(self.root / ".run" / "stages", ignore_errors=True)
        # links may have been added since the folder was opened
        refuse_links(self.root, may_link)
        removed = sorted(name for name in self._owned if is_output(name) or name in self._made)
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
            with suppress(OSError):  # not empty
                (self.root / folder).rmdir()
        self._owned.clear()
        (self.root / ".run" / "owned.txt").unlink(missing_ok=True)


def is_run_folder(path: str | Path) -> bool:
    """Whether ``path`` is a run folder."""
    config = Path(path) / "config.json"
    if not config.is_file():
        return False
    try:
        content = read_json(config)
    except InputError:
        return False
    return isinstance(content, dict) and content.get("format") == CONFIG_FORMAT


def _refuse_foreign(root: Path) -> None:
    """Raise ``InputError`` unless the folder is new, empty or a run folder. (A run killed right
    after its start leaves only hidden files.)
    """
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: is a file, expected a folder for the output")
    if not root.is_dir() or is_run_folder(root):
        return
    foreign = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.name != ".run" and not is_partial(entry.name)
    )
    if foreign:
        raise InputError(
            f"{root}: holds files that no run wrote ({', '.join(foreign[:3])}); expected a new or "
            "empty folder"
        )


def _locked(root: Path) -> FolderLock:
    with write_refusals_named(root):
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
