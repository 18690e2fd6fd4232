"""What the answers look like, for the OpenAPI description and for whoever reads it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Prediction(_Body):
    """A class or label, and how probable it is."""

    label: str
    probability: float = Field(ge=0, le=1)


class Number(_Body):
    """One of the numbers that a model answers with."""

    name: str
    value: float


class Neighbour(_Body):
    """A training image that is like the one asked about."""

    name: str
    label: str
    similarity: float = Field(description="Cosine of the two vectors.")
    thumbnail: str = Field(description="A data: URL.")


class ImageAnswer(_Body):
    """What a model says of one image."""

    name: str | None = Field(description="The part's file name.")
    width: int = Field(description="Of the picture, upright.")
    height: int = Field(description="Of the picture, upright.")
    predictions: list[Prediction] = Field([], description="The most probable first.")
    present: list[str] = Field([], description="Of many labels those that the image has.")
    numbers: list[Number] = []
    abstained: bool = Field(False, description="Whether the top probability was too low.")
    neighbours: list[Neighbour] = []


class ImageFailure(_Body):
    """Why one image has no answer."""

    name: str | None
    error: str
    status: int


class Answers(_Body):
    """The answers to all images of a request, in their order."""

    model: str
    version: str
    task: str
    results: list[ImageAnswer | ImageFailure]


class Explanation(_Body):
    """Where in an image a logit comes from: the mean of the map and the rest are the logit."""

    model: str
    version: str
    label: str
    logit: float
    probability: float | None
    exact: bool = Field(description="Else it holds for small changes of the image only.")
    rest: float
    map: list[list[float]]
    width: int
    height: int


class Validation(_Body):
    """How good a model is on its validation images."""

    metric: str
    value: float
    interval: tuple[float | None, float | None] = Field(description="95 %.")
    loss: float
    figures: dict[str, float | None]


class ModelFacts(_Body):
    """A model that is served."""

    name: str
    version: str
    task: str
    classes: list[str]
    base: str
    image_size: int
    validation: Validation
    neighbours: bool = Field(description="Whether it carries training images to show.")
    abstain_below: float | None
    exact_maps: bool


class LimitFacts(_Body):
    """What one request may bring."""

    image_bytes: int
    image_pixels: int
    images: int
    request_bytes: int
    queue: int


class Models(_Body):
    """All models, and the limits."""

    models: list[ModelFacts]
    limits: LimitFacts


class Health(_Body):
    """Whether requests are taken."""

    status: str


class Reason(_Body):
    """A status, and why."""

    status: int
    reason: str


class Error(_Body):
    """A request that was not served."""

    error: Reason


_REASONS = {
    400: "A broken request, or one for another host.",
    401: "The API key is missing or wrong.",
    403: "A page of another site asks.",
    404: "There is no such model or address.",
    405: "Another method is meant.",
    408: "The request came too slowly.",
    413: "Too many bytes, pixels or images.",
    415: "Not an image, or compressed once more.",
    422: "An option or an image cannot be used.",
    429: "The queue is full.",
    431: "The headers are too long.",
    500: "A fault of the server.",
    503: "It took too long, or the server is stopping.",
}
_ALWAYS = (400, 403, 405, 431, 500)
_IMAGES = (404, 408, 413, 415, 422, 429, 503)
_IMAGE_STATUSES = (413, 415, 422)
_RETRY = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}


def responses(*more: int, key: bool, model: Any = None, images: bool = False) -> dict[Any, Any]:
    """Returns all answers of a route, for FastAPI.

    Args:
        more: statuses besides those that every route has.
        key: whether an API key is asked for.
        model: of the answer 200; None if the route says it itself.
        images: whether it takes images.
    """
    found: dict[Any, Any] = {}
    if model is not None:
        found[200] = {"model": model, "description": "The answer."}
    statuses = {*_ALWAYS, *more, *(_IMAGES if images else ()), *((401,) if key else ())}
    for status in sorted(statuses):
        failed = model is Answers and status in _IMAGE_STATUSES
        found[status] = {
            "model": Answers | Error if failed else Error,
            "description": _REASONS[status] + (" Or that of every image." if failed else ""),
        }
        if status in (429, 503):
            found[status]["headers"] = _RETRY
    return found


_BINARY = {"type": "string", "format": "binary"}
IMAGES_BODY = {
    "requestBody": {
        "required": True,
        "description": "One encoded image, or a file for each. The type that is named for an "
        "image does not matter: its content tells.",
        "content": {
            "application/octet-stream": {"schema": _BINARY},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": _BINARY, "minItems": 1}},
                    "required": ["image"],
                    "additionalProperties": False,
                }
            },
        },
    }
}
