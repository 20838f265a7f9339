"""The API: the routes of the service, and what its replicas do for each."""

import asyncio
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import numpy as np
from fastapi import FastAPI, Query, Request, UploadFile
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, Field
from ray import serve
from ray.serve.handle import DeploymentHandle

from doggos_helpers.cluster.plan import WorkerPlan
from doggos_helpers.data.files import read_bytes
from doggos_helpers.data.images import BadImage, decode
from doggos_helpers.errors import SettingsError
from doggos_helpers.search.index import open_index
from doggos_helpers.serve.fetch import FetchError, fetch_image
from doggos_helpers.serve.guard import protect
from doggos_helpers.serve.stages import Classifier, Encoder, Served

HEALTH_TIMEOUT_S = 5
IMAGES = "/images/"
Answer = dict[str, Any]
K = Annotated[int | None, Query(ge=1, le=100, description="how many images")]

# FastAPI's own pages load their scripts from the internet.
app = protect(FastAPI(title="Doggos", docs_url=None, redoc_url=None))


class PredictQuery(BaseModel, extra="forbid"):
    """The body of `POST /predict/`."""

    url: str = Field(min_length=1, max_length=2048)
    k: K = None


class SearchQuery(BaseModel, extra="forbid"):
    """The body of `POST /search/`; `breeds` keeps the images of these classes."""

    text: str = Field(min_length=1, max_length=500)
    k: K = None
    breeds: list[str] = Field(default=[], max_length=1000)


@serve.ingress(app)
class Api:
    """Take HTTP requests, get their images, embed, classify and search.

    What would keep the other requests waiting, runs in a thread.

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

    @app.post("/predict/")
    async def predict(self, query: PredictQuery, request: Request) -> Answer:
        """Classify the image behind a URL, and find similar ones."""
        url = urlsplit(query.url)
        if url.netloc == request.headers["host"] and url.path.startswith(IMAGES):
            # One of ours: over HTTP this replica might wait for itself.
            data = await self._read(unquote(url.path.removeprefix(IMAGES)))
        else:
            data = await fetch_image(query.url, self.settings.allow_private_urls)
        return await self._classify(data, query.k, request)

    @app.post("/predict/upload")
    async def upload(self, image: UploadFile, request: Request, k: K = None) -> Answer:
        """Classify an uploaded image (form field `image`), and find similar ones."""
        return await self._classify(await image.read(), k, request)

    @app.post("/search/")
    async def search(self, query: SearchQuery, request: Request) -> Answer:
        """Find the images that fit a text best, of some breeds or of all."""
        vector, unknown, node = await call(self.encoder.text, query.text)
        similar = await self._nearest(vector, query.k, request, query.breeds)
        return {"similar": similar, "unknown_words": unknown, "node": node}

    @app.get("/images/{path:path}")
    async def image(self, path: str) -> Response:
        """Hand out an image of the data set."""
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        unsniffed = {"X-Content-Type-Options": "nosniff"}
        return Response(await self._read(path), media_type=kind, headers=unsniffed)

    @app.get("/healthz")
    async def healthz(self) -> Answer:
        """Say which model answers, once the encoder has."""
        async with asyncio.timeout(HEALTH_TIMEOUT_S):
            await call(self.encoder.ping)
        return {"status": "ok", "model": self.classifier.about}

    @app.get("/", response_class=HTMLResponse)
    async def page(self) -> str:
        """Show the page with the query box."""
        # Beside this module, wherever Ray unpacked it on this machine.
        return Path(__file__).with_name("page.html").read_text()

    async def _classify(self, data: bytes, k: K, request: Request) -> Answer:
        """Classify an image file's bytes, and find k similar images."""
        pixels = await asyncio.to_thread(decode, data, self.served.preprocessing)
        vector, node = await call(self.encoder.image, pixels)
        answer = await asyncio.to_thread(self.classifier.predict, vector)
        similar = await self._nearest(vector, k, request)
        return answer | {"similar": similar, "node": node}

    async def _nearest(
        self, vector: np.ndarray, k: K, request: Request, breeds: Sequence[str] = ()
    ) -> list[Answer]:
        """Find similar images, with the URL at which this service has each."""
        k = k or self.settings.k
        found = [
            {"path": m.path, "breed": m.class_name, "split": m.split, "score": m.score}
            for m in await asyncio.to_thread(self.index.top_k, vector, k, breeds)
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
            await asyncio.to_thread(self.index.vector_of, path)
            root = self.settings.dataset_root
            return await asyncio.to_thread(read_bytes, root, path)
        except (BadImage, SettingsError) as error:
            fix = "Use a path that a search returned, with serve_images on"
            raise FetchError("no such image here", path, fix, 404) from error


async def call(method: Any, *arguments: Any) -> Any:
    """Call a method of an object that is here, or through a deployment's handle."""
    return await getattr(method, "remote", method)(*arguments)
