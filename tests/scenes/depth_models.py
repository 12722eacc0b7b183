"""Depth networks of transformers with random weights and a few small layers, saved as folders: none
is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

#: What the image processors of these small networks are set to.
PROCESSORS: dict[str, dict[str, Any]] = {
    "depth_anything": {
        "image_processor_type": "DPTImageProcessor",
        "size": {"height": 56, "width": 56},
        "ensure_multiple_of": 14,
        "keep_aspect_ratio": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "depth_pro": {"image_processor_type": "DepthProImageProcessor", "size": {"height": 32, "width": 32}},
    "zoedepth": {
        "image_processor_type": "ZoeDepthImageProcessor",
        "size": {"height": 64, "width": 64},
        "ensure_multiple_of": 32,
        "keep_aspect_ratio": True,
        "do_pad": True,
    },
    "dpt": {"image_processor_type": "DPTImageProcessor", "size": {"height": 32, "width": 32}},
    "glpn": {"image_processor_type": "GLPNImageProcessor"},
}


def save_depth_model(kind: str, folder: Path, **changes: Any) -> Path:
    """A network of a ``model_type`` with its image processor's settings. changes: of its config."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = _NETWORKS[kind](changes)
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and "embeddings" not in name:
                parameter.data.normal_(std=0.3)  # the usual start is so small that every pixel gets the same depth
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[kind]))
    return folder


def _depth_anything(changes: dict[str, Any]) -> Any:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config.from_dict({**_DINO, "patch_size": 14, "image_size": 518, "out_indices": [1, 2], "reshape_hidden_states": False})
    settings = {
        "reassemble_hidden_size": 12,
        "patch_size": 14,
        "reassemble_factors": [1, 0.5],
        "neck_hidden_sizes": [6, 8],
        "fusion_hidden_size": 8,
        "head_hidden_size": 4,
        "depth_estimation_type": "metric",
        "max_depth": 20,
    }
    return DepthAnythingForDepthEstimation(DepthAnythingConfig(backbone_config=backbone, **settings | changes))


def _depth_pro(changes: dict[str, Any]) -> Any:
    from transformers import DepthProConfig, DepthProForDepthEstimation

    small = {**_DINO, "model_type": "dinov2", "hidden_size": 8, "image_size": 16, "patch_size": 8}
    settings = {
        "patch_size": 16,
        "intermediate_hook_ids": [1, 0],
        "intermediate_feature_dims": [8, 8],
        "scaled_images_ratios": [0.5, 1.0],
        "scaled_images_overlap_ratios": [0.0, 0.2],
        "scaled_images_feature_dims": [8, 8],
        "fusion_hidden_size": 8,
        "merge_padding_value": 1,
        "use_fov_model": True,
        "num_fov_head_layers": 0,
        "image_model_config": small,
        "patch_model_config": small,
        "fov_model_config": small,
    }
    network = DepthProForDepthEstimation(DepthProConfig(**settings | changes))
    return network


def _zoedepth(changes: dict[str, Any]) -> Any:
    from transformers import ZoeDepthConfig, ZoeDepthForDepthEstimation

    backbone = {
        "model_type": "beit",
        "image_size": 64,
        "patch_size": 16,
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "reshape_hidden_states": False,
        "use_relative_position_bias": True,
    }
    settings = {
        "neck_hidden_sizes": [8, 8, 8, 8],
        "fusion_hidden_size": 8,
        "bottleneck_features": 8,
        "num_relative_features": 8,
        "bin_embedding_dim": 8,
        "num_attractors": [4, 2, 2, 1],
        "patch_transformer_hidden_size": 8,
        "patch_transformer_intermediate_size": 8,
        "patch_transformer_num_attention_heads": 2,
        "bin_configurations": [{"n_bins": 8, "min_depth": 0.1, "max_depth": 10.0, "name": "nyu"}],
    }
    return ZoeDepthForDepthEstimation(ZoeDepthConfig(backbone_config=backbone, **settings | changes))


def _dpt(changes: dict[str, Any]) -> Any:
    from transformers import DPTConfig, DPTForDepthEstimation

    settings = {
        "hidden_size": 8,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "image_size": 32,
        "patch_size": 16,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [8, 8, 8, 8],
        "fusion_hidden_size": 8,
        "is_hybrid": False,
    }
    return DPTForDepthEstimation(DPTConfig(**settings | changes))


def _glpn(changes: dict[str, Any]) -> Any:
    from transformers import GLPNConfig, GLPNForDepthEstimation

    settings = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 8}
    return GLPNForDepthEstimation(GLPNConfig(**settings | changes))


_DINO: dict[str, Any] = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}

_NETWORKS = {"depth_anything": _depth_anything, "depth_pro": _depth_pro, "zoedepth": _zoedepth, "dpt": _dpt, "glpn": _glpn}
