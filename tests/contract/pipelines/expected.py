"""What a run's record must say, worked out without the code under test."""

from __future__ import annotations

from foreseer import schedule
from foreseer.attach.run_record import RunRecord
from foreseer.schedule import Schedule
from tests.support.pipelines import TinyPipeline

SCHEDULES = {
    "growing": schedule.Growing(interval=2, warmup=2, alpha=1.0),
    "uniform": schedule.Uniform(interval=3, warmup=1),
    "explicit": schedule.Explicit((0, 1, 2)),
}


def branch_names(tiny: TinyPipeline) -> list[str]:
    """Every branch of every denoiser, as a record names them."""
    if len(tiny.denoisers) == 1:
        return list(tiny.branches)
    return [f"{denoiser} {branch}" for denoiser in tiny.denoisers for branch in tiny.branches]


def seen_steps(tiny: TinyPipeline, steps: int) -> dict[str, range]:
    """Steps at which each branch is called: all, unless a second denoiser takes over."""
    if len(tiny.denoisers) == 1:
        return dict.fromkeys(branch_names(tiny), range(tiny.first_step(steps), steps))
    scheduler = tiny.pipe.scheduler
    boundary = tiny.pipe.config.boundary_ratio * scheduler.config.num_train_timesteps
    switch = sum(float(t) >= boundary for t in scheduler.timesteps)
    assert 0 < switch < steps == len(scheduler.timesteps)
    halves = {tiny.denoisers[0]: range(switch), tiny.denoisers[1]: range(switch, steps)}
    return {name: halves[name.split()[0]] for name in branch_names(tiny)}


def check_pattern(tiny: TinyPipeline, record: RunRecord, rule: Schedule, steps: int) -> None:
    """Every branch computes and forecasts exactly the steps of the rule; a late branch those left."""
    computed, forecast = {}, {}
    for name, seen in seen_steps(tiny, steps).items():
        if isinstance(rule, schedule.Explicit):  # counted on the whole run
            wanted = {seen.start, *rule.steps}
        else:
            wanted = {seen.start + step for step in rule.computed_steps(steps - seen.start)}
        computed[name] = [step for step in seen if step in wanted]
        forecast[name] = [step for step in seen if step not in wanted]
    assert record.failed_open == []
    assert record.steps == steps
    assert record.computed == computed
    assert record.forecast == {name: done for name, done in forecast.items() if done}
    assert record.nfe == len({step for done in computed.values() for step in done})
    assert record.forward_passes == sum(map(len, computed.values()))
