"""Trains the small CLIP of the sample and writes its folder.

The model sees drawn dogs of random attribute combinations that no breed has, with
captions in everyday words and never a breed's name. Pictures that fit a caption are
positives for it, so targets are soft. Beside the contrastive loss, heads that are not
kept are told where the parts of each drawn dog are and what they show: on a CPU this is
what makes small parts, such as ears, learnable within an hour. Copies that are off by a
fraction of a pixel are drawn to the same embedding. A run is seeded and can be resumed,
with more pictures as well. Threads that wait passively share a busy CPU::

    OMP_WAIT_POLICY=passive python tools/train_sample_clip.py --minutes 60
"""

import argparse
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from doggos_sample import MODEL_DIR
from doggos_sample.train.data import Pool, make_pool, training_combinations
from doggos_sample.train.measure import zero_shot
from doggos_sample.train.model import save
from doggos_sample.train.training import Trainer

HELD_OUT_SEED = 1_000_000
CURVE = 60


def report(trainer: Trainer, pool: Pool, held: Pool) -> None:
    """Measure the averaged model on held-out pictures and write its folder."""
    args, state = trainer.args, trainer.state
    model = trainer.average.module
    model.eval()
    accuracy = zero_shot(model, trainer.tokenizer, held)
    model.train()
    print("zero-shot", accuracy, flush=True)
    cuda = torch.cuda.is_available()
    machine = f"{platform.machine()}, {args.threads} threads"
    curve = state["curve"]
    facts = {
        "command": "python tools/train_sample_clip.py "
        f"--images {args.images} --batch {args.batch}"
        f" --seed {args.seed} --minutes {args.minutes:g}",
        "method": "contrastive, with auxiliary losses on parts that are not kept",
        "images": len(pool.rows),
        "stages": state["stages"],
        "held_out_images": len(held.rows),
        "combinations": len(training_combinations()),
        "steps": state["step"],
        "batch": args.batch,
        "seed": args.seed,
        "minutes": round(state["seconds"] / 60, 1),
        "machine": torch.cuda.get_device_name() if cuda else machine,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "zero_shot": accuracy,
        "loss_columns": ["step", "contrastive", "auxiliary", "seconds"],
        "loss": curve[:: max(1, -(-len(curve) // CURVE))],
    }
    save(model, args.out, facts)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    parser.add_argument("--work", type=Path, default=Path("/tmp/sample-clip"))
    parser.add_argument("--images", type=int, default=16_000)
    parser.add_argument("--held-out", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=60, help="stop by then")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.2e-3)
    parser.add_argument("--helps", type=float, default=1.0, help="weight of the helps")
    parser.add_argument("--every", type=int, default=250, help="steps a checkpoint")
    parser.add_argument("--note", default="", help="kept in the report")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the pictures, train, measure, and write the model folder."""
    args = arguments(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    pool = make_pool(args.work, "train", args.seed, args.images, args.threads)
    held = make_pool(
        args.work, "held", args.seed + HELD_OUT_SEED, args.held_out, args.threads
    )
    Trainer(args, pool).run(lambda trainer: report(trainer, pool, held))
    return 0


if __name__ == "__main__":
    sys.exit(main())
