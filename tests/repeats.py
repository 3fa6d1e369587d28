"""Tests that repeat what others of the suite show: marked slow, run by `make test-matrix`.

Each rule names a test and the parameters that stay in every run. Pipelines stay whose networks differ in what
Foreseer meets: how the denoiser is called, what it returns, how its blocks hand on.
"""

from __future__ import annotations

import re

REPRESENTATIVES = (
    *("flux", "flux_img2img", "flux_controlnet"),  # two streams, then one; a late first step; a network next to it
    *("sd3", "sd3_inpaint", "dit"),  # guidance in one batch; class labels
    *("qwen_image", "qwen_image_edit_plus"),  # two named calls; tokens of reference pictures
    *("sdxl", "sdxl_inpaint"),  # U-Nets
    *("z_image", "chroma"),  # lists of tensors; two calls without names
    *("wan", "wan_2_2", "hunyuan_video_1_5", "ltx2", "mochi"),  # videos: two denoisers, a guider, sound, rising sigmas
    "stable_audio",
)
_ANY_OF = "|".join(REPRESENTATIVES)
# Test, and what its parameters must match to stay. Parameters are joined by "-" as in pytest's identifiers.
KEPT = {
    # For the other pipelines, the rule whose gaps grow alone; the true rows and the counted layers stay for all.
    "test_each_branch_computes_the_steps_of_its_plan": rf"({_ANY_OF})-|.*-growing$",
    "test_no_feature_outlives_the_run": rf"({_ANY_OF})-(?!modules-device)|.*-last_block-device$",
    "test_a_second_run_is_the_first_again": rf"({_ANY_OF})-",
    "test_detaching_leaves_no_trace": rf"({_ANY_OF})-|.*-last_block$",
    "test_a_changed_setting_is_served_as_by_a_fresh_attachment": rf"({_ANY_OF})-(?!modules-steps)|.*-last_block-size$",
    # An exception at every step on one pipeline, at the middle one on the others.
    "test_an_exception_before_a_call": r"flux-|.*-2-",
    "test_an_exception_inside_the_network": r".*-2-|1-0-",
    # Whole folders from prompt to picture.
    "test_every_other_folder_is_drawn_from_at_a_budget": r"(flux|dit|stable_diffusion|z_image|hunyuan_video_1_5|ltx)$",
    # Learning: one budget of several.
    "test_rows_of_branches_come_nearer_to_the_full_run_than_shared_ones": r"7$",
    "test_rollout_fits_rows_of_branches": r"7$",
    "test_budgets_of_calls_are_kept_by_kernel_rows_and_by_rollout": r"13$",
    "test_rollout_beats_kernel_rows_which_beat_fixed_formulas": r"5$",
    "test_rollout_steers_back_through_other_samplers": r"(DPM|DDIM)",
    "test_one_kernel_serves_other_step_counts_as_well_as_their_own": r"(10|28)$",
    "test_learned_never_expects_more_than_the_best_sub_grid": r"[1357]$",
    # The module site's counted layers: the true rows prove it too.
    "test_layers_run_at_computed_steps_only": rf"({_ANY_OF})-|.*-(output|last_block)$",
    # Schedules: every budget of the longest run is searched for seconds.
    "test_every_budget_is_hit_exactly": r"Uniform-|.*-(8|14|28|50)$",
    # Hosts: both moments on the output, one inside.
    "test_sequential_offload": r"output-|last_block-before",
    "test_sequential_offload_of_a_pipeline": r"output-|last_block-before",
    "test_group_offload": r".*-output-|.*-last_block-before",
    "test_between_compiled_blocks": r".*-before$|change-",
    "test_interceptions_lost_in_mid_run": r".*-[01]$",
    "test_a_spoiled_first_run_condemns_no_site": r".*-[025]$",
    # Line by line: two sites each.
    "test_attaching_interrupted_at_any_line": r"attaching-(output|last_block)$|letting go-(output|modules)$",
    "test_a_signal": r"(output|last_block|modules)$",
}


def is_repeated(name: str) -> bool:
    """Whether an item, by its name with parameters, repeats a proof."""
    test, _, parameters = name.rstrip("]").partition("[")
    return bool(parameters) and test in KEPT and not re.match(KEPT[test], parameters)
