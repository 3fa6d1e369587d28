"""Some tokens go through the MLPs at skipped steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import foreseer as fs
from foreseer.attach.interception import HOOK_NAME
from foreseer.attach.sites.token_scores import CELL, TokenScores
from foreseer.evaluate.sampling.flops import FlopCount
from foreseer.site import Tokens
from tests.support.attaching import STEPS, TinyDenoiser, flow_scheduler, sample, tiny
from tests.support.pipelines import randomise

SKIPS_FOUR_AND_FIVE = fs.schedule.Explicit([0, 1, 2, 3, 6, 7], of=STEPS)


class Mixing(nn.Linear):
    """Attention in small: each token takes in those before it."""

    def forward(self, hidden: Tensor) -> Tensor:
        return super().forward(hidden.cumsum(1))


class Attending(nn.Linear):
    """Attention that makes its map."""

    def forward(self, hidden: Tensor) -> Tensor:
        return (hidden @ hidden.mT).softmax(-1) @ super().forward(hidden)


class Block(nn.Module):
    def __init__(self, mixing: type[nn.Linear]) -> None:
        super().__init__()
        self.mix, self.mlp = mixing(16, 16), nn.Linear(16, 16)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + torch.tanh(self.mix(hidden))
        return hidden + torch.tanh(self.mlp(hidden))


class Blocks(TinyDenoiser):
    def __init__(self, mixing: type[nn.Linear] = Mixing) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(mixing) for _ in range(2))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        hidden = self.embed(x) + self.embed_time(timestep.float().reshape(-1, 1, 1) / 1000)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_chosen_rows_are_the_mlps_own_and_stay(share: float) -> None:
    """Two skipped steps by hand. Share 1: the MLPs wholly on the current input, attention reused."""
    model, scheduler = randomise(Blocks(), 2), flow_scheduler()
    computed: dict[str, Tensor] = {}
    inputs: list[tuple[Tensor, Tensor]] = []
    outputs: list[Tensor] = []
    policy = fs.Policy(SKIPS_FOUR_AND_FIVE, fs.forecast.Reuse(), site=Tokens(share=share))
    given: list[Tensor] = []

    def keep(name: str):
        return lambda module, args, output: computed.update({name: output.clone()}) if len(outputs) == 3 else None

    with torch.no_grad(), fs.accelerate(model, policy, scheduler=scheduler, strict=True) as handle:
        sample(model, scheduler)
        for name, module in model.named_modules():
            if name.endswith(("mix", "mlp")):
                module.register_forward_hook(keep(name))
        model.blocks[0].mlp.register_forward_pre_hook(lambda _, args: given.append(args[0].clone()))
        model.register_forward_pre_hook(lambda _, args: inputs.append(args))
        model.register_forward_hook(lambda _, args, output: outputs.append(output.clone()))
        sample(model, scheduler)
        assert handle.record.forecast == {"call 1": [4, 5]}
        site = model._diffusers_hook.get_hook(HOOK_NAME).site
        assert site._tokenwise == {block.mlp for block in model.blocks}
        scores = {name: TokenScores(Tokens(share=share), {}) for name in ("blocks.0.mlp", "blocks.1.mlp")}
        now = {name: computed[name] for name in scores}
        for name, score in scores.items():
            score.add(0, now[name])
        for step in (4, 5):
            x, timestep = inputs[step]
            hidden = model.embed(x) + model.embed_time(timestep.float().reshape(-1, 1, 1) / 1000)
            for index, block in enumerate(model.blocks):
                hidden = hidden + torch.tanh(computed[f"blocks.{index}.mix"])
                name = f"blocks.{index}.mlp"
                scores[name].grow_older()
                chosen = scores[name].choose(0)
                assert chosen.shape == (1, math.ceil(share * 5))
                rows = nn.functional.linear(hidden, block.mlp.weight, block.mlp.bias)[0, chosen[0]]
                now[name] = now[name].clone()
                now[name][0, chosen[0]] = rows
                scores[name].refresh(0, chosen, rows[None])
                hidden = hidden + torch.tanh(now[name])
            torch.testing.assert_close(outputs[step], model.head(hidden), rtol=1e-6, atol=1e-6)
    assert [one.shape[1] for one in given] == [5, 5, 5, 5, math.ceil(share * 5), math.ceil(share * 5), 5, 5]


def test_the_best_score_is_influence_age_and_spread() -> None:
    influence = torch.tensor([[1.0, 2.0, 3.5, 4.0, 1.0, 1.0, 1.0, 3.0]])
    assert CELL == 4
    scores = TokenScores(Tokens(share=0.25, age=1.0, spread=0.0), {8: influence})
    scores.add(7, torch.ones(1, 8, 2))
    assert scores.kind == "attention maps"
    assert scores.choose(7).tolist() == [[2, 3]]
    scores.grow_older()
    scores.refresh(7, torch.tensor([[2, 3]]), torch.ones(1, 2, 2))
    assert scores.choose(7).tolist() == [[1, 7]]  # a step old: 2 / 2.06 + 1 is more than 4 / 2.06
    spread = TokenScores(Tokens(share=0.25, age=0.0, spread=0.6), {8: influence})
    spread.add(7, torch.ones(1, 8, 2))
    assert spread.choose(7).tolist() == [[3, 7]]  # the best of each four


@pytest.mark.parametrize("alternate", [False, True])
def test_the_work_saved_is_that_of_the_tokens_left_out(alternate: bool) -> None:
    """Operations of a skipped step: the rest of the network, and half of the MLPs."""
    model, scheduler = randomise(Blocks(), 2), flow_scheduler()
    policies = {
        "modules": fs.Policy(SKIPS_FOUR_AND_FIVE, fs.forecast.Reuse(), site="modules"),
        "tokens": fs.Policy(SKIPS_FOUR_AND_FIVE, fs.forecast.Reuse(), site=Tokens(share=0.6, alternate=alternate)),
    }
    spent = {}
    with torch.no_grad():
        for name, policy in policies.items():
            with fs.accelerate(model, policy, scheduler=scheduler, strict=True):
                sample(model, scheduler)
                with FlopCount() as count:
                    sample(model, scheduler)
            spent[name] = count.total
    of_mlps = 2 * (2 * 3 * 16 * 16)  # in two blocks, of three of five tokens
    assert spent["tokens"] - spent["modules"] == (1 if alternate else 2) * of_mlps


def test_the_record_says_what_chose_the_tokens() -> None:
    policy = fs.Policy(fs.schedule.Uniform(interval=2), fs.forecast.Reuse(), site=Tokens(share=0.5))
    with fs.accelerate(tiny("dit").pipe, policy, strict=True) as handle:
        tiny("dit").run()
    assert "norm of their MLP outputs" in handle.record.notes["call 1"]
    model, scheduler = randomise(Blocks(Attending), 2), flow_scheduler()
    with torch.no_grad(), fs.accelerate(model, policy, scheduler=scheduler, strict=True) as handle:
        sample(model, scheduler)
    assert handle.record.notes == {"call 1": "tokens chosen by attention maps"}
    assert handle.record.to_dict()["notes"] == handle.record.notes


def test_a_projection_after_attention_and_mlp_takes_the_same_tokens() -> None:
    """FLUX's single blocks: attention is kept, the MLP and the projection after it run on some tokens."""
    transformer = tiny("flux").pipe.transformer
    policy = fs.Policy(fs.schedule.Uniform(interval=4), fs.forecast.Reuse(), site=Tokens(share=0.25))
    seen: list[tuple[str, int]] = []
    with fs.accelerate(tiny("flux").pipe, policy, strict=True) as handle:
        tiny("flux").run()
        hooks = [
            transformer.get_submodule(f"single_transformer_blocks.0.{name}").register_forward_pre_hook(
                lambda _, args, name=name: seen.append((name, args[0].shape[1]))
            )
            for name in ("proj_mlp", "proj_out")
        ]
        tiny("flux").run()
        for hook in hooks:
            hook.remove()
    assert "single_transformer_blocks.0.attn" in handle.record.modules
    assert "single_transformer_blocks.0.proj_mlp" not in handle.record.modules
    tokens = seen[0][1]
    some = math.ceil(0.25 * tokens)
    counts = [tokens, some, some, some] * 2
    assert seen == [(name, count) for count in counts for name in ("proj_mlp", "proj_out")]


def test_a_network_whose_mlps_mix_tokens_is_refused() -> None:
    policy = fs.Policy(fs.schedule.Uniform(interval=4), fs.forecast.Reuse(), site=Tokens())
    refused = pytest.warns(fs.ForeseerWarning, match="no such site: none of its modules works on each token alone")
    with fs.accelerate(tiny("sana").pipe, policy) as handle, refused:
        tiny("sana").run(2)
    assert handle.record.nfe == 2


@pytest.mark.parametrize("words", ["tokens(share=0)", "tokens(share=1.1)", "tokens(age=-1)"])
def test_options_out_of_range_are_refused(words: str) -> None:
    with pytest.raises(fs.ForeseerError, match=r"expected a finite|with no token"):
        fs.site.read_site(words)
