"""The usual way, as one would write it by hand: a frozen Xception and `model.fit`.

Run by `reference.py` in a Python that has TensorFlow; prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

STARTED = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--image-size", type=int, default=150)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    args = parser.parse_args()

    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    shape = (args.image_size, args.image_size)

    def load(split: str, shuffle: bool) -> tf.data.Dataset:
        return keras.utils.image_dataset_from_directory(
            args.data / split,
            label_mode="categorical",
            image_size=shape,
            interpolation="nearest",
            batch_size=32,
            shuffle=shuffle,
            verbose=False,
        ).prefetch(tf.data.AUTOTUNE)

    base = keras.applications.Xception(
        weights=args.weights, include_top=False, input_shape=(*shape, 3)
    )
    base.trainable = False
    inputs = keras.Input((*shape, 3))
    vectors = keras.layers.GlobalAveragePooling2D()(
        base(keras.applications.xception.preprocess_input(inputs), training=False)
    )
    model = keras.Model(inputs, keras.layers.Dense(10)(vectors))
    model.compile(
        optimizer=keras.optimizers.Adam(args.learning_rate),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

    class Clock(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []

        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            self.seconds.append(time.perf_counter() - self.started)

    clock = Clock()
    history = model.fit(
        load("train", True),
        validation_data=load("validation", False),
        epochs=args.epochs,
        callbacks=[clock],
        verbose=0,
    )
    print(
        json.dumps(
            {
                "history": history.history,
                "epochs": clock.seconds,
                "total": time.perf_counter() - STARTED,
            }
        )
    )


if __name__ == "__main__":
    main()
