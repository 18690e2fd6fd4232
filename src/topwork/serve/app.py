"""The routes: what may be asked, with its description in OpenAPI."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from topwork.serve import schema
from topwork.serve.http_errors import HTTPError, describe, encode
from topwork.serve.known_options import check_options
from topwork.serve.middleware import IMAGES_KEY, AccessMiddleware, LogMiddleware
from topwork.serve.service import Service
from topwork.serve.uploads import read_uploads

if TYPE_CHECKING:
    from topwork.serve.server import Options

MOST_TOP, MOST_NEIGHBOURS = 100_000, 50
_TYPES = {".css": "text/css", ".js": "text/javascript"}
# Browsers may keep the page, but have to ask each time whether it has changed.
_KEPT = {"Cache-Control": "no-cache"}

ModelName = Annotated[
    str | None, Query(alias="model", description="Name of the model; the first if left out.")
]


def make_app(
    service: Service,
    options: Options,
    *,
    on_ready: Callable[[], None],
    local_host: str | None = None,
) -> FastAPI:
    """Makes the application.

    Args:
        service: the models.
        options: who may ask.
        on_ready: called when requests are taken.
        local_host: as for `AccessMiddleware`.
    """

    @contextlib.asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(service.registry.watch(options.check_every_s))
        on_ready()
        yield
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    app = FastAPI(
        title="Topwork",
        version=version("topwork"),
        description="What is in an image, and where.",
        docs_url=None,
        redoc_url=None,
        lifespan=live,
    )
    keyed = options.api_key is not None
    _add_answers(app, service, keyed)
    _add_facts(app, service, keyed)
    _add_page(app)
    _add_errors(app)
    _describe_api_key(app, keyed)
    # The last is the outermost.
    app.add_middleware(
        AccessMiddleware, api_key=options.api_key, host=local_host, origins=options.allow_origins
    )
    if options.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
        )
    app.add_middleware(LogMiddleware, metrics=service.metrics, access_log=options.access_log)
    return app


def _add_answers(app: FastAPI, service: Service, keyed: bool) -> None:
    @app.post(
        "/predict",
        summary="Say what is in images",
        responses=schema.responses(key=keyed, model=schema.Answers, images=True),
        openapi_extra=schema.IMAGES_BODY,
        dependencies=[Depends(check_options)],
    )
    async def predict(
        request: Request,
        model: ModelName = None,
        top: Annotated[int, Query(ge=1, le=MOST_TOP, description="How many classes to name.")] = 3,
        neighbours: Annotated[
            int, Query(ge=0, le=MOST_NEIGHBOURS, description="How many training images to show.")
        ] = 0,
        abstain_below: Annotated[
            float | None,
            Query(ge=0, le=1, description="Least top probability that counts as an answer."),
        ] = None,
    ) -> Response:
        with service.registry.lease(model) as served, service.admission.enter() as ticket:
            uploads = await read_uploads(request, service.limits, ticket)
            request.scope[IMAGES_KEY] = len(uploads)
            status, results = await service.predict(
                served, uploads, top=top, neighbours=neighbours, abstain_below=abstain_below
            )
            said = {
                "model": served.name,
                "version": served.version,
                "task": str(served.model.task),
                "results": results,
            }
        return _answer(said, status)

    @app.post(
        "/explain",
        summary="Say where in an image a class is seen",
        responses=schema.responses(key=keyed, model=schema.Explanation, images=True),
        openapi_extra=schema.IMAGES_BODY,
        dependencies=[Depends(check_options)],
    )
    async def explain(
        request: Request,
        model: ModelName = None,
        label: Annotated[
            str | None,
            Query(alias="class", description="Name of the class; the top one if left out."),
        ] = None,
    ) -> Response:
        with service.registry.lease(model) as served, service.admission.enter() as ticket:
            uploads = await read_uploads(request, service.limits, ticket)
            request.scope[IMAGES_KEY] = len(uploads)
            said = await service.explain(served, uploads, label)
        return _answer({"model": served.name, "version": served.version, **said})


def _add_facts(app: FastAPI, service: Service, keyed: bool) -> None:
    @app.get(
        "/models",
        summary="Which models there are, and the limits",
        responses=schema.responses(key=keyed, model=schema.Models),
    )
    async def models() -> Response:
        return _answer(service.describe())

    @app.get(
        "/healthz",
        summary="Whether requests are taken",
        responses={
            **schema.responses(key=False, model=schema.Health),
            503: {"model": schema.Health, "description": "The server is stopping."},
        },
    )
    async def healthz() -> Response:
        stopping = service.stopping
        return _answer({"status": "stopping" if stopping else "ok"}, 503 if stopping else 200)

    @app.get(
        "/metrics",
        summary="Figures for Prometheus",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **schema.responses(key=keyed),
        },
    )
    async def metrics() -> Response:
        # In a thread: it also measures the process, which would hold up the event loop.
        found = await asyncio.to_thread(service.metrics.write)
        return Response(found, media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    page = {
        item.name: item.read_bytes()
        for item in files("topwork.serve").iterdir()
        if item.name.startswith("page.")
    }

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page["page.html"], media_type="text/html", headers=_KEPT)

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        kind = _TYPES.get("." + name.rpartition(".")[2])
        if kind is None or name not in page:
            raise HTTPError(404, f"the page has no {name!r}")
        return Response(page[name], media_type=kind, headers=_KEPT)


def _add_errors(app: FastAPI) -> None:
    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPError)
        return _refuse(error.status, str(error), error.headers)

    async def refuse_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        reason = str(error.detail)
        if error.status_code == 404:
            reason = "there is nothing here; /openapi.json says what there is"
        elif error.status_code == 405:
            reason = f"{request.method} is not for this address; see /openapi.json"
        return _refuse(error.status_code, reason, error.headers)

    async def refuse_options(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _refuse(422, "; ".join(map(_describe_option, error.errors())), None)

    app.add_exception_handler(HTTPError, refuse)
    app.add_exception_handler(HTTPException, refuse_route)
    app.add_exception_handler(RequestValidationError, refuse_options)


def _describe_option(error: dict[str, Any]) -> str:
    return f"{error['loc'][-1]}: {error['msg']}, received {error['input']!r}"


def _describe_api_key(app: FastAPI, keyed: bool) -> None:
    """Makes the OpenAPI description, which is cached, and adds the API key to it."""
    found = app.openapi()
    if not keyed:
        return
    found["components"]["securitySchemes"] = {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    for path, methods in found["paths"].items():
        if path != "/healthz":
            for method in methods.values():
                method["security"] = [{"key": []}, {"bearer": []}]


def _answer(content: Any, status: int = 200) -> Response:
    return Response(encode(content), status, media_type="application/json")


def _refuse(status: int, reason: str, headers: Any) -> Response:
    return Response(
        encode(describe(status, reason)), status, headers=headers, media_type="application/json"
    )
