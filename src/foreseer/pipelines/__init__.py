"""Loading and calling diffusers pipelines of any class, and reading what they return."""

from foreseer.pipelines.calling import (
    PICTURE_NAMES,
    accepted_arguments,
    call_arguments,
    check_call,
    run,
    with_pictures,
)
from foreseer.pipelines.files_given import PICTURE, read_pictures
from foreseer.pipelines.hub_models import locate_model
from foreseer.pipelines.loading import (
    DTYPES,
    MOST_PROMPT_BYTES,
    MOST_PROMPTS,
    PipelineError,
    check_dtype,
    check_model,
    check_placement,
    draws_pictures,
    load_pipeline,
    quiet_libraries,
    read_prompts,
    sampling_of,
    split_sampling,
    torch_dtype,
    version_of,
)
from foreseer.pipelines.outputs import check_finite, drawn, drawn_or_none, sounds

__all__ = [
    "DTYPES",
    "MOST_PROMPTS",
    "MOST_PROMPT_BYTES",
    "PICTURE",
    "PICTURE_NAMES",
    "PipelineError",
    "accepted_arguments",
    "call_arguments",
    "check_call",
    "check_dtype",
    "check_finite",
    "check_model",
    "check_placement",
    "drawn",
    "drawn_or_none",
    "draws_pictures",
    "load_pipeline",
    "locate_model",
    "quiet_libraries",
    "read_pictures",
    "read_prompts",
    "run",
    "sampling_of",
    "sounds",
    "split_sampling",
    "torch_dtype",
    "version_of",
    "with_pictures",
]
