"""The commands, as a user runs them."""

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import assert_one_error_line, run_command, write_titles

from gpt2kw.command import parse_options
from gpt2kw.errors import UserError
from gpt2kw.evaluation.options import EvaluateOptions
from gpt2kw.generation.export import ExportOptions
from gpt2kw.generation.options import GenerateOptions
from gpt2kw.model.folder import Model
from gpt2kw.model.runs import Run
from gpt2kw.text.decoding import DecodeOptions
from gpt2kw.text.encoding import EncodeOptions
from gpt2kw.training.options import FinetuneOptions

README = Path(__file__).parent.parent / "README.md"
OPTIONS = {
    "encode": EncodeOptions,
    "finetune": FinetuneOptions,
    "generate": GenerateOptions,
    "decode": DecodeOptions,
    "export": ExportOptions,
    "evaluate": EvaluateOptions,
}


def test_the_whole_path_from_a_table_to_new_titles(tmp_path, tiny_model):
    write_titles(tmp_path / "titles.csv")
    encoded = run_command(
        "encode", "titles.csv", "-o", "t.txt", "--category-field", "category", cwd=tmp_path
    )
    assert encoded.returncode == 0, encoded.stderr
    assert encoded.stdout == ""
    assert "48 texts gave" in encoded.stderr

    trained = run_command(
        "finetune",
        "t.txt",
        "--model",
        tiny_model,
        "--steps",
        20,
        "--sample-every",
        10,
        cwd=tmp_path,
    )
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout == ""
    assert "step 20: samples" in trained.stderr
    assert re.search(r"\nsteps   20 of 20\ntokens  [\d,]+\ntime    0 min", trained.stderr)
    assert re.search(r"\nloss    best validation \d\.\d+ .* at step 20", trained.stderr)
    assert trained.stderr.endswith('generate --run-name run1 --keywords "cats"\n')

    call = ("generate", "--keywords", "cats wall", "--seed", 1, "--nsamples", 5)
    kept = run_command(*call, cwd=tmp_path).stdout.splitlines()
    assert len(kept) == 5
    assert all(re.search(r"\bcats?\b", title, re.I) for title in kept)
    assert all(re.search(r"\bwall", title, re.I) for title in kept)

    call += ("--keyword-mode", "plain")
    generated = run_command(*call, cwd=tmp_path)
    assert generated.returncode == 0, generated.stderr
    assert len(generated.stdout.splitlines()) == 5
    assert "<|" not in generated.stdout
    assert not re.search("tensorflow|cuda|oneDNN|warning", generated.stderr, re.I)
    assert run_command(*call, cwd=tmp_path).stdout == generated.stdout

    as_documents = run_command(*call, "--format", "encoded", "-o", "new.txt", cwd=tmp_path)
    assert as_documents.returncode == 0, as_documents.stderr
    assert as_documents.stdout == ""
    decoded = run_command("decode", "new.txt", "--format", "jsonl", cwd=tmp_path)
    assert decoded.returncode == 0, decoded.stderr
    titles = [json.loads(line)["title"] for line in decoded.stdout.splitlines()]
    assert [" ".join(title.split()) for title in titles] == generated.stdout.splitlines()


def start_finetune(cwd, training_text, tiny_model, steps):
    command = [sys.executable, "-m", "gpt2kw.finetune", training_text, "--model", tiny_model]
    command += ["--steps", str(steps), "--save-every", "40", "--sample-every", "0"]
    return subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True)


def wait_for_steps(folder, process, steps):
    metrics = folder / "checkpoint/run1/metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        if metrics.exists() and f'"step": {steps},' in metrics.read_text():
            return
        time.sleep(0.02)
    raise AssertionError("no steps were done")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_saved_and_goes_on(tmp_path, training_text, tiny_model, number):
    process = start_finetune(tmp_path, training_text, tiny_model, 100_000)
    wait_for_steps(tmp_path, process, 10)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    steps = re.search(r"steps   ([\d,]+) of 100,000, stopped and saved; the same command", said)[1]
    step = int(steps.replace(",", ""))
    assert Run(tmp_path / "checkpoint/run1").latest().step == step
    again = start_finetune(tmp_path, training_text, tiny_model, step + 3)
    said = again.communicate(timeout=60)[1]
    assert again.returncode == 0
    assert f"going on from checkpoint/run1/ckpt-{step}" in said
    assert f"steps   {step + 3:,} of {step + 3:,}\n" in said


def test_a_killed_run_goes_on_from_its_newest_checkpoint(tmp_path, training_text, tiny_model):
    for steps in (50, 90):
        process = start_finetune(tmp_path, training_text, tiny_model, 130)
        wait_for_steps(tmp_path, process, steps)
        process.kill()
        process.communicate()
    last = start_finetune(tmp_path, training_text, tiny_model, 130)
    said = last.communicate(timeout=60)[1]
    assert last.returncode == 0, said
    assert re.search(r"going on from checkpoint/run1/ckpt-(40|80|120)", said)
    assert "steps   130 of 130\n" in said
    lines = (tmp_path / "checkpoint/run1/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines if '"loss"' in line]
    assert steps == list(range(10, 131, 10))


BAD_CALLS = [
    (("encode", "none.csv", "-o", "o.txt"), ["no file none.csv", "check the path"]),
    (("encode", "tilte.csv", "-o", "o.txt"), ["did you mean 'titles.csv'"]),
    (("encode", "titles.csv", "-o", "no/o.txt"), ["folder no does not exist", "mkdir"]),
    (("encode", "titles.csv", "-o", "."), ["the output . is a folder"]),
    (("encode", ".", "-o", "o.txt"), [". is a folder"]),
    (("encode", "empty.csv", "-o", "o.txt"), ["empty.csv is empty"]),
    (("encode", "header.csv", "-o", "o.txt"), ["no row with a title"]),
    (("encode", "titles.csv", "-o", "o.txt", "--title-field", "titel"), ["did you mean 'title'"]),
    (("encode", "titles.csv", "-o", "o.txt", "--repeat", "-3"), ["--repeat is -3"]),
    (("encode", "titles.csv", "-o", "o.txt", "--repeat", "many"), ["--repeat", "many"]),
    (("encode", "titles.csv", "-o", "titles.csv"), ["titles.csv would be written over titles.csv"]),
    (("encode", "titles.csv"), ["--output"]),
    (("encode", "titles.csv", "-o", "o.txt", "--spacy-model", "xx_no"), ["xx_no", "pip install"]),
    (("encode", "titles.csv", "-o", "o.txt", "--wrokers", "2"), ["--wrokers", "--help"]),
    (("encode", "titles.csv", "-o", "/proc/o.txt"), ["/proc"]),
    (("decode", "titles.csv"), ["holds no document"]),
    (("decode", "titles.csv", "--format", "csv"), ["holds no document"]),
    (("decode", "titles.csv", "--sections", "titles"), ["did you mean 'title'"]),
    (("decode", "titles.csv", "--format", "xml"), ["xml"]),
    (("finetune", "none.txt"), ["can't read none.txt"]),
    (("finetune", "titles.csv", "--model", "new"), ["no usable document"]),
    (("generate", "--model", "new"), ["--model new is made by fine-tuning"]),
    (("finetune", "titles.csv", "--steps", "-1"), ["--steps is -1"]),
    (("generate", "--run-name", "run1"), ["no run 'run1'", "make finetune"]),
    (("generate", "--run-name", "ran1"), ["no run 'ran1'"]),
    (("generate", "--model", "no/such/folder"), ["no model folder no/such/folder"]),
    (("generate", "--temperature", "0"), ["--temperature is 0.0"]),
    (("export", "run1", "model"), ["no run 'run1'", "make finetune"]),
    (("export", "checkpoint/run1/ckpt-5", "model"), ["no run 'run1'"]),
    (("export", "run1", "model", "--precision", "int8"), ["int8"]),
    (("export", "run1"), ["FOLDER"]),
    (("evaluate", "titles.csv"), ["no run run1", "--model mini -o FOLDER"]),
    (("evaluate", "titles.csv", "--prompts", "0"), ["--prompts is 0"]),
    (("evaluate", "titles.csv", "--model", "no/such"), ["-o FOLDER"]),
    (("evaluate", "titles.csv", "--model", "no/such/folder", "-o", "r"), ["no model folder"]),
]


def write_tables(folder):
    write_titles(folder / "titles.csv", rounds=1)
    (folder / "empty.csv").touch()
    (folder / "header.csv").write_text("category,title\n")


# One process for all calls, for each would import its libraries anew.
CALL_IN_TURN = """
import contextlib, io, json, os, runpy, sys, traceback

for folder, name, *arguments in json.load(sys.stdin):
    os.chdir(folder)
    sys.argv = [name, *arguments]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    status = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module("gpt2kw." + name, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            status = end.code
        except BaseException:
            status = traceback.format_exc()
    said = [file.buffer.getvalue().decode() for file in (out, err)]
    print(json.dumps([status, *said]))
"""


@pytest.fixture(scope="module")
def bad_calls(tmp_path_factory):
    """What became of each of `BAD_CALLS`, and the files before and after it."""
    folders, before = [], []
    for _ in BAD_CALLS:
        folder = tmp_path_factory.mktemp("bad")
        write_tables(folder)
        folders.append(folder)
        before.append(sorted(path.name for path in folder.iterdir()))
    calls = [(str(folder), *call) for folder, (call, _) in zip(folders, BAD_CALLS, strict=True)]
    result = subprocess.run(
        [sys.executable, "-c", CALL_IN_TURN],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert result.stderr == ""
    ends = [
        subprocess.CompletedProcess(call, *json.loads(line))
        for call, line in zip(calls, result.stdout.splitlines(), strict=True)
    ]
    after = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    return list(zip(ends, before, after, strict=True))


@pytest.mark.parametrize(
    "number", range(len(BAD_CALLS)), ids=[" ".join(call) for call, _ in BAD_CALLS]
)
def test_bad_input_is_one_line_and_status_2(bad_calls, number):
    end, before, after = bad_calls[number]
    assert_one_error_line(end, *BAD_CALLS[number][1])
    assert after == before


@pytest.mark.parametrize("name", OPTIONS)
def test_a_process_of_its_own_ends_so_too(tmp_path, bad_calls, name):
    number = next(number for number, (call, _) in enumerate(BAD_CALLS) if call[0] == name)
    write_tables(tmp_path)
    alone = run_command(*BAD_CALLS[number][0], cwd=tmp_path)
    among, _, _ = bad_calls[number]
    assert (alone.returncode, alone.stdout, alone.stderr) == (
        among.returncode,
        among.stdout,
        among.stderr,
    )


def test_a_full_disk_leaves_nothing_that_looks_complete(tmp_path, training_text, tiny_model):
    write_titles(tmp_path / "titles.csv", rounds=200)
    # A limit on file sizes is what a test can do; the system's answer takes the same way.
    limited = (
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))\n"
        "runpy.run_module('gpt2kw.' + sys.argv.pop(1), run_name='__main__', alter_sys=True)"
    )

    def run(size, *arguments):
        command = [sys.executable, "-c", limited.format(size), *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    result = run(20_000, "encode", "titles.csv", "-o", "o.txt", "--keywords-field", "category")
    assert_one_error_line(result, "can't write o.txt", "File too large")
    assert [path.name for path in tmp_path.iterdir()] == ["titles.csv"]

    result = run(60_000, "finetune", training_text, "--model", tiny_model, "--steps", 10)
    assert result.returncode == 2
    assert "error: can't write checkpoint/run1/ckpt-10" in result.stderr
    assert "Traceback" not in result.stderr
    assert Run(tmp_path / "checkpoint/run1").checkpoints() == []

    Run(tmp_path / "checkpoint/run1").save(1, Model.load(tiny_model), {}, {}, keep=1)
    result = run(60_000, "export", "run1", "model")
    assert_one_error_line(result, "can't write model", "File too large")
    assert not [path for path in tmp_path.iterdir() if "model" in path.name]


def test_the_list_of_commands_has_a_line_for_each(tmp_path):
    result = run_command("", cwd=tmp_path)
    assert result.returncode == 0
    assert [line.split()[2] for line in result.stdout.splitlines()] == [
        f"gpt2kw.{name}" for name in OPTIONS
    ]


@pytest.mark.parametrize("name", OPTIONS)
def test_help_shows_every_option_with_its_default(tmp_path, name):
    result = run_command(name, "--help", cwd=tmp_path, COLUMNS="200")
    assert result.returncode == 0
    # An option's own lines go from its name to the next one's.
    entries = re.split(r"^[│|] (?=-)", result.stdout, flags=re.M)
    for option, value in _defaults(OPTIONS[name]).items():
        if option not in ("source", "text", "file", "output", "run", "folder"):
            # What is on can only be switched off.
            flag = f"--{'no-' if value is True else ''}{option.replace('_', '-')}"
            (entry,) = [entry for entry in entries if entry.startswith(f"{flag} ")]
            shown = shlex.join(map(str, value if isinstance(value, tuple) else [value]))
            assert f"(default: {shown})" in entry


def _defaults(options):
    return {field.name: field.default for field in dataclasses.fields(options)}


def test_a_reader_that_goes_away_is_no_error(tmp_path, training_text):
    command = (
        f"{sys.executable} -m gpt2kw.decode {training_text} --separator {'=' * 9999} | head -1"
    )
    result = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.strip()
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr


def test_a_full_disk_behind_standard_output_is_one_line(tmp_path, training_text):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "gpt2kw.decode", str(training_text)]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: can't write or read standard output or a file: No space left")


def readme_calls():
    text = README.read_text("utf-8").replace("\\\n", " ")
    for line in re.findall(r"^ {4}(?:\$ )?(python -m gpt2kw\.\w+ .*)$", text, re.M):
        _, _, module, *arguments = shlex.split(line, comments=True)
        yield module.removeprefix("gpt2kw."), arguments


def test_the_readmes_commands_are_understood():
    calls = list(readme_calls())
    assert {name for name, _ in calls} == set(OPTIONS)
    for name, arguments in calls:
        assert parse_options(name, OPTIONS[name], arguments)


def test_the_readme_names_only_options_that_exist():
    known = {
        f.replace("_", "-") for options in OPTIONS.values() for f in options.__dataclass_fields__
    }
    named = set(re.findall(r"`--([a-z][a-z-]+)", README.read_text("utf-8")))
    assert len(named) > 10
    assert named - known - {"no-header", "help"} == set()


def test_options_that_make_no_sense_say_so():
    with pytest.raises(UserError, match="--top-p"):
        parse_options("generate", GenerateOptions, ["--top-p", "x"])
    assert os.linesep not in str(UserError("a\nb", "c"))
