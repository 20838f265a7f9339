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
import pytest
import ray
from PIL import Image
from pydantic import SecretStr
from ray import serve

from doggos_helpers.errors import ClusterError, ModelError, ServiceError, StorageError
from doggos_helpers.loadtest.client import read_test_images, send_load
from doggos_helpers.serve import service as serving_module
from doggos_helpers.serve.application import check_artefacts, roll_out
from doggos_helpers.serve.fetch import MAX_BYTES
from doggos_helpers.serve.service import Service, check_port, start, stop
from doggos_helpers.train import classifier
from tests.ray.serving import (
    CLASSES,
    JPEG,
    App,
    running,
    save_classifier,
    traffic,
    wait_until,
)
from tools.local_cluster import free_ports


@pytest.fixture(scope="module")
def app(prepared, cluster) -> Iterator[App]:
    with running(prepared, cluster[1]) as app:
        yield app
    assert not serve.status().proxies  # though the app was updated meanwhile
    stop(Service(app.url, "tested"))


def test_the_seeds_request_classifies_an_image_that_the_app_serves_itself(app):
    reply = app.client.post("/predict/", json={"url": app.own(), "k": 4})
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
    assert app.client.get(best["url"]).content == app.read()


def test_the_answer_is_what_the_pieces_give_without_ray(app):
    from doggos_helpers.clip.encoder import ClipEncoder
    from doggos_helpers.data.images import decode

    encoder = ClipEncoder(app.settings.model, dtype=app.cluster.plan.serve.dtype)
    vector = encoder.encode_images(decode(app.read(), encoder.preprocessing)[None])
    model, classes = classifier.load(Path(app.settings.champion))
    expected = classifier.predict_probabilities(model, vector)[0]
    answer = app.client.post("/predict/", json={"url": app.own()}).json()
    for breed in answer["breeds"]:
        probability = expected[classes.index(breed["breed"])]
        assert breed["probability"] == pytest.approx(probability, abs=1e-4)
    assert len(answer["similar"]) == app.settings.k


def test_an_upload_gives_the_same_answer_as_the_url(app):
    by_url = app.client.post("/predict/", json={"url": app.own(), "k": 3}).json()
    reply = app.upload(k=3)
    assert reply.status_code == 200, reply.text
    by_upload = reply.json()
    assert [s["path"] for s in by_upload["similar"]] == [
        s["path"] for s in by_url["similar"]
    ]
    assert by_upload["breeds"][0]["breed"] == by_url["breeds"][0]["breed"]


def test_a_text_finds_images_and_names_the_words_it_does_not_know(app):
    body = {"text": "a black zorblax dog", "k": 5, "breeds": ["pug", "collie"]}
    answer = app.client.post("/v1/search", json=body).json()
    assert answer["unknown_words"] == ["zorblax"]
    scores = [s["score"] for s in answer["similar"]]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)
    assert {s["breed"] for s in answer["similar"]} <= {"pug", "collie"}


def test_a_k_larger_than_the_index_gives_all_of_it(app):
    answer = app.client.post("/predict/", json={"url": app.own(), "k": 100}).json()
    paths = {match["path"] for match in answer["similar"]}
    assert len(answer["similar"]) == len(paths) == answer["model"]["images"] == 18


def test_a_search_by_a_known_image_finds_it_and_its_like(app):
    answer = app.client.post("/v1/search", json={"path": JPEG, "k": 3}).json()
    assert answer["similar"][0]["path"] == JPEG
    assert answer["similar"][0]["score"] == pytest.approx(1, abs=1e-4)
    assert answer["unknown_words"] == []


def test_a_search_by_breeds_alone_gives_images_of_those(app):
    body = {"breeds": ["pug", "basset"], "k": 10}
    answer = app.client.post("/v1/search", json=body).json()
    assert len(answer["similar"]) == 10
    assert {s["breed"] for s in answer["similar"]} == {"pug", "basset"}


def test_the_versioned_route_answers_like_the_one_before(app):
    bodies = [{"url": app.own(), "k": 2}] * 2
    routes = ("/predict/", "/v1/predict")
    old, new = (
        app.client.post(r, json=b).json() for r, b in zip(routes, bodies, strict=True)
    )
    assert old == new


def test_a_thumbnail_is_a_small_jpeg_and_may_be_kept(app):
    reply = app.client.get(f"/images/{JPEG}?edge=32")
    image = Image.open(io.BytesIO(reply.content))
    assert (image.format, image.size) == ("JPEG", (32, 24))
    assert reply.headers["content-type"] == "image/jpeg"
    assert "max-age" in reply.headers["cache-control"]
    whole = app.client.get(f"/images/{JPEG}")
    assert whole.content == app.read()
    assert app.client.get(f"/images/{JPEG}?edge=9999").status_code == 422


def test_it_says_that_it_lives_that_it_is_ready_and_what_it_serves(app):
    assert app.client.get("/healthz").json() == {"status": "ok"}
    assert app.client.get("/readyz").json() == {"status": "ok"}
    info = app.client.get("/info").json()
    assert info["model"]["classes"] == 3 and info["model"]["val_loss"] == 1.5
    assert info["counts"]["embedded"] == info["model"]["images"] == 18
    assert info["dataset"] == app.settings.dataset and info["fingerprint"]


def test_openapi_describes_every_route_with_examples(app):
    schema = app.client.get("/openapi.json").json()
    paths = {"/predict/", "/v1/predict", "/v1/predict/upload", "/v1/search"}
    paths |= {"/images/{path}", "/healthz", "/readyz", "/info", "/"}
    assert set(schema["paths"]) == paths
    parts = schema["components"]["schemas"]
    assert parts["PredictQuery"]["properties"]["url"]["examples"]
    required = {"breeds", "similar", "model", "node"}
    assert set(parts["Prediction"]["required"]) == required


def test_the_page_loads_nothing_from_elsewhere_and_may_run_its_own_script_alone(app):
    page = app.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", page.text)
    policy = page.headers["content-security-policy"]
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy)
    assert nonce and f'<script nonce="{nonce[1]}">' in page.text
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert app.client.get("/").headers["content-security-policy"] != policy
    for reply in (page, app.upload(), app.client.get("/nothing")):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"


def test_an_answer_says_how_long_each_part_took_and_who_gave_it(app):
    reply = app.upload()
    parts = dict(re.findall(r"(\w+);dur=([\d.]+)", reply.headers["server-timing"]))
    assert set(parts) == {"decode", "embed", "match", "total"}
    total = float(parts.pop("total"))
    assert sum(map(float, parts.values())) <= total + 0.5
    assert reply.headers["x-served-by"]


def test_a_request_keeps_its_id_and_the_log_has_it(app):
    given = app.client.get("/healthz", headers={"X-Request-ID": "a-request-of-mine"})
    assert given.headers["x-request-id"] == "a-request-of-mine"
    made = [app.upload().headers["x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2 and all(len(name) > 10 for name in made)
    logs = Path(ray._private.worker._global_node.get_session_dir_path(), "logs/serve")
    wait_until(lambda: any(made[1] in f.read_text() for f in logs.glob("replica_*")))


def metric(name: str) -> dict[str, float]:
    """Read a metric that Ray exports for Prometheus on this node, by its labels."""
    found = {}
    for node in (node for node in ray.nodes() if node["Alive"]):
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
        for line in httpx.get(url, trust_env=False).text.splitlines():
            labels, _, value = line.rpartition(" ")
            if labels.startswith(name):
                found[labels] = float(value)
    return found


def test_prometheus_is_told_of_requests_latency_and_the_model(app):
    app.client.get("/nothing")
    routes = ('route="/v1/predict/upload"', 'status="200"')

    def told() -> bool:
        counts = [
            v
            for k, v in metric("ray_doggos_requests").items()
            if all(label in k for label in routes)
        ]
        latency = metric("ray_doggos_latency_ms_count")
        return bool(sum(counts) and latency and metric("ray_doggos_model_version"))

    wait_until(told)


def test_requests_at_a_time_are_all_answered_and_share_batches(app):
    images = read_test_images(app.settings)
    report = asyncio.run(send_load(app.url, images, requests=60, concurrency=12))
    assert report["statuses"] == {"200": 60}
    assert set(report["nodes"]) <= {node.name for node in app.cluster.nodes}
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    # Of 12 at a time, one may find the model free; the others share what comes next.
    alone = report["batches"].pop("1", 0)
    assert alone < 30 < sum(report["batches"].values()), report["batches"]
    assert report["parts_ms"]["embed"] < report["parts_ms"]["total"]


def test_the_app_leaves_room_on_a_machine_of_two_cpus(app):
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


def test_a_new_champion_is_rolled_out_and_back_without_a_failed_request(app, tmp_path):
    served = check_artefacts(app.settings)
    save_classifier(tmp_path, served.dimension, seed=1)
    new = dataclasses.replace(served, champion={"folder": str(tmp_path), "version": 2})
    before = app.upload().json()

    def version() -> int:
        return app.client.get("/info").json()["model"]["version"]

    with traffic(app) as statuses:
        roll_out(new)
        wait_until(lambda: version() == 2, 10)
        after = app.upload().json()
        roll_out(served)
        wait_until(lambda: version() == 0, 10)
        back = app.upload().json()
    assert set(statuses) == {200} and len(statuses) > 10
    assert after["breeds"] != before["breeds"] == back["breeds"]
    assert after["model"]["version"] == 2 and back["model"]["version"] == 0


def test_a_champion_that_does_not_fit_leaves_the_present_one(app, tmp_path):
    served = check_artefacts(app.settings)
    save_classifier(tmp_path, 7)
    with traffic(app) as statuses:
        for folder in (tmp_path, tmp_path / "nothing"):
            unfit = {"folder": str(folder), "version": 3}
            roll_out(dataclasses.replace(served, champion=unfit))
            time.sleep(3)
    assert set(statuses) == {200}
    assert app.client.get("/info").json()["model"]["version"] == 0
    roll_out(served)


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
    is a deployment of its own. No request fails. Give it a host to fetch from.
    """
    changes = {"allow_private_urls": True, "serve_images": "no", "encoder_apart": "yes"}
    with contextlib.redirect_stdout(io.StringIO()) as said, traffic(app) as statuses:
        start(app.settings.model_copy(update=changes), app.cluster)
    assert said.getvalue() == "The app tested runs already: it is updated.\n"
    assert set(statuses) == {200} and len(statuses) > 10, statuses
    assert list(serve.status().applications) == ["tested"]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    ended.set()
    server.shutdown()


def test_an_encoder_of_its_own_gives_the_same_answers(app, fetching):
    deployments = serve.status().applications["tested"].deployments
    assert set(deployments) == {"Api", "Encoder"}
    reply = app.upload(k=2)
    assert reply.status_code == 200, reply.text
    best = reply.json()["similar"][0]
    assert best["path"] == JPEG and best["score"] == pytest.approx(1, abs=1e-4)
    found = app.client.post("/v1/search", json={"text": "a zorblax dog", "k": 3}).json()
    assert found["unknown_words"] == ["zorblax"] and len(found["similar"]) == 3


def test_images_are_not_handed_out_where_the_setting_is_off(app, fetching):
    best = app.upload().json()["similar"][0]
    assert "url" not in best
    assert app.client.get(f"/images/{best['path']}").status_code == 404
    reply = app.client.post("/predict/", json={"url": app.own()})
    assert reply.status_code == 404 and "no such image here" in reply.json()["error"]


def test_health_says_when_the_encoder_is_gone_and_when_it_is_back(app, fetching):
    actors = ray.util.list_named_actors(all_namespaces=True)
    name = next(a["name"] for a in actors if "#Encoder#" in a["name"])
    ray.kill(ray.get_actor(name, namespace="serve"))
    statuses, deadline = [], time.monotonic() + 90
    while statuses[-1:] != [200] or 503 not in statuses:
        assert time.monotonic() < deadline, statuses
        reply = app.client.get("/readyz")
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

    before = app.upload().json()
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
    after = app.upload().json()
    assert after["similar"][0].pop("url") == app.own()
    assert after["breeds"] == before["breeds"]


@pytest.mark.long
def test_a_replica_that_cannot_start_is_told_of_and_taken_away(
    app, tmp_path, monkeypatch
):
    stop(Service(app.url, app.settings.app_name))
    save_classifier(tmp_path, 7)  # it loads, and doesn't fit the embeddings
    unfit = {"folder": str(tmp_path), "version": 0}
    served = dataclasses.replace(check_artefacts(app.settings), champion=unfit)
    # As if the storage had changed since the driver looked.
    monkeypatch.setattr(serving_module, "check_artefacts", lambda _: served)
    with pytest.raises(ServiceError, match="takes 7 numbers, the emb") as caught:
        start(app.settings, app.cluster)
    assert "04_training" in str(caught.value) and len(str(caught.value)) < 500
    assert not serve.status().applications


def test_without_the_token_there_is_the_page_and_nothing_else(app, prepared, cluster):
    stop(Service(app.url, app.settings.app_name))
    token, port = "a-secret-token", app.settings.port  # where Serve listens
    with running(prepared, cluster[1], token=SecretStr(token), port=port) as app:
        assert app.upload().status_code == 200
        images = read_test_images(app.settings)
        report = asyncio.run(send_load(app.url, images, requests=4, token=token))
        assert report["statuses"] == {"200": 4}
        del app.client.headers["Authorization"]
        wrong = ["", "Bearer", "Bearer wrong", "Basic dHLDqHM=", "Bearer a-secret-toke"]
        for given in wrong:
            headers = {"Authorization": given} if given else {}
            reply = app.client.get("/info", headers=headers)
            assert reply.status_code == 401, given
            assert reply.headers["www-authenticate"] == "Bearer"
            assert set(reply.json()) == {"error", "fix"}
        assert app.client.get("/openapi.json").status_code == 401
        assert app.client.get(f"/images/{JPEG}").status_code == 401
        assert app.upload().status_code == 401
        for path in ("/", "/healthz", "/readyz"):
            assert app.client.get(path).status_code == 200
    logs = Path(ray._private.worker._global_node.get_session_dir_path(), "logs/serve")
    assert not any(token in file.read_text() for file in logs.glob("*.log"))
