"""The paper's diagnostics (section 5.4, Table 4, appendix A) as rows of a table.

In: the evaluated model, and models trained as variants of Table 4. Out: for each row the settings
with which the renders of a finished run are enhanced once more, or the reason why it is absent. All
rows of a scene share one reconstruction, its renders and its reference views.

Rays, opacity and references are withheld at inference from weights that were trained with them; a
model trained without them is a different experiment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from artifixer.enhance.enhance import Drop, EnhanceConfig
from artifixer.runtime.counts import counted
from artifixer.video.flow import SourceKind
from artifixer.video.model import Mode, ModelConfig

#: Models of ``--diagnostic-models`` by what they were trained for.
ROLES = ("mixing", "direct", "concatenation", "no-forcing")

#: Prefix of the rows' method names in results.
PREFIX = "diagnostic_"

#: Maximum number of denoising steps in the rows that vary it (appendix A).
MAX_STEPS = 4

Group = Literal["start", "inputs", "steps"]


@dataclass(frozen=True)
class Diagnostic:
    """One row."""

    name: str

    title: str
    """As tables show it."""

    group: Group
    """What the row varies: the start of the flow, the inputs, or the number of steps."""

    role: str = ""
    """The model of ``--diagnostic-models`` that the row uses if it is given; otherwise the
    evaluated model."""

    needs_role: bool = False
    """Whether the row needs that model."""

    source: SourceKind | None = None
    """Start of the flow; None for the model's own."""

    steps: int | None = None
    """Denoising steps per block; None for the model's own."""

    drop: tuple[Drop, ...] = ()
    """Inputs that are withheld from the model."""

    @property
    def method(self) -> str:
        """Its name among the methods of ``results.json``."""
        return f"{PREFIX}{self.name}"


DIAGNOSTICS = (
    Diagnostic("concatenation", "Channel concatenation", "start", "concatenation", True),
    Diagnostic("direct", "Direct render", "start", "direct", source="direct"),
    Diagnostic("no_forcing", "No Diffusion Forcing start", "start", "no-forcing", True),
    Diagnostic("mixing", "Opacity mixing", "start", "mixing", source="mixing"),
    Diagnostic("references_only", "References only", "inputs", drop=("renders", "text")),
    Diagnostic("text_only", "Text only", "inputs", drop=("renders", "references")),
    Diagnostic("no_rays", "Without rays", "inputs", drop=("rays",)),
    Diagnostic("no_opacity", "Without opacity", "inputs", drop=("opacity",)),
    Diagnostic("no_references", "Without references", "inputs", drop=("references",)),
    *(
        Diagnostic(f"steps{steps}", counted(steps, "step"), "steps", steps=steps)
        for steps in range(1, MAX_STEPS + 1)
    ),
)

#: Titles by the methods' names.
TITLES = {row.method: row.title for row in DIAGNOSTICS}


def absent(
    row: Diagnostic, models: Mapping[str, ModelConfig], has_prompts: bool, references: int
) -> str | None:
    """Why a row cannot be computed; None if it can. models: by role, the evaluated one as ""."""
    own = models[""]
    if row.needs_role and row.role not in models:
        return f"no model trained for it (--diagnostic-models {row.role}=FOLDER)"
    model = model_of(row, models)
    if model.camera_scale != own.camera_scale:
        return (
            f"model {model.name} has camera scale {model.camera_scale}, {own.name} has "
            f"{own.camera_scale}"
        )
    starts_at_noise = model.source == "noise"
    if row.role == "concatenation" and not starts_at_noise:
        return f"model {model.name} has no channels for the render"
    if row.source is not None and starts_at_noise:
        return f"model {model.name} reads the render on channels of its own"
    if row.name == "text_only":
        if not model.takes_text:
            return f"model {model.name} reads no text"
        if not has_prompts:
            return "no prompts (--prompts FILE)"
    if row.name in ("references_only", "no_references"):
        if not model.takes_references:
            return f"model {model.name} takes no references"
        if not references:
            return "--references 0"
    return None


def model_of(row: Diagnostic, models: Mapping[str, ModelConfig]) -> ModelConfig:
    """The row's model."""
    return models.get(row.role, models[""])


def settings_of_row(
    row: Diagnostic, model: ModelConfig, mode: Mode, steps: int | Literal["adaptive"] | None
) -> EnhanceConfig:
    """Settings of the row's frames; the caller adds seed, prompt and camera scale.

    mode, steps: those of the evaluated run, used by the groups ``inputs`` and ``steps``. The group
    ``start`` uses the mode and the number of steps of its start of the flow.
    """
    if row.group != "start":
        return EnhanceConfig(mode, row.steps or steps, drop=row.drop)
    is_other = row.source == "mixing" and model.source != "mixing"
    own_mode: Mode = "generate" if is_other else "improve"
    wanted = steps if isinstance(steps, int) else model.in_mode(own_mode).steps
    return EnhanceConfig(own_mode, wanted, drop=row.drop, source=row.source)
