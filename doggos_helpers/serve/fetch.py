"""Fetch: getting an image from a URL that a stranger chose, without harm.

A service that fetches URLs can be used to reach what only the service can reach (a
cloud's metadata address, an unprotected port beside it), or to exhaust it. So each
address is checked when a socket is about to be opened to it, after names are resolved
and redirects followed: a name that resolves differently a moment later gains nothing.
"""

import asyncio
import functools
import ipaddress
import socket
import ssl

import aiohttp
import certifi
from yarl import URL

from doggos_helpers.errors import DoggosError
from doggos_helpers.serve.stages import ServeSettings

MAX_BYTES = 20 * 2**20
CONNECT_TIMEOUT_S = 3.0
TOTAL_TIMEOUT_S = 10.0
MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# S3 and many a file server call every file that; aiohttp calls one without a type so.
UNTYPED = ("application/octet-stream", "binary/octet-stream")
_UPLOAD = "Download the image yourself and upload it"


class FetchError(DoggosError):
    """An image that can't be fetched; `status` is the HTTP status to answer with."""

    def __init__(self, what: str, where: str, fix: str, status: int = 400) -> None:
        """Keep the status beside the three parts."""
        super().__init__(what, where, fix)
        self.status = status


async def fetch_image(url: str, settings: ServeSettings) -> bytes:
    """Fetch a URL's bytes, following redirects and checking each of them.

    Of a host with several addresses the private ones are passed over.

    Args:
        url: http or https, without a user name or password.
        settings: For `allowed_hosts`, and `allow_private_urls`: also connect to
            private, loopback and link-local addresses.

    Raises:
        FetchError: With status 400 (the URL is wrong), 403 (an address that isn't
            public, or a host that isn't allowed), 413 (too large), 415 (not an image),
            502 (the other host failed) or 504 (it took too long).
    """
    refused = False

    def open_socket(info: aiohttp.AddrInfoType) -> socket.socket:
        nonlocal refused
        if not settings.allow_private_urls and not is_public(str(info[4][0])):
            refused = True
            raise OSError("not public")
        return socket.socket(*info[:3])

    # A session of its own: no cookie and no connection goes from one user to the next.
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=_tls(), socket_factory=open_socket),
        timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_S),
        headers={"Accept": "image/*", "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,  # a proxy would connect to addresses that nobody checked
    )
    target = URL()
    try:
        async with asyncio.timeout(TOTAL_TIMEOUT_S), session:
            for _ in range(MAX_REDIRECTS + 1):
                target = _parse(url, target, settings.allowed_hosts)
                async with session.get(target, allow_redirects=False) as response:
                    refused = False
                    url = response.headers.get("Location", "")
                    if response.status not in REDIRECTS or not url:
                        return await _read(response)
        what = f"more than {MAX_REDIRECTS} redirects"
        raise FetchError(what, str(target), "Use the address they end at", 502)
    except (aiohttp.ClientConnectorDNSError, aiohttp.InvalidURL, UnicodeError):
        raise FetchError("no such host", str(target.host), "Mend the URL") from None
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        what, status = f"the host failed ({error or type(error).__name__})", 502
        if refused:  # its address isn't repeated: it tells about the network behind
            what, status = "the host's address is not public", 403
        elif isinstance(error, TimeoutError):
            what, status = f"no image within {TOTAL_TIMEOUT_S:g} s", 504
        raise FetchError(what, str(target.host), _UPLOAD, status) from error


@functools.cache
def _tls() -> ssl.SSLContext:
    """Load the trusted certificates once: it takes longer than many a fetch."""
    return ssl.create_default_context(cafile=certifi.where())


def _parse(url: str, base: URL, allowed_hosts: str) -> URL:
    """Check everything about a URL that can be told without its address."""
    try:
        target = base.join(URL(url))
    except (ValueError, TypeError) as error:
        raise FetchError(f"not a URL ({error})", url[:200], "Mend it") from None
    if target.scheme not in ("http", "https") or not target.host:
        what, fix = "only http and https URLs are fetched", "Use one of those"
        raise FetchError(what, url[:200], fix)
    if target.user is not None or target.password is not None:
        # The URL isn't repeated: it holds a password.
        fix = "Use a URL without user name and password"
        raise FetchError("credentials in the URL", target.host, fix)
    allowed = [host.strip() for host in allowed_hosts.split(",") if host.strip()]
    if allowed and target.host not in allowed:
        fix = f"Use one of {', '.join(allowed)} (DOGGOS_ALLOWED_HOSTS)"
        raise FetchError("not a host that is fetched from", target.host, fix, 403)
    return target


def is_public(address: str) -> bool:
    """Tell whether an address is one of the public internet.

    Private, loopback, link-local, shared, multicast, reserved and unspecified
    addresses aren't. An IPv6 address that stands for an IPv4 one is judged by that,
    and one of 6to4, which nobody uses any more, is refused.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped or ip in NAT64:  # the IPv4 one is in the last 32 bits
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.is_site_local or ip.scope_id or ip.sixtofour:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read a body up to a limit, whatever its Content-Length claims."""
    url, kind = str(response.url), response.content_type
    if not 200 <= response.status < 300:
        what = f"the host answered {response.status}"
        raise FetchError(what, url, "Check the URL in a browser", 502)
    if not kind.startswith("image/") and kind not in UNTYPED:
        fix = "Use the address of the image itself, not of a page"
        raise FetchError(f"not an image but {kind}", url, fix, 415)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        # We asked for none, and a small body may unpack to a huge one.
        raise FetchError("the host compressed the image", url, _UPLOAD, 415)
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BYTES:
            what = f"larger than {MAX_BYTES} bytes"
            raise FetchError(what, url, "Use a smaller image", 413)
    return bytes(body)
