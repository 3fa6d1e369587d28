"""Context parallelism's device mesh lies on attention processors, and is no feature that they store."""

from types import SimpleNamespace

from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

import foreseer as fs
from tests.robustness.served import FORECAST
from tests.support.attaching import policy
from tests.support.pipelines import build


def test_a_device_mesh_is_not_taken_for_stored_features() -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = SimpleNamespace(context_parallel_config=SimpleNamespace(_mesh=init_device_mesh("cpu", (1,))))
        whole = build("flux")
        for processor in whole.pipe.transformer.attn_processors.values():
            processor._parallel_mesh = mesh
        with fs.accelerate(whole.pipe, policy()) as handle:
            whole.run()
    finally:
        distributed.destroy_process_group()
    assert handle.record.forecast == {"cond": FORECAST}
    assert handle.record.failed_open == []
