"""What adding nodes buys, and when it stops.

usage: python -m benchmarks.scale [REPEATS]

Tasks that only wait, as for a GPU or a network, on one to four Ray nodes of two CPUs
each, all on this machine: what a real cluster adds in computing power can't be shown
on one box, but how well Ray keeps more nodes busy can. The same total of waiting, 60 s,
is cut into tasks of 500 ms and of 10 ms. One run of each a round, in turn; the figures
are medians of the rounds. `share` is what the nodes spent waiting for tasks, of the
ideal: 1 is a perfect scale-up.

The driver hands tasks out one by one: with short ones it is the limit, and more nodes
buy little.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.local_cluster import CPUS, local_cluster

RESULTS = Path(__file__).parent / "results" / "scale.json"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "scale.png"
NODES = (1, 2, 3, 4)
WAIT_S, TASKS_S = 60.0, (0.5, 0.01)
# Runs in a process of its own: a process joins one cluster in its life.
RUN = """
import sys, time
import ray

ray.init(log_to_driver=False)
wait_s, task_s, slots = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
wait = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(time.sleep)
ray.get([wait.remote(0.5) for _ in range(2 * slots)])  # workers are up
started = time.perf_counter()
ray.get([wait.remote(task_s) for _ in range(round(wait_s / task_s))])
print("seconds", time.perf_counter() - started)
"""


def seconds(variables: dict[str, str], task_s: float, nodes: int) -> float:
    """Run all tasks once on a cluster of so many nodes."""
    import os

    arguments = [str(WAIT_S), str(task_s), str(nodes * CPUS)]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return float(done.stdout.split("seconds ")[1])


def draw(rows: list[dict[str, float]]) -> None:
    """Draw the speed-up over one node, beside the ideal."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
    axis.plot(NODES, NODES, color="#bbbbbb", linestyle="--", label="ideal")
    for task_s, color in zip(TASKS_S, ("#4477aa", "#ee6677"), strict=True):
        times = [r["speed_up"] for r in rows if r["task_s"] == task_s]
        label = f"tasks of {task_s * 1000:g} ms"
        axis.plot(NODES, times, color=color, marker="o", label=label)
    axis.set(xlabel="nodes", ylabel="times as fast as one", xticks=NODES, ylim=(0, 4.2))
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(FIGURE, dpi=120)


def main(repeats: int = 3) -> None:
    """Measure, print the table, write JSON and the figure."""
    taken: dict[tuple[float, int], list[float]] = {}
    for nodes in NODES:
        folder = Path(tempfile.mkdtemp(prefix="scale-"))
        with local_cluster(folder, workers=nodes - 1) as cluster:
            for _ in range(repeats):
                for task_s in TASKS_S:
                    took = seconds(cluster.environment, task_s, nodes)
                    taken.setdefault((task_s, nodes), []).append(took)
    rows = []
    for (task_s, nodes), all_s in sorted(taken.items(), reverse=True):
        took, one = statistics.median(all_s), statistics.median(taken[task_s, 1])
        share = WAIT_S / (took * nodes * CPUS)
        rows.append(
            {"task_s": task_s, "nodes": nodes, "seconds": round(took, 2)}
            | {"speed_up": round(one / took, 2), "share": round(share, 2)}
        )
        print(rows[-1], flush=True)
    rows.sort(key=lambda row: (-row["task_s"], row["nodes"]))
    RESULTS.write_text(json.dumps({"wait_s": WAIT_S, "rows": rows}, indent=2) + "\n")
    draw(rows)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
