"""The examples in docstrings and pages run and say the truth."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import foreseer

SOURCE = Path(foreseer.__file__).parent
ROOT = SOURCE.parent.parent
OPTIONAL = {"torch", "diffusers", "transformers", "accelerate", "tokenizers", "PIL", "skimage", "matplotlib", "jinja2"}
RUN = re.compile(r"^<!-- run -->[ \t]*\n+```python[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def module_name(path):
    parts = ("foreseer", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


MODULES = sorted(module_name(path) for path in SOURCE.rglob("*.py") if ">>> " in path.read_text())
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.exists()]


def runnable_blocks(text):
    return RUN.findall(text)


def import_or_skip(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in OPTIONAL:
            raise
        pytest.skip(f"{missing} is not installed")


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_hold(name, as_users_call, tmp_path, monkeypatch):
    module = import_or_skip(name)
    monkeypatch.chdir(tmp_path)
    failed, attempted = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert attempted > 0
    assert failed == 0


@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable_blocks(page.read_text())], ids=lambda page: page.name
)
def test_page_examples_run(page, as_users_call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__page__"}
    for number, block in enumerate(runnable_blocks(page.read_text())):
        exec(compile(block, f"{page.name} block {number}", "exec"), names)
    assert len(names) > 2  # a page whose examples bind nothing shows nothing


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_first_pages_use_no_name_that_they_do_not_define(page):
    pytest.importorskip("ruff")
    blocks = re.findall(r"^```python[^\n]*\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F821", "--output-format=concise", "-"]
    done = subprocess.run(command, input="\n".join(blocks), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "All checks passed!\n"), done.stdout


def test_only_marked_python_blocks_are_run():
    page = (
        "<!-- run -->\n```python\na = 1\n```\n\n```python\nb = 2\n```\n<!-- run -->\n\n```python title=x\nc = 3\n```\n"
    )
    assert runnable_blocks(page + "<!-- run -->\n```bash\nls\n```\n") == ["a = 1\n", "c = 3\n"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_of_pages_are_python(page):
    blocks = re.findall(r"^```python[^\n]*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for block in blocks:
        compile(block, page.name, "exec")
    assert page.read_text().count("<!-- run -->") == len(runnable_blocks(page.read_text()))
