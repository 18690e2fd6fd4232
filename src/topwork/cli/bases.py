"""Commands about the pretrained networks: describe, bases."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from topwork.cli.app import app
from topwork.cli.options import Json, Store, open_store, print_json, with_settings
from topwork.core.config import Settings


@app.command()
@with_settings("base", "image_size", "batch_size", "weights")
def describe(
    classes: Annotated[int, typer.Option(help="Number of classes.", min=1)] = 10,
    store: Store = None,
    as_json: Json = False,
    **values: Any,
) -> None:
    """Show the shapes and parameters of a network, from pixels to logits."""
    from dataclasses import asdict

    from topwork.cli.show_results import show_layers
    from topwork.recipes.console import make_console
    from topwork.recipes.layers import describe_layers

    layers = describe_layers(Settings.create(**values), classes, open_store(store))
    show_layers(make_console(stderr=as_json), layers)
    if as_json:
        print_json({"layers": [asdict(layer) for layer in layers]})


@app.command()
def bases(as_json: Json = False) -> None:
    """List the pretrained networks: vector length, own size, licence, where the weights are."""
    from topwork.bases import has_weights, list_bases
    from topwork.cli.show_results import show_bases
    from topwork.recipes.console import make_console

    rows = [(spec, has_weights(spec)) for spec in list_bases()]
    if not as_json:
        show_bases(make_console(stderr=False), rows)
        return
    print_json(
        [
            {
                "base": spec.name,
                "family": spec.family,
                "vector_length": spec.vector_length,
                "image_size": spec.image_size,
                "license": spec.license,
                "weights": spec.source,
                "here": here,
            }
            for spec, here in rows
        ]
    )
