"""A trained model behind HTTP: one server, several models, many clients.

How an image goes through, and what each module has to do with it:

    wire       bytes of a connection -> a request; slow, endless and broken ones end here
    gate       who may ask: host, origin, API key; what is written down of it: log, figures
    admission  how much may be on its way at once; else 429
    uploads    the request's body -> encoded images, counted while it arrives
    decoding   an encoded image -> pixels for each network, measured before it is decoded
    batches    pixels of all clients -> vectors, one at once or four together
    wording    vectors -> what the answer says
    app        the routes that lead through these, and their OpenAPI description (`schema`)

Beside them `hosting` keeps the models, each a copy of its folder, and takes a new one when the
folder is replaced; `gauges` counts; `server` starts and stops it all. `limits` has every limit.

FastAPI and uvicorn are the extra `serve`; nothing here imports them before `server.serve` does.
"""

from topwork.serve.limits import Limits
from topwork.serve.server import Options, serve

__all__ = ["Limits", "Options", "serve"]
