"""What int8 leaves alone: everything from the pooling on."""

from topwork.bases.quantizing import find_head


def test_the_head_ends_at_the_pooling():
    graph = {
        "image": ("Parameter", []),
        "conv": ("Convolution", ["image"]),
        "scale": ("Multiply", ["conv"]),
        "squeeze": ("ReduceMean", ["scale"]),
        "gate": ("Sigmoid", ["squeeze"]),
        "gated": ("Multiply", ["scale", "gate"]),
        "pool": ("ReduceMean", ["gated"]),
        "kernel": ("Constant", []),
        "dense": ("Multiply", ["pool", "kernel"]),
        "sum": ("ReduceSum", ["dense"]),
        "logits": ("Result", ["sum"]),
    }
    assert find_head(graph, ["logits"]) == ["dense", "kernel", "logits", "pool", "sum"]


def test_a_head_over_several_networks_ends_at_each():
    graph = {
        "a": ("Conv", []),
        "b": ("Conv", []),
        "pool_a": ("GlobalAveragePool", ["a"]),
        "pool_b": ("GlobalAveragePool", ["b"]),
        "both": ("Concat", ["pool_a", "pool_b"]),
        "logits": ("Gemm", ["both"]),
    }
    assert find_head(graph, ["logits"]) == ["both", "logits", "pool_a", "pool_b"]
