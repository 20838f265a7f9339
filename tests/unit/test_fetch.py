"""Fetching from URLs that a stranger chose, against servers on loopback."""

import asyncio
import datetime
import gzip
import http.server
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from doggos_helpers.errors import DoggosError
from doggos_helpers.serve import fetch
from doggos_helpers.serve.fetch import FetchError, fetch_image, is_public

IMAGE = b"\xff\xd8\xff" + bytes(range(256)) * 20


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path; notes the Host headers and the paths that were asked for."""

    seen: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.seen.append((self.headers["Host"], self.path))
        getattr(self, f"get_{self.path[1:].split('?')[0]}", self.get_missing)()

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        given = {"content_type": "image/jpeg", "content_length": str(len(body))}
        for name, value in (given | headers).items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def get_dog(self) -> None:
        self.answer(IMAGE)

    def get_missing(self) -> None:
        self.answer(b"no", 404)

    def get_page(self) -> None:
        self.answer(b"<html>", content_type="text/html; charset=utf-8")

    def get_large(self) -> None:
        self.answer(b"x" * 50_000)

    def get_endless(self) -> None:  # no Content-Length: the body ends when we hang up
        self.answer(b"x", content_length="")
        try:
            for _ in range(10_000):
                self.wfile.write(b"x" * 10_000)
        except OSError:
            self.seen.append(("hung up", self.path))

    def get_bomb(self) -> None:
        self.answer(gzip.compress(bytes(10_000_000)), content_encoding="gzip")

    def get_slow(self) -> None:  # every byte comes soon enough, all of them don't
        self.answer(b"x", content_length="100")
        try:
            for _ in range(99):
                time.sleep(0.05)
                self.wfile.write(b"x")
        except OSError:
            pass

    def get_broken(self) -> None:
        self.answer(b"x", content_length="100")

    def redirect(self, location: str) -> None:
        self.answer(b"", 302, location=location)

    def get_relative(self) -> None:
        self.redirect("/dog")

    def get_loop(self) -> None:
        self.redirect("/loop")

    def get_to(self) -> None:
        self.redirect(unquote(self.path.partition("?")[2]))


@pytest.fixture
def site() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    handler = type("Site", (Handler,), {"seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler.seen
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 20_000)


def get(url: str, allow_private: bool = True) -> bytes:
    return asyncio.run(fetch_image(url, allow_private))


def refusal(url: str, allow_private: bool = True) -> FetchError:
    with pytest.raises(FetchError) as caught:
        get(url, allow_private)
    return caught.value


def test_an_image_comes_back_whole_also_by_a_relative_redirect(site):
    url, seen = site
    assert get(f"{url}/dog") == IMAGE
    assert get(f"{url}/relative") == IMAGE
    assert [path for _, path in seen] == ["/dog", "/relative", "/dog"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/missing", 502, "answered 404"),
        ("/page", 415, "not an image but text/html"),
        ("/large", 413, "larger than 20000 bytes"),
        ("/bomb", 415, "compressed"),
        ("/broken", 502, "the host failed"),
        ("/loop", 502, "more than 3 redirects"),
        ("/to?file:///etc/passwd", 400, "only http and https"),
        ("/to?http://user:secret@127.0.0.1/dog", 400, "credentials"),
    ],
)
def test_what_is_refused_says_why(site, path, status, words):
    error = refusal(site[0] + path)
    assert (error.status, words in error.what) == (status, True), str(error)
    assert error.fix and isinstance(error, DoggosError)


def test_an_endless_body_is_cut_off_at_the_limit(site):
    url, seen = site
    assert refusal(f"{url}/endless").status == 413
    deadline = time.monotonic() + 5
    while ("hung up", "/endless") not in seen:
        assert time.monotonic() < deadline, "the server could send on"
        time.sleep(0.01)


def test_the_total_time_out_counts_a_trickle(site, monkeypatch):
    monkeypatch.setattr(fetch, "TOTAL_TIMEOUT_S", 0.5)
    started = time.monotonic()
    error = refusal(f"{site[0]}/slow")
    assert error.status == 504 and "within 0.5 s" in error.what
    assert time.monotonic() - started < 2


def test_redirects_are_counted(site, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_REDIRECTS", 1)
    assert get(f"{site[0]}/relative") == IMAGE
    monkeypatch.setattr(fetch, "MAX_REDIRECTS", 0)
    assert refusal(f"{site[0]}/relative").status == 502


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/dog.jpg",
        "file:///etc/passwd",
        "dog.jpg",
        "",
        "http://",
        "http:///dog.jpg",
        "http://[::1",
        "http://user@example.org/dog.jpg",
        "http://no-such-host.invalid/dog.jpg",
        f"http://{'a' * 64}.example/dog.jpg",
        "http://127.1/dog.jpg",
        "http://2130706433/dog.jpg",
    ],
)
def test_a_wrong_url_is_the_callers_fault(url):
    assert refusal(url).status == 400


def test_a_password_is_not_repeated_in_the_message():
    assert "secret" not in str(refusal("http://me:secret@example.org/"))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0x7f.1", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"],
)
def test_loopback_is_refused_under_every_name_before_a_connection(site, host):
    url, seen = site
    port = url.rpartition(":")[2]
    error = refusal(f"http://{host}:{port}/dog", allow_private=False)
    assert error.status == 403 and "not public" in error.what
    assert seen == []


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.2:{port}/dog",
        "http://localhost:{port}/dog",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:10.0.0.1]/",
    ],
)
def test_a_redirect_to_a_private_address_is_refused_with_a_faked_public_start(
    site, monkeypatch, target
):
    # Nothing public can be reached here, so loopback plays that part, once.
    url, seen = site
    monkeypatch.setattr(fetch, "is_public", lambda a: not seen or is_public(a))
    port = url.rpartition(":")[2]
    error = refusal(f"{url}/to?{target.format(port=port)}", allow_private=False)
    assert error.status == 403
    assert [path.split("?")[0] for _, path in seen] == ["/to"]


def test_the_address_that_was_checked_is_the_one_connected_to(site, monkeypatch):
    """A name that resolves differently the second time gains nothing."""
    url, seen = site
    port = int(url.rpartition(":")[2])
    real, asked = socket.getaddrinfo, []

    def rebinding(host, *rest, **options):
        if host != "dogs.example":
            return real(host, *rest, **options)
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "127.0.0.99"
        return real(address, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert get(f"http://dogs.example:{port}/dog") == IMAGE
    assert asked == ["dogs.example"]
    assert seen == [(f"dogs.example:{port}", "/dog")]


@pytest.fixture
def two_addresses(site, monkeypatch) -> Iterator[tuple[str, list, list, list]]:
    """A host at 127.0.0.1, which counts as public, and at 127.0.0.2, which doesn't."""
    url, public = site
    port, private = int(url.rpartition(":")[2]), []

    class Private(http.server.ThreadingHTTPServer):
        def get_request(self):
            private.append("connected")
            return super().get_request()

    handler = type("Site", (Handler,), {"seen": []})
    server = Private(("127.0.0.2", port), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    order = ["127.0.0.1", "127.0.0.2"]

    def both(_, asked, *__, **___):
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (address, asked)) for address in order]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    monkeypatch.setattr(fetch, "is_public", lambda address: address != "127.0.0.2")
    yield f"http://dogs.example:{port}", public, private, order
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("turned", [False, True])
def test_of_a_host_with_a_private_address_too_only_the_public_one_is_connected_to(
    two_addresses, turned
):
    url, public, private, order = two_addresses
    if turned:
        order.reverse()
    assert get(f"{url}/dog", allow_private=False) == IMAGE
    assert len(public) == 1 and not private
    order.remove("127.0.0.1")
    assert get(f"{url}/dog") == IMAGE and private


@pytest.mark.parametrize("turned", [False, True])
def test_where_the_public_address_fails_the_private_one_is_still_refused(
    two_addresses, turned
):
    url, _, private, order = two_addresses
    order[0] = "127.0.0.3"  # nothing listens there
    if turned:
        order.reverse()
    error = refusal(f"{url}/dog", allow_private=False)
    assert error.status == 403 and "not public" in error.what
    assert "127.0.0" not in str(error) and not private


def test_the_environments_proxy_is_not_used(site, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert get(f"{site[0]}/dog") == IMAGE


@pytest.mark.parametrize(
    ("trusted", "certified", "words"),
    [
        (True, "dogs.example", ""),
        (True, "cats.example", "Hostname mismatch"),
        (False, "dogs.example", "certificate verify failed"),
    ],
)
def test_tls_asks_for_the_name_and_checks_it_though_it_connects_to_an_address(
    tmp_path, monkeypatch, trusted, certified, words
):
    named: list[str | None] = []
    handler = type("Site", (Handler,), {"seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    pair = write_certificate(tmp_path, certified)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    context.sni_callback = lambda _, name, __: named.append(name)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, *rest, **more: real("127.0.0.1", *rest, **more)
    )
    if trusted:
        trust = ssl.create_default_context(cafile=pair)
        monkeypatch.setattr(fetch, "_tls", lambda: trust)
    url = f"https://dogs.example:{server.server_port}/dog"
    try:
        if words:
            error = refusal(url)
            assert error.status == 502 and words in error.what
        else:
            assert get(url) == IMAGE
    finally:
        server.shutdown()
        server.server_close()
    assert named == ["dogs.example"]


def write_certificate(folder: Path, name: str) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "pair.pem"
    file.write_bytes(secret + certificate.public_bytes(pem))
    return file


@pytest.mark.parametrize(
    "address",
    """127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0
    255.255.255.255 224.0.0.1 240.0.0.1 192.0.2.1 198.18.0.1 :: ::1 ::ffff:127.0.0.1
    ::ffff:10.0.0.1 fe80::1 fe80::1%1 fc00::1 fec0::1 ff02::1 ff0e::1 2002:7f00:1::
    2002:a00:1:: 64:ff9b::7f00:1 64:ff9b:1::1 2001:db8::1 ::127.0.0.1""".split(),
)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "2001:4860:4860::8888",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ],
)
def test_addresses_that_are_public(address):
    assert is_public(address)
