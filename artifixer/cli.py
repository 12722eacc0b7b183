"""The command line: dispatches to the verbs and turns exceptions into exit codes.

A verb is a module with a frozen dataclass ``Command``, whose fields are the options (parsed by
tyro), and ``run_command(command)``, which returns an exit code or None for success. Only the module
of the given verb is imported, so that ``artifixer --help`` needs no torch. What the work needs can
be listed in ``WORK_MODULES``: it is imported after the options are parsed, while a signal still
ends the process at once.

=====  ==========================================================
code   meaning
=====  ==========================================================
0      done
1      a bug; the traceback is shown
2      bad input or usage; one line says where, what and why
75     stopped by SIGTERM with the state saved; run it again
130    interrupted (Ctrl-C)
141    the reader of the output has closed it (broken pipe)
=====  ==========================================================
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from artifixer import __version__
from artifixer.runtime.collection import begin_collection
from artifixer.runtime.errors import (
    EXIT_BAD_INPUT,
    EXIT_BROKEN_PIPE,
    EXIT_BUG,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    InputError,
    Stopped,
)
from artifixer.runtime.stopping import (
    STOPPED_TEXT,
    leave_on_signals,
    stop_at_once,
    was_cut_short,
    was_interrupted,
)

#: verb -> (module with its ``Command``, description), in the order of the overview.
VERBS: dict[str, tuple[str, str]] = {
    "run": (
        "artifixer.commands.run",
        "the whole job: capture -> splats, repaired frames, splats again, report",
    ),
    "demo": (
        "artifixer.commands.demo",
        "the whole job on a small procedural capture, in a few minutes",
    ),
    "inspect": (
        "artifixer.commands.inspect",
        "the content of a capture: format, photos, cameras, points, problems",
    ),
    "reconstruct": (
        "artifixer.commands.reconstruct",
        "photos -> 3D Gaussians, held-out renders and their quality",
    ),
    "render": (
        "artifixer.commands.render",
        "3D Gaussians -> images, opacity, depth and a video along a camera path",
    ),
    "view": (
        "artifixer.commands.view",
        "fly through a scene in a browser, with live repair of the view",
    ),
    "convert": (
        "artifixer.commands.convert",
        "splat files from one format to another: PLY, SPZ, SOG, .splat -> PLY, SPZ, SOG, USDZ",
    ),
    "enhance": ("artifixer.commands.enhance", "renders -> clean frames, by the video model"),
    "evaluate": (
        "artifixer.commands.evaluate",
        "published benchmarks, held-out photos, frames of any method -> tables",
    ),
    "curate": ("artifixer.commands.curate", "captures or procedural scenes -> training pairs"),
    "train": ("artifixer.commands.train", "training pairs -> a video model, stage by stage"),
    "models": ("artifixer.commands.models", "the video models by name: weights, licence, memory"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code. argv: the arguments after the program's name; those of
    the process by default.
    """
    with leave_on_signals():
        return _exit_code(list(sys.argv[1:] if argv is None else argv))


def _exit_code(words: list[str]) -> int:
    # Waiting OpenMP threads otherwise spin, which slows torch down severalfold on a busy machine.
    # Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except InputError as error:
        return _complain(f"error: {error}", EXIT_BAD_INPUT)
    except Stopped as stopped:
        return _complain(str(stopped) or STOPPED_TEXT, EXIT_STOPPED)
    except KeyboardInterrupt:
        return _complain_of_signal()
    except BrokenPipeError:
        _discard_output()
        return EXIT_BROKEN_PIPE
    except Exception:
        # a library may have turned the exception of a signal into another one
        if was_interrupted() or was_cut_short():
            return _complain_of_signal()
        traceback.print_exc()
        return EXIT_BUG


def _run(words: list[str]) -> int:
    match words:
        case []:
            print(_overview(), file=sys.stderr)
            return EXIT_BAD_INPUT
        case ["-h" | "--help" | "help"]:
            print(_overview())
            return EXIT_DONE
        case ["--version"]:
            print(f"artifixer {__version__}")
            return EXIT_DONE
        case ["help", verb]:
            words = [verb, "--help"]
    verb, *options = words
    if verb not in VERBS:
        raise InputError(_unknown_verb(verb))
    module = importlib.import_module(VERBS[verb][0])
    command, code = _parsed(verb, module.Command, options)
    if command is None:
        return code
    for name in getattr(module, "WORK_MODULES", ()):
        importlib.import_module(name)
    begin_collection()
    with stop_at_once():
        code = module.run_command(command)
    return EXIT_DONE if code is None else code


def _parsed(verb: str, command_type: type, options: list[str]) -> tuple[Any, int]:
    """The parsed ``Command``, or None and the exit code if help was printed. Raises ``InputError``
    for usage errors.
    """
    import tyro

    _refuse_repeated_lists(command_type, options)
    _hide_empty_defaults(command_type)
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            command: Any = tyro.cli(
                command_type,
                prog=f"artifixer {verb}",
                # the whole docstring, because tyro would drop the examples
                description=inspect.getdoc(command_type),
                args=options,
                config=(
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.DisallowNone,
                    tyro.conf.PositionalMetavarFromFieldName,
                ),
            )
            return command, EXIT_DONE
    except SystemExit as exit_:
        if exit_.code in (None, EXIT_DONE):
            return None, EXIT_DONE
        raise InputError(
            f"{_one_line(messages.getvalue())} (see artifixer {verb} --help)"
        ) from None


def _refuse_repeated_lists(command_type: type, options: Sequence[str]) -> None:
    """Raise ``InputError`` for an option of several values that is given twice: the parser would
    keep only the values of the last one.
    """
    from typing import get_args, get_origin, get_type_hints

    for name, hint in get_type_hints(command_type).items():
        variants = [part for part in (hint, *get_args(hint)) if get_origin(part) is tuple]
        is_list = any(get_args(part)[-1:] == (...,) for part in variants)
        if not is_list or name in _repeatable(command_type):
            continue
        flag = f"--{name.replace('_', '-')}"
        given = [word.partition("=")[0].replace("_", "-") for word in options]
        if given.count(flag) > 1:
            raise InputError(f"{flag} is given twice; expected all its values after one {flag}")


def _repeatable(command_type: type) -> set[str]:
    """Options of several values that are given once for each."""
    from typing import get_type_hints

    import tyro

    marked: Any = get_type_hints(command_type, include_extras=True)
    marker: Any = tyro.conf.UseAppendAction[tuple[str, ...]]
    return {
        name
        for name, hint in marked.items()
        if set(getattr(hint, "__metadata__", ())) & set(marker.__metadata__)
    }


@functools.cache
def _hide_empty_defaults(command_type: type) -> None:
    """Omit "(default: ...)" for flags and for defaults that are None or empty, which the help texts
    describe themselves.
    """
    from typing import Annotated, get_type_hints

    import tyro

    hints = get_type_hints(command_type, include_extras=True)
    for field in dataclasses.fields(command_type):
        if isinstance(field.default, bool) or field.default in (None, "", ()):
            hint = tyro.conf.arg(help_behavior_hint="")
            hints[field.name] = Annotated[hints[field.name], hint]
    command_type.__annotations__ = hints


def _one_line(boxed: str) -> str:
    """The text of tyro's framed error message, without the frame, details and reference to the
    help.
    """
    rows = [row.strip(" │|+") for row in boxed.splitlines() if not row.startswith(("╭", "╰", "+"))]
    sections = re.split(r"[─-]{8,}", "\n".join(rows))
    useful = [
        " ".join(section.split())
        for section in sections
        if not re.match(r"\s*(For full helptext|Argument helptext)", section)
    ]
    return (
        "; ".join(re.sub(r"\s*Got errors:.*", "", section) for section in useful if section)
        or "wrong usage"
    )


def _unknown_verb(verb: str) -> str:
    close = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(VERBS)}"
    return f"unknown verb {verb!r}: {hint} (see artifixer --help)"


def _overview() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {text}" for verb, (_, text) in VERBS.items())
    return (
        "usage: artifixer VERB [options]\n\n"
        "Repair and extend 3D captures: Gaussian splats from few photos, cleaned by a video "
        "diffusion model.\n\n"
        f"verbs:\n{verbs}\n\n"
        "artifixer VERB --help shows the options of a verb; artifixer --version the version."
    )


def _complain(message: str, code: int) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(f"artifixer: {message}", file=sys.stderr, flush=True)
    return code


def _complain_of_signal() -> int:
    return (
        _complain(STOPPED_TEXT, EXIT_STOPPED)
        if was_cut_short()
        else _complain("interrupted", EXIT_INTERRUPTED)
    )


def _discard_output() -> None:
    """Redirect standard output to the null device, so that Python's flush at exit does not fail
    again.
    """
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
