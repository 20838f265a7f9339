"""Routes: the HTTP interface of the service; what it does is in `deployments`.

Answers are JSON. An error is `{"error": what and where, "fix": what to do}`.
"""

import logging
import mimetypes
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from doggos_helpers.data.images import BadImage
from doggos_helpers.errors import DoggosError, SettingsError, user_cause
from doggos_helpers.serve.deployments import Ingress
from doggos_helpers.serve.fetch import MAX_BYTES, FetchError

MAX_K = 100
ENVELOPE_BYTES = 64 * 1024  # what a multipart form adds to its image
FIXES = {
    404: "GET / shows what there is; GET /openapi.json lists every route",
    405: "GET /openapi.json lists the method of every route",
    413: f"Send an image of at most {MAX_BYTES >> 20} MiB",
}
# Without a handler of their own, FastAPI answers these itself or logs them as faults.
HANDLED: tuple[type[Exception], ...] = (
    Exception,
    DoggosError,
    BadImage,
    RequestValidationError,
    StarletteHTTPException,
    BackPressureError,
    DeploymentUnavailableError,
)
log = logging.getLogger("ray.serve")
K = Annotated[int | None, Query(ge=1, le=MAX_K, description="how many images")]


class PredictQuery(BaseModel, extra="forbid"):
    """The body of `POST /predict/`."""

    url: str = Field(min_length=1, max_length=2048)
    k: K = None


class SearchQuery(BaseModel, extra="forbid"):
    """The body of `POST /search/`; `breeds` keeps the images of these classes."""

    text: str = Field(min_length=1, max_length=500)
    k: K = None
    breeds: list[str] = Field(default=[], max_length=1000)


def build_api(ingress: Ingress) -> FastAPI:
    """Build the FastAPI application. Runs on each replica of the ingress."""
    # FastAPI's own pages load their scripts from the internet.
    api = FastAPI(title="Doggos", docs_url=None, redoc_url=None)
    for kind in HANDLED:
        api.add_exception_handler(kind, answer_error)
    api.add_middleware(BodyLimit, max_bytes=MAX_BYTES + ENVELOPE_BYTES)

    @api.post("/predict/")
    async def predict(query: PredictQuery, request: Request) -> dict[str, Any]:
        """Classify the image behind a URL, and find similar ones."""
        data = await ingress.fetch(query.url, request.headers.get("host", ""))
        return _linked(await ingress.classify(data, query.k), ingress, request)

    @api.post("/predict/upload")
    async def upload(
        image: UploadFile, request: Request, k: K = None
    ) -> dict[str, Any]:
        """Classify an uploaded image (form field `image`), and find similar ones."""
        answer = await ingress.classify(await image.read(), k)
        return _linked(answer, ingress, request)

    @api.post("/search/")
    async def search(query: SearchQuery, request: Request) -> dict[str, Any]:
        """Find the images that fit a text best."""
        answer = await ingress.search(query.text, query.k, query.breeds)
        return _linked(answer, ingress, request)

    @api.get("/images/{path:path}")
    async def image(path: str) -> Response:
        """Hand out an image of the data set."""
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        return Response(
            await ingress.read(path),
            media_type=kind,
            headers={"X-Content-Type-Options": "nosniff"},
        )

    @api.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """Say that every stage of the service answers."""
        return await ingress.health()

    @api.get("/", response_class=HTMLResponse)
    async def page() -> str:
        """Show the page with the query box."""
        # Beside this module, wherever Ray unpacked it on this machine.
        return Path(__file__).with_name("page.html").read_text()

    return api


def _linked(
    answer: dict[str, Any], ingress: Ingress, request: Request
) -> dict[str, Any]:
    """Add to each similar image the URL at which this service has it."""
    if ingress.settings.serves_images:
        for match in answer["similar"]:
            match["url"] = str(request.url_for("image", path=match["path"]))
    return answer


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    """Turn what was raised, here or in another replica, into an answer."""
    status, what, fix = _explain(error)
    return JSONResponse({"error": what, "fix": fix}, status)


def _explain(error: Exception) -> tuple[int, str, str]:
    """Return the status, what is wrong, and the fix."""
    if isinstance(error, StarletteHTTPException):
        fix = FIXES.get(error.status_code, "Mend the request")
        return error.status_code, str(error.detail), fix
    if isinstance(error, RequestValidationError):
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        fix = "Mend the request; GET /openapi.json describes it"
        return 422, "; ".join(wrong), fix
    if isinstance(error, BadImage):
        fix = "Send a JPEG, PNG, WebP or GIF file"
        return 422, f"can't decode the image: {error}", fix
    cause = user_cause(error)
    if isinstance(cause, (FetchError, SettingsError)):
        what = f"{cause.what}: {cause.where}" if cause.where else cause.what
        return getattr(cause, "status", 422), what, cause.fix
    if isinstance(error, (BackPressureError, DeploymentUnavailableError)):
        return 503, "too many requests, or a stage is down", "Try again later"
    log.error("unexpected error", exc_info=error)
    fix = "Look for this time in the Serve logs on the Ray dashboard"
    return 500, f"internal error ({type(error).__name__})", fix


class BodyLimit:
    """Refuse a request's body while it is read, once it is larger than `max_bytes`."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """Wrap an ASGI application."""
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the bytes of one request on their way to the application."""
        count = 0

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self.max_bytes:
                raise HTTPException(413, f"larger than {self.max_bytes} bytes")
            return message

        await self.app(scope, counted, send)
