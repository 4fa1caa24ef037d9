"""Tiny encoders of every family, with random weights, as folders that ``save_pretrained`` writes."""

from pathlib import Path
from typing import Any

import torch
import transformers as hf

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
}
CROP = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
SQUARE = {"size": {"height": 32, "width": 32}}
FAMILIES: dict[str, tuple[Any, dict[str, Any], Any, dict[str, Any]]] = {
    "videomae": (hf.VideoMAEConfig, {"num_frames": 4}, hf.VideoMAEImageProcessor, CROP),
    "vivit": (hf.VivitConfig, {"num_frames": 4, "tubelet_size": [2, 8, 8]}, hf.VivitImageProcessor, CROP),
    "timesformer": (hf.TimesformerConfig, {"num_frames": 4}, hf.VideoMAEImageProcessor, CROP),
    "vjepa2": (
        hf.VJEPA2Config,
        {"crop_size": 32, "frames_per_clip": 4, "mlp_ratio": 2, "pred_num_hidden_layers": 1,
         "pred_hidden_size": 16, "pred_num_attention_heads": 2, "pred_num_mask_tokens": 2},
        hf.VJEPA2VideoProcessor,
        {"crop_size": {"height": 32, "width": 32}},
    ),
    "dinov2": (hf.Dinov2Config, {"mlp_ratio": 2}, hf.BitImageProcessor, CROP),
    "dinov2_with_registers": (hf.Dinov2WithRegistersConfig, {"mlp_ratio": 2}, hf.BitImageProcessor, CROP),
    "siglip_vision_model": (hf.SiglipVisionConfig, {}, hf.SiglipImageProcessor, SQUARE),
    "clip_vision_model": (hf.CLIPVisionConfig, {"projection_dim": 8}, hf.CLIPImageProcessor, CROP),
}  # fmt: skip
"""Configuration, what it has beside the common keys, processor, and its sizes."""
VIDEO = ("videomae", "vivit", "timesformer", "vjepa2")


def save(family: str, folder: Path, **values: Any) -> Any:
    """Writes a model of the family with its processor; gives the model."""
    _, _, processor, sizes = FAMILIES[family]
    torch.manual_seed(5)
    model = hf.AutoModel.from_config(configuration(family, **values)).eval()
    model.save_pretrained(folder)
    processor(**sizes).save_pretrained(folder)
    return model


def configuration(family: str, **values: Any) -> Any:
    config, own, _, _ = FAMILIES[family]
    return config(**{**TINY, **own, **values})
