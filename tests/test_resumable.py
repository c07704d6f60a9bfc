"""Files that are made in several goes: the same bytes, wherever the goes ended."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2kw.errors import UserError
from gpt2kw.text.resumable import resumable_writer, settings_of

SETTINGS = {"--seed": 1, "--sections": ("title",)}


class Killed(Exception):
    pass


def write(path, texts, stop=None, given=SETTINGS):
    """Write texts with a mark behind every second one; end before the text `stop`."""
    with resumable_writer(path, given) as draft:
        done = draft.notes[-1] if draft.notes else 0
        for number in range(done, len(texts)):
            if number == stop:
                raise Killed
            draft.write(texts[number])
            if number % 2:
                draft.mark(number + 1)
    return done


def interrupted(path, texts, stop):
    with pytest.raises(Killed):
        write(path, texts, stop)


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(any_text), data=st.data())
def test_a_file_that_was_cut_anywhere_becomes_what_it_would_have_been(texts, data):
    with tempfile.TemporaryDirectory() as folder:
        path, part = Path(folder, "o.txt"), Path(folder, "o.txt.part")
        state = Path(folder, "o.txt.part.state")
        if texts:
            interrupted(path, texts, data.draw(st.integers(0, len(texts) - 1), label="stop"))
        if part.exists():
            os.truncate(part, data.draw(st.integers(0, part.stat().st_size), label="part"))
            # The first line was there before the first text.
            first = state.read_bytes().index(b"\n") + 1
            os.truncate(state, data.draw(st.integers(first, state.stat().st_size), label="state"))
        write(path, texts)
        assert path.read_bytes() == "".join(texts).encode()
        assert os.listdir(folder) == ["o.txt"]


def test_nothing_that_is_whole_is_written_again(tmp_path):
    texts = [f"text {number}\n" for number in range(10)]
    interrupted(tmp_path / "o.txt", texts, 7)
    assert settings_of(tmp_path / "o.txt") == {"--seed": 1, "--sections": ["title"]}
    assert write(tmp_path / "o.txt", texts) == 6
    assert settings_of(tmp_path / "o.txt") is None


@pytest.mark.parametrize("place", [0, 20, 44])
def test_what_was_damaged_is_written_again(tmp_path, place):
    texts = [f"text {number}\n" for number in range(10)]
    interrupted(tmp_path / "o.txt", texts, 7)
    part = tmp_path / "o.txt.part"
    content = bytearray(part.read_bytes())
    content[place] = 0
    part.write_bytes(content)
    assert write(tmp_path / "o.txt", texts) == min(6, place // 14 * 2)
    assert (tmp_path / "o.txt").read_text() == "".join(texts)


def test_other_settings_are_refused_and_named(tmp_path):
    interrupted(tmp_path / "o.txt", ["a", "b", "c"], 2)
    with pytest.raises(UserError, match=r"begun with --seed 1 \(now 2\); .*remove .*o.txt.part$"):
        write(tmp_path / "o.txt", ["x", "y", "z"], given=SETTINGS | {"--seed": 2})
    assert (tmp_path / "o.txt.part").read_text() == "ab"
    assert write(tmp_path / "o.txt", ["a", "b", "c"]) == 2


def test_a_file_of_another_origin_is_not_touched(tmp_path):
    (tmp_path / "o.txt.part").write_text("mine")
    with pytest.raises(UserError, match="o.txt.part.state is missing or damaged; .*remove"):
        write(tmp_path / "o.txt", ["a"])
    assert [file.name for file in tmp_path.iterdir()] == ["o.txt.part"]
    assert (tmp_path / "o.txt.part").read_text() == "mine"


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path):
    (tmp_path / "o.txt").write_text("old")
    interrupted(tmp_path / "o.txt", ["a", "b", "c"], 2)
    assert (tmp_path / "o.txt").read_text() == "old"
    write(tmp_path / "o.txt", ["a", "b", "c"])
    assert (tmp_path / "o.txt").read_text() == "abc"


def test_a_link_stays_and_its_file_is_gone_on_with(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "o.txt").symlink_to(tmp_path / "far/o.txt")
    interrupted(tmp_path / "o.txt", ["a", "b", "c"], 2)
    assert settings_of(tmp_path / "o.txt") is not None
    write(tmp_path / "o.txt", ["a", "b", "c"])
    assert (tmp_path / "o.txt").is_symlink()
    assert [(path.name, path.read_text()) for path in (tmp_path / "far").iterdir()] == [
        ("o.txt", "abc")
    ]


def test_a_failure_before_the_first_mark_leaves_nothing(tmp_path):
    interrupted(tmp_path / "o.txt", ["a", "b", "c"], 1)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_write_the_same_file(tmp_path):
    code = (
        "from gpt2kw.text.resumable import resumable_writer\n"
        "with resumable_writer('o.txt', {}) as draft: print('never')"
    )
    with resumable_writer(tmp_path / "o.txt", {}) as draft:
        draft.write("a")
        other = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
        )
    assert "another process is writing o.txt.part" in other.stderr
    assert Path(tmp_path / "o.txt").read_text() == "a"
