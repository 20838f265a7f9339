"""Thousands of requests made by machines: none may be a 500, none end a replica.

Those of the API are made from its own OpenAPI document, by schemathesis; images are
files of every kind that Pillow writes, with bytes changed, cut out, put in and doubled.
"""

import io
import os
import random
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from tests.ray.serving import App, running

MANY = int(os.environ.get("DOGGOS_TEST_FUZZ", "0")) or 6000
KINDS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "TGA")


@pytest.fixture(scope="module")
def app(prepared, cluster) -> Iterator[App]:
    with running(prepared, cluster[1]) as app:
        replica = app.client.get("/readyz").headers["x-served-by"]
        yield app
        ready = app.client.get("/readyz")
        assert (ready.status_code, ready.headers["x-served-by"]) == (200, replica)
        assert app.upload().status_code == 200


def pictures() -> list[bytes]:
    """Draw a small picture, and save it as everything that Pillow writes."""
    made = []
    for kind in KINDS:
        for mode in ("RGB", "L", "P"):
            file = io.BytesIO()
            image = Image.effect_noise((48, 32), 60).convert(mode)
            unable = mode == "P" and kind in ("JPEG", "PPM", "WEBP")
            (image.convert("RGB") if unable else image).save(file, kind)
            made.append(file.getvalue())
    return made


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change a file in a few places, the beginning more than the rest."""
    mutated = bytearray(data)
    for _ in range(chance.choice((1, 2, 4, 16))):
        size = len(mutated)
        at = int(size * chance.random() ** chance.choice((1, 3)))
        how = chance.randrange(6)
        if how == 0:
            mutated[at : at + 1] = bytes([chance.randrange(256)])
        elif how == 1:
            mutated[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\x7f\xff"))
        elif how == 2:
            del mutated[at : at + chance.randrange(1, 64)]
        elif how == 3:
            mutated[at:at] = chance.randbytes(chance.randrange(1, 64))
        elif how == 4:
            mutated[at:at] = mutated[at : at + chance.randrange(1, 512)]
        else:
            del mutated[at:]
    return bytes(mutated)


def send_mutated(app: App, count: int) -> Counter[int]:
    seeds, chance = pictures(), random.Random(count)
    statuses: Counter[int] = Counter()
    for _ in range(count):
        data = mutate(chance.choice(seeds), chance)
        reply = app.upload(data)
        statuses[reply.status_code] += 1
        assert reply.status_code in (200, 422), (reply.text, data)
        assert reply.status_code == 200 or reply.json()["fix"]
    print(f"{count} mutated images: {dict(statuses)}")
    return statuses


def test_some_mutated_images(app):
    statuses = send_mutated(app, 150)
    assert statuses[200] and statuses[422]  # they change enough, and not too much


@pytest.mark.long
def test_many_mutated_images(app):
    assert sum(send_mutated(app, MANY).values()) == MANY


def send_generated(app: App, count: int) -> Counter[int]:
    """Send what schemathesis makes of each operation."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_dict(app.client.get("/openapi.json").json())
    operations = [result.ok() for result in schema.get_all_operations()]
    statuses: Counter[int] = Counter()
    client = httpx.Client(timeout=60, trust_env=False)
    for operation in operations:
        each = settings(
            max_examples=max(1, count // len(operations)),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )

        @each
        @given(case=operation.as_strategy())
        def send(case):
            reply = case.call(base_url=app.url, timeout=60)
            statuses[reply.status_code] += 1
            assert reply.status_code < 500 or reply.status_code in (502, 504), (
                case.as_curl_command(),
                reply.text,
            )

        send()
    client.close()
    print(f"{sum(statuses.values())} generated requests: {dict(statuses)}")
    return statuses


def test_some_generated_requests(app):
    statuses = send_generated(app, 90)
    assert statuses[200] and statuses[422]


@pytest.mark.long
def test_many_generated_requests(app):
    assert sum(send_generated(app, MANY).values()) >= MANY / 2
