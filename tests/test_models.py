"""Model folders, names on the hub, and the way to Keras and back."""

import http.server
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import TITLES
from safetensors.numpy import load_file, save_file

from gpt2kw.errors import UserError
from gpt2kw.model.folder import EMBEDDING, About, Model, SamplingDefaults, new_model
from gpt2kw.model.named import MINI_FOLDERS, find_model
from gpt2kw.model.runs import Run
from gpt2kw.text.format import Record

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 64}
RECORDS = [Record(category, title, title) for category, title in TITLES]


@pytest.fixture
def model():
    return new_model(RECORDS, 300, 0, **SHAPE)


@pytest.fixture
def hub_folder(tmp_path):
    """A GPT-2 as the hub has it: short names, buffers, no format tokens."""
    from tokenizers import ByteLevelBPETokenizer

    folder = tmp_path / "hub"
    folder.mkdir()
    plain = new_model(RECORDS, 300, 0, **SHAPE)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([title for _, title in TITLES], 350, special_tokens=["<|endoftext|>"])
    bpe.save_model(str(folder))
    rows = bpe.get_vocab_size()
    weights = {name.removeprefix("transformer."): w for name, w in plain.weights.items()}
    weights["wte.weight"] = np.random.default_rng(0).normal(0, 1, (rows, 32)).astype(np.float32)
    weights["h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = plain.config | {"vocab_size": rows}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_saved_model_loads_the_same(model, tmp_path):
    model.about = About(("cats",), ("title",))
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    assert loaded.config == model.config
    assert loaded.about == model.about
    assert loaded.weights.keys() == model.weights.keys()
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(loaded.weights[name], weight)


def test_the_same_seed_makes_the_same_new_model(model):
    again = new_model(RECORDS, 300, 0, **SHAPE)
    other = new_model(RECORDS, 300, 1, **SHAPE)
    np.testing.assert_array_equal(again.weights[EMBEDDING], model.weights[EMBEDDING])
    assert not np.array_equal(other.weights[EMBEDDING], model.weights[EMBEDDING])


def test_a_hubs_model_gets_rows_for_the_marks_that_start_at_the_mean(hub_folder):
    before = load_file(hub_folder / "model.safetensors")["wte.weight"]
    loaded = Model.load(hub_folder)
    embedding = loaded.weights[EMBEDDING]
    assert not loaded.tokenizer.had_marks
    assert len(embedding) == loaded.config["vocab_size"] == loaded.tokenizer.padded_size
    np.testing.assert_array_equal(embedding[: len(before)], before)
    for row in embedding[len(before) :]:
        np.testing.assert_allclose(row, before.mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_16_bit_weights_are_read_as_float32(model, tmp_path, precision):
    model.save(tmp_path, precision)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size < 2.5 * model.parameters
    loaded = Model.load(tmp_path)
    for name, weight in model.weights.items():
        assert loaded.weights[name].dtype == np.float32
        np.testing.assert_allclose(loaded.weights[name], weight, rtol=2**-8, atol=1e-7)
    assert loaded.config == model.config


def test_a_weight_that_float16_cannot_hold_is_an_error(model, tmp_path):
    model.weights[EMBEDDING][3, 4] = 1e5
    with pytest.raises(UserError, match=f"{EMBEDDING} has weights that float16 can't hold"):
        model.save(tmp_path, "float16")
    model.save(tmp_path, "bfloat16")


def test_all_may_read_the_weights_who_may_read_the_rest(model, tmp_path):
    model.save(tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_shards_are_put_together(model, tmp_path):
    model.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"model-1.safetensors": names[:9], "model-2.safetensors": names[9:]}
    for file, part in shards.items():
        save_file({name: weights[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    np.testing.assert_array_equal(Model.load(tmp_path).weights[EMBEDDING], model.weights[EMBEDDING])


def test_tensorflows_own_file_is_read(model, tmp_path):
    from gpt2kw.model.keras import to_keras

    model.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    to_keras(model).save_pretrained(tmp_path, safe_serialization=False)
    loaded = Model.load(tmp_path)
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(loaded.weights[name], weight)


def test_weights_go_to_keras_and_back_unchanged(model):
    from gpt2kw.model.keras import keras_weights, to_keras

    back = keras_weights(to_keras(model))
    assert back.keys() == model.weights.keys()
    for name, weight in model.weights.items():
        np.testing.assert_array_equal(back[name], weight)


def damage_config(folder):
    (folder / "config.json").write_text("{")


def other_type(folder):
    (folder / "config.json").write_text('{"model_type": "bert"}')


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def other_activation(folder):
    change_config(folder, activation_function="relu")


def untied_output(folder):
    change_config(folder, tie_word_embeddings=False)


def no_shape(folder):
    change_config(folder, n_head=5)


def damage_about(folder):
    (folder / "gpt2kw.json").write_text("[]")


def wild_sampling(folder):
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": "hot"}')


def no_top_p(folder):
    (folder / "generation_config.json").write_text('{"do_sample": true, "top_p": 1.5}')


def damage_sampling(folder):
    (folder / "generation_config.json").write_text("{")


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.1.ln_2.bias"]
    save_file(weights, folder / "model.safetensors")


def only_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_config, "is not JSON"),
        (other_type, "of type 'bert'; use a GPT-2"),
        (other_activation, "has activation_function 'relu'; use a GPT-2 with 'gelu_new'"),
        (untied_output, "has tie_word_embeddings False"),
        (no_shape, "no shape of a GPT-2"),
        (damage_about, r"gpt2kw\.json can't be read"),
        (wild_sampling, "generation_config.json has temperature 'hot'; give 0.01 to 100"),
        (no_top_p, "has top_p 1.5; give more than 0"),
        (damage_sampling, "generation_config.json can't be read"),
        (cut_weights, "are damaged"),
        (lose_weight, r"h\.1\.ln_2\.bias is missing"),
        (only_pickle, "pickle, which is not read"),
    ],
)
def test_damaged_folders_are_one_clear_error(model, tmp_path, damage, message):
    model.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        Model.load(tmp_path)
    assert "\n" not in str(error.value)


class Hub(http.server.BaseHTTPRequestHandler):
    """The parts of the hub's HTTP interface that a download uses."""

    folder: Path
    commit = "0123456789abcdef0123456789abcdef01234567"
    requests = 0

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        type(self).requests += 1
        path = self.path.partition("?")[0]
        names = [file.name for file in self.folder.iterdir()]
        if path.startswith("/api/models/someone/small/tree/"):
            size = {name: (self.folder / name).stat().st_size for name in names}
            entries = [
                {"type": "file", "path": name, "size": size[name], "oid": "0" * 40}
                for name in names
            ]
            self.answer(json.dumps(entries).encode())
        elif path.startswith("/api/models/someone/small"):
            siblings = [{"rfilename": name} for name in names]
            info = {"id": "someone/small", "sha": self.commit, "siblings": siblings, "tags": []}
            self.answer(json.dumps(info).encode())
        elif path.startswith("/someone/small/resolve/"):
            self.answer((self.folder / Path(path).name).read_bytes())
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def answer(self, content):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hash(content) & 0xFFFFFFFF:040x}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(hub_folder, monkeypatch):
    Hub.folder = hub_folder
    Hub.requests = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield
    server.shutdown()


def test_a_hubs_model_is_downloaded_once_and_then_needs_no_network(hub, tmp_path):
    (Hub.folder / "pytorch_model.bin").write_bytes(b"not wanted")
    folder = find_model("someone/small", tmp_path / "models")
    assert Model.load(folder).context == 64
    assert (tmp_path / "models") in folder.parents
    assert not (folder / "pytorch_model.bin").exists()
    requests = Hub.requests
    assert find_model("someone/small", tmp_path / "models") == folder
    assert Hub.requests == requests


def test_a_name_that_the_hub_lacks_is_an_error(hub, tmp_path):
    with pytest.raises(UserError, match="the hub has no model 'someone/else'; .*--model mini"):
        find_model("someone/else", tmp_path)


def test_an_unreachable_hub_is_one_line_that_names_the_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="can't reach the hub for 'gpt2'.*mini.*folder") as error:
        find_model("gpt2", tmp_path)
    assert "\n" not in str(error.value)


@pytest.fixture
def run(model, here):
    """A run with two checkpoints."""
    run = Run.named("rap")
    run.create({})
    for step in (1, 2):
        run.save(step, model, {}, {}, keep=2)
    return run


def test_a_runs_directory_stands_for_its_newest_checkpoint(run):
    assert find_model("checkpoint/rap") == Path("checkpoint/rap/ckpt-2")
    assert find_model("checkpoint/rap/ckpt-1") == Path("checkpoint/rap/ckpt-1")
    assert find_model(str(run.folder.resolve())) == run.folder.resolve() / "ckpt-2"


def test_a_run_without_a_checkpoint_or_with_a_damaged_one_is_an_error(run):
    with pytest.raises(UserError, match="no run 'rab' with a checkpoint.*did you mean 'rap'"):
        find_model("checkpoint/rab")
    Run.named("begun").create({})
    with pytest.raises(UserError, match="no run 'begun' with a checkpoint.*there are rap"):
        find_model("checkpoint/begun")
    change_config(Path("checkpoint/rap/ckpt-2"), n_layer=1)
    with pytest.raises(UserError, match="damaged.*rap/ckpt-1 .*generate takes it as --model"):
        find_model("checkpoint/rap")


def test_a_runs_bare_name_is_not_taken_for_one_on_the_hub(hub, run):
    with pytest.raises(UserError, match="no model 'rap'; .*use --model checkpoint/rap"):
        find_model("rap")


def test_mini_is_found_from_any_folder_in_a_checkout_or_installed(here, tiny_model, monkeypatch):
    checkout, installed = here / "models" / "mini", here / "gpt2kw" / "mini"
    monkeypatch.setattr("gpt2kw.model.named.MINI_FOLDERS", (checkout, installed))
    with pytest.raises(UserError, match="the model mini is not in .*--model new"):
        find_model("mini")
    shutil.copytree(tiny_model, installed)
    assert find_model("mini") == installed
    shutil.copytree(tiny_model, checkout)
    (here / "mini").mkdir()
    assert find_model("mini") == checkout
    assert Model.load(checkout).tokenizer.had_marks


def test_a_checkouts_mini_stands_beside_the_package():
    assert MINI_FOLDERS[0] == Path(__file__).parents[1] / "models" / "mini"


def test_a_missing_folder_is_not_looked_for_on_the_hub(tmp_path):
    with pytest.raises(UserError, match="there is no model folder"):
        find_model(str(tmp_path / "nothing"))


def test_an_installed_package_brings_mini_with_it(tmp_path):
    project = Path(__file__).parents[1]
    build = ["build", "--build-base", str(tmp_path / "base"), "--build-lib", str(tmp_path / "lib")]
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", *build], cwd=project, check=True, timeout=120
    )
    ours = {path.name for path in (project / "models" / "mini").iterdir()}
    assert {path.name for path in (tmp_path / "lib/gpt2kw/mini").iterdir()} == ours


@pytest.mark.parametrize(
    ("generation_config", "expected"),
    [
        ({"temperature": 0.5, "top_k": 7}, SamplingDefaults(0.5, 7, 1.0)),
        ({"top_k": 0, "top_p": 0.9}, SamplingDefaults(1.0, 0, 0.9)),
        ({}, SamplingDefaults(1.0, 50, 1.0)),
    ],
)
def test_how_tokens_are_chosen_is_read_as_transformers_writes_it(
    tiny_model, here, generation_config, expected
):
    from transformers import GenerationConfig

    shutil.copytree(tiny_model, "m")
    GenerationConfig(**{"do_sample": True} | generation_config).save_pretrained("m")
    model = Model.load(Path("m"))
    assert model.sampling == expected
    Path("n").mkdir()
    model.save(Path("n"))
    assert Model.load(Path("n")).sampling == expected


@pytest.mark.parametrize("said", ['{"temperature": 0.5}', '{"do_sample": false, "top_p": 0.5}'])
def test_a_folder_that_does_not_say_how_tokens_are_drawn_has_the_usual_way(tiny_model, here, said):
    shutil.copytree(tiny_model, "m")
    Path("m/generation_config.json").write_text(said)
    assert Model.load(Path("m")).sampling == SamplingDefaults()
    Path("m/generation_config.json").unlink()
    assert Model.load(Path("m")).sampling == SamplingDefaults()
