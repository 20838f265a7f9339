"""Cases: settings, and what they ask of a cluster."""

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from doggos_helpers.cluster.waiting import FIX
from doggos_helpers.settings import Settings
from tests.faults.case import Case, Outcome, Place
from tests.faults.hub import silent_hub
from tests.faults.models import photographs
from tests.synthetic import write_embeddings

QUERY = ["search", "--text", "a black dog"]
ANSWER_S = 3
REFUSED_S = 30  # of which connecting to Ray takes most


def index(place: Place) -> Settings:
    """Write 175 rows of six classes, as wide as the sample's model."""
    settings = Settings(storage=place.environment["DOGGOS_STORAGE"])
    write_embeddings(settings, dimension=128)
    return settings


def given(*options: str, **variables: str) -> Callable[[Place], Sequence[str]]:
    """Search an index, with options and variables that are wrong."""

    def provoke(place: Place) -> Sequence[str]:
        index(place)
        place.environment |= variables
        return [*QUERY, *options]

    return provoke


def embedding(*options: str, **variables: str) -> Callable[[Place], Sequence[str]]:
    """Embed a few images, with options and variables that are wrong."""

    def provoke(place: Place) -> Sequence[str]:
        photographs(place)
        place.environment |= variables
        return ["embed", *options]

    return provoke


def another_program(place: Place) -> Sequence[str]:
    """Connect to a server that isn't Ray's and says nothing."""
    return embedding(DOGGOS_ADDRESS=urlsplit(silent_hub()).netloc)(place)


def parameters(content: str) -> Callable[[Place], Sequence[str]]:
    """Run the notebooks with a file of parameters."""

    def provoke(place: Place) -> Sequence[str]:
        file = place.folder / "parameters.yaml"
        file.write_text(content)
        out = str(place.folder / "out")
        return ["batch", "--params-file", str(file), "--out", out]

    return provoke


def soon(place: Place, outcome: Outcome) -> None:
    assert outcome.seconds < ANSWER_S, outcome.seconds


def once(place: Place, outcome: Outcome) -> None:
    assert outcome.err.count("DOGGOS_EMBED_WORKRES") == 1
    assert len(outcome.out.splitlines()) == Settings().k


def nothing_started(place: Place, outcome: Outcome) -> None:
    assert not (place.folder / "out").exists()


def all_rows(place: Place, outcome: Outcome) -> None:
    assert len(outcome.out.splitlines()) == 175 + 1


def refused_without_waiting(place: Place, outcome: Outcome) -> None:
    assert outcome.seconds < REFUSED_S, outcome.seconds


OF_SETTINGS = (
    Case(
        area="Settings",
        name="a mistyped variable",
        provoke=given(DOGGOS_EMBED_WORKRES="2"),
        code=0,
        message="no setting has this variable: DOGGOS_EMBED_WORKRES",
        cause="A `DOGGOS_` variable that no setting reads; the command goes on.",
        fix="Did you mean DOGGOS_EMBED_WORKERS",
        after=once,
    ),
    Case(
        area="Settings",
        name="an unknown option",
        provoke=given("--embed-worker", "2"),
        code=2,
        message="wrong option: unrecognized arguments: --embed-worker",
        cause="The command has no option of this name.",
        fix="Did you mean --embed-workers",
        after=soon,
    ),
    Case(
        area="Settings",
        name="an option without its value",
        provoke=given("--storage"),
        code=2,
        message="wrong option: argument --storage: expected one argument",
        cause="The option stands at the end of the line.",
        fix="Did you mean --storage",
        printed_fix=False,
        after=soon,
    ),
    Case(
        area="Settings",
        name="a parameter that no notebook declares",
        provoke=parameters("epoch: 3\n"),
        code=2,
        message="no notebook declares this parameter: epoch",
        cause="A parameter of `make tutorial` or `batch` has a wrong name. papermill by"
        " itself only warns.",
        fix="Did you mean epochs",
        after=nothing_started,
    ),
    Case(
        area="Settings",
        name="a word for a number",
        provoke=given("--embed-workers", "many"),
        code=2,
        message="wrong setting: embed_workers = 'many' (Input should be a valid",
        cause="A setting has a value of another type.",
        fix="Change the parameter, the option or DOGGOS_EMBED_WORKERS",
        after=soon,
    ),
    Case(
        area="Settings",
        name="a word that the setting doesn't take",
        provoke=given(DOGGOS_USE_GPU="maybe"),
        code=2,
        message="wrong setting: use_gpu = 'maybe' (Input should be 'yes' or 'no')",
        cause="A setting takes certain words and no others.",
        fix="Change the parameter, the option or DOGGOS_USE_GPU",
        after=soon,
    ),
    Case(
        area="Settings",
        name="no workers",
        provoke=given(DOGGOS_EMBED_WORKERS="0"),
        code=2,
        message="wrong setting: embed_workers = '0' (Input should be greater than 0)",
        cause="A number of workers, CPUs or GPUs is 0; only in a notebook's parameters"
        " does 0 stand for the plan's number.",
        fix="Change the parameter, the option or DOGGOS_EMBED_WORKERS, or leave it out",
        after=soon,
    ),
    Case(
        area="Settings",
        name="fewer than no workers",
        provoke=given("--train-workers", "-2"),
        code=2,
        message="wrong setting: train_workers = '-2' (Input should be greater than 0)",
        cause="A number of workers, CPUs or GPUs is negative.",
        fix="Change the parameter, the option or DOGGOS_TRAIN_WORKERS, or leave it out",
        after=soon,
    ),
    Case(
        area="Settings",
        name="k is 0",
        provoke=given("-k", "0"),
        code=2,
        message="wrong setting: k = '0' (Input should be greater than 0)",
        cause="No similar images are asked for.",
        fix="Change the parameter, the option or DOGGOS_K",
        after=soon,
    ),
    Case(
        area="Settings",
        name="k is negative",
        provoke=given(DOGGOS_K="-3"),
        code=2,
        message="wrong setting: k = '-3' (Input should be greater than 0)",
        cause="Fewer than no similar images are asked for.",
        fix="Change the parameter, the option or DOGGOS_K",
        after=soon,
    ),
    Case(
        area="Settings",
        name="k is larger than the index",
        provoke=given("-k", "1000"),
        code=0,
        message="These are all 175 images there are: fewer than k = 1000",
        cause="More similar images are asked for than were embedded, or than the"
        " classes have.",
        fix="Nothing to do: all of them are shown",
        printed_fix=False,
        after=all_rows,
    ),
    Case(
        area="Settings",
        name="a class that isn't there",
        provoke=given("--classes", "pug, zebra"),
        code=2,
        message="no images of class zebra: classes: akita, beagle, corgi",
        cause="The filter names a class that no embedded image has.",
        fix="Filter by classes of the index",
        after=soon,
    ),
)

OF_CLUSTERS = (
    Case(
        area="Cluster",
        name="no cluster at the address",
        provoke=embedding(),
        code=6,
        message="no Ray cluster answers",
        cause="Nothing listens at `DOGGOS_ADDRESS` or `RAY_ADDRESS`: the cluster ended,"
        " or the address is mistyped.",
        fix="Check DOGGOS_ADDRESS or RAY_ADDRESS",
    ),
    Case(
        area="Cluster",
        name="another program at the cluster's address",
        provoke=another_program,
        code=6,
        message="no Ray cluster answers (what listens there is no Ray, or hangs)",
        cause="The port belongs to something else, such as the dashboard.",
        fix="Check DOGGOS_ADDRESS or RAY_ADDRESS",
        own_process=True,
        after=refused_without_waiting,
        long=True,
    ),
    Case(
        area="Cluster",
        name="another cluster's token",
        provoke=embedding(RAY_AUTH_TOKEN="0" * 64),
        code=6,
        message="no Ray cluster answers (Authentication token is missing or incorrect)",
        cause="The cluster asks for a token, and this process has another one or none.",
        fix="where it asks for a token, RAY_AUTH_MODE=token",
        cluster=True,
        after=refused_without_waiting,
    ),
    Case(
        area="Cluster",
        name="a GPU where there is none",
        provoke=embedding("--use-gpu", "yes"),
        code=6,
        message="use_gpu is yes, and no node has a GPU",
        cause="The cluster has no GPU that Ray knows of.",
        fix="Set use_gpu to no, leave out DOGGOS_USE_GPU, or add a GPU",
        cluster=True,
        after=refused_without_waiting,
    ),
    Case(
        area="Cluster",
        name="GPUs for each worker where there are none",
        provoke=embedding(DOGGOS_GPUS_PER_WORKER="4"),
        code=6,
        message="gpus_per_worker is 4.0, and no node has a GPU",
        cause="The cluster has no GPU that Ray knows of.",
        fix="Set use_gpu to no, leave out DOGGOS_GPUS_PER_WORKER, or add a GPU",
        cluster=True,
        long=True,
        after=refused_without_waiting,
    ),
    Case(
        area="Cluster",
        name="an accelerator that no node has",
        provoke=embedding(DOGGOS_ACCELERATOR_TYPE="H100"),
        code=6,
        message="accelerator_type is H100, and no node has a GPU of type H100",
        cause="Ray would wait for a node with this accelerator for ever.",
        fix="Set use_gpu to no, leave out DOGGOS_ACCELERATOR_TYPE, or add a GPU",
        cluster=True,
        after=refused_without_waiting,
    ),
    Case(
        area="Cluster",
        name="more CPUs than a node has",
        provoke=embedding("--embed-cpus", "64"),
        code=6,
        message="1 workers of 64 CPU, 0 GPU don't fit: the nodes hold 0",
        cause="A worker asks for more CPUs than any one node has, or there are more"
        " workers than the nodes hold together.",
        fix=FIX,
        cluster=True,
        long=True,
        after=refused_without_waiting,
    ),
    Case(
        area="Cluster",
        name="more memory than a node has",
        provoke=embedding("--memory-per-worker", "4000"),
        code=6,
        message="1 workers of 1 CPU, 0 GPU, 4000.0 GiB of memory don't fit",
        cause="Ray reserves the memory for each worker, and no node has so much.",
        fix=FIX,
        cluster=True,
        long=True,
        after=refused_without_waiting,
    ),
    Case(
        area="Cluster",
        name="workers that leave no CPU for reading",
        provoke=embedding("--embed-workers", "2", "--embed-cpus", "1"),
        code=6,
        message="2 workers of 1 CPU, 0 GPU leave no node with 0.25 CPU",
        cause="The workers take all CPUs, or leave too little of each node's. Ray Data"
        " counts the CPUs of all nodes together and would wait for ever.",
        fix=FIX,
        cluster=True,
        after=refused_without_waiting,
    ),
)

CASES: tuple[Case, ...] = (*OF_SETTINGS, *OF_CLUSTERS)
