"""The arithmetic of training is that of TFGPT2LMHeadModel."""

import numpy as np
import pytest

from gpt2kw.model.backend import tf
from gpt2kw.model.folder import EMBEDDING, Model
from gpt2kw.model.keras import named_variables, to_keras
from gpt2kw.training.network import Network

LENGTHS = (9, 5, 12, 1)
STARTS = (1, 3, 1, 1)
"""The first token of each document whose loss counts."""
IDS = np.random.default_rng(0).integers(0, 300, (4, 12)).astype(np.int32)


def in_rows(*rows, length=16, counting=range(4), weight=1.0):
    """Documents by number in rows, as `Network.losses` takes them."""
    ids = np.zeros((len(rows), length), np.int32)
    documents, weights = np.zeros_like(ids), np.zeros(ids.shape, np.float32)
    for row, numbers in enumerate(rows):
        end = 0
        for place, number in enumerate(numbers, start=1):
            start, end = end, end + LENGTHS[number]
            ids[row, start:end] = IDS[number, : LENGTHS[number]]
            documents[row, start:end] = place
            weights[row, start + STARTS[number] : end] = weight * (number in counting)
    return ids, documents, weights


PACKED = in_rows((0, 1), (3, 2), ())


@pytest.fixture
def keras_model(tiny_model):
    model = Model.load(tiny_model)
    # Weights large enough for the softmaxes and norms to matter.
    model.weights = {name: 5 * weight for name, weight in model.weights.items()}
    return to_keras(model, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)


def network(keras_model, dtype=tf.float32, dropout=0.0, recompute=False):
    config = keras_model.config.to_dict()
    variables = named_variables(keras_model)
    return Network(variables, config, dtype=dtype, dropout=dropout, recompute=recompute)


def nats(network, *batch):
    return float(network.losses(*batch)[1])


def loss_and_gradients(loss, variables):
    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            nats = loss()
        return nats, tape.gradient(nats, variables)

    nats, gradients = compute()
    return float(nats), [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]


def transformers_nats(keras_model):
    logits = keras_model(IDS, training=True).logits[:, :-1]
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(IDS[:, 1:], logits)
    place = np.arange(1, IDS.shape[1])
    counted = (place >= np.array(STARTS)[:, None]) & (place < np.array(LENGTHS)[:, None])
    return tf.reduce_sum(losses * counted.astype(np.float32))


@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_are_those_of_transformers_on_each_document(keras_model, recompute):
    ours = network(keras_model, recompute=recompute)
    variables = keras_model.trainable_variables
    nats, gradients = loss_and_gradients(lambda: ours.losses(*PACKED, 0)[0], variables)
    wanted, wanted_gradients = loss_and_gradients(lambda: transformers_nats(keras_model), variables)
    assert nats == pytest.approx(wanted, rel=1e-5)
    for variable, gradient, other in zip(variables, gradients, wanted_gradients, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(gradient, other, atol=1e-4 * scale, err_msg=variable.name)


@pytest.mark.parametrize(("dtype", "near"), [(tf.bfloat16, 0.02), (tf.float16, 0.005)])
def test_reduced_precision_is_near(keras_model, dtype, near):
    variables = keras_model.trainable_variables
    exact = network(keras_model)
    reduced = network(keras_model, dtype)
    nats, gradients = loss_and_gradients(lambda: exact.losses(*PACKED)[0], variables)
    other, others = loss_and_gradients(lambda: reduced.losses(*PACKED)[0], variables)
    assert other == pytest.approx(nats, rel=near)
    for gradient, around in zip(gradients, others, strict=True):
        difference = np.linalg.norm(gradient - around)
        assert difference < 5 * near * np.linalg.norm(gradient) + 1e-6


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("changed", range(4))
def test_no_document_sees_another(keras_model, dtype, changed, monkeypatch):
    ours = network(keras_model, dtype)
    rows = ((0, 1, 3, 2), (2, 1))
    others = [number for number in range(4) if number != changed]

    def loss_of(numbers):
        return nats(ours, *in_rows(*rows, length=32, counting=numbers))

    before, own = loss_of(others), loss_of([changed])
    monkeypatch.setitem(globals(), "IDS", np.where(np.arange(4)[:, None] == changed, 7, IDS))
    assert loss_of(others) == before
    # The last has one token, and no loss.
    assert (loss_of([changed]) == own) == (changed == 3)


def test_a_weight_changes_what_is_learned_and_not_the_nats(keras_model):
    ours = network(keras_model)
    variables = keras_model.trainable_variables
    rest = in_rows((0, 1), (3, 2), (), counting=[0, 1])
    part = in_rows((0, 1), (3, 2), (), counting=[2])
    mixed = (*PACKED[:2], rest[2] + 4 * part[2])
    loss, gradients = loss_and_gradients(lambda: ours.losses(*mixed)[0], variables)
    assert loss == pytest.approx(nats(ours, *rest) + 4 * nats(ours, *part), rel=1e-5)
    assert nats(ours, *mixed) == pytest.approx(nats(ours, *PACKED), rel=1e-6)
    _, of_rest = loss_and_gradients(lambda: ours.losses(*rest)[0], variables)
    _, of_part = loss_and_gradients(lambda: ours.losses(*part)[0], variables)
    for variable, gradient, one, other in zip(variables, gradients, of_rest, of_part, strict=True):
        wanted = one + 4 * other
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(gradient, wanted, atol=1e-4 * scale, err_msg=variable.name)


def test_a_row_may_be_longer_than_the_context(keras_model):
    ours = network(keras_model)
    long = nats(ours, *in_rows((0, 1, 3, 2), (), length=100))
    assert long == pytest.approx(nats(ours, *PACKED), rel=1e-5)


def test_a_device_without_rows_learns_nothing(keras_model):
    ours = network(keras_model, dropout=0.2)
    nothing = [tf.constant(array[:0]) for array in PACKED]
    variables = keras_model.trainable_variables
    nats, gradients = loss_and_gradients(lambda: ours.losses(*nothing, 0)[0], variables)
    assert nats == 0
    assert not any(gradient.any() for gradient in gradients)


def test_dropout_depends_on_its_seed_alone_and_drops_its_share(keras_model):
    ours = network(keras_model, dropout=0.25)
    losses = [nats(ours, *PACKED, seed) for seed in (1, 1, 2, None)]
    assert losses[0] == losses[1] != losses[2]
    assert losses[3] == pytest.approx(nats(network(keras_model), *PACKED))
    dropped = ours._drop(tf.ones([100, 100]), 3, 0).numpy()
    assert (dropped == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert dropped.mean() == pytest.approx(1, abs=0.03)


def test_recomputing_draws_the_same_dropout(keras_model):
    variables = [named_variables(keras_model)[EMBEDDING]]
    nets = [network(keras_model, dropout=0.2, recompute=again) for again in (False, True)]
    kept, again = (
        loss_and_gradients(lambda net=net: net.losses(*PACKED, 5)[0], variables) for net in nets
    )
    assert kept[0] == pytest.approx(again[0], rel=1e-5)
    np.testing.assert_allclose(kept[1][0], again[1][0], atol=1e-4 * np.abs(kept[1][0]).max())
