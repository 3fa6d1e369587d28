"""Pipelines that workers build by name: ``tests.unit.scale.models:loop``."""

import functools
import itertools
import os
import signal
from pathlib import Path

import diffusers

from tests.support.loop_pipeline import LoopPipeline
from tests.unit.scale.tasks import DEATHS


def loop():
    return LoopPipeline(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0))


class MortalPipeline(LoopPipeline):
    """Dies at the first run of a prompt whose name is in the folder of deaths."""

    @functools.wraps(LoopPipeline.__call__)
    def __call__(self, prompt, **options):
        die_once(Path(os.environ[DEATHS]) / prompt.rpartition(" ")[2])
        return super().__call__(prompt, **options)


def die_once(file):
    """Kill this process if a file is there, and remove the file."""
    if file.exists():
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def mortal():
    MortalPipeline.__name__ = LoopPipeline.__name__  # the same identity
    return MortalPipeline(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0))


def different():
    """Other weights for each worker."""
    pipe = loop()
    pipe.transformer.mix.data.add_(next(DIFFERENCES))
    return pipe


DIFFERENCES = itertools.count()
