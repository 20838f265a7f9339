"""What stands between a client and the routes: limits, a token, errors as answers.

An error is `{"error": what and where, "fix": what to do}`.
"""

import hmac
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray import serve
from ray.exceptions import RayActorError
from ray.serve import metrics
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doggos_helpers.data.images import BadImage
from doggos_helpers.errors import SettingsError, user_cause
from doggos_helpers.serve.answers import Problem
from doggos_helpers.serve.fetch import MAX_BYTES, FetchError

BODY_BYTES = MAX_BYTES + 64 * 1024  # a multipart form adds something to its image
OPEN = ("/", "/healthz", "/readyz")  # without a token: the page asks for it
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
RETRY_AFTER_S = 1
FIX = "Mend the request; GET /openapi.json describes every route"
BUSY = (BackPressureError, DeploymentUnavailableError, RayActorError, TimeoutError)
MILLISECONDS = [10.0, 30.0, 100.0, 300.0, 1000.0, 10000.0]
log = logging.getLogger("ray.serve")


def protect(app: FastAPI) -> FastAPI:
    """Put the guard before an application, and its errors into our words."""
    app.router.responses = {"4XX": {"model": Problem}, "5XX": {"model": Problem}}
    app.add_middleware(Guard)
    app.add_exception_handler(HTTPException, answer_error)
    app.add_exception_handler(RequestValidationError, answer_error)
    return app


class Guard:
    """Let in who bears the token, limit bodies, answer what is raised, and measure."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an ASGI application, on a replica."""
        tags: Any = ("route", "status")
        self.app = app
        self.requests = metrics.Counter("doggos_requests", "Answers", tag_keys=tags)
        self.latency = metrics.Histogram(
            "doggos_latency_ms", "Time until the answer", MILLISECONDS, tags
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on to the application."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, count, status = time.perf_counter(), 0, 500

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > BODY_BYTES:
                raise HTTPException(413, f"larger than {BODY_BYTES} bytes")
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                parts = scope.get("timings", {}) | {"total": milliseconds(started)}
                timing = ", ".join(f"{name};dur={ms:.1f}" for name, ms in parts.items())
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS | {"Server-Timing": timing})
                headers["X-Served-By"] = serve.get_replica_context().replica_tag
                headers["X-Batch-Size"] = str(scope.get("batch", 0))
            await send(message)

        try:
            let_in(Request(scope))
            await self.app(scope, counted, noted)
        except Exception as error:
            await answer_error(Request(scope), error)(scope, receive, noted)
        tags = {"route": getattr(scope.get("route"), "path", ""), "status": str(status)}
        self.requests.inc(tags=tags)
        self.latency.observe(milliseconds(started), tags=tags)


def let_in(request: Request) -> None:
    """Raise unless a request bears the token, where there is one."""
    replica: Any = serve.get_replica_context().servable_object
    token, path = replica.settings.token.get_secret_value(), request.url.path
    given = request.headers.get("authorization", "").encode()
    right = hmac.compare_digest(given, f"Bearer {token}".encode())  # in constant time
    if token and path not in OPEN and not right:
        how = {"WWW-Authenticate": "Bearer"}
        raise HTTPException(401, "this service asks for a token", how)


def milliseconds(started: float) -> float:
    """Return the time since `time.perf_counter()` was `started`."""
    return (time.perf_counter() - started) * 1000


@contextmanager
def timed(request: Request, part: str) -> Iterator[None]:
    """Note how long a part of a request takes, for its header Server-Timing."""
    started = time.perf_counter()
    yield
    request.scope.setdefault("timings", {})[part] = milliseconds(started)


def answer_error(_: Request, error: Exception) -> JSONResponse:
    """Turn what was raised, here or in another replica, into an answer."""
    status, what, fix = _explain(error)
    headers = dict(getattr(error, "headers", None) or {})
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return JSONResponse({"error": what, "fix": fix}, status, headers)


def _explain(error: Exception) -> tuple[int, str, str]:
    """Return the status, what is wrong, and what to do."""
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail), FIX
    if isinstance(error, RequestValidationError):
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        return 422, "; ".join(wrong), FIX
    if isinstance(error, BadImage):
        fix = "Send a JPEG, PNG, WebP or GIF file"
        return 422, f"can't decode the image: {error}", fix
    cause = user_cause(error)
    if isinstance(cause, (FetchError, SettingsError)):
        what = f"{cause.what}: {cause.where}" if cause.where else cause.what
        return getattr(cause, "status", 422), what, cause.fix
    if isinstance(error, BUSY):
        return 503, "too many requests, or a replica is down", "Try again later"
    log.error("unexpected error", exc_info=error)
    fix = "Look for its request id in the Serve logs on the Ray dashboard"
    return 500, f"internal error ({type(error).__name__})", fix
