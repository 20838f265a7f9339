"""Time and cost of each stage on four L4 GPUs: `python -m tools.docs.costs`.

No GPU was at hand: what is derived rests on the figures of `benchmarks/results`, of a
machine with two cores, and on the assumptions below, and each row says so.
"""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"

INSTANCE, GPUS, VCPUS = "g6.12xlarge", 4, 48
DOLLARS_PER_HOUR = 4.60  # on demand, us-west-2
PRICE_AS_OF = "June 2025"
PEAK_FLOPS = 121e12  # of one L4, half precision, dense: NVIDIA's data sheet
SHARE_OF_PEAK = 0.25  # assumed
FLOPS_PER_IMAGE = 8.8e9  # CLIP ViT-B/32's image tower at 224 x 224
START_S = 90.0  # assumed: processes start, and a worker loads the model on its GPU
IMAGES = 1_000_000


def embedding() -> dict[str, float]:
    """Derive images a second: what the GPUs could do, and what the CPUs let them.

    The CPU seconds beside the model are those of our pipeline less those of the
    forward pass alone, start-up included.
    """
    medians = json.loads((RESULTS / "embed.json").read_text())["medians"]
    whole, model = (
        medians[name]["cpu_s_per_1000"] for name in ("d bfloat16", "a bfloat16")
    )
    by_gpus = GPUS * PEAK_FLOPS * SHARE_OF_PEAK / FLOPS_PER_IMAGE
    by_cpus = (VCPUS - GPUS) / ((whole - model) / 1000)
    seconds = IMAGES / min(by_gpus, by_cpus) + START_S
    return {"by_gpus": by_gpus, "by_cpus": by_cpus, "seconds": seconds}


def readers() -> dict[str, float]:
    """Return the seconds that stages on a million embeddings took on two cores."""
    measured = json.loads((RESULTS / "memory.json").read_text())
    return {
        stage: row["seconds"]
        for stage, rows in measured.items()
        for row in rows
        if row["rows"] == IMAGES
    }


def table() -> str:
    """Return the table in Markdown, each figure with what it is and its script."""
    embed, read = embedding(), readers()
    rate, memory = "`benchmarks/embed.py`", "`benchmarks/memory.py`"
    rows = [
        _row(
            "03 Embedding, 1 million images",
            f"{embed['seconds'] / 60:.0f} min at {embed['by_cpus']:,.0f} images/s, "
            f"the limit of its {VCPUS} vCPUs; its GPUs alone could do "
            f"{embed['by_gpus']:,.0f}",
            embed["seconds"],
            f"derived from {rate}",
        )
    ]
    for stage, name in (("train", "04 Training"), ("evaluate", "05 Evaluation")):
        if stage in read:
            here = f"{read[stage] / 60:.1f} min on 2 cores without a GPU"
            rows.append(
                _row(
                    f"{name}, 1 million rows",
                    f"{here}; on four L4: not measured",
                    read[stage],
                    f"time measured by {memory}; cost derived: no faster there",
                )
            )
    rows.append(
        _row(
            "06 Serving, one hour",
            "60 min, busy or idle; requests/s on an L4: not measured",
            3600,
            "derived from the price",
        )
    )
    head = "| stage | time | cost | what the figure is |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _row(stage: str, time: str, seconds: float, kind: str) -> str:
    dollars = seconds / 3600 * DOLLARS_PER_HOUR
    return f"| {stage} | {time} | {dollars:.2f} US dollars | {kind} |"


if __name__ == "__main__":
    print(table())
