"""A trained model behind HTTP: one server, several models, many clients.

In: folders of models, and requests with encoded images. Out: answers in JSON. An image passes
through these modules, in this order:

    connection  bytes of a connection -> a request; ends slow, endless and broken ones
    middleware  access: host, origin, API key; access log, metrics and security headers
    app         the routes, with their description in OpenAPI (`schema`)
    admission   how many images and bytes may be in progress at once; else status 429
    uploads     the request's body -> encoded images, limits checked while it arrives
    service     from uploads to results, by way of the next three modules
    decoding    an encoded image -> pixels for each network; measured before it is decoded
    batching    pixels of all clients -> vectors, one at once or four together
    responses   vectors -> the content of an answer

Beside them `registry` holds the models, each a private copy of its folder, and reloads one whose
folder is replaced; `prometheus` counts; `http_errors` has the errors that requests are answered
with; `limits` has every limit; `server` starts and stops everything.

FastAPI and uvicorn are the extra `serve`; nothing here imports them before `server.serve` does.
"""

from topwork.serve.limits import Limits
from topwork.serve.server import Options, serve

__all__ = ["Limits", "Options", "serve"]
