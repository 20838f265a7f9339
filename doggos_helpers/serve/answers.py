"""The bodies of requests and answers, as OpenAPI describes them."""

from typing import Annotated, NotRequired

from fastapi import Query
from pydantic import BaseModel, Field, model_validator
from typing_extensions import TypedDict

K = Annotated[int | None, Query(ge=1, le=100, description="how many similar images")]
URL = "https://example.org/dog.jpg"


class PredictQuery(BaseModel, extra="forbid"):
    """An image by its URL."""

    url: str = Field(min_length=1, max_length=2048, examples=[URL])
    k: K = None


class SearchQuery(BaseModel, extra="forbid"):
    """What to look for: words, or an embedded image by its path, or breeds."""

    text: str = Field("", max_length=500, examples=["a black dog on grass"])
    path: str = Field("", max_length=2048, examples=["test/pug/0001.jpg"])
    breeds: list[str] = Field([], max_length=1000, description="only images of these")
    k: K = None

    @model_validator(mode="after")
    def _one(self) -> "SearchQuery":
        if (self.text and self.path) or not (self.text or self.path or self.breeds):
            raise ValueError("give one of text and path, or breeds")
        return self


class Breed(TypedDict):
    """A breed, and how likely it is."""

    breed: str
    probability: float


class Similar(TypedDict):
    """An image of the data set; `url` where the service hands images out."""

    path: str
    breed: str
    split: str
    score: float
    url: NotRequired[str]


class Model(TypedDict):
    """The champion that answered; `version` is that of the registry."""

    version: int
    clip: str
    classes: int
    images: int
    epoch: int | None
    val_loss: float | None


class Found(TypedDict):
    """Images that fit best, first; `node` is where the query was embedded."""

    similar: list[Similar]
    unknown_words: list[str]
    node: str


class Prediction(TypedDict):
    """The likeliest breeds and the most similar images, best first."""

    breeds: list[Breed]
    similar: list[Similar]
    model: Model
    node: str


class Problem(TypedDict):
    """What is wrong with a request, and what to do."""

    error: str
    fix: str
