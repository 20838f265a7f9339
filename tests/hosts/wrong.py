"""What a cluster of several nodes may lack: rows of the page, provoked on hosts.

`test_wrong_clusters` provokes each; the message is that of `ClusterError`, exit code 6.
"""

from dataclasses import dataclass

SAME = "Give every node what the driver has"


@dataclass(frozen=True)
class Wrong:
    """One thing that is wrong on a node: what is said, why, and what to do."""

    message: str
    cause: str
    fix: str


STORAGE = Wrong(
    "the nodes are not alike: ... it doesn't see ",
    "The storage, the data set or the model is a folder that this node doesn't mount,"
    " or mounts elsewhere.",
    SAME,
)
VERSION = Wrong(
    "the nodes are not alike: ... torch is 1.0, not ",
    "The node has another version of Python or of a package than the driver.",
    SAME,
)
DISK = Wrong(
    "the nodes are not alike: ... of disk are free",
    "The disk of this node, where Ray puts what memory can't hold, is nearly full.",
    SAME,
)
SILENT = Wrong(
    "the nodes are not alike: ... no answer: ",
    "The node has died, or is cut off, and Ray hasn't noticed yet.",
    SAME,
)
STRANGER = Wrong(
    "Authentication token is missing or incorrect",
    "`ray start --address` on a node that has another token than the head, or none.",
    "Copy ~/.ray/auth_token of the head there, and export RAY_AUTH_MODE=token",
)
WRONG = (STORAGE, VERSION, DISK, SILENT, STRANGER)
