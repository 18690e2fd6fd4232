"""The frozen networks, called bases, and what runs them.

In: the name of a base, an image size and weights. Out: a `Network`, files in the store that are
built once (`spec`, `weights`, `network`), perhaps in int8 (`int8`), or several side by side
(`stack`); files of the whole model with a trained head (`keras_file`, `openvino_file`); and, in
`engines`, what turns pixels into vectors.

Importing this package imports neither Keras nor OpenVINO: networks are built in a child process
(`child`), since Keras' backend is fixed for a whole process.
"""

from topwork.bases.int8 import check_int8, find_int8, make_int8
from topwork.bases.keras_file import read_keras_head, reopen_keras_file, write_keras_file
from topwork.bases.network import Network, prepare
from topwork.bases.openvino_file import flip_network, read_openvino_head, write_openvino_file
from topwork.bases.spec import BaseSpec, get_base, list_bases, parse_bases
from topwork.bases.stack import Stack, name_inputs, prepare_stack
from topwork.bases.weights import Weights, find_all_weights, find_weights, has_weights

__all__ = [
    "BaseSpec",
    "Network",
    "Stack",
    "Weights",
    "check_int8",
    "find_all_weights",
    "find_int8",
    "find_weights",
    "flip_network",
    "get_base",
    "has_weights",
    "list_bases",
    "make_int8",
    "name_inputs",
    "parse_bases",
    "prepare",
    "prepare_stack",
    "read_keras_head",
    "read_openvino_head",
    "reopen_keras_file",
    "write_keras_file",
    "write_openvino_file",
]
