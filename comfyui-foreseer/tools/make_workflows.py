"""Write the example workflows, their thumbnails and the icon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

ROOT = Path(__file__).parent.parent
INK, PAPER, COMPUTED, FORECAST = "#1c1c1e", "#f5f3ee", "#e4572e", "#f2c9b8"
FORESEER = [2.5, "by speedup", "auto", True, 1, 1]


class Graph:
    """A workflow in the format of the user interface."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []

    def add(self, kind: str, outputs: str = "", widgets: tuple[Any, ...] = (), **inputs: tuple[int, int]) -> int:
        """A node; ``outputs`` are types, ``inputs`` are (node, output) by name. Returns the node's id."""
        node_id = len(self.nodes) + 1
        entries = []
        for slot, (name, (source, output)) in enumerate(inputs.items()):
            link = len(self.links) + 1
            kind_of_link = self.nodes[source - 1]["outputs"][output]["type"]
            self.links.append([link, source, output, node_id, slot, kind_of_link])
            self.nodes[source - 1]["outputs"][output]["links"].append(link)
            entries.append({"name": name, "type": kind_of_link, "link": link})
        column, row = divmod(node_id - 1, 3)
        self.nodes.append(
            {
                "id": node_id,
                "type": kind,
                "pos": [40 + 380 * column, 40 + 300 * row],
                "size": [330, 240],
                "flags": {},
                "order": node_id - 1,
                "mode": 0,
                "inputs": entries,
                "outputs": [{"name": name, "type": name, "links": []} for name in outputs.split()],
                "properties": {"Node name for S&R": kind},
                "widgets_values": list(widgets),
            }
        )
        return node_id

    def save(self, name: str) -> None:
        """Write the file."""
        workflow = {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }
        (ROOT / "example_workflows" / f"{name}.json").write_text(json.dumps(workflow, indent=1) + "\n")


def checkpoint(name: str, file: str, size: int) -> None:
    """SD1.5 and SDXL: everything from one checkpoint."""
    graph = Graph()
    model = graph.add("CheckpointLoaderSimple", "MODEL CLIP VAE", (file,))
    positive = graph.add("CLIPTextEncode", "CONDITIONING", ("a red apple on a wooden table",), clip=(model, 1))
    negative = graph.add("CLIPTextEncode", "CONDITIONING", ("blurry",), clip=(model, 1))
    latent = graph.add("EmptyLatentImage", "LATENT", (size, size, 1))
    finish(graph, (model, 0), positive, negative, latent, (7.0, "dpmpp_2m", "karras", 30), (model, 2))
    graph.save(name)


def flux() -> None:
    """Flux: guidance is an input, cfg is 1."""
    graph = Graph()
    model = graph.add("UNETLoader", "MODEL", ("flux1-dev.safetensors", "default"))
    clip = graph.add("DualCLIPLoader", "CLIP", ("clip_l.safetensors", "t5xxl_fp16.safetensors", "flux"))
    vae = graph.add("VAELoader", "VAE", ("ae.safetensors",))
    text = graph.add("CLIPTextEncode", "CONDITIONING", ("a red apple on a wooden table",), clip=(clip, 0))
    positive = graph.add("FluxGuidance", "CONDITIONING", (3.5,), conditioning=(text, 0))
    negative = graph.add("ConditioningZeroOut", "CONDITIONING", conditioning=(text, 0))
    latent = graph.add("EmptySD3LatentImage", "LATENT", (1024, 1024, 1))
    finish(graph, (model, 0), positive, negative, latent, (1.0, "euler", "simple", 28), (vae, 0))
    graph.save("flux")


def wan() -> None:
    """Wan 2.1, text to video."""
    graph = Graph()
    model = graph.add("UNETLoader", "MODEL", ("wan2.1_t2v_1.3B_fp16.safetensors", "default"))
    clip = graph.add("CLIPLoader", "CLIP", ("umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan", "default"))
    vae = graph.add("VAELoader", "VAE", ("wan_2.1_vae.safetensors",))
    shifted = graph.add("ModelSamplingSD3", "MODEL", (8.0,), model=(model, 0))
    positive = graph.add("CLIPTextEncode", "CONDITIONING", ("a fox runs through snow",), clip=(clip, 0))
    negative = graph.add("CLIPTextEncode", "CONDITIONING", ("static, blurry",), clip=(clip, 0))
    latent = graph.add("EmptyHunyuanLatentVideo", "LATENT", (832, 480, 33, 1))
    finish(graph, (shifted, 0), positive, negative, latent, (6.0, "uni_pc", "simple", 30), (vae, 0))
    graph.save("wan")


def finish(
    graph: Graph,
    model: tuple[int, int],
    positive: int,
    negative: int,
    latent: int,
    sampling: tuple[float, str, str, int],
    vae: tuple[int, int],
) -> None:
    """Foreseer, the sampler, the report and the picture."""
    cfg, sampler, scheduler, steps = sampling
    faster = graph.add("Foreseer", "MODEL", tuple(FORESEER), model=model)
    sampled = graph.add(
        "KSampler",
        "LATENT",
        (0, "fixed", steps, cfg, sampler, scheduler, 1.0),
        model=(faster, 0),
        positive=(positive, 0),
        negative=(negative, 0),
        latent_image=(latent, 0),
    )
    report = graph.add("ForeseerReport", "LATENT STRING", model=(faster, 0), latent=(sampled, 0))
    picture = graph.add("VAEDecode", "IMAGE", samples=(report, 0), vae=vae)
    graph.add("SaveImage", "", ("foreseer",), images=(picture, 0))


def draw(path: Path, title: str, size: int = 512) -> None:
    """Steps as bars, every second one computed."""
    image = Image.new("RGB", (size, size), PAPER)
    pen = ImageDraw.Draw(image)
    bars, margin = 9, size // 10
    width = (size - 2 * margin) / bars
    for bar in range(bars):
        height = size * (0.62 - 0.05 * bar)
        left = margin + bar * width
        shade = COMPUTED if bar % 2 == 0 else FORECAST
        pen.rounded_rectangle((left, size - margin - height, left + 0.7 * width, size - margin), 8, fill=shade)
    if title:
        pen.text((margin, margin), title, fill=INK, font_size=size // 10)
    image.save(path)


def main() -> None:
    """All files."""
    checkpoint("sd15", "v1-5-pruned-emaonly.safetensors", 512)
    checkpoint("sdxl", "sd_xl_base_1.0.safetensors", 1024)
    flux()
    wan()
    for name, title in (("sd15", "SD 1.5"), ("sdxl", "SDXL"), ("flux", "Flux"), ("wan", "Wan 2.1")):
        draw(ROOT / "example_workflows" / f"{name}.jpg", title)
    draw(ROOT / "icon.png", "", 256)


if __name__ == "__main__":
    main()
