"""A data set of tensorflow-datasets as a source, built here for the test."""

import subprocess
import sys

import pytest

from gpt2kw.errors import UserError
from gpt2kw.text.sources import check_source, read_rows
from gpt2kw.text.tally import Tally

BUILDER = """
import tensorflow_datasets as tfds


class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = {"title": text, "tags": tfds.features.Sequence(text)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number, title in enumerate(("Caf\u00e9 cats", "Two\\nlines", "")):
            yield number, {"title": title, "tags": ["a", "b"]}
"""


@pytest.fixture(scope="module", autouse=True)
def tfds_folder(tmp_path_factory):
    """A prepared data set, gpt2kw_titles, where tensorflow-datasets looks."""
    folder = tmp_path_factory.mktemp("tfds")
    package = folder / "gpt2kw_titles"
    package.mkdir()
    (package / "__init__.py").touch()
    module = package / "gpt2kw_titles_dataset_builder.py"
    module.write_text(BUILDER, "utf-8")
    prepare = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "from gpt2kw_titles.gpt2kw_titles_dataset_builder import Builder\n"
        f"Builder(data_dir={str(folder / 'data')!r}).download_and_prepare()"
    )
    subprocess.run([sys.executable, "-c", prepare], check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder / "data"))
        yield


def test_a_prepared_data_set_is_read():
    rows = read_rows("tfds:gpt2kw_titles/train", ["title", "tags"], True, Tally())
    assert sorted((row["title"], row["tags"]) for _, row in rows) == [
        ("", ["a", "b"]),
        ("Café cats", ["a", "b"]),
        ("Two\nlines", ["a", "b"]),
    ]


def test_its_columns_are_checked():
    with pytest.raises(UserError, match="no column 'titel', only 'tags', 'title'; did you mean"):
        list(read_rows("tfds:gpt2kw_titles/train", ["titel"], True, Tally()))


def test_unknown_data_sets_and_splits_are_errors():
    with pytest.raises(UserError, match="has no data set 'no_such_set'"):
        list(read_rows("tfds:no_such_set/train", ["title"], True, Tally()))
    with pytest.raises(UserError, match="can't load tfds:gpt2kw_titles/nope"):
        list(read_rows("tfds:gpt2kw_titles/nope", ["title"], True, Tally()))
    with pytest.raises(UserError, match="names no split"):
        check_source("tfds:gpt2kw_titles")
