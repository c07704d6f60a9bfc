"""The house: imports run one way, and heavy libraries stand in their rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import gpt2kw

PACKAGE = Path(gpt2kw.__file__).parent
FLOORS = ["errors", "text", "model", "generation", "training", "evaluation", "commands"]
MODULES = sorted(PACKAGE.rglob("*.py"))


def floor(module):
    """The floor of `gpt2kw.text.format` is that of `text`; single modules are commands."""
    room = module.removeprefix("gpt2kw.").split(".")[0]
    return FLOORS.index(room if room in FLOORS else "commands")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def name_of(path):
    return ".".join(("gpt2kw", *path.relative_to(PACKAGE).with_suffix("").parts))


def test_imports_run_down():
    arrows = [(name_of(path), name) for path in MODULES for name in imports(path)]
    inside = [(a, b) for a, b in arrows if b.startswith("gpt2kw.") and a != "gpt2kw.__init__"]
    assert len(inside) > 40
    assert [(a, b) for a, b in inside if floor(b) > floor(a)] == []


def users_of(library):
    return {
        name_of(path)
        for path in MODULES
        if any(name.split(".")[0] == library for name in imports(path))
    }


def test_libraries_stand_in_their_rooms():
    assert users_of("tensorflow") == {"gpt2kw.model.backend"}
    assert users_of("spacy") == {f"gpt2kw.text.{m}" for m in ("keywords", "pipeline", "word_rules")}
    assert users_of("ray") == {"gpt2kw.text.parallel", "gpt2kw.training.cluster"}
    assert users_of("ctranslate2") == {"gpt2kw.generation.ctranslate2_engine"}
    assert users_of("torch") == set()
    assert users_of("pickle") == set()


def test_encode_decode_export_and_help_never_import_tensorflow():
    code = (
        "import sys, gpt2kw\n"
        "gpt2kw.encode_keywords, gpt2kw.decode_file, gpt2kw.decode_texts, gpt2kw.UserError\n"
        "gpt2kw.export_model\n"
        "import gpt2kw.encode, gpt2kw.decode, gpt2kw.generate, gpt2kw.export, gpt2kw.command\n"
        "import gpt2kw.training.options, gpt2kw.evaluation.options\n"
        "print({'tensorflow', 'spacy', 'ray', 'transformers', 'ctranslate2'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "set()"


def test_no_file_is_too_long_for_one_job():
    assert [path.name for path in MODULES if len(path.read_text("utf-8").splitlines()) > 500] == []
