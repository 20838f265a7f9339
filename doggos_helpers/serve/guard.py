"""What stands between a client and the routes: limits, and errors as answers.

An error is `{"error": what and where, "fix": what to do}`.
"""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doggos_helpers.data.images import BadImage
from doggos_helpers.errors import SettingsError, user_cause
from doggos_helpers.serve.fetch import MAX_BYTES, FetchError

BODY_BYTES = MAX_BYTES + 64 * 1024  # a multipart form adds something to its image
FIX = "Mend the request; GET /openapi.json describes every route"
BUSY = (BackPressureError, DeploymentUnavailableError, RayActorError, TimeoutError)
log = logging.getLogger("ray.serve")


def protect(app: FastAPI) -> FastAPI:
    """Put the guard before an application, and its errors into our words."""
    app.add_middleware(Guard)
    app.add_exception_handler(HTTPException, answer_error)
    app.add_exception_handler(RequestValidationError, answer_error)
    return app


class Guard:
    """Refuse a body while it is read, once it is too large; answer what is raised."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an ASGI application."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on to the application."""
        count = 0

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > BODY_BYTES:
                raise HTTPException(413, f"larger than {BODY_BYTES} bytes")
            return message

        try:
            await self.app(scope, counted, send)
        except Exception as error:
            answer = answer_error(Request(scope), error)
            await answer(scope, receive, send)


def answer_error(_: Request, error: Exception) -> JSONResponse:
    """Turn what was raised, here or in another replica, into an answer."""
    status, what, fix = _explain(error)
    return JSONResponse({"error": what, "fix": fix}, status)


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
    fix = "Look for this time in the Serve logs on the Ray dashboard"
    return 500, f"internal error ({type(error).__name__})", fix
