"""Cells of the hardening matrix: a mark names the cell that a test covers, and its outcome."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
OUTCOMES = ("works", "fails open", "refused")
AREAS = ("runs", "hosts", "concurrency", "numerics", "visible", "files", "serving")


@dataclass(frozen=True, order=True)
class Cell:
    """One situation, what comes of it, and the test that shows it."""

    area: str
    what: str
    outcome: str
    test: str
    slow: bool = False


# Cells that tests of other rooms close: area, what, outcome, test.
ELSEWHERE = (
    ("runs", "the pipeline's own interrupt flag", "works", "unit/attach/test_interrupted.py::test_the_pipelines_own_interruption"),
    ("runs", "an exception in the loop before a call of the network", "works", "unit/attach/test_interrupted.py::test_an_exception_before_a_call"),
    ("runs", "an aborted run, then one with another step count", "works", "unit/attach/test_interrupted.py::test_a_run_broken_off_and_another_length"),
    ("runs", "another step count, batch or size", "works", "contract/pipelines/test_unchanged.py::test_a_changed_setting_is_served_as_by_a_fresh_attachment"),
    ("runs", "image to image", "works", "unit/attach/test_runs.py::test_image_to_image_begins_where_it_begins"),
    ("runs", "another scheduler between runs", "works", "unit/attach/test_runs.py::test_another_scheduler_between_runs"),
    ("runs", "text to image, inpainting, editing, ControlNet and video", "works", "contract/pipelines/test_skipping.py::test_each_branch_computes_the_steps_of_its_plan"),
    ("runs", "memory: features are freed after a run", "works", "contract/pipelines/test_skipping.py::test_no_feature_outlives_the_run"),
    ("hosts", "detaching: the model is as before", "works", "contract/pipelines/test_unchanged.py::test_detaching_leaves_no_trace"),
    ("hosts", "diffusers' `enable_cache` before attaching", "refused", "unit/attach/test_refusals.py::test_the_models_own_cache_is_refused"),
    ("hosts", "diffusers' `enable_cache` after attaching", "fails open", "unit/attach/test_fail_open.py::test_the_models_own_cache_enabled_later_is_not_forecast_over"),
    ("hosts", "attached twice", "refused", "unit/attach/test_refusals.py::test_a_second_attachment_is_refused_and_the_first_lives_on"),
    ("hosts", "sites inside the network on a model compiled as a whole", "refused", "unit/attach/test_refusals.py::test_a_site_inside_of_a_model_compiled_as_a_whole_is_refused"),
    ("concurrency", "threads that share a model", "works", "unit/attach/test_runs.py::test_threads_on_one_model_do_not_mix"),
    ("numerics", "NaN in a feature", "fails open", "unit/attach/test_fail_open.py::test_a_feature_that_is_not_finite_is_not_used"),
    ("numerics", "bfloat16 timesteps", "works", "unit/attach/test_runs.py::test_bfloat16_rounds_timesteps_but_loses_no_step"),
    ("numerics", "gradients enabled", "fails open", "unit/attach/test_fail_open.py::test_with_gradients_every_step_is_computed"),
    ("numerics", "an output changed in place by the loop", "fails open", "unit/attach/test_fail_open.py::test_an_output_written_to_by_the_loop_is_not_used"),
    ("visible", "one warning per handle, with the reason", "works", "unit/attach/test_fail_open.py::test_it_is_said_once_a_handle"),
    ("visible", "rows learned on another network, unless allowed by name", "refused", "unit/attach/test_misuse.py::test_rows_of_another_network_are_refused_unless_allowed"),
    ("visible", "rows learned with other guidance, unless allowed by name", "refused", "unit/attach/test_other_guidance.py::test_another_guidance_is_refused_when_the_run_begins"),
    ("files", "damaged files: truncated, bits flipped, empty, foreign, of a future version", "refused", "fuzz/test_fuzz.py::test_fuzzed_files_give_their_kinds_error_or_what_is_valid"),
    ("files", "a pipe or device instead of a file, when reading", "refused", "unit/files/test_reading.py::test_no_pipe_is_waited_for_and_no_device_read"),
    ("files", "a pipe or device instead of a file, when writing", "refused", "unit/files/test_writing.py::test_no_pipe_or_device_is_replaced"),
    ("files", "a symbolic link, when reading", "works", "unit/files/test_reading.py::test_a_link_to_a_plan_is_read"),
    ("files", "a symbolic link, when writing: the link is replaced", "works", "unit/files/test_writing.py::test_a_link_is_replaced_and_its_target_left_alone"),
    ("files", "a file above its size limit", "refused", "unit/files/test_reading.py::test_a_file_is_read_up_to_its_limit"),
    ("files", "memory: reading takes at most twice the file's size", "works", "unit/files/test_reading.py::test_a_plan_takes_no_more_memory_than_twice_its_file"),
    ("files", "shapes that contradict each other", "refused", "unit/files/test_reading.py::test_shapes_that_contradict_each_other_are_refused"),
    ("files", "a killed writer: the old file is whole; the next writer removes leftovers", "works", "unit/files/test_writing.py::test_what_a_killed_writer_left_is_taken_away_by_the_next"),
    ("files", "many writers of one file at once", "works", "unit/files/test_writing.py::test_many_writers_of_one_file_leave_one_whole_file"),
    ("serving", "many clients and bad requests: none lost, wrong or mixed up", "works", "unit/examples/test_serve.py::test_under_load_no_request_is_lost_wrong_or_mixed_up"),
    ("serving", "an interrupted picture, then the next", "works", "unit/examples/test_serve.py::test_after_an_interrupted_picture_the_next_is_the_same"),
    ("serving", "a full queue", "refused", "unit/examples/test_serve.py::test_the_queue_is_bounded_and_says_when_to_come_again"),
    ("serving", "a client that hangs up: worker and queue are freed", "works", "unit/examples/test_serve.py::test_who_leaves_frees_the_worker_and_the_queue"),
    ("serving", "sizes, steps or prompts outside the limits", "refused", "unit/examples/test_serve.py::test_what_is_out_of_the_limits_is_refused_without_being_drawn"),
    ("visible", "`strict=True`: an error instead of a computed step", "refused", "unit/attach/test_fail_open.py::test_strict_raises_and_the_handle_can_still_be_let_go"),
)  # fmt: skip


def all_cells() -> list[Cell]:
    """Every cell, by area."""
    found = [Cell(area, what, outcome, f"tests/{test}") for area, what, outcome, test in ELSEWHERE]
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                found += _marked(node, f"tests/robustness/{path.name}::{node.name}")
    return sorted(found, key=lambda cell: (AREAS.index(cell.area), cell))


def _marked(node: ast.FunctionDef, test: str) -> list[Cell]:
    marks = [ast.unparse(one) for one in node.decorator_list]
    slow = "pytest.mark.slow" in marks
    cells = []
    for one in node.decorator_list:
        if isinstance(one, ast.Call) and ast.unparse(one.func) == "pytest.mark.cell":
            area, what, outcome = (ast.literal_eval(value) for value in one.args)
            cells.append(Cell(area, what, outcome, test, slow))
    return cells
