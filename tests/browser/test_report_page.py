"""The page of a bench, which is also the demo's, used as a reader uses it."""

import shutil

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from foreseer.evaluate.report.bench_report import write_report
from tests.support.page_checks import check_page
from tests.unit.evaluate.example import draw_pictures, example_results

METHODS = "[...document.querySelectorAll('#table tbody tr')].filter(row => !row.hidden).map(row => row.dataset.method)"
SHOWN = "[...document.querySelectorAll('article figure')].filter(each => !each.hidden)"
PLACE = "document.querySelector('.stage .frame').getBoundingClientRect().toJSON()"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Address of the page of the example results."""
    folder = tmp_path_factory.mktemp("report")
    results = example_results()
    draw_pictures(results, folder)
    page = write_report(results, folder)["page"]
    shutil.rmtree(folder / "pictures")  # the page is self-contained
    return page.as_uri()


@pytest.fixture
def page(browser, report):
    """The browser with the page open and nothing changed on it."""
    browser.open(report)
    yield browser
    assert (browser.complaints, browser.requests) == ([], [])


def pixel(browser, x, y):
    """Colour of the window at a place, as it is drawn."""
    import base64
    import io

    from PIL import Image

    clip = {"x": x, "y": y, "width": 1, "height": 1, "scale": 1}
    shot = browser.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
    return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB").getpixel((0, 0))


def test_it_fits_can_be_read_and_asks_nothing_of_the_network(page):
    check_page(page)


def test_the_table_sorts_and_failures_stay_below(page):
    order = page.run(METHODS)
    page.run("document.querySelector('th[data-key=psnr] button').click()")
    assert page.run(METHODS) == ["reference", "learned", "taylor", "reuse", "learned", "taylor", "reuse", "peer"]
    assert page.run("document.querySelector('th[data-key=psnr]').ariaSort") == "descending"
    page.run("document.querySelector('th[data-key=psnr] button').click()")
    assert page.run(METHODS) == ["reuse", "taylor", "learned", "reuse", "taylor", "learned", "reference", "peer"]
    status = page.run("document.querySelector('#table .status').textContent")
    assert status.split() == ["Sorted", "by", "PSNR,", "dB", "↑,", "ascending."]
    page.run("document.querySelector('th[data-key=psnr] button').click()")
    assert page.run(METHODS) == order


def test_a_budget_filters_the_table_and_a_legend_hides_a_method_everywhere(page):
    page.run("document.querySelector('input[name=table-budget][value=\"6\"]').click()")
    assert page.run(METHODS) == ["reference", "taylor", "reuse", "learned"]
    page.run("document.querySelector('input[name=frontier-methods][value=reuse]').click()")
    line = "getComputedStyle(document.querySelector('#trajectory .series[data-method=reuse]')).display"
    assert page.run(line) == "none"
    assert "reuse" not in page.run(f"{SHOWN}.map(each => each.dataset.method)")
    page.run("document.querySelector('[data-all=\"\"]').click()")
    assert set(page.run(f"{SHOWN}.map(each => each.dataset.method)")) == {"reference"}


def test_the_axis_of_the_frontier_changes(page):
    charts = "[...document.querySelectorAll('.chart[data-axis]')]"
    shown = f"{charts}.filter(each => !each.hidden).map(each => each.dataset.axis)"
    assert page.run(shown) == ["nfe"]
    page.run("document.querySelector('input[name=frontier-axis][value=speedup]').click()")
    assert page.run(shown) == ["speedup"]


def test_the_slider_moves_with_the_keyboard_and_uncovers_the_reference(page):
    page.run("document.querySelector('.stage').scrollIntoView({block: 'center', behavior: 'instant'})")
    page.run("document.querySelector('input[name=divide]').focus()")
    place = page.run(PLACE)
    corner = (place["x"] + 8 + page.run("scrollX"), place["y"] + 8 + page.run("scrollY"))
    page.press("Home")  # none of the reference is shown
    other = pixel(page, *corner)
    page.press("End")
    reference = pixel(page, *corner)
    assert page.run("getComputedStyle(document.querySelector('.stage .frame')).getPropertyValue('--at')") == "100%"
    assert reference != other
    page.press("ArrowLeft")
    assert page.run("document.querySelector('input[name=divide]').value") == "99.5"
    page.run("document.querySelector('input[name=view][value=difference]').click()")
    page.run("document.querySelector('input[name=amplify]').value = 1")
    page.run("document.querySelector('input[name=amplify]').dispatchEvent(new Event('input'))")
    difference = tuple(abs(a - b) for a, b in zip(reference, other, strict=True))
    assert all(abs(a - b) <= 2 for a, b in zip(pixel(page, *corner), difference, strict=True))


def test_controls_are_reached_and_used_without_a_mouse(page):
    name = "document.activeElement.name || document.activeElement.textContent.trim()"
    reached = []
    while "Method" not in reached and len(reached) < 10:
        page.press("Tab")
        reached.append(page.run(name))
    assert reached[0] == "table-budget"
    outline = page.run("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    page.press("Enter")
    assert page.run("document.querySelector('#table th').ariaSort") == "ascending"


def test_a_picture_opens_in_the_comparison(page):
    figure = """document.querySelector('article[data-prompt="1"] figure[data-method=learned][data-budget="6"]')"""
    page.run(f"{figure}.querySelector('button').click()")
    chosen = [
        page.run(f"document.querySelector('select[name={name}]').value") for name in ("prompt", "method", "budget")
    ]
    assert chosen == ["1", "learned", "6"]
    assert page.run(f"document.querySelector('.stage .over').src == {figure}.querySelector('img').src")
