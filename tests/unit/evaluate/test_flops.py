"""FLOPs agree with torch's counter, also for modules on which it recurses without end."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from foreseer.evaluate.sampling.flops import FlopCount


def test_flops_are_those_of_torchs_counter():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))
    batch = torch.ones(2, 3, 8, 8)
    with torch.no_grad(), FlopCounterMode(display=False) as known, FlopCount() as count:
        model(batch)
    by_hand = 2 * (2 * 8 * 36) * (3 * 9) + 2 * 2 * (8 * 36) * 5
    assert count.total == by_hand
    assert known.get_total_flops() == by_hand


def test_attention_on_a_cpu_counts():
    query = torch.ones(1, 2, 6, 8)
    with torch.inference_mode(), FlopCount() as count:
        nn.functional.scaled_dot_product_attention(query, query, query)
    assert count.total == 2 * (2 * 2 * 6 * 6 * 8)


def test_a_module_that_contains_its_parent_is_counted():
    parent, child = nn.Linear(4, 4), nn.Linear(4, 4)
    parent.child, child.parent = child, parent
    with torch.no_grad(), FlopCount() as count:
        parent(torch.ones(1, 4))
    assert count.total == 32
