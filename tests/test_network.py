"""The arithmetic of training is that of TFGPT2LMHeadModel."""

import functools

import numpy as np
import pytest

from gpt2kw.model.backend import tf
from gpt2kw.model.folder import EMBEDDING, Model
from gpt2kw.model.keras import named_variables, to_keras
from gpt2kw.training.network import Network

LENGTHS = np.array([9, 5, 12, 1, 0], np.int32)
STARTS = np.array([1, 3, 1, 1, 1], np.int32)
IDS = np.random.default_rng(0).integers(0, 300, (5, 12)).astype(np.int32)


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
    counted = (place >= STARTS[:, None]) & (place < LENGTHS[:, None])
    return tf.reduce_sum(losses * counted.astype(np.float32))


@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_are_those_of_transformers(keras_model, recompute):
    ours = network(keras_model, recompute=recompute)
    variables = keras_model.trainable_variables
    nats, gradients = loss_and_gradients(lambda: ours.nats(IDS, LENGTHS, STARTS, 0), variables)
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
    nats, gradients = loss_and_gradients(lambda: exact.nats(IDS, LENGTHS, STARTS), variables)
    other, others = loss_and_gradients(lambda: reduced.nats(IDS, LENGTHS, STARTS), variables)
    assert other == pytest.approx(nats, rel=near)
    for gradient, around in zip(gradients, others, strict=True):
        difference = np.linalg.norm(gradient - around)
        assert difference < 5 * near * np.linalg.norm(gradient) + 1e-6


def test_a_document_is_not_changed_by_its_neighbours_or_its_padding(keras_model):
    ours = network(keras_model)
    together = float(ours.nats(IDS, LENGTHS, STARTS))
    alone = [
        float(ours.nats(IDS[row : row + 1, :length], LENGTHS[row : row + 1], STARTS[row : row + 1]))
        for row, length in enumerate(LENGTHS)
        if length
    ]
    assert together == pytest.approx(sum(alone), rel=1e-5)


def test_dropout_depends_on_its_seed_alone_and_drops_its_share(keras_model):
    ours = network(keras_model, dropout=0.25)
    losses = [float(ours.nats(IDS, LENGTHS, STARTS, seed)) for seed in (1, 1, 2, None)]
    assert losses[0] == losses[1] != losses[2]
    assert losses[3] == pytest.approx(float(network(keras_model).nats(IDS, LENGTHS, STARTS)))
    dropped = ours._drop(tf.ones([100, 100]), 3, 0).numpy()
    assert (dropped == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert dropped.mean() == pytest.approx(1, abs=0.03)


def test_recomputing_draws_the_same_dropout(keras_model):
    variables = [named_variables(keras_model)[EMBEDDING]]
    nets = [network(keras_model, dropout=0.2, recompute=again) for again in (False, True)]
    kept, again = (
        loss_and_gradients(functools.partial(net.nats, IDS, LENGTHS, STARTS, 5), variables)
        for net in nets
    )
    assert kept[0] == pytest.approx(again[0], rel=1e-5)
    np.testing.assert_allclose(kept[1][0], again[1][0], atol=1e-4 * np.abs(kept[1][0]).max())
