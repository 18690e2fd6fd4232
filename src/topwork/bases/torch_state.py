"""Reads a PyTorch state dict in the old (non-zip) layout, without PyTorch and without risk.

The layout is a sequence of pickles (magic number, protocol, system, the state dict, the keys of
its storages) and then, for each storage, its length as int64 and its raw numbers. A pickle can
run any code, so the unpickler here accepts only the few names that a state dict needs.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from topwork.core.errors import WeightsError

MAGIC = 0x1950A86A20F9469CFC6C
ZIP = b"PK\x03\x04"
_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
}


@dataclass
class _Storage:
    dtype: np.dtype[Any]
    count: int
    values: NDArray[Any] | None = None


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> NDArray[Any]:
        values = self.storage.values
        if values is None:
            raise ValueError("a tensor's storage is missing")
        if 0 in self.shape:
            return np.empty(self.shape, self.storage.dtype)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        if not 0 <= self.offset <= last < len(values) or min(self.stride, default=0) < 0:
            raise ValueError("a tensor reaches beyond its storage")
        if math.prod(self.shape) > len(values):
            raise ValueError("a tensor is larger than its storage")
        view = np.lib.stride_tricks.as_strided(
            values[self.offset :], self.shape, [s * values.itemsize for s in self.stride]
        )
        return np.ascontiguousarray(view).reshape(self.shape)


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        raise WeightsError(f"it asks for {module}.{name}, which no state dict needs")

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, count, *_ = pid
        return self.storages.setdefault(str(key), _Storage(dtype, int(count)))


def read_torch_state(path: Path) -> dict[str, NDArray[Any]]:
    """Returns the tensors of a state dict by name, as arrays of their own dtype and shape.

    Args:
        path: a `.pth` file in PyTorch's old layout.

    Raises:
        WeightsError: it is not such a file, it is cut off, or it holds anything else.
    """
    try:
        with path.open("rb") as file:
            if file.peek(len(ZIP))[: len(ZIP)] == ZIP:
                raise ValueError(
                    "it is in PyTorch's newer, zipped layout; write it again with "
                    "torch.save(state, FILE, _use_new_zipfile_serialization=False)"
                )
            if _Unpickler(file).load() != MAGIC:
                raise ValueError("it does not start with PyTorch's magic number")
            for _ in ("protocol", "system"):
                _Unpickler(file).load()
            reader = _Unpickler(file)
            state = reader.load()
            for key in _Unpickler(file).load():
                storage = reader.storages[str(key)]
                if int(np.fromfile(file, "<i8", 1)[0]) != storage.count:
                    raise ValueError(f"storage {key} is cut off")
                storage.values = np.fromfile(file, storage.dtype, storage.count)
                if len(storage.values) != storage.count:
                    raise ValueError(f"storage {key} is cut off")
            return {str(name): tensor.array() for name, tensor in state.items()}
    except WeightsError as error:
        raise WeightsError(f"{path} is not a safe state dict: {error}") from None
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:
        raise WeightsError(f"{path} is not a PyTorch state dict, or is damaged: {error}") from error
