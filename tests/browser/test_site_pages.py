"""The site builds without a warning, its links lead somewhere, pages fit and its search finds."""

import functools
import http.server
import os
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.page_checks import check_page

pytest.importorskip("furo")
pytest.importorskip("myst_parser")
ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(str(path.relative_to(ROOT / "docs").with_suffix("")) for path in (ROOT / "docs").rglob("*.md"))


class Anchors(HTMLParser):
    """Links and identifiers of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.names = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.names |= {attributes.get("id"), attributes.get("name")}
        self.links += filter(None, [attributes.get("href"), attributes.get("src")])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of the site, built as `make site` does; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", str(folder)]
    paths = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    """Where the site is served on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_link_of_the_site_leads_to_a_file_and_its_anchor(site):
    pages = {path: Anchors(path.read_text()) for path in site.rglob("*.html")}
    assert len(pages) > len(PAGES) > 40
    followed, broken = 0, []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            name = unquote(parts.fragment)
            if not target.is_file() or (target in pages and name and name not in pages[target].names):
                broken.append(f"{path.relative_to(site)}: {link}")
            followed += 1
    assert broken == []
    assert followed > 1000


@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_can_be_read_and_asks_nothing_of_the_network(browser, address, page):
    browser.open(f"{address}/{page}.html")
    check_page(browser)


@pytest.mark.parametrize(("term", "page"), [("rollout", "methods/rollout.html"), ("fails open", "concepts.html")])
def test_search_finds_a_term_and_its_result_opens(browser, address, term, page):
    browser.open(f"{address}/index.html")
    browser.run("document.querySelector('input[name=q]').focus()")
    browser.send("Input.insertText", text=term)
    browser.press("Enter")
    status = "document.querySelector('#search-results p.search-summary')?.textContent"
    browser.wait_for(f"location.pathname.endsWith('search.html') && {status}?.includes('finished')")
    results = browser.run("[...document.querySelectorAll('ul.search li a')].map(link => link.href)")
    found = [link for link in results if urlsplit(link).path == f"/{page}"]
    assert found, results
    browser.open(found[0])
    assert term in browser.run("document.querySelector('article').textContent").lower()
    assert (browser.complaints, browser.requests) == ([], [])
