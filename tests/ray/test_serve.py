"""The whole app on a local Ray: real CLIP, a random classifier, few small images."""

import asyncio
import contextlib
import dataclasses
import http.server
import io
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from ray import serve

from doggos_helpers.clip.files import model_fingerprint
from doggos_helpers.cluster.connect import Cluster
from doggos_helpers.embed.stage import check, embed
from doggos_helpers.embed.table import read_embeddings
from doggos_helpers.errors import ClusterError, ModelError, ServiceError, StorageError
from doggos_helpers.loadtest.client import read_test_images, send_load
from doggos_helpers.serve import service as serving
from doggos_helpers.serve.application import check_artefacts
from doggos_helpers.serve.fetch import MAX_BYTES
from doggos_helpers.serve.service import Service, check_port, start, stop
from doggos_helpers.serve.stages import Classifier, ServeSettings
from doggos_helpers.train import classifier
from tools.local_cluster import free_ports

CLASSES = {"basset": (40, 160, 80), "collie": (200, 80, 40), "pug": (60, 60, 200)}
JPEG = "test/basset/0.jpg"


def draw(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name, colour in CLASSES.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(2):
                noisy = random.normal(colour, 40, (60, 80, 3)).clip(0, 255)
                image = Image.fromarray(noisy.astype(np.uint8))
                image.save(folder / split / name / f"{i}.jpg")
    return folder


@dataclasses.dataclass(frozen=True)
class App:
    settings: ServeSettings
    cluster: Cluster
    client: httpx.Client
    url: str


def save_classifier(folder: Path, dimension: int) -> None:
    torch.manual_seed(0)
    model = classifier.Classifier(dimension, 16, len(CLASSES))
    about = {"epoch": 3, "val_loss": 1.5, "encoder": model_fingerprint("sample")}
    classifier.save(model, folder, sorted(CLASSES), **about)


@pytest.fixture(scope="module")
def app(cluster, tmp_path_factory) -> Iterator[App]:
    _, connected = cluster
    folder = tmp_path_factory.mktemp("serving")
    settings = ServeSettings(
        dataset=str(draw(folder / "data")),
        storage=str(folder / "storage"),
        champion=str(folder / "champion"),
        serve_images="yes",
        port=free_ports(1)[0],
        app_name="tested",
    )
    embed(check(settings), connected)
    width = read_embeddings(settings).vectors.shape[1]
    save_classifier(Path(settings.champion), width)
    service = start(settings, connected)
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as client:
        yield App(settings, connected, client, service.url)
    stop(service)
    assert not serve.status().proxies  # though the app was updated meanwhile
    stop(service)


def own(app: App, path: str = JPEG) -> str:
    return f"{app.url}/images/{path}"


def read(app: App, path: str = JPEG) -> bytes:
    return (Path(app.settings.dataset) / path).read_bytes()


def test_the_seeds_request_classifies_an_image_that_the_app_serves_itself(app):
    reply = app.client.post("/predict/", json={"url": own(app), "k": 4})
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    assert {b["breed"] for b in answer["breeds"]} == set(CLASSES)
    probabilities = [b["probability"] for b in answer["breeds"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    best = answer["similar"][0]
    assert len(answer["similar"]) == 4
    assert (best["path"], best["breed"], best["split"]) == (JPEG, "basset", "test")
    assert best["score"] == pytest.approx(1, abs=1e-4)
    assert answer["model"]["val_loss"] == 1.5
    assert answer["node"] in {node.name for node in app.cluster.nodes}
    assert app.client.get(best["url"]).content == read(app)


def test_the_answer_is_what_the_pieces_give_without_ray(app):
    from doggos_helpers.clip.encoder import ClipEncoder
    from doggos_helpers.data.images import decode

    encoder = ClipEncoder(app.settings.model)
    vector = encoder.encode_images(decode(read(app), encoder.preprocessing)[None])
    model, classes = classifier.load(Path(app.settings.champion))
    expected = classifier.predict_probabilities(model, vector)[0]
    answer = app.client.post("/predict/", json={"url": own(app)}).json()
    for breed in answer["breeds"]:
        probability = expected[classes.index(breed["breed"])]
        assert breed["probability"] == pytest.approx(probability, abs=1e-4)
    assert len(answer["similar"]) == app.settings.k


def test_an_upload_gives_the_same_answer_as_the_url(app):
    by_url = app.client.post("/predict/", json={"url": own(app), "k": 3}).json()
    files = {"image": ("dog.jpg", read(app))}
    reply = app.client.post("/predict/upload?k=3", files=files)
    assert reply.status_code == 200, reply.text
    by_upload = reply.json()
    assert [s["path"] for s in by_upload["similar"]] == [
        s["path"] for s in by_url["similar"]
    ]
    assert by_upload["breeds"][0]["breed"] == by_url["breeds"][0]["breed"]


def test_a_text_finds_images_and_names_the_words_it_does_not_know(app):
    body = {"text": "a black zorblax dog", "k": 5, "breeds": ["pug", "collie"]}
    answer = app.client.post("/search/", json=body).json()
    assert answer["unknown_words"] == ["zorblax"]
    scores = [s["score"] for s in answer["similar"]]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)
    assert {s["breed"] for s in answer["similar"]} <= {"pug", "collie"}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"url": "{own}", "k": 0}, 422, "body.k"),
        ({"url": "{own}", "k": 101}, 422, "body.k"),
        ({"url": "{own}", "top": 1}, 422, "body.top"),
        ({}, 422, "body.url"),
        ({"url": "{own}", "k": "many"}, 422, "body.k"),
        ({"url": "{own}", "zoom": 2, "crop": 1}, 422, "body.crop"),
        ({"url": "file:///etc/passwd"}, 400, "only http and https"),
        ({"url": "http://127.0.0.1:{port}/healthz"}, 403, "not public"),
        ({"url": "http://169.254.169.254/latest"}, 403, "not public"),
        ({"url": "{app}/images/test/pug/9.jpg"}, 404, "no such image"),
        ({"url": "{app}/images/../../champion/classifier.json"}, 404, "no such image"),
    ],
)
def test_a_wrong_request_is_refused_with_a_reason_and_a_fix(app, body, status, words):
    names = {"own": own(app), "app": app.url, "port": app.settings.port}
    if "url" in body:
        body = body | {"url": body["url"].format(**names)}
    reply = app.client.post("/predict/", json=body)
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error", "fix"}
    assert words in reply.json()["error"] and reply.json()["fix"]


@pytest.mark.parametrize(
    ("body", "words"),
    [(b'{"url": ', "JSON decode error"), (b"[1]", "body"), (b"", "body")],
)
def test_a_body_that_is_no_query_is_refused(app, body, words):
    headers = {"content-type": "application/json"}
    reply = app.client.post("/predict/", content=body, headers=headers)
    assert reply.status_code == 422, reply.text
    assert words in reply.json()["error"] and "openapi.json" in reply.json()["fix"]


def test_a_k_larger_than_the_index_gives_all_of_it(app):
    answer = app.client.post("/predict/", json={"url": own(app), "k": 100}).json()
    paths = {match["path"] for match in answer["similar"]}
    assert len(answer["similar"]) == len(paths) == answer["model"]["images"] == 18


def test_only_the_name_that_the_request_uses_counts_as_our_own(app):
    headers = {"Host": "dogs.example"}
    reply = app.client.post("/predict/", json={"url": own(app)}, headers=headers)
    assert reply.status_code == 403


def test_a_class_that_is_not_there_is_refused_across_replicas(app):
    body = {"text": "a dog", "breeds": ["unicorn"]}
    reply = app.client.post("/search/", json=body)
    assert reply.status_code == 422
    assert "unicorn" in reply.json()["error"] and "pug" in reply.json()["error"]


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"no image", 422, "not an image"),
        (b"", 422, "empty file"),
        (None, 422, "broken image"),
        (bytes(MAX_BYTES + 200_000), 413, "larger than"),
    ],
)
def test_a_bad_upload_is_refused_with_its_reason(app, content, status, words):
    half = read(app)[:1000]
    files = {"image": ("dog.jpg", half if content is None else content)}
    reply = app.client.post("/predict/upload", files=files)
    assert (reply.status_code, words in reply.json()["error"]) == (status, True)


def test_an_upload_without_a_declared_length_is_cut_off_too(app):
    def endless():
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"'
        yield b"\r\n\r\n"
        for _ in range(MAX_BYTES // 2**20 + 2):
            yield bytes(2**20)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    reply = app.client.post("/predict/upload", content=endless(), headers=headers)
    assert reply.status_code == 413


@pytest.mark.parametrize(
    "path",
    ["../../champion/classifier.json", "..%2f..%2fchampion/classifier.json", "test"],
)
def test_only_images_of_the_table_are_handed_out(app, path):
    assert app.client.get(f"/images/{path}").status_code == 404


def test_health_and_page_answer_and_the_page_loads_nothing_from_elsewhere(app):
    assert app.client.get("/healthz").json()["status"] == "ok"
    page = app.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "<form" in page.text
    assert not re.search(r"https?://|src=|@import|url\(", page.text)


def batches_of_several() -> float:
    """Count the batches of more than one image that the encoders computed."""
    import ray

    count = 0.0
    for node in ray.nodes():
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
        for line in httpx.get(url, trust_env=False).text.splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith("ray_serve_actual_batch_size") and '"image"' in name:
                count += float(value) if "_count{" in name else 0
                count -= float(value) if 'le="1.0"' in name else 0
    return count


def test_requests_at_a_time_are_all_answered_and_share_batches(app):
    images = read_test_images(app.settings)
    report = asyncio.run(send_load(app.url, images, requests=60, concurrency=12))
    assert report["statuses"] == {"200": 60}
    assert set(report["nodes"]) <= {node.name for node in app.cluster.nodes}
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]

    deadline = time.monotonic() + 30  # Ray exports its counts now and then
    while not batches_of_several():
        assert time.monotonic() < deadline
        time.sleep(1)


def test_the_app_leaves_room_on_a_machine_of_two_cpus(app):
    import ray

    used = ray.cluster_resources()["CPU"] - ray.available_resources()["CPU"]
    nodes = len(app.cluster.nodes)
    assert 0 < used <= 2 * nodes


def test_what_does_not_fit_is_said_before_anything_starts(app):
    many = dataclasses.replace(app.cluster.plan.serve, workers=50)
    plan = dataclasses.replace(app.cluster.plan, serve=many)
    with pytest.raises(ClusterError, match="50 workers"):
        start(app.settings, dataclasses.replace(app.cluster, plan=plan))
    assert app.client.get("/healthz").status_code == 200


def test_a_missing_artefact_is_named_with_the_notebook_that_makes_it(app, tmp_path):
    elsewhere = app.settings.model_copy(update={"storage": str(tmp_path)})
    with pytest.raises(StorageError, match="03_embedding"):
        start(elsewhere, app.cluster)


def test_a_classifier_of_another_model_is_refused_saying_so(app, tmp_path):
    save_classifier(tmp_path, 7)
    unfit = app.settings.model_copy(update={"champion": str(tmp_path)})
    with pytest.raises(ModelError, match="takes 7 numbers, the embeddings have"):
        check_artefacts(unfit)
    served = dataclasses.replace(check_artefacts(app.settings), champion=str(tmp_path))
    with pytest.raises(ModelError, match="takes 7 numbers, the embeddings have"):
        Classifier(served)


def test_embeddings_of_other_weights_are_refused(app, tmp_path):
    elsewhere = app.settings.model_copy(update={"storage": str(tmp_path)})
    shutil.copytree(app.settings.embeddings_dir, elsewhere.embeddings_dir)
    run = json.loads((elsewhere.embeddings_dir / "run.json").read_text())
    run["encoder"]["model"] = "other"
    (elsewhere.embeddings_dir / "run.json").write_text(json.dumps(run))
    with pytest.raises(ModelError, match="03_embedding"):
        start(elsewhere, app.cluster)


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Somebody's web server: it answers by path, and to /silent not at all."""

    def do_GET(self) -> None:
        if self.path == "/silent":
            ended.wait(30)
            return
        kinds = {"/page": "text/html", "/large": "image/jpeg", "/text": "image/jpeg"}
        self.send_response(200 if self.path in kinds else 404)
        self.send_header("content-type", kinds.get(self.path, "text/plain"))
        self.end_headers()
        with contextlib.suppress(OSError):  # the other side hangs up, as it should
            for _ in range(MAX_BYTES // 2**20 + 1 if self.path == "/large" else 1):
                self.wfile.write(b"x" * 2**20)

    def log_message(self, *_: object) -> None:
        pass


ended = threading.Event()


@pytest.fixture(scope="module")
def fetching(app) -> Iterator[str]:
    """Update the app: it fetches from loopback, hands out no images, and its encoder
    is a deployment of its own. Give it a host to fetch from.
    """
    changes = {"allow_private_urls": True, "serve_images": "no", "encoder_apart": "yes"}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        start(app.settings.model_copy(update=changes), app.cluster)
    assert said.getvalue() == "The app tested runs already: it is updated.\n"
    assert list(serve.status().applications) == ["tested"]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    ended.set()
    server.shutdown()


def test_an_encoder_of_its_own_gives_the_same_answers(app, fetching):
    deployments = serve.status().applications["tested"].deployments
    assert set(deployments) == {"Api", "Encoder"}
    reply = app.client.post("/predict/upload?k=2", files={"image": read(app)})
    assert reply.status_code == 200, reply.text
    best = reply.json()["similar"][0]
    assert best["path"] == JPEG and best["score"] == pytest.approx(1, abs=1e-4)
    found = app.client.post("/search/", json={"text": "a zorblax dog", "k": 3}).json()
    assert found["unknown_words"] == ["zorblax"] and len(found["similar"]) == 3


def test_images_are_not_handed_out_where_the_setting_is_off(app, fetching):
    files = {"image": read(app)}
    best = app.client.post("/predict/upload", files=files).json()["similar"][0]
    assert "url" not in best
    assert app.client.get(f"/images/{best['path']}").status_code == 404
    reply = app.client.post("/predict/", json={"url": own(app)})
    assert reply.status_code == 404 and "no such image here" in reply.json()["error"]


def test_health_says_when_the_encoder_is_gone_and_when_it_is_back(app, fetching):
    import ray

    actors = ray.util.list_named_actors(all_namespaces=True)
    name = next(a["name"] for a in actors if "#Encoder#" in a["name"])
    ray.kill(ray.get_actor(name, namespace="serve"))
    statuses, deadline = [], time.monotonic() + 90
    while statuses[-1:] != [200] or 503 not in statuses:
        assert time.monotonic() < deadline, statuses
        reply = app.client.get("/healthz")
        statuses.append(reply.status_code)
        time.sleep(0.1)
    assert set(statuses) <= {200, 503}


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/missing", 502, "the host answered 404"),
        ("/page", 415, "not an image but text/html"),
        ("/text", 422, "not an image"),
        ("/large", 413, "larger than"),
        ("/silent", 504, "no image within 10 s"),
    ],
)
def test_a_host_that_has_no_image_is_told_of(app, fetching, path, status, words):
    started = time.monotonic()
    reply = app.client.post("/predict/", json={"url": f"{fetching}{path}"})
    assert time.monotonic() - started < 20
    assert (reply.status_code, words in reply.json()["error"]) == (status, True)
    assert reply.json()["fix"]


def test_a_closed_port_is_told_of(app, fetching):
    reply = app.client.post(
        "/predict/", json={"url": f"http://127.0.0.1:{free_ports(1)[0]}"}
    )
    assert reply.status_code == 502 and "the host failed" in reply.json()["error"]


def test_another_ray_that_finds_our_port_taken_is_told_by_whom(app):
    # A Serve there may be the one that will be joined.
    check_port(app.settings, or_serve=True)
    with pytest.raises(ServiceError, match="a service on another Ray") as caught:
        check_port(app.settings)
    assert "DOGGOS_PORT" in caught.value.fix


def test_an_app_of_another_name_is_not_displaced(app):
    other = app.settings.model_copy(update={"app_name": "other"})
    with pytest.raises(ServiceError, match='used by application "tested"') as caught:
        start(other, app.cluster)
    assert "DOGGOS_APP_NAME" in caught.value.fix and len(str(caught.value)) < 300
    assert list(serve.status().applications) == ["tested"]


def test_stop_leaves_other_apps_and_a_serve_file_builds_ours_from_settings(app):
    """`deploy_apps` is what `serve deploy` calls, without its command."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Other:
        def __call__(self) -> str:
            return "here"

    before = app.client.post("/predict/upload", files={"image": read(app)}).json()
    serve.run(Other.bind(), name="other", route_prefix="/other")
    stop(Service(app.url, app.settings.app_name))
    assert list(serve.status().applications) == ["other"]
    assert app.client.get("/other").text == "here"
    serve.delete("other")
    file = {
        "name": app.settings.app_name,
        "route_prefix": "/",
        "import_path": "doggos_helpers.serve.application:build_app",
        "args": app.settings.model_dump(include=app.settings.model_fields_set),
    }
    config = ServeDeploySchema.model_validate({"applications": [file]})
    _get_global_client().deploy_apps(config, _blocking=True)
    after = app.client.post("/predict/upload", files={"image": read(app)}).json()
    assert after["similar"][0].pop("url") == own(app)
    assert after["breeds"] == before["breeds"]


@pytest.mark.long
def test_a_replica_that_cannot_start_is_told_of_and_taken_away(
    app, tmp_path, monkeypatch
):
    stop(Service(app.url, app.settings.app_name))
    save_classifier(tmp_path, 7)  # it loads, and doesn't fit the embeddings
    served = dataclasses.replace(check_artefacts(app.settings), champion=str(tmp_path))
    # As if the storage had changed since the driver looked.
    monkeypatch.setattr(serving, "check_artefacts", lambda _: served)
    with pytest.raises(ServiceError, match="takes 7 numbers, the emb") as caught:
        start(app.settings, app.cluster)
    assert "04_training" in str(caught.value) and len(str(caught.value)) < 500
    assert not serve.status().applications
