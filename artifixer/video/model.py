"""A video model: network, autoencoder and text encoder with the settings they were trained for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from artifixer.runtime.errors import InputError
from artifixer.video.choices import Mode as Mode
from artifixer.video.finish import FinishConfig
from artifixer.video.flow import FlowSchedule, SourceKind
from artifixer.video.offload import LayerStream
from artifixer.video.sample import SampleConfig
from artifixer.video.text import EncodedPrompt, TextConfig, TextEncoder, no_prompt
from artifixer.video.transformer import VideoTransformer
from artifixer.video.transformer_config import VideoTransformerConfig
from artifixer.video.vae import AutoencoderConfig, Vae

#: Named models that take prompts.
PROMPT_MODELS = ("1.3b", "14b")

CameraScaleRule = Literal["metric", "median_depth"]


@dataclass(frozen=True)
class ModelConfig:
    """A model's architecture and the settings that it was trained for. The defaults are the
    released generator's. The names of the fields are the keys of ``config.json``.
    """

    name: str
    """Name in messages and reports."""

    transformer: VideoTransformerConfig
    """Architecture of the transformer."""

    vae: AutoencoderConfig
    """Architecture of the autoencoder."""

    camera_scale: CameraScaleRule = "metric"
    """Kind of camera scale that the weights were trained with, see ``scenes/scale.py``."""

    takes_text: bool = True
    """Whether the weights were trained with prompts."""

    takes_references: bool = True
    """Whether the weights were trained with reference photos."""

    source: SourceKind = "mixing"
    """Start of the flow."""

    keep_residual: bool = False
    """Add the detail of opaque parts of the render that the autoencoder loses (``FinishConfig``).
    """

    steps: int = 4
    """Denoising steps per block."""

    generate_steps: int = 4
    """Denoising steps per block in the mode ``generate``."""

    adapts_steps: bool = False
    """In the mode ``generate``, take fewer steps for opaque blocks (``AdaptiveSteps``)."""

    block_frames: int = 7
    """Latent frames generated together."""

    window_frames: int = 21
    """Latent frames that a block attends to, including its own."""

    sink_frames: int = 7
    """Latent frames at the beginning of the rollout that stay in the window."""

    shift: float = 5.0
    """Shift of the noise levels (``FlowSchedule``)."""

    second_strength: float = 1.0
    """Blend weight of the second pass (ArtiFixer 3D+) on opaque pixels: 0 keeps the render, 1 takes
    the model's output."""

    smooth_cells: int = 0
    """Side of cells in pixels, over which the mode ``improve`` smooths the model's colours in empty
    regions, all that it takes of the frames (``FinishConfig``); 0 takes the frames."""

    default_size: int | None = None
    """Default of the longest side of the frames, pixels; None for that of the photos."""

    def __post_init__(self) -> None:
        for name, ours, theirs in (
            ("latent channels", self.transformer.latent_channels, self.vae.z_dim),
            ("spatial factor", self.transformer.spatial_factor, self.vae.spatial_factor),
            ("temporal factor", self.transformer.temporal_factor, self.vae.temporal_factor),
        ):
            assert ours == theirs, (
                f"{name} of the transformer is {ours}, of the autoencoder {theirs}"
            )
        for steps in (self.steps, self.generate_steps):
            assert steps >= 1, f"{steps} steps"
        assert (self.source == "noise") == self.transformer.concatenate_render, (
            f"source {self.source}: the flow starts at noise where the render is concatenated, and "
            "nowhere else"
        )
        assert self.default_size is None or self.default_size >= 1, (
            f"default size {self.default_size}, expected at least 1"
        )
        assert self.shift > 0, f"shift {self.shift}, expected more than 0"
        assert self.sink_frames >= 0, f"{self.sink_frames} sink frames"
        assert 0 <= self.second_strength <= 1, f"strength {self.second_strength}, expected 0 to 1"
        assert self.smooth_cells >= 0, f"cells of {self.smooth_cells} pixels, expected at least 0"
        assert 1 <= self.block_frames <= self.window_frames, (
            f"blocks of {self.block_frames} frames in windows of {self.window_frames}"
        )
        assert self.sink_frames + self.block_frames <= self.window_frames, (
            f"{self.sink_frames} sink frames leave no place for a block"
        )

    def in_mode(self, mode: Mode) -> ModelConfig:
        """The same model with the source and the number of steps of a mode."""
        if mode == "improve":
            return self
        source: SourceKind = "noise" if self.transformer.concatenate_render else "mixing"
        return replace(self, source=source, steps=self.generate_steps)

    def steps_in(self, mode: Mode) -> int | Literal["adaptive"]:
        """Denoising steps per block in a mode."""
        return "adaptive" if mode == "generate" and self.adapts_steps else self.in_mode(mode).steps

    def sampling(self, mode: Mode = "improve") -> SampleConfig:
        """The model's settings of a rollout in a mode."""
        return SampleConfig(
            steps=self.steps_in(mode),
            block_frames=self.block_frames,
            window_frames=self.window_frames,
            sink_frames=self.sink_frames,
            source=self.in_mode(mode).source,
            schedule=FlowSchedule(shift=self.shift),
        )

    def finish(self, mode: Mode = "improve") -> FinishConfig:
        """The model's settings of ``finish`` in a mode; ``generate`` keeps all detail. With
        smoothing the residual would change nothing.
        """
        if mode == "improve" and self.smooth_cells:
            return FinishConfig(smooth_cells=self.smooth_cells)
        return FinishConfig(self.keep_residual)

    @property
    def text(self) -> TextConfig:
        """Shape of the text embedding."""
        return TextConfig(self.transformer.text_tokens, self.transformer.text_width)

    @property
    def grid(self) -> int:
        """Sides of the model's frames are multiples of this many pixels."""
        return self.vae.spatial_factor * self.transformer.patch_size

    def model_size(self, width: int, height: int) -> tuple[int, int]:
        """The nearest size that the model accepts; ties round to even, as in the release."""
        return max(self.grid, round(width / self.grid) * self.grid), max(
            self.grid, round(height / self.grid) * self.grid
        )


@dataclass(frozen=True)
class Model:
    """A model with its weights. stream: copies offloaded layers, see ``load_model``."""

    config: ModelConfig
    transformer: VideoTransformer
    vae: Vae
    text_encoder: TextEncoder | None = None
    stream: LayerStream | None = None

    @property
    def device(self) -> torch.device:
        return self.vae.device

    @property
    def dtype(self) -> torch.dtype:
        return self.vae.dtype

    def encode_prompt(self, prompt: str) -> EncodedPrompt:
        """The prompt's embedding on the model's device; zeros for an empty one. ``InputError`` for
        a model that takes no prompts.
        """
        if not prompt.strip():
            return no_prompt(self.config.text, self.device, self.dtype)
        if self.text_encoder is None:
            raise InputError(no_text_encoder(self.config))
        encoded = self.text_encoder.encode(prompt)
        self.text_encoder.unload()
        return replace(encoded, embedding=encoded.embedding.to(self.device, self.dtype))


def no_text_encoder(config: ModelConfig) -> str:
    """Error message for a prompt to a model without a text encoder."""
    if not config.takes_text:
        return (
            f"--prompt: model {config.name} takes no text; models that do: "
            f"{', '.join(PROMPT_MODELS)}"
        )
    return (
        f"--prompt: model {config.name} has no text encoder; expected text_encoder/ and tokenizer/ "
        "of a Wan 2.1 model in its folder"
    )
