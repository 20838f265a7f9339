"""Fetch: getting an image from a URL that a stranger chose, without harm.

A service that fetches URLs can be used to reach what only the service can reach (a
cloud's metadata address, an unprotected port beside it), or to exhaust it. So a name
is resolved first, its addresses are checked, and the connection goes to the address
that was checked: a name that resolves differently a moment later gains nothing.
"""

import asyncio
import functools
import ipaddress
import socket
import ssl

import httpx

from doggos_helpers.errors import DoggosError

MAX_BYTES = 20 * 2**20
CONNECT_TIMEOUT_S = 3.0
TOTAL_TIMEOUT_S = 10.0
MAX_REDIRECTS = 3
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# S3 and many a file server call every file that.
UNTYPED = ("", "application/octet-stream", "binary/octet-stream")
_UPLOAD = "Download the image yourself and upload it"


class FetchError(DoggosError):
    """An image that can't be fetched; `status` is the HTTP status to answer with."""

    def __init__(
        self, what: str, where: str = "", fix: str = "", status: int = 400
    ) -> None:
        """Keep all four parts, so that the error survives pickling."""
        super().__init__(what, where, fix)
        self.args = (what, where, fix, status)
        self.status = status


async def fetch_image(
    url: str,
    *,
    allow_private: bool = False,
    max_bytes: int = MAX_BYTES,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    total_timeout_s: float = TOTAL_TIMEOUT_S,
    max_redirects: int = MAX_REDIRECTS,
) -> bytes:
    """Fetch a URL's bytes, following redirects and checking each of them.

    Args:
        url: http or https, without a user name or password.
        allow_private: Also connect to private, loopback and link-local addresses.
        max_bytes: The most that is read.
        connect_timeout_s: For each connection.
        total_timeout_s: For everything: names, connections, redirects, body.
        max_redirects: How many are followed.

    Raises:
        FetchError: With status 400 (the URL is wrong), 403 (an address that isn't
            public), 413 (too large), 415 (not an image), 502 (the other host failed)
            or 504 (it took too long).
    """
    timeout = httpx.Timeout(total_timeout_s, connect=connect_timeout_s)
    # The environment's proxies would connect to addresses that nobody checked.
    client = httpx.AsyncClient(trust_env=False, timeout=timeout, verify=_tls())
    target = _parse(url)
    try:
        async with asyncio.timeout(total_timeout_s), client:
            for _ in range(max_redirects + 1):
                answer = await _get(client, target, allow_private, max_bytes)
                if isinstance(answer, bytes):
                    return answer
                target = answer
    except (TimeoutError, httpx.TimeoutException):
        raise FetchError(
            f"no image within {total_timeout_s:g} s", url, _UPLOAD, 504
        ) from None
    except (httpx.HTTPError, OSError) as error:
        what = f"the host failed ({str(error) or type(error).__name__})"
        raise FetchError(what, url, _UPLOAD, 502) from error
    what = f"more than {max_redirects} redirects"
    raise FetchError(what, url, "Use the address they end at", 502)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Load the trusted certificates once: it takes longer than many a fetch."""
    return httpx.create_ssl_context(trust_env=False)


def _parse(url: str) -> httpx.URL:
    """Check everything about a URL that can be told without its address."""
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise FetchError(f"not a URL ({error})", url[:200], "Mend it") from None
    if target.scheme not in ("http", "https"):
        fix = "Use an http:// or https:// URL"
        raise FetchError("only http and https URLs are fetched", url[:200], fix)
    if not target.host:
        raise FetchError("the URL names no host", url[:200], "Mend it")
    if target.userinfo:
        # The URL isn't repeated: it holds a password.
        fix = "Use a URL without user name and password"
        raise FetchError("credentials in the URL", target.host, fix)
    return target


async def _get(
    client: httpx.AsyncClient, target: httpx.URL, allow_private: bool, max_bytes: int
) -> bytes | httpx.URL:
    """Ask one host; return the body, or where it redirects to."""
    name = target.raw_host.decode("ascii")
    port = target.port or (443 if target.scheme == "https" else 80)
    addresses = await _resolve(name, port)
    if not allow_private and (refused := [a for a in addresses if not is_public(a)]):
        # The address isn't repeated: it would tell about the network behind.
        what = f"the host's address is not public ({len(refused)} of {len(addresses)})"
        raise FetchError(what, target.host, _UPLOAD, 403)
    response = None
    for address in addresses:
        request = client.build_request(
            "GET",
            target.copy_with(host=address),
            headers={
                "Host": target.netloc.decode("ascii"),
                "Accept": "image/*",
                "Accept-Encoding": "identity",
            },
            # TLS asks for, and checks, the name and not the address.
            extensions={"sni_hostname": name},
        )
        try:
            response = await client.send(request, stream=True)
            break
        except (httpx.ConnectError, httpx.ConnectTimeout):
            if address == addresses[-1]:
                raise
    assert response is not None
    try:
        if response.has_redirect_location:
            return _parse(str(target.join(response.headers["location"])))
        return await _read(response, str(target), max_bytes)
    finally:
        await response.aclose()


async def _resolve(name: str, port: int) -> list[str]:
    """Look a host's addresses up, in the system's order of preference."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        raise FetchError("no such host", name, "Mend the URL") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Tell whether an address is one of the public internet.

    Private, loopback, link-local, shared, multicast, reserved and unspecified
    addresses aren't; neither is an IPv6 address that stands for such an IPv4 one.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner and not is_public(str(inner)):
            return False
        if ip.ipv4_mapped or ip in NAT64:
            return True  # judged by what it stands for
        if ip.is_site_local or ip.scope_id:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


async def _read(response: httpx.Response, url: str, max_bytes: int) -> bytes:
    """Read a body up to a limit, whatever its Content-Length claims."""
    if not response.is_success:
        what = f"the host answered {response.status_code}"
        raise FetchError(what, url, "Check the URL in a browser", 502)
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith("image/") and kind not in UNTYPED:
        fix = "Use the address of the image itself, not of a page"
        raise FetchError(f"not an image but {kind}", url, fix, 415)
    if response.headers.get("content-encoding", "identity") != "identity":
        # We asked for none, and a small body may unpack to a huge one.
        raise FetchError("the host compressed the image", url, _UPLOAD, 415)
    too_large = FetchError(
        f"larger than {max_bytes} bytes", url, "Use a smaller image", 413
    )
    claimed = response.headers.get("content-length", "")
    if claimed.isdecimal() and int(claimed) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)
