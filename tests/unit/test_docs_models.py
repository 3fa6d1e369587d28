"""The examples of docs/models run, as they are printed, on tiny pipelines of the same class.

What is not here is stood in for: weights (random), prompts (embeddings), sizes, more than 20 steps, the GPU, files that
are read or written.
The sampling loop, the schedule, the arguments' names and all of Foreseer are the real ones.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image

from tests.contract.folder_page import PAGE, recipe_of, rewritten, rows
from tests.contract.matrix import BEGIN, COLUMNS, END
from tests.support.pipelines import NAMES, TinyPipeline, build

FOLDER = Path(__file__).parents[2] / "docs" / "models"
BLOCK = re.compile(r"^<!-- model -->\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
RECIPES = FOLDER.parent / "recipes.md"
PAGES = [page for page in (*sorted(FOLDER.glob("*.md")), RECIPES) if BLOCK.search(page.read_text())]
# The tiny pipeline for a repository whose class several pipelines serve.
TINY = {
    "FluxPipeline": "flux",
    "FluxKontextPipeline": "flux_kontext",
    "Flux2Pipeline": "flux2",
    "StableDiffusion3Pipeline": "sd3",
    "QwenImagePipeline": "qwen_image",
    "QwenImageEditPipeline": "qwen_image_edit",
    "HunyuanVideoPipeline": "hunyuan_video",
    "HunyuanVideo15Pipeline": "hunyuan_video_1_5",
    "Wan2.2": "wan_2_2",
    "WanPipeline": "wan",
    "DiTPipeline": "dit",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLControlNetPipeline": "sdxl_controlnet",
    "PixArtSigmaPipeline": "pixart_sigma",
    "SanaPipeline": "sana",
    "ChromaPipeline": "chroma",
    "ZImagePipeline": "z_image",
    "LTXPipeline": "ltx",
    "LTX2Pipeline": "ltx2",
    "CogVideoXPipeline": "cogvideox",
    "Lumina2Pipeline": "lumina2",
    "Kandinsky5T2VPipeline": "kandinsky5",
    "MochiPipeline": "mochi",
    "Ideogram4Pipeline": "ideogram_4",
    "QwenImage21Pipeline": "qwen_image_2_1",
    "Kandinsky6TI2VAPipeline": "kandinsky_6",
}
MOST_STEPS = 20
PICTURE = Image.new("RGB", (8, 8))


def stand_in(tiny: TinyPipeline) -> Any:
    """``tiny``'s pipeline, callable as its class is documented; generators are as asked, the rest is tiny."""
    pipe, kind = tiny.pipe, type(tiny.pipe)
    signature = inspect.signature(kind.__call__)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.inside:
            return kind.__call__(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs).arguments
        taken = {key: given[key] for key in ("num_inference_steps", "generator") if key in given}
        taken["num_inference_steps"] = min(taken.get("num_inference_steps", MOST_STEPS), MOST_STEPS)
        self.inside = True
        try:
            latents = tiny.call(self, 1, tiny.size, **taken)
        finally:
            self.inside = False
        drawn = given.get("output_type", "pil") == "pil"
        pictures = [PICTURE] if drawn else latents
        return SimpleNamespace(images=pictures, frames=[pictures])

    call.__signature__ = signature
    members = {"__call__": torch.no_grad()(call), "inside": False, "to": lambda self, *_: self}
    if isinstance(pipe, diffusers.DiTPipeline):
        members["get_label_ids"] = lambda self, words: [1] * len(words)
    pipe.__class__ = type(kind.__name__, (kind,), members)
    return pipe


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pipelines by name from nowhere; the list of what was asked for."""
    asked: list[str] = []

    def from_pretrained(cls: type, repository: str, **_: Any) -> Any:
        asked.append(repository)
        name = next(tiny for words, tiny in TINY.items() if words in (cls.__name__,) or words in repository)
        return stand_in(build(name))

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", classmethod(from_pretrained))
    for loader in (diffusers.loaders.QwenImageLoraLoaderMixin, diffusers.loaders.FluxLoraLoaderMixin):
        monkeypatch.setattr(loader, "load_lora_weights", lambda self, *_, **__: None)
    monkeypatch.setattr(diffusers.ControlNetModel, "from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr(diffusers.DiffusionPipeline, "enable_model_cpu_offload", lambda self: None)
    monkeypatch.setattr(diffusers.ModelMixin, "compile_repeated_blocks", lambda self: None)
    monkeypatch.setattr(diffusers.utils, "load_image", lambda path: PICTURE)
    monkeypatch.setattr(diffusers.utils, "export_to_video", lambda video, path, fps: Path(path).touch())
    return asked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_of_a_model_run(page, hub, as_users_call, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__page__"}
    blocks = BLOCK.findall(page.read_text())
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page.name} block {number}", "exec"), names)
        record = names["handle"].record
        assert record.forecast_steps, f"block {number} forecast nothing"
        assert not record.failed_open, record.failed_open[0]
        names["handle"].detach()
    assert hub
    assert len(blocks) + page.read_text().count("<!-- run -->") == page.read_text().count("```python")


def test_every_family_has_its_page():
    families = {page.stem for page in PAGES if page != RECIPES}
    assert len(families) >= 16
    index = (FOLDER / "index.md").read_text()
    assert [name for name in sorted(families) if f"({name}.md)" not in index] == []


def test_the_table_of_folders_is_that_of_the_tests_and_each_has_a_recipe():
    assert rewritten(PAGE.read_text()) == PAGE.read_text(), "run `python -m tests.contract.folder_page`"
    assert [kind for kind, *_ in rows() if recipe_of(kind) is None] == []


def test_the_table_of_pipelines_has_every_pipeline_and_every_site():
    table = (FOLDER / "index.md").read_text().split(BEGIN)[1].split(END)[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == len(NAMES), "run `make matrix`"
    assert f"| {' | '.join(COLUMNS)} |" in table, "run `make matrix`"
    for row in rows:
        assert {cell.split(" (")[0].strip(" |") for cell in row[2:]} <= {"works", "fails open", "refused"}
