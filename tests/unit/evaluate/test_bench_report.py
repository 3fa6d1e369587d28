"""The HTML page of a bench, parsed."""

import base64
import io
import math
from dataclasses import replace

import pytest
from PIL import Image

from foreseer.evaluate.report import bench_report, page
from foreseer.evaluate.report.bench_report import write_report
from tests.unit.evaluate.example import HOSTILE
from tests.unit.evaluate.parsed import Page


def page_of(results, folder):
    return Page(bench_report.page(results, folder)).root


def body_rows(tree):
    return list(tree.one("section", id="table").one("tbody").all("tr"))


def test_the_page_shows_heading_command_environment_and_notes(results, folder):
    tree = page_of(results, folder)
    assert tree.one("h1").text == results.title
    assert tree.one("head").one("title").text == results.title
    assert tree.one("pre").text == results.command
    pairs = zip(tree.all("dt"), tree.all("dd"), strict=True)
    assert {key.text: value.text for key, value in pairs} == results.environment
    remarks = [item.text for item in tree.one("ul", class_="remarks").all("li")]
    assert "Random <weights>." in remarks
    assert "LPIPS is missing: the package <lpips> is not installed" in remarks
    assert any("scikit-image 1 (PSNR, dB)" in remark for remark in remarks)


def test_the_table_can_be_sorted_by_buttons_and_holds_exact_values(results, folder):
    tree = page_of(results, folder)
    table = tree.one("section", id="table")
    heads = list(table.one("thead").all("th"))
    assert all(len(list(head.all("button"))) == 1 for head in heads[:-1])
    better = {head["data-key"]: head["data-better"] for head in heads if "data-key" in head.attributes}
    assert (better["latency"], better["psnr"], better["nfe"]) == ("lower", "higher", "")
    rows = body_rows(tree)
    psnr = [head.attributes.get("data-key") for head in heads].index("psnr")
    exact = {(line["data-method"], line["data-budget"]): line for line in rows}
    for one in results.rows[1:-1]:
        line = exact[one.method, str(one.budget)]
        assert float(line.children[psnr]["data-value"]) == one.measures["psnr"]
        assert (line.children[psnr].attributes.get("class") == "best") == (one.method == "learned")
    assert rows[0].children[psnr].text == "∞"
    assert float(rows[0].children[psnr]["data-value"].replace("inf", "Infinity")) == math.inf


def test_an_error_is_shown_in_its_row(results, folder):
    tree = page_of(results, folder)
    (failed,) = [line for line in body_rows(tree) if line["data-method"] == "peer"]
    message = failed.children[-1]
    assert message.text == "failed: ValueError: <b>blocks</b> of 100% & more are $missing_\\"
    heads = len(list(tree.one("section", id="table").one("thead").all("th")))
    assert 2 + int(message["colspan"]) == heads


def test_charts_hold_one_named_line_per_method_and_need_no_picture_file(results, folder):
    tree = page_of(results, folder)
    frontiers = list(tree.one("section", id="frontier").all("figure"))
    assert [figure["data-axis"] for figure in frontiers] == ["nfe", "flops_speedup", "speedup"]
    panels = list(tree.one("section", id="trajectory").all("figure"))
    assert [next(panel.all("figcaption")).text for panel in panels] == ["Budget 12", "Budget 6"]
    for figure in (*frontiers, *panels):
        drawing = figure.one("svg")
        lines = [line["data-method"] for line in drawing.all("g", class_="series")]
        assert lines == ["taylor", "reuse", "learned"]
        assert drawing["aria-label"]
    everything = [element["id"] for element in tree.all() if "id" in element.attributes]
    assert len(everything) == len(set(everything))
    chips = [chip["data-method"] for chip in tree.one("section", id="frontier").all("label", class_="chip")]
    assert chips == ["taylor", "reuse", "learned"]


def test_every_picture_is_inside_the_page_and_is_the_file(results, folder):
    tree = page_of(results, folder)
    articles = list(tree.all("article"))
    assert [article.one("h4").text for article in articles] == ["a red apple seed 7", f"{HOSTILE} seed 8"]
    for index, article in enumerate(articles):
        figures = {(f["data-method"], f["data-budget"]): f for f in article.all("figure")}
        assert len(figures) == 7
        for one in results.rows[:-1]:
            figure = figures[one.method, "–" if one.budget is None else str(one.budget)]
            source = figure.one("img")["src"]
            assert source.startswith("data:image/png;base64,")
            assert base64.b64decode(source.partition(",")[2]) == (folder / one.pictures[index]).read_bytes()
            assert (figure.one("img")["width"], figure.one("img")["height"]) == ("10", "8")
    assert figures["taylor", "6"]["data-figures"] == "PSNR 34.12 dB · SSIM 0.9707"


def test_nothing_that_was_typed_becomes_markup_or_leaves_the_page(results, folder):
    for one in results.rows[1:3]:
        one.method, one.title = f"m{HOSTILE}", HOSTILE
        one.settings = {HOSTILE: HOSTILE}
    results.measures[0] = replace(results.measures[0], title=HOSTILE, source=HOSTILE)
    results.notes = [HOSTILE]
    results.environment = {HOSTILE: HOSTILE}
    plain = sum(1 for _ in page_of(replace(results, prompts=["a", "b"]), folder).all("script"))
    text = write_report(results, folder)["page"].read_text(encoding="utf-8")
    tree = Page(text).root
    assert plain == len(list(tree.all("script"))) == 1
    assert "<script>alert" not in text
    assert "{{ 7 * 7 }}" in tree.text
    assert next(tree.one("section", id="frontier").all("label", class_="chip")).text == f"● {HOSTILE}"
    assert next(tree.one("section", id="trajectory").all("g", class_="series"))["data-method"] == f"m{HOSTILE}"
    for element in tree.all():
        assert not [name for name in element.attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (element.attributes.get(name) or "#").startswith(("#", "data:image/"))
    styles = "".join(style.text for style in tree.all("style"))
    assert "@import" not in styles
    assert "url(" not in styles


def test_published_figures_stand_beside_ours(results, folder):
    results.rows[1].published |= {"PSNR (uint8)": 31.5, "FLOPs (T)": 8.1, "Latency (s)": 2.5}
    section = page_of(results, folder).one("section", id="published")
    groups = [(head.text, head["colspan"]) for head in section.all("th", scope="colgroup")]
    names = ["PSNR", "Latency speedup", "ImageReward", "PSNR (uint8)", "FLOPs (T)", "Latency (s)"]
    assert groups == list(zip(names, "221122", strict=True))  # a uint8 PSNR has no true one beside it
    under = [head.text for head in section.all("th", class_="plain")]
    assert [head for head in under if head != "paper"] == ["here", "here", "here (TFLOPs)", "here (Denoising, s)"]
    (line,) = section.one("tbody").all("tr")
    assert [cell.text for cell in line.children] == [
        "Taylor", "6", "28.4", "34.12", "3.47x", "7.89", "1.02", "31.5", "8.1", "9.00", "2.5", "1.52",
    ]  # fmt: skip
    assert not list(page_of(replace(results, rows=results.rows[:1]), folder).all("section", id="published"))


def test_a_picture_that_is_gone_damaged_or_elsewhere_is_missing_with_the_reason(results, folder):
    (folder / "pictures/taylor-6-0.png").unlink()
    (folder / "pictures/reuse-6-0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder.parent / "secret.png").write_bytes((folder / "pictures/learned-6-0.png").read_bytes())
    results.rows[5].pictures[0] = "../secret.png"
    article = next(page_of(results, folder).all("article"))
    absent = {one.parent["data-method"]: one.text for one in article.all("div", class_="absent")}
    assert absent == {
        "taylor": "pictures/taylor-6-0.png: No such file or directory",
        "reuse": "pictures/reuse-6-0.png: UnidentifiedImageError",
        "learned": "../secret.png lies outside the report",
    }


def test_large_pictures_are_shrunk_and_the_page_says_so(results, folder, monkeypatch):
    large = Image.new("RGB", (900, 600), "red")
    large.save(folder / "pictures/taylor-6-0.png")
    tree = page_of(results, folder)
    assert "larger than 512 pixels" in tree.one("section", id="pictures").text
    inlined = page.inline_file(folder, "pictures/taylor-6-0.png")
    assert inlined.source.startswith("data:image/webp;base64,")
    assert (inlined.width, inlined.height, inlined.shrunk) == (900, 600, True)


def test_animations_stay_animated(folder):
    frames = [Image.new("RGB", (600, 300), colour) for colour in ("red", "blue", "green")]
    frames[0].save(folder / "large.gif", save_all=True, append_images=frames[1:], duration=60)
    small = [frame.resize((60, 30)) for frame in frames]
    small[0].save(folder / "small.gif", save_all=True, append_images=small[1:], duration=60)
    for name, kind, width in (("large.gif", "webp", 512), ("small.gif", "gif", 60)):
        source = page.inline_file(folder, name).source
        assert source.startswith(f"data:image/{kind};base64,")
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
            assert picture.n_frames == 3
            assert picture.width == width


def test_prompts_beyond_what_a_page_holds_are_left_out_and_the_page_says_so(results, folder, monkeypatch):
    monkeypatch.setattr(bench_report, "MOST_PICTURE_BYTES", 100)
    tree = page_of(results, folder)
    assert len(list(tree.all("article"))) == 1
    assert "1 of 2 prompts are shown" in tree.one("section", id="pictures").text


@pytest.mark.parametrize("kind", ["speed only", "nothing", "all failed"])
def test_a_bench_without_fidelity_has_a_report_that_says_so(results, folder, kind):
    for one in results.rows:
        one.measures, one.latent_error, one.pictures, one.per_prompt = {}, {}, [], {}
        if kind == "all failed":
            one.error = "RuntimeError: no memory"
    if kind == "nothing":
        results = replace(results, rows=results.rows[:1], measures=[], prompts=[], seeds=[])
    tree = page_of(results, folder)
    assert "No fidelity was measured" in tree.one("section", id="frontier").text
    assert "No pictures were kept." in tree.one("section", id="pictures").text
    assert not list(tree.all("svg"))
    assert len(body_rows(tree)) == len(results.rows)
    if kind == "all failed":
        assert all("no memory" in line.text for line in body_rows(tree))


def test_a_video_bench_speaks_of_videos(results, folder):
    tree = page_of(replace(results, video=True), folder)
    assert tree.one("section", id="pictures").one("h2").text == "Videos"
