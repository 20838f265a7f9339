"""Helpers of the tutorial *Scaling out with Ray*: the model and pipeline code.

Nothing heavy is imported here: each module imports torch, transformers or mlflow
where it uses them.
"""

__version__ = "0.1.0"
