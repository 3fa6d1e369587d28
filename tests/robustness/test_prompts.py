"""Lists of prompts on the bundled pipeline, changed from run to run under one handle."""

from __future__ import annotations

import pytest
import torch

import foreseer as fs
from tests.robustness.emoji import PANDA, PIZZA, ROCKET, draw, emoji
from tests.support.attaching import policy

SITES = pytest.mark.parametrize("site", ["output", pytest.param("last_block", marks=pytest.mark.slow)])
LISTS: list[tuple[str | list[str], int]] = [
    ([PANDA, ROCKET], 1),
    ([ROCKET, PANDA], 1),  # the same shapes, other text
    ([PIZZA, ROCKET], 2),  # of each prompt two pictures
    (PANDA, 2),
    ([PANDA, ROCKET], 1),
]


@pytest.mark.cell("runs", "lists of prompts with several pictures each", "works")
@SITES
def test_lists_of_prompts(site: str) -> None:
    pipe, pictures = emoji(), []
    with fs.accelerate(pipe, policy(site)) as kept:
        for prompts, images in LISTS:
            pictures.append(draw(pipe, prompts, num_images_per_prompt=images, steps=4))
            assert kept.record.forecast == {"cond": [1, 3]}
            assert kept.record.failed_open == []
    for (prompts, images), picture in zip(LISTS[:-1], pictures[:-1], strict=True):
        with fs.accelerate(pipe, policy(site)):
            assert torch.equal(draw(pipe, prompts, num_images_per_prompt=images, steps=4), picture)
        assert len(picture) == images * (len(prompts) if isinstance(prompts, list) else 1)
    assert torch.equal(pictures[-1], pictures[0])
    assert not torch.allclose(pictures[1], pictures[0], atol=1e-2)


@pytest.mark.cell("runs", "a list of prompts: each picture as drawn alone", "works")
@SITES
def test_each_picture_is_its_prompts(site: str) -> None:
    pipe, prompts = emoji(), [PANDA, ROCKET]

    def noise(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    with fs.accelerate(pipe, policy(site)):
        together = draw(pipe, prompts, num_images_per_prompt=2, generator=noise(0, 1, 2, 3))
        for index, seed in enumerate((0, 1, 2, 3)):
            alone = draw(pipe, prompts[index // 2], generator=noise(seed))
            assert torch.allclose(together[index : index + 1], alone, atol=1e-4)  # another batch, other kernels
            assert not torch.allclose(together[index - 1 : index or None], alone, atol=1e-2)
