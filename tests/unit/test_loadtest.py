"""The load test, against a stand-in for the service: its figures must be true."""

import asyncio
import http.server
import json
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.serve import send_at
from doggos_helpers.errors import ServiceError, StorageError
from doggos_helpers.loadtest import __main__ as command
from doggos_helpers.loadtest.client import record, send_load
from doggos_helpers.settings import Settings

SECONDS = 0.05


class StandIn(http.server.BaseHTTPRequestHandler):
    """Answers each upload after 50 ms; counts how many are under way at a time."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    busy = most = turn = 0
    bodies: list[bytes]
    headers_seen: list[str | None]
    failing: dict[int, str]

    def do_GET(self) -> None:
        self.reply(200, {})

    def do_POST(self) -> None:
        site = type(self)
        with self.lock:
            site.busy += 1
            site.most = max(site.most, site.busy)
            turn = site.turn
            site.turn += 1
        site.headers_seen.append(self.headers["Authorization"])
        site.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(SECONDS)
        with self.lock:
            site.busy -= 1
        what = self.failing.get(turn, "")
        if what in ("503", "400"):
            self.reply(int(what), {"error": "busy"})
        elif what == "hang up":
            self.close_connection = True
        elif what == "slow":
            time.sleep(1.5)
            self.reply(200, {"node": "late"})
        else:
            self.reply(200, {"node": f"node {turn % 2}"})

    def reply(self, status: int, content: dict[str, str]) -> None:
        body = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # the client has gone
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[tuple[str, type[StandIn]]]:
    handler = type(
        "Site", (StandIn,), {"bodies": [], "headers_seen": [], "failing": {}}
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def load(url: str, requests: int, concurrency: int, **options: object) -> dict:
    images = [b"one", b"two", b"three"]
    return asyncio.run(
        send_load(url, images, requests=requests, concurrency=concurrency, **options)  # type: ignore[arg-type]
    )


def test_every_request_is_sent_once_and_the_images_take_turns(site):
    url, handler = site
    report = load(url, 7, 2)
    counts = {"requests": 7, "succeeded": 7, "failed": 0, "retried": 0}
    assert report["counts"] == counts
    assert report["statuses"] == {"200": 7}
    assert report["nodes"] == {"node 0": 4, "node 1": 3}
    sent = [sum(word in body for body in handler.bodies) for word in (b"one", b"two")]
    assert (sent, len(handler.bodies)) == ([3, 2], 7)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_as_many_requests_are_under_way_as_asked_for(site, concurrency):
    url, handler = site
    report = load(url, 8, concurrency)
    assert handler.most == concurrency
    least = 8 / concurrency * SECONDS
    assert least <= report["seconds"] < least + 2
    assert report["throughput"] == pytest.approx(8 / report["seconds"], rel=0.02)


def test_latencies_are_those_of_the_good_replies_in_milliseconds(site):
    url, _ = site
    report = load(url, 20, 4)
    figures = report["latency_ms"]
    assert len(report["latencies_ms"]) == 20
    assert min(report["latencies_ms"]) >= SECONDS * 1000
    assert SECONDS * 1000 <= figures["p50"] <= figures["p95"] <= figures["p99"]
    assert figures["p99"] <= max(report["latencies_ms"])


def test_failures_are_counted_by_what_they_were_and_have_no_latency(site):
    url, handler = site
    handler.failing = {1: "503", 3: "hang up", 5: "slow"}
    report = load(url, 8, 1, timeout_s=0.8)
    counts = {"requests": 8, "succeeded": 5, "failed": 3, "retried": 0}
    assert report["counts"] == counts
    assert report["statuses"] == {
        "200": 5,
        "503": 1,
        "ServerDisconnectedError": 1,
        "TimeoutError": 1,
    }
    assert sum(report["nodes"].values()) == len(report["latencies_ms"]) == 5


def test_what_failed_is_sent_again_after_a_wait_until_it_is_answered(site):
    url, handler = site
    handler.failing = {1: "503", 2: "hang up", 5: "400"}
    report = load(url, 6, 1, retries=3)
    counts = {"requests": 6, "succeeded": 5, "failed": 1, "retried": 1}
    assert report["counts"] == counts
    assert report["statuses"] == {"200": 5, "400": 1}  # which no retry would mend
    assert handler.turn == 8
    assert max(report["latencies_ms"]) > 300  # of two waits, 100 ms and 200 at least


def test_requests_come_at_a_fixed_rate_whether_answered_or_not(site):
    url, handler = site
    report = send_at(url, [b"one"], 50, 40)
    assert report["counts"]["succeeded"] == 40
    assert 0.75 < report["seconds"] < 2
    assert handler.most >= 2  # each takes 50 ms, and one comes every 20


def test_a_ramp_has_a_row_a_second_with_the_clients_of_its_step(site):
    url, _ = site
    report = load(url, 0, 0, steps=[1, 4, 1], step_s=1)
    clients = [row["clients"] for row in report["series"]]
    assert clients[0] == clients[-1] == 1 and 4 in clients
    rates = {row["clients"]: row["throughput"] for row in report["series"]}
    assert rates[4] > 2 * rates[1]
    assert sum(row["throughput"] for row in report["series"]) == len(
        report["latencies_ms"]
    )
    assert {row["replicas"] for row in report["series"]} == {1}


def test_the_token_is_sent(site):
    url, handler = site
    load(url, 1, 1, token="woof")
    assert handler.headers_seen[-1] == "Bearer woof"


def test_when_everything_fails_there_are_no_percentiles(site):
    url, handler = site
    handler.failing = dict.fromkeys(range(3), "503")
    report = load(url, 3, 3)
    assert (report["latency_ms"], report["throughput"]) == ({}, 0)


def test_nothing_listening_is_said_at_once():
    with pytest.raises(ServiceError) as caught:
        load("http://127.0.0.1:1", 1000, 1)
    assert "127.0.0.1:1" in str(caught.value) and "serve" in caught.value.fix
    assert caught.value.exit_code == 7


@pytest.fixture
def settings(tmp_path) -> Settings:
    settings = Settings(storage=str(tmp_path))
    settings.embeddings_dir.mkdir(parents=True)
    run = settings.embeddings_dir / "run.json"
    run.write_text(json.dumps({"fingerprint": "abc", "encoder": {"model": "e"}}))
    return settings


def test_the_record_holds_counts_nodes_and_every_latency(site, settings):
    report = load(site[0], 4, 2)
    path = record(settings, time.time() - 1, report)
    run = json.loads(path.read_text())
    assert path == settings.serving_dir / "run.json"
    assert (run["stage"], run["fingerprint"]) == ("serve", "abc")
    assert run["counts"]["succeeded"] == sum(run["nodes"].values()) == 4
    assert run["load"]["latency_ms"] == report["latency_ms"]
    assert json.loads((path.parent / "loadtest.json").read_text()) == report


def test_the_command_returns_1_when_a_request_failed(
    site, settings, monkeypatch, capsys
):
    url, handler = site
    # The images come from the table of embeddings, which has tests of its own.
    monkeypatch.setattr(command, "read_test_images", lambda _: [b"image"])
    arguments = ["--storage", settings.storage, "--requests", "3", "--concurrency", "1"]
    assert command.main([*arguments, "--url", url]) == 0
    assert "'succeeded': 3, 'failed': 0" in capsys.readouterr().out
    handler.failing = {handler.turn + 1: "503"}
    assert command.main([*arguments, "--url", url]) == 1
    out = capsys.readouterr().out
    assert "'succeeded': 2, 'failed': 1" in out and "'200': 2, '503': 1" in out


def test_the_command_names_the_notebook_that_makes_the_embeddings(tmp_path):
    with pytest.raises(StorageError, match="03_embedding"):
        command.main(["--storage", str(tmp_path)])
