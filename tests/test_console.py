"""The prompt at the terminal."""

import os
import pty
import sys
import time
from functools import partial

import pytest

from gpt2kw import Generator
from gpt2kw.command import parse_options
from gpt2kw.generation.console import Console
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.folder import Model
from gpt2kw.text.inflection import keyword_pattern


@pytest.fixture
def shown():
    return []


@pytest.fixture
def console(tiny_model, shown):
    options = GenerateOptions(nsamples=2, seed=0)
    parse = partial(parse_options, "generate", GenerateOptions)
    return Console(Generator.of(Model.load(tiny_model)), options, parse, shown.append)


def test_keywords_give_texts_and_more_gives_others_about_them(console, shown):
    assert console.handle("cat wall")
    assert console.handle(":more")
    assert len(set(shown)) == 4
    for text in shown:
        assert keyword_pattern("cat").search(text)
        assert keyword_pattern("wall").search(text)


def test_an_empty_line_asks_for_texts_about_anything(console, shown):
    console.handle("cat")
    console.handle("")
    assert len(shown) == 4


def test_settings_change_and_go_back(console, shown):
    console.handle(":set nsamples 3")
    console.handle(":set top-k 5")
    console.handle(":set unique on")
    console.handle(":set")
    assert shown.pop() == "nsamples 3\ntop_k 5\nunique on"
    console.handle("dog")
    assert len(shown) == 3
    console.handle(":set nsamples")
    console.handle("dog")
    assert len(shown) == 5


def test_settings_may_need_others_that_were_set_and_have_several_words(console, shown):
    console.handle(":set beams 4")
    console.handle(":set beam-groups 2")
    console.handle(":set prefix My old cat")
    console.handle(":set bad-words wall, sleeps")
    console.handle(":set sections title body")
    console.handle("cat")
    assert len(shown) == 2
    assert all(text.startswith("My old cat") for text in shown)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (":set temperature 0", "--temperature is 0.0"),
        (":set temperature hot", "temperature"),
        (":set colour red", "'colour' can't be set here"),
        (":set model gpt2", "'model' can't be set here"),
        (":set backend ctranslate2", "'backend' can't be set here"),
        (":set beams 1", "--beams 1 can't give --nsamples 2"),
        (":set unique perhaps", "unique is 'perhaps'; give on or off"),
        (":what", "there is no :what; :help shows what there is"),
        ("!!!", "only punctuation"),
        ("a b c d e f g", "7 keywords"),
    ],
)
def test_what_can_not_be_done_is_one_line_and_the_prompt_stays(console, shown, line, message):
    assert console.handle(line)
    (said,) = shown
    assert said.startswith("error: ")
    assert message in said
    assert "\n" not in said


def test_quit_and_the_end_of_input_leave(console, shown):
    assert not console.handle(":quit")
    lines = iter([":help", "cat"])

    def ask(_prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    console.run(ask)
    assert any(":set NAME VALUE" in said for said in shown)


def test_the_command_without_keywords_asks_for_them_at_a_terminal(tiny_model):
    pid, terminal = pty.fork()
    if not pid:
        os.execv(
            sys.executable,
            [
                sys.executable,
                "-m",
                "gpt2kw.generate",
                "--model",
                str(tiny_model),
                "--nsamples",
                "1",
            ],
        )
    said, typed, end = b"", [b"cat\n", b":quit\n"], time.monotonic() + 120
    while time.monotonic() < end:
        try:
            said += os.read(terminal, 4096)
        except OSError:
            break
        if typed and said.count(b"\n> ") + said.startswith(b"> ") > 2 - len(typed):
            os.write(terminal, typed.pop(0))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"Keywords? :help" in said
    assert keyword_pattern("cat").search(said.decode("utf-8", "replace").split("> cat")[1])
