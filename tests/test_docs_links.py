"""Links between pages lead somewhere, headings included."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("docs", "examples", "benchmarks", "training", ".github")
PAGES = [*sorted(ROOT.glob("*.md")), *(page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md")))]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s#]*)(?:#([^)\s]*))?\)")
IMAGE = re.compile(r"^```\{image\} (\S+)", re.MULTILINE)


def anchors(page):
    """The headings of a page, as GitHub and the site name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_and_its_heading(page):
    text = page.read_text()
    for target, heading in LINK.findall(text):
        path = (page.parent / target) if target else page
        assert path.exists(), f"{target} does not exist"
        if heading:
            assert heading in anchors(path), f"{target or page.name} has no heading #{heading}"
    for image in IMAGE.findall(text):
        assert (page.parent / image).exists(), image


def test_the_pages_are_found():
    assert len(PAGES) > 50
