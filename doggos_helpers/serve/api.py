"""The API: the routes of the service, and what its replicas do for each."""

import asyncio
import io
import mimetypes
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import numpy as np
from fastapi import FastAPI, Query, Request, UploadFile
from fastapi.responses import HTMLResponse, Response
from ray import serve
from ray.serve.handle import DeploymentHandle

from doggos_helpers.cluster.nodes import this_node
from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.data.files import read_bytes
from doggos_helpers.data.images import BadImage, decode, upright
from doggos_helpers.errors import SettingsError, without_secrets
from doggos_helpers.search.index import open_index
from doggos_helpers.serve.answers import Found, K, Prediction, PredictQuery, SearchQuery
from doggos_helpers.serve.fetch import UNTYPED, FetchError, fetch_image
from doggos_helpers.serve.guard import log, protect, timed
from doggos_helpers.serve.stages import Classifier, Encoder, Served, aside

READY_TIMEOUT_S = 5
KEPT = {"Cache-Control": "private, max-age=3600"}
HERE = "default-src 'none'; connect-src 'self'; img-src 'self' blob: data:;"
HERE += " script-src 'nonce-{0}'; style-src 'nonce-{0}'; frame-ancestors 'none'"
Edge = Annotated[int | None, Query(ge=16, le=1024, description="of a thumbnail")]

# FastAPI's own pages load their scripts from the internet.
app = protect(FastAPI(title="Doggos", version="1", docs_url=None, redoc_url=None))


# Above the class: Serve packs it, with what its routes use, where it is defined.
def thumbnail(data: bytes, edge: int) -> bytes:
    """Turn an image file into a JPEG whose longer edge is at most `edge` pixels."""
    image, file = upright(data, least_edge=edge), io.BytesIO()
    image.thumbnail((edge, edge))
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


async def call(method: Any, *arguments: Any) -> Any:
    """Call a method of an object that is here, or through a deployment's handle."""
    return await getattr(method, "remote", method)(*arguments)


@serve.ingress(app)
class Api:
    """Take HTTP requests, get their images, embed, classify and search.

    What would keep the other requests waiting runs in threads.

    Args:
        served: What to serve.
        plan: For the encoder.
        encoder: Of a deployment of its own; None: it is a part of this replica, which
            spares requests the way to another one.
    """

    def __init__(
        self, served: Served, plan: WorkerPlan, encoder: DeploymentHandle | None = None
    ) -> None:
        """Load the champion, open the index, and keep the handle or load CLIP."""
        self.served, self.settings = served, served.settings
        self.classifier = Classifier(served)
        self.index = open_index(self.settings, update=False)
        self.encoder: Any = encoder or Encoder(served, plan)
        self.looking: asyncio.Task | None = None
        # Of their own: names of hosts are looked up in the others, and may take long.
        self.threads = ThreadPoolExecutor(plan.serve.threads + 1)

    @app.post("/predict/")
    @app.post("/v1/predict")
    async def predict(self, query: PredictQuery, request: Request) -> Prediction:
        """Classify the image behind a URL, and find similar ones."""
        host, images, path = query.url.partition("://")[2].partition("/images/")
        with timed(request, "fetch"):
            if images and host == request.url.netloc:
                # One of ours: over HTTP this replica might wait for itself.
                data = await self._read(unquote(path.partition("?")[0]))
            else:
                data = await fetch_image(query.url, self.settings)
        return await self._classify(data, query.k, request)

    @app.post("/v1/predict/upload")
    async def upload(
        self, image: UploadFile, request: Request, k: K = None
    ) -> Prediction:
        """Classify an uploaded image (form field `image`), and find similar ones."""
        return await self._classify(await image.read(), k, request)

    @app.post("/v1/search")
    async def search(self, query: SearchQuery, request: Request) -> Found:
        """Find the images most similar to words, to one of them, or to breeds."""
        unknown, node = list[str](), this_node()
        if query.path:
            vector = await aside(self.threads, self.index.vector_of, query.path)
        else:
            text = query.text or ", ".join(query.breeds).replace("_", " ")
            with timed(request, "embed"):
                vector, unknown, node = await call(self.encoder.text, text)
        wanted = (vector, query.k, request, query.breeds)
        with timed(request, "match"):
            similar = await aside(self.threads, self._nearest, *wanted)
        return {"similar": similar, "unknown_words": unknown, "node": node}

    @app.get("/images/{path:path}", response_class=Response)
    async def image(self, path: str, edge: Edge = None) -> Response:
        """Hand out an image of the data set, or a thumbnail of it."""
        data, kind = await self._read(path), mimetypes.guess_type(path)[0]
        if edge:
            data, kind = await aside(self.threads, thumbnail, data, edge), "image/jpeg"
        return Response(data, headers=KEPT | {"Content-Type": kind or UNTYPED[0]})

    @app.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """Say that this replica lives."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(self) -> dict[str, str]:
        """Say that every stage answers."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            await call(self.encoder.ping)
        return {"status": "ok"}

    @app.get("/info")
    async def info(self) -> dict[str, Any]:
        """Say what is served: the model, its version, and the data set with counts."""
        record = self.classifier.record
        return {
            "model": self.classifier.loaded[2],
            "dataset": without_secrets(self.settings.dataset),
            "fingerprint": record["fingerprint"],
            "counts": record["counts"],
        }

    @app.get("/", response_class=HTMLResponse)
    async def page(self) -> HTMLResponse:
        """Show the page with the query box."""
        # Beside this module, wherever Ray unpacked it on this machine.
        page, nonce = Path(__file__).with_name("page.html"), secrets.token_urlsafe(16)
        headers = {"Content-Security-Policy": HERE.format(nonce)}
        return HTMLResponse(page.read_text().replace("NONCE", nonce), headers=headers)

    async def check_health(self) -> None:
        """Look for a champion that was rolled out: Serve calls this now and then.

        It doesn't wait: a storage that hangs makes no replica ill.
        """
        if not self.looking or self.looking.done():
            self.looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        try:
            await asyncio.to_thread(self.classifier.follow)
        except Exception:
            log.exception("the new champion can't be served: the present one goes on")

    async def _classify(self, data: bytes, k: K, request: Request) -> Prediction:
        """Classify an image file's bytes, and find k similar images."""
        with timed(request, "decode"):
            pixels = await aside(self.threads, decode, data, self.served.preprocessing)
        with timed(request, "embed"):
            vector, node, batch = await call(self.encoder.image, pixels)
        request.scope["batch"] = batch

        def match() -> Prediction:
            named, model = self.classifier.predict(vector)
            similar = self._nearest(vector, k, request, [])
            return {"breeds": named, "similar": similar, "model": model, "node": node}

        with timed(request, "match"):
            return await aside(self.threads, match)

    def _nearest(
        self, vector: np.ndarray, k: K, request: Request, breeds: list[str]
    ) -> list[Any]:
        """Find similar images, with the URL at which this service has each."""
        found = [
            {"path": m.path, "breed": m.class_name, "split": m.split, "score": m.score}
            for m in self.index.top_k(vector, k or self.settings.k, breeds)
        ]
        if self.settings.serves_images:
            for match in found:
                match["url"] = str(request.url_for("image", path=match["path"]))
        return found

    async def _read(self, path: str) -> bytes:
        """Read an image of the data set; a path that isn't in its table is refused."""
        try:
            if not self.settings.serves_images:
                raise SettingsError("no image is handed out here")
            await aside(self.threads, self.index.vector_of, path)
            return await asyncio.to_thread(read_bytes, self.settings.dataset_root, path)
        except (BadImage, SettingsError) as error:
            fix = "Use a path that a search returned, with serve_images on"
            raise FetchError("no such image here", path, fix, 404) from error
