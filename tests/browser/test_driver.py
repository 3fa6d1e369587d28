"""The tests' own driver of the browser waits for pages that are left while it asks them."""

import functools
import http.server
import threading

import pytest

from tests.support.browser import PageLeftError


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture
def address(tmp_path):
    for name in ("first", "second"):
        (tmp_path / f"{name}.html").write_text(f"<title>{name}</title><p id=place>{name}")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


LEAVE = "setTimeout(() => { location.href = 'second.html'; }, 100)"
ANSWER = "document.title === 'second' || new Promise(() => {})"  # the first page never answers


def test_a_value_is_awaited_over_a_change_of_page(browser, address):
    browser.open(f"{address}/first.html")
    browser.run(LEAVE)
    assert browser.wait_for(ANSWER) is True
    browser.open(f"{address}/first.html")
    browser.run(LEAVE)
    with pytest.raises(PageLeftError):
        browser.run(ANSWER)


def test_open_waits_for_the_page_asked_for_and_knows_places_and_what_cannot_open(browser, address):
    browser.open(f"{address}/first.html")
    browser.run("location.href = 'second.html?' + Math.random(); 0")  # its load event is not the one that counts
    browser.open(f"{address}/first.html")
    assert browser.run("document.title") == "first"
    browser.open(f"{address}/first.html#place")
    assert browser.run("location.hash") == "#place"
    with pytest.raises(RuntimeError, match="ERR_UNSAFE_PORT"):
        browser.open("http://127.0.0.1:9/")
