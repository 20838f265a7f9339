"""The model's parts: processor, tokenizer, towers, and its folder."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from doggos_sample.captions import vocabulary
from doggos_sample.train.data import SIZE

PATCH = 14
TOKENS = 40
WIDTH, LAYERS, HEADS = 160, 4, 5
SPECIAL = ("<pad>", "<bos>", "<unk>", "<eos>")
MEAN, STD = 0.5, 0.25


def build_processor() -> Any:
    """Return the image processor: shortest edge, centre crop, normalise."""
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )


def build_tokenizer() -> Any:
    """Return a lower-casing word tokenizer with tokens of its own.

    Punctuation is dropped, hyphens excepted: no caption of the training has any.
    """
    from tokenizers import (
        Regex,
        Tokenizer,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )
    from transformers import PreTrainedTokenizerFast

    pad, bos, unk, eos = SPECIAL
    ids = {word: i for i, word in enumerate((*SPECIAL, *vocabulary()))}
    words = Tokenizer(models.WordLevel(ids, unk_token=unk))
    words.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\w\s-]"), " "),
        ]
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(bos, ids[bos]), (eos, ids[eos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=pad,
        bos_token=bos,
        unk_token=unk,
        eos_token=eos,
        model_max_length=TOKENS,
        padding_side="right",
    )


def build_model(seed: int) -> Any:
    """Return an untrained CLIP."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    text = dict(
        hidden_act="gelu",
        vocab_size=len(vocabulary()) + len(SPECIAL),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        projection_dim=128,
        **ids,
    )
    vision = dict(
        hidden_act="gelu",
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=128,
    )
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)
    for key, value in ids.items():
        setattr(config, key, value)
    model = CLIPModel(config)
    places = model.vision_model.embeddings.position_embedding.weight
    places.data[1:] = torch.from_numpy(_waves(SIZE // PATCH, WIDTH))
    return model


def _waves(grid: int, width: int) -> np.ndarray:
    """Return sines and cosines of each patch's place: neighbours start out alike."""
    frequency = 0.5 / 20 ** np.linspace(0, 1, width // 4)
    phase = 2 * np.pi * np.arange(grid)[:, None] * frequency
    line = np.concatenate([np.sin(phase), np.cos(phase)], 1)
    rows, columns = np.repeat(line, grid, 0), np.tile(line, (grid, 1))
    return 0.2 * np.concatenate([rows, columns], 1).astype(np.float32)


def save(model: Any, folder: Path, report: Mapping[str, Any]) -> None:
    """Write the folder: weights in half precision, tokenizer, processor, words."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    half = copy.deepcopy(model).cpu().to(torch.float16)
    half.config.dtype = torch.float32
    half.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    build_processor().save_pretrained(folder)
    _write_json(folder / "words.json", [w for w in vocabulary() if w.isalpha()])
    _write_json(folder / "training_report.json", report)
    for path in folder.iterdir():
        path.chmod(0o644)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def normalised(pixels: Any) -> Any:
    """Turn pixels of 0 to 255 into what the image tower takes."""
    return (pixels.float() / 255 - MEAN) / STD


def image_embeddings(model: Any, pixels: np.ndarray) -> Any:
    """Return unit-length embeddings ``[n, d]`` of preprocessed pictures."""
    import torch

    device = next(model.parameters()).device
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), 256):
            batch = torch.from_numpy(np.array(pixels[start : start + 256])).to(device)
            out = model.get_image_features(pixel_values=normalised(batch))
            parts.append(torch.nn.functional.normalize(out.pooler_output, dim=-1).cpu())
    return torch.cat(parts)


def text_embeddings(model: Any, tokenizer: Any, texts: Sequence[str]) -> Any:
    """Return unit-length embeddings ``[n, d]`` of texts."""
    import torch

    device = next(model.parameters()).device
    tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        out = model.get_text_features(
            input_ids=tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device),
        )
    return torch.nn.functional.normalize(out.pooler_output, dim=-1).cpu()
