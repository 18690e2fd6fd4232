"""The command that serves models over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork.cli.app import app
from topwork.cli.options import AbstainBelow
from topwork.core.errors import SettingsError

if TYPE_CHECKING:
    from topwork.serve.server import Ready

KEY_VARIABLE = "TOPWORK_API_KEY"


Models = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL...",
        show_default=False,
        help="Folders of trained models; the first is the one that answers if none is named.",
    ),
]
Host = Annotated[str, typer.Option(help="Name or address to listen on.")]
Port = Annotated[
    int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Holds the key that clients need [$TOPWORK_API_KEY, or none].",
    ),
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        show_default=False,
        help="Site whose pages may ask too, such as https://example.com; may be repeated.",
    ),
]
MaxImageBytes = Annotated[
    int | None, typer.Option(show_default=False, help="Most bytes of an image [20 MiB].")
]
MaxPixels = Annotated[
    int | None, typer.Option(show_default=False, help="Most pixels of an image [50 million].")
]
MaxImages = Annotated[
    int | None, typer.Option(show_default=False, help="Most images of a request [32].")
]
MaxRequestBytes = Annotated[
    int | None, typer.Option(show_default=False, help="Most bytes of a request [64 MiB].")
]
Queue = Annotated[
    int | None, typer.Option(show_default=False, help="Most images on their way at once [128].")
]
TimeoutS = Annotated[
    float | None, typer.Option(show_default=False, help="Seconds to answer a request in [30].")
]
ReceiveTimeoutS = Annotated[
    float | None, typer.Option(show_default=False, help="Seconds to receive a request in [60].")
]
AccessLog = Annotated[bool, typer.Option("--access-log/--no-access-log", help="Log each request.")]


@app.command()
def serve(
    models: Models,
    *,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_file: ApiKeyFile = None,
    allow_origin: AllowOrigin = None,
    abstain_below: AbstainBelow = None,
    max_image_bytes: MaxImageBytes = None,
    max_pixels: MaxPixels = None,
    max_images: MaxImages = None,
    max_request_bytes: MaxRequestBytes = None,
    queue: Queue = None,
    timeout_s: TimeoutS = None,
    receive_timeout_s: ReceiveTimeoutS = None,
    access_log: AccessLog = True,
) -> None:
    """Serve models over HTTP, with a page for the browser."""
    from topwork.core.callbacks import Callback
    from topwork.recipes.console import make_console
    from topwork.serve import Limits, Options, serve
    from topwork.serve.server import log_to_stderr

    class Shown(Callback):
        """Shows what is served, and where."""

        def on_ready(self, ready: Ready) -> None:
            _show(console, ready)

    limits = {
        "image_bytes": max_image_bytes,
        "image_pixels": max_pixels,
        "images": max_images,
        "request_bytes": max_request_bytes,
        "queue": queue,
        "timeout_s": timeout_s,
        "receive_timeout_s": receive_timeout_s,
    }
    options = Options(
        host=host,
        port=port,
        api_key=find_key(api_key_file),
        allow_origins=tuple(map(check_origin, allow_origin or ())),
        abstain_below=abstain_below,
        limits=Limits.create(**{k: v for k, v in limits.items() if v is not None}),
        access_log=access_log,
    )
    log_to_stderr()
    console = make_console(stderr=True)
    serve(models, options, Shown())


def _show(console: Any, ready: Ready) -> None:
    from rich.text import Text

    for model in ready.models:
        classes = len(model["classes"])
        console.print(
            Text(
                f"{model['name']}: {classes} {'class' if classes == 1 else 'classes'}, "
                f"{model['base']}, version {model['version']}"
            )
        )
    if ready.open:
        console.print(
            Text(
                "Anybody who reaches this machine can use it. Give it a key with --api-key-file "
                "or $TOPWORK_API_KEY."
            ),
            style="bold yellow",
        )
    console.print(Text(f"Serving on {ready.url}"), style="bold", soft_wrap=True)
    console.print(Text("Stop it with Ctrl-C."))


def find_key(path: Path | None) -> str | None:
    """Returns the API key of a file or of the environment; None if there is none.

    Raises:
        SettingsError: the file cannot be read, or its content is no key.
    """
    from topwork.serve.server import check_key

    if path is None:
        key = os.environ.get(KEY_VARIABLE)
        return None if key is None else check_key(key, f"${KEY_VARIABLE}")
    try:
        return check_key(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise SettingsError(f"api_key_file: cannot read {path}: {reason}") from None


def check_origin(origin: str) -> str:
    """Returns a site's origin as a browser names it.

    Raises:
        SettingsError: it is none.
    """
    from urllib.parse import urlsplit

    found = urlsplit(origin)
    bare = f"{found.scheme}://{found.netloc}"
    if origin != "*" and (found.scheme not in ("http", "https") or origin.rstrip("/") != bare):
        raise SettingsError(
            f"allow_origin: must be a scheme, a host and perhaps a port, as https://example.com, "
            f"or * for all, received {origin!r}"
        )
    return origin.rstrip("/").lower()
