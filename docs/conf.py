"""Settings of the site, which `make site` builds from this folder; nothing is fetched.

Formulas become MathML, which browsers draw without a script. Links that leave this folder go to the repository. The
index for language models, ``llms.txt``, is written from the pages' titles and first paragraphs.
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import foreseer
import foreseer.errors

DOCS = Path(__file__).parent
MATHML = "{http://www.w3.org/1998/Math/MathML}"
REPOSITORY = "https://github.com/foreseer/foreseer/blob/main/"

ElementTree.register_namespace("", MATHML.strip("{}"))

project = "Foreseer"
author = "The Foreseer authors"
project_copyright = "The Foreseer authors"
version = release = foreseer.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
exclude_patterns = ["figures/*"]
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
myst_dmath_double_inline = True

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_use_unqualified_type_names = True
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False

html_theme = "furo"
html_title = "Foreseer"
html_baseurl = "https://foreseer.github.io/foreseer/"
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "source_repository": "https://github.com/foreseer/foreseer",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_math_renderer = "mathml"

_CELL = re.compile(r"<t[dh]\b.*?</t[dh]>", re.DOTALL)
_NAME = re.compile(r'(?<=<span class="pre">)[^<&]+')
_PART = re.compile(r"(?<=[a-z\d])(?=[A-Z])|(?<=[_/=,(.:-])(?=\w)")  # FluxPipeline, last_block, dpm-solver, Hub/name
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")


def directive(path: str, value: object) -> str:
    """Return the Sphinx directive of a public name; modules come without members."""
    if isinstance(value, ModuleType):
        return f".. automodule:: {path}\n   :no-members:\n"
    return f".. autoclass:: {path}" if isinstance(value, type) else f".. autofunction:: {path}"


def other_names(page: str) -> str:
    """A section for the public names that the reference's page does not place."""
    names = [name for name in foreseer.__all__ if not re.search(rf"foreseer\.(errors\.)?{name}\b", page)]
    errors = vars(foreseer.errors)
    missing = [name for name in names if name not in errors and not name.startswith("_")]
    listed = "\n".join(directive(f"foreseer.{name}", getattr(foreseer, name)) for name in missing)
    return f"\n\n## More\n\n```{{eval-rst}}\n{listed}\n```\n" if missing else ""


def complete_source(app: Any, docname: str, source: list[str]) -> None:
    """Point links that leave this folder at the repository; complete the reference."""
    if docname == "api":
        source[0] += other_names(source[0])
    folder = (DOCS / docname).parent

    def rewritten(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / match[1]))
        if target.is_relative_to(DOCS):
            return match[0]
        return f"]({REPOSITORY}{target.relative_to(DOCS.parent).as_posix()}{match[2] or ''})"

    source[0] = _LINK.sub(rewritten, source[0])


def escape_bars(*context: Any) -> None:
    """Keep the bars of norms in docstrings from being read as reStructuredText's substitutions."""
    lines: list[str] = context[-1]
    for number, line in enumerate(lines):
        parts = line.split("``")
        lines[number] = "``".join(part if odd % 2 else part.replace("|", r"\|") for odd, part in enumerate(parts))


def mathml(latex: str, *, as_block: bool = False) -> str:
    """A formula as MathML; the index of a letter with a hat stands beside it, not below it."""
    markup = tex2mathml(re.sub(r"\\dots\b", r"\\ldots", latex), as_block=as_block)
    markup = re.sub(r"&(?!lt;|gt;|amp;|#)\w+;", lambda entity: html.unescape(entity[0]), markup)
    root = ElementTree.fromstring(markup)  # noqa: S314
    for node in list(root.iter(f"{MATHML}munderover")):
        letter, index, accent = list(node)
        if accent.tag == f"{MATHML}mo" and accent.text in ("ˆ", "~"):
            node.tag = f"{MATHML}msub"
            hat = ElementTree.Element(f"{MATHML}mover", accent="true")
            hat.extend([letter, accent])
            node[:] = [hat, index]
    return ElementTree.tostring(root, encoding="unicode")


def inline_math(translator: Any, node: nodes.math) -> None:
    """Write a formula within a sentence."""
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def display_math(translator: Any, node: nodes.math_block) -> None:
    """Write a formula on a separate line."""
    translator.body.append(f'<div class="math">{mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def break_names_in_cells(_app: Any, _page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    """Let names in the cells of tables break between their parts, so that tables fit a narrow screen."""
    if "body" in context:
        context["body"] = _CELL.sub(
            lambda cell: _NAME.sub(lambda name: _PART.sub("<wbr>", name[0]), cell[0]), context["body"]
        )


def first_paragraph(markdown: str) -> str:
    """The text of a page's first paragraph, without links and marks."""
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    for block in re.split(r"\n\s*\n", prose):
        text = " ".join(block.split())
        if text and text[0] not in "#<`|:-$!":
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
            return re.sub(r"[*`]", "", text)
    return ""


def write_llms_index(app: Any, exception: Exception | None) -> None:
    """Write llms.txt: one line per page."""
    if exception or app.builder.name != "html":
        return
    lines = ["# Foreseer", "", f"> {first_paragraph((DOCS / 'index.md').read_text())}", "", "## Pages", ""]
    for docname in sorted(app.env.found_docs):
        title = app.env.titles[docname].astext()
        about = first_paragraph((DOCS / f"{docname}.md").read_text())
        lines.append(f"- [{title}]({html_baseurl}{docname}.html){': ' + about if about else ''}")
    Path(app.outdir, "llms.txt").write_text("\n".join(lines) + "\n")


def setup(app: Any) -> None:
    """Register the above."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline_math, None), block_renderers=(display_math, None))
    app.connect("source-read", complete_source)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("html-page-context", break_names_in_cells)
    app.connect("build-finished", write_llms_index)
