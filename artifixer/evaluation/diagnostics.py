"""The paper's diagnostics (section 5.4, Table 4, appendix A) as rows of a table.

In: the model that is evaluated, and models trained as one of Table 4's variants. Out: for each row
how the renders of a finished run are enhanced once more, or why the row is absent. All rows of a
scene share one reconstruction, its renders and its reference photos.

Rays, opacity and references are left out when frames are generated, from weights that were trained
with them; a model that never had them is another experiment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from artifixer.enhance.enhance import Drop, EnhanceConfig
from artifixer.video.flow import SourceKind
from artifixer.video.model import Mode, ModelConfig

#: Models of ``--diagnostic-models`` by what they were trained for.
ROLES = ("mixing", "direct", "concatenation", "no-forcing")

#: What the methods of the rows are called in results, and their folders.
PREFIX = "diagnostic_"

#: Most denoising steps of the rows that vary them (appendix A).
MOST_STEPS = 4

Group = Literal["start", "inputs", "steps"]


@dataclass(frozen=True)
class Diagnostic:
    """One row. role: the model of ``--diagnostic-models`` that it takes where it is given, else the
    evaluated one. needs_role: whether no other will do. source: start of the flow; None for the
    model's own. steps: None for the model's own. drop: what the model does not get to see.
    """

    name: str
    title: str
    group: Group
    role: str = ""
    needs_role: bool = False
    source: SourceKind | None = None
    steps: int | None = None
    drop: tuple[Drop, ...] = ()

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
        Diagnostic(f"steps{steps}", f"{steps} step{'s' if steps > 1 else ''}", "steps", steps=steps)
        for steps in range(1, MOST_STEPS + 1)
    ),
)

#: Titles by the methods' names.
TITLES = {row.method: row.title for row in DIAGNOSTICS}


def absent(
    row: Diagnostic, models: Mapping[str, ModelConfig], has_prompts: bool, references: int
) -> str | None:
    """Why a row cannot be made; None where it can. models: by role, the evaluated one as ""."""
    own = models[""]
    if row.needs_role and row.role not in models:
        return f"no model trained so (--diagnostic-models {row.role}=FOLDER)"
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
        return f"model {model.name} reads the render on other channels"
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
    """How the row's frames are made; seed, prompt and camera scale are the caller's.

    mode, steps: of the evaluated run, which rows of the groups ``inputs`` and ``steps`` share. A
    start of the flow that is not the model's own has the mode and the number of steps of it.
    """
    if row.group != "start":
        return EnhanceConfig(mode, row.steps or steps, drop=row.drop)
    is_other = row.source == "mixing" and model.source != "mixing"
    own_mode: Mode = "generate" if is_other else "improve"
    wanted = steps if isinstance(steps, int) else model.in_mode(own_mode).steps
    return EnhanceConfig(own_mode, wanted, drop=row.drop, source=row.source)
