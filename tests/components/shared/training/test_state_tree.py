import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.training.state_tree import Encoder, Shard, Stored, decode, read_whole

leaves = st.none() | st.booleans() | st.integers() | st.text() | st.floats()
keys = st.text() | st.integers() | st.tuples(st.integers(), st.text())
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner) | st.dictionaries(st.text(), inner)
    ),
)


def there_and_back(tree):
    encoder = Encoder()
    text = json.dumps(encoder.encode(tree, "x"), allow_nan=False)

    def stored(key, shape):
        return Stored(shape=shape, reader=lambda start, stop: encoder.tensors[key][start:stop])

    return read_whole(decode(json.loads(text), stored)), encoder


def same(a, b):
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    if isinstance(a, dict):
        return isinstance(b, dict) and len(a) == len(b) and all(key in b and same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


@settings(max_examples=50, deadline=None)
@given(trees)
def test_every_plain_tree_comes_back_the_same(tree):
    assert same(tree, there_and_back(tree)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0), (2, 3, 4)])
def test_tensors_come_back_to_the_last_bit(dtype, shape):
    tensor = torch.randn(shape).mul(3).to(dtype)
    back, _ = there_and_back({"a": (tensor, tensor.T if tensor.ndim == 2 else tensor)})
    assert back["a"][0].dtype == dtype and torch.equal(back["a"][0], tensor)


def test_the_copy_is_made_at_once_and_tied_tensors_are_kept_once():
    tensor = torch.arange(6.0).reshape(2, 3)
    encoder = Encoder()
    encoded = encoder.encode({"a": tensor, "tied": tensor, "transposed": tensor.T}, "x")
    tensor.zero_()
    assert encoded["a"] == encoded["tied"] and len(encoder.tensors) == 2
    assert encoder.tensors["x/a"].tolist() == [0, 1, 2, 3, 4, 5]
    assert encoder.tensors["x/transposed"].tolist() == [0, 3, 1, 4, 2, 5]


def test_a_shard_remembers_where_it_belongs():
    encoder = Encoder()
    encoded = encoder.encode(Shard(values=torch.ones(2), start=4, shape=(3, 2)), "w")
    assert encoded == {"$tensor": "w", "shape": [3, 2]} and encoder.starts == {"w": 4}


def test_what_cannot_be_saved_is_named():
    with pytest.raises(TypeError, match="x/a/1: a set"):
        Encoder().encode({"a": [1, {2}]}, "x")
