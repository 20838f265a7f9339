"""Writes a randomly initialised CLIP ViT-B/32, to try the path of a large model.

python tools/random_clip.py build/random-vit-b-32
make tutorial MODEL=build/random-vit-b-32

It has the architecture and the image processor of openai/clip-vit-base-patch32 and
the tokenizer of the sample; its weights have learnt nothing.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from doggos_sample import MODEL_DIR


def main() -> None:
    """Write config, weights, processor and tokenizer to the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    torch.manual_seed(options.seed)
    config = CLIPConfig(text_config={name: getattr(tokenizer, name) for name in ids})
    CLIPModel(config).save_pretrained(options.out)
    CLIPImageProcessorPil().save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
