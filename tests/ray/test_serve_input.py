"""What people send by mistake, and what they send on purpose: a sentence for each."""

import io
import json
import struct
import time
import zlib
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from doggos_helpers.serve.fetch import MAX_BYTES
from tests.ray.serving import App, running

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def app(prepared, cluster) -> Iterator[App]:
    with running(prepared, cluster[1]) as app:
        before = app.client.get("/info").json()
        replica = app.client.get("/readyz").headers["x-served-by"]
        yield app
        # Nothing of it took the replica down.
        ready = app.client.get("/readyz")
        assert (ready.status_code, ready.headers["x-served-by"]) == (200, replica)
        assert app.upload().status_code == 200
        assert app.client.get("/info").json() == before


def refused(reply: httpx.Response, status: int, words: str) -> None:
    assert reply.status_code == status, (reply.status_code, reply.text[:300])
    assert set(reply.json()) == {"error", "fix"}
    assert words in reply.json()["error"] and reply.json()["fix"]


# --- requests that are no image --------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"url": "{own}", "k": 0}, 422, "body.k"),
        ({"url": "{own}", "k": 101}, 422, "body.k"),
        ({"url": "{own}", "k": -1}, 422, "body.k"),
        ({"url": "{own}", "k": 2.5}, 422, "body.k"),
        ({"url": "{own}", "k": "many"}, 422, "body.k"),
        ({"url": "{own}", "k": 10**400}, 422, "body.k"),
        ({"url": "{own}", "k": float("nan")}, 422, "body.k"),
        ({"url": "{own}", "k": float("inf")}, 422, "body.k"),
        ({"url": "{own}", "top": 1}, 422, "body.top"),
        ({"url": "{own}", "zoom": 2, "crop": 1}, 422, "body.crop"),
        ({}, 422, "body.url"),
        ({"url": ""}, 422, "body.url"),
        ({"url": None}, 422, "body.url"),
        ({"url": ["{own}"]}, 422, "body.url"),
        ({"url": "http://example.org/" + "a" * 3000}, 422, "body.url"),
        ({"url": "file:///etc/passwd"}, 400, "only http and https"),
        ({"url": "gopher://127.0.0.1:6379/_FLUSHALL"}, 400, "only http and https"),
        ({"url": "//example.org/dog.jpg"}, 400, "only http and https"),
        ({"url": "http://[::1"}, 400, ""),
        ({"url": "http://\u0000.example.org/"}, 400, ""),
        ({"url": "http://me:secret@example.org/"}, 400, "credentials"),
        ({"url": "http://127.0.0.1:{port}/healthz"}, 403, "not public"),
        ({"url": "http://localhost:{port}/healthz"}, 403, "not public"),
        ({"url": "http://[::ffff:127.0.0.1]/"}, 403, "not public"),
        ({"url": "http://169.254.169.254/latest"}, 403, "not public"),
        ({"url": "{app}/images/test/pug/9.jpg"}, 404, "no such image"),
        ({"url": "{app}/images/../../champion/classifier.json"}, 404, "no such image"),
        ({"url": "{app}/images/%2e%2e/%2e%2e/etc/passwd"}, 404, "no such image"),
        ({"url": "{app}/images/\ud83d\udc36"}, 404, "no such image"),
    ],
)
@pytest.mark.parametrize("route", ["/predict/", "/v1/predict"])
def test_a_wrong_request_is_refused_with_a_reason(app, route, body, status, words):
    names = {"own": app.own(), "app": app.url, "port": app.settings.port}
    if isinstance(body.get("url"), str):
        body = body | {"url": body["url"].format(**names)}
    content = json.dumps(body)  # httpx refuses to send NaN
    refused(app.client.post(route, content=content, headers=JSON), status, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"url": ', "JSON decode error"),
        (b"[1]", "body"),
        (b"", "body"),
        (b"null", "body"),
        (b'"http://example.org"', "body"),
        (b"\xff\xfe\x00", ""),
        (b'{"url": "\\ud800"}', ""),
        (b"[" * 100_000, ""),
        (b'{"url": ' * 20_000, ""),
    ],
)
def test_a_body_that_is_no_query_is_refused(app, content, words):
    reply = app.client.post("/predict/", content=content, headers=JSON)
    assert reply.status_code in (400, 422), reply.text
    assert words in reply.json()["error"] and "openapi.json" in reply.json()["fix"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "give one of text and path, or breeds"),
        ({"text": "a dog", "path": "test/pug/0.jpg"}, "give one of"),
        ({"text": ""}, "give one of"),
        ({"text": "a" * 501}, "body.text"),
        ({"text": 5}, "body.text"),
        ({"text": "a dog", "breeds": ["unicorn"]}, "no images of class unicorn"),
        ({"breeds": ["unicorn"]}, "no images of class unicorn"),
        ({"text": "a dog", "breeds": "pug"}, "body.breeds"),
        ({"text": "a dog", "breeds": ["pug"] * 1001}, "body.breeds"),
        ({"text": "a dog", "k": 0}, "body.k"),
        ({"path": "../../etc/passwd"}, "no such image"),
        ({"path": "test/pug/0.jpg' OR 1=1 --"}, "no such image"),
    ],
)
def test_a_wrong_search_is_refused_with_a_reason(app, body, words):
    refused(app.client.post("/v1/search", json=body), 422, words)


@pytest.mark.parametrize(
    "text",
    [
        "\u202e\u0000\ufeff",
        "\U0001f436" * 100,
        "e\u0301" * 200,
        "\n\t\r ",
        "'; --",
        "%s{}",
    ],
)
def test_odd_words_are_words(app, text):
    reply = app.client.post("/v1/search", json={"text": text, "k": 2})
    assert reply.status_code == 200, reply.text
    assert len(reply.json()["similar"]) == 2


@pytest.mark.parametrize(
    "path",
    [
        "../../champion/classifier.json",
        "..%2f..%2fchampion/classifier.json",
        "%2e%2e/%2e%2e/champion/classifier.json",
        "/etc/passwd",
        "test",
        "",
        "%00",
        "test/basset/0.jpg%00.png",
        "a" * 5000,
    ],
)
def test_only_images_of_the_table_are_handed_out(app, path):
    assert app.client.get(f"/images/{path}").status_code == 404


def test_only_the_name_that_the_request_uses_counts_as_our_own(app):
    headers = {"Host": "dogs.example"}
    reply = app.client.post("/predict/", json={"url": app.own()}, headers=headers)
    assert reply.status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict/", 405),
        ("PUT", "/v1/search", 405),
        ("DELETE", "/images/test/basset/0.jpg", 405),
        ("POST", "/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1", 404),
    ],
)
def test_a_route_that_is_not_there_is_said(app, method, path, status):
    refused(app.client.request(method, path), status, "")


# --- uploads -----------------------------------------------------------------------


def picture(kind: str, size: tuple[int, int] = (60, 40), **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "brown").save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def bomb() -> bytes:
    """A PNG of a few kilobytes that claims 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(4_000_000), 9)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def many_pixels() -> bytes:
    file = io.BytesIO()
    Image.new("1", (12_000, 9_000)).save(file, "PNG")
    return file.getvalue()


SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no image", "not an image"),
        (b"", "empty file"),
        (b"\x00" * 1000, "not an image"),
        (picture("JPEG")[:300], "broken image"),
        (picture("PNG")[:60], ""),
        (picture("JPEG")[:20], ""),
        (SVG, "a web page or other markup"),
        (b"<html><body>404</body></html>", "a web page or other markup"),
        (b"%PDF-1.7\n" + bytes(200), "not an image"),
        (b"PK\x03\x04" + bytes(200), "not an image"),
        (b"MZ" + bytes(500), "not an image"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(100), "HEIC"),
        (bomb(), "too many pixels"),
        (many_pixels(), "too many pixels"),
        (picture("PNG", (5000, 1)), "too narrow"),
        (b"GIF89a" + bytes(20), ""),
        (b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(50), ""),
        (b"II*\x00\xff\xff\xff\xff" + bytes(50), ""),
    ],
)
def test_a_bad_image_is_refused_with_its_reason(app, content, words):
    refused(app.upload(content), 422, words)


def animation() -> bytes:
    file, frames = (
        io.BytesIO(),
        [Image.new("RGB", (40, 40), c) for c in ("red", "blue")],
    )
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        animation(),  # its first frame
        picture("JPEG")
        + b"<script>alert(1)</script>",  # a polyglot: what decodes counts
        picture("PNG"),  # uploaded under the name dog.jpg
        picture("WEBP"),
        picture("BMP"),
        picture("JPEG", (1, 1)),
    ],
)
def test_what_decodes_is_an_image_whatever_it_is_called(app, content):
    reply = app.upload(content)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"data": {"image": "text, and no file"}},
        {"files": {"picture": ("dog.jpg", b"x")}},
        {"data": {"other": "1"}, "files": {"file": ("dog.jpg", b"x")}},
    ],
)
def test_a_form_without_its_image_is_refused(app, fields):
    refused(app.client.post("/v1/predict/upload", **fields), 422, "body.image")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "multipart/form-data"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--", ""),
        (b"\x00" * 100, "multipart/form-data; boundary=x"),
        (b"--x" * 10_000, "multipart/form-data; boundary=x"),
        (b"{}", "application/json"),
    ],
)
def test_a_broken_form_is_refused(app, content, kind):
    headers = {"content-type": kind} if kind else {}
    reply = app.client.post("/v1/predict/upload", content=content, headers=headers)
    assert reply.status_code in (400, 422) and reply.json()["error"], reply.text


def test_a_form_of_many_parts_is_refused(app):
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    content = part * 5000 + b"--x--\r\n"
    reply = app.client.post("/v1/predict/upload", content=content, headers=headers)
    refused(reply, 400, "Too many")


def test_an_upload_that_is_too_large_is_refused(app):
    refused(app.upload(bytes(MAX_BYTES + 200_000)), 413, "larger than")


def test_an_upload_without_a_declared_length_is_cut_off_too(app):
    def endless():
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"'
        yield b"\r\n\r\n"
        for _ in range(MAX_BYTES // 2**20 + 2):
            yield bytes(2**20)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    reply = app.client.post("/v1/predict/upload", content=endless(), headers=headers)
    refused(reply, 413, "larger than")


def test_a_large_json_body_is_cut_off(app):
    content = b'{"url": "' + b"a" * (MAX_BYTES + 200_000) + b'"}'
    refused(app.client.post("/predict/", content=content, headers=JSON), 413, "larger")


def test_clients_that_hang_up_keep_nobody_waiting(app):
    for _ in range(20):
        with pytest.raises(httpx.TimeoutException):
            files = {"image": ("dog.jpg", app.read())}
            app.client.post("/v1/predict/upload", files=files, timeout=0.002)
    started = time.monotonic()
    assert app.upload().status_code == 200
    assert time.monotonic() - started < 5
