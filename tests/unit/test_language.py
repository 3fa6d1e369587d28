"""Docstrings, comments and pages are in plain English, and names are unique."""

import ast
import io
import re
import tokenize
from collections import Counter
from pathlib import Path

import pytest

import foreseer

SOURCE = Path(foreseer.__file__).parent
ROOT = SOURCE.parent.parent
# What the rules on language cover so far: files, or folders with all that is below them.
COVERED = (
    *("src/foreseer", "tests"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs"),
    *("benchmarks", "comfyui-foreseer", "examples", "training"),
)
PHRASES = {
    "what is no": r"\bwhat(ever)? (is|are) no\b",
    "so many": r"\bso many\b",
    "anew": r"\banew\b",
    "told, tells, knows": r"\b(told|tells?|knows)\b",
    "take note": r"\btak(e|es|en|ing) note\b",
    "go on with": r"\bgo(es|ing)? on with\b",
    "stand for, stand there": r"\bst(ands?|ood) (for|there)\b",
    "of its own": r"\bof (its|their|his|our|one's|ones) own\b",
    "where there is none": r"\bwhere there (is|are) none\b",
    "let go": r"\blet(s|ting)? go\b",
    "give back": r"\bg(ive|ives|iven|iving|ave) back\b",
    "at hand": r"\bat hand\b",
    "to be had": r"\bto be had\b",
    "words": r"\bwords\b",
    "Of ..., So does ..., By it ...": r"(?:^|[.!?:;] +)(Of (?!course)|So do(es)? |By it )",
}
LONGEST_SUMMARY = 100  # characters of a docstring's first line
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"``[^`]*``|`[^`]*`|\$[^$]*\$|:\w+:`[^`]*`|>>>.*")


def covered(patterns=COVERED):
    for pattern in patterns:
        path = ROOT / pattern
        found = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.suffix in (".py", ".md"))
        assert found, f"{pattern} has no file"
        yield from found


FILES = list(dict.fromkeys(covered()))
IDS = [str(path.relative_to(ROOT)) for path in FILES]


def docstrings(tree):
    """The line and the text of every docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield node.body[0].lineno, text


def prose(path):
    """Line numbers and lines of a file's docstrings and comments, or of a page outside its code blocks."""
    text = path.read_text()
    if path.suffix == ".md":
        text = CODE.sub(lambda block: "\n" * block[0].count("\n"), text)
        yield from enumerate(text.splitlines(), start=1)
        return
    for first, docstring in docstrings(ast.parse(text)):
        yield from enumerate(docstring.splitlines(), start=first)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def allowed():
    """Excerpts of lines that may use a phrase, by file."""
    lines = Path(__file__).with_name("language_allowed.txt").read_text().splitlines()
    return [tuple(line.split(": ", 1)) for line in lines if line and not line.startswith("#")]


def offences(line):
    """The phrases in a line, code aside."""
    bare = INLINE.sub("x", line)
    return [name for name, pattern in PHRASES.items() if re.search(pattern, bare)]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_prose_avoids_the_phrases_of_the_style_guide(path):
    excerpts = [excerpt for file, excerpt in allowed() if file == str(path.relative_to(ROOT))]
    wrong = [
        f"{path.name}:{number}: {name}: {line.strip()}"
        for number, line in prose(path)
        for name in offences(line)
        if not any(excerpt in line for excerpt in excerpts)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".py"], ids=lambda path: path.stem)
def test_summaries_are_short(path):
    tree = ast.parse(path.read_text())
    long = {
        line: text.splitlines()[0] for line, text in docstrings(tree) if len(text.splitlines()[0]) > LONGEST_SUMMARY
    }
    assert long == {}


def test_allowed_excerpts_are_in_use():
    for file, excerpt in allowed():
        lines = [line for _, line in prose(ROOT / file) if excerpt in line]
        assert any(offences(line) for line in lines), f"{file}: {excerpt}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Refuse what is no whole number.", ["what is no"]),
        ("Of the gaps, the last.", ["Of ..., So does ..., By it ..."]),
        ("The kernel tells it in other words.", ["told, tells, knows", "words"]),
        ("The ``words`` of `anew` in $so many$.", []),
        ("Each branch has separate rows; unknown options raise.", []),
    ],
)
def test_phrases_are_found_outside_of_code(line, expected):
    assert offences(line) == expected


def test_file_and_class_names_are_unique():
    files, classes = Counter(), Counter()
    for path in SOURCE.rglob("*.py"):
        files[path.name] += path.name not in ("__init__.py", "__main__.py", "base.py")
        classes.update(node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef))
    twice = {name for names in (files, classes) for name, count in names.items() if count > 1}
    assert twice == set()
