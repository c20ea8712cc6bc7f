"""Stage 2 starts exactly at stage 1, trains only its attention, and lets frequencies influence one
another.
"""

import pytest
import torch
from torch import Tensor, nn

from model.prior.denoiser import SliceDenoiser
from model.prior.frequency_attention import (
    CoordinatedDenoiser,
    FrequencyAttention,
    add_frequency_attention,
)
from tests.support.tiny import perturb_weights, random_tensor, tiny_config

N = torch.tensor([10, 700])


def stage_1(freq: int = 3) -> SliceDenoiser:
    torch.manual_seed(0)
    denoiser = SliceDenoiser(tiny_config(frequencies=freq))
    perturb_weights(denoiser)
    return denoiser


def inputs(freq: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return random_tensor(2, freq, 4, 8, 8), N, random_tensor(2, 16, 8, 8, seed=1)


def trained(steps: int) -> CoordinatedDenoiser:
    """A stage 2 that has learned a little of a target in which each frequency is the next one's
    input.
    """
    eps = add_frequency_attention(stage_1())
    optimiser = torch.optim.AdamW(eps.trainable_parameters(), lr=1e-2)
    z, n, features = inputs()
    for _ in range(steps):
        optimiser.zero_grad()
        (eps(z, n, features) - z.roll(1, dims=1)).square().mean().backward()
        optimiser.step()
    return eps


def changed(eps: nn.Module, j: int) -> list[bool]:
    """Which frequencies' outputs change, in any bit, with the input of frequency j."""
    z, n, features = inputs()
    other = z.clone()
    other[:, j] += 0.5
    with torch.no_grad():
        difference = eps(z, n, features) != eps(other, n, features)
    return difference.flatten(2).any(dim=2).any(dim=0).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("freq", [1, 3])
@pytest.mark.parametrize("autocast", [False, True])
def test_it_starts_exactly_at_stage_1(freq, autocast):
    slices = stage_1(freq)
    eps = add_frequency_attention(slices)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for features in (inputs()[2], None):
            assert torch.equal(
                eps(inputs(freq)[0], N, features), slices(inputs(freq)[0], N, features)
            )


def test_there_is_attention_after_every_block():
    eps = add_frequency_attention(stage_1())
    assert sum(isinstance(part, FrequencyAttention) for part in eps.modules()) == 2 + 1 + 2


def test_only_the_attention_is_trained_and_all_of_it():
    eps = trained(steps=1)
    z, n, features = inputs()
    eps.zero_grad()
    (eps(z, n, features) - z.roll(1, dims=1)).square().mean().backward()
    trains = {name for name, p in eps.named_parameters() if p.requires_grad}
    assert trains == {
        name
        for name, _ in eps.named_parameters()
        if ".attention.norm" in name or "query_key_value" in name or ".projection." in name
    }
    assert len(trains) == len(eps.trainable_parameters()) == 5 * 6
    for name, parameter in eps.named_parameters():
        moved = parameter.grad is not None and bool((parameter.grad != 0).any())
        assert moved == (name in trains), name


def test_frozen_weights_do_not_change():
    before = stage_1().state_dict()
    after = trained(steps=3).slices.state_dict()
    frozen = {
        name.replace(".block.", "."): value
        for name, value in after.items()
        if ".attention." not in name
    }
    assert frozen.keys() == before.keys()
    assert all(torch.equal(frozen[name], value) for name, value in before.items())


def test_stage_1_stays_as_it_was():
    slices = stage_1()
    add_frequency_attention(slices)
    assert all(p.requires_grad for p in slices.parameters())
    assert slices.state_dict().keys() == stage_1().state_dict().keys()


@pytest.mark.thorough
@pytest.mark.parametrize("j", [0, 1, 2])
def test_frequencies_influence_one_another_only_after_training(j):
    alone = [k == j for k in range(3)]
    assert changed(stage_1(), j) == alone
    assert changed(add_frequency_attention(stage_1()), j) == alone
    assert changed(trained(steps=3), j) == [True, True, True]


def test_skip_states_carry_the_attention_too():
    """A down block's output and its last skip state are one tensor; left without, up blocks would
    see features from before.
    """
    eps = trained(steps=3)
    block = eps.slices.unet.down_blocks[0]
    hidden, skips = block(hidden_states=random_tensor(6, 16, 8, 8), temb=random_tensor(6, 64))
    assert hidden is skips[-1]
    assert not torch.equal(
        hidden, block.block(hidden_states=random_tensor(6, 16, 8, 8), temb=random_tensor(6, 64))[0]
    )


def test_attention_is_along_frequencies_at_each_pixel():
    """Against torch's own attention, pixel by pixel; and a pixel's neighbours have a part only in
    the normalisation.
    """
    attention = FrequencyAttention(16, tiny_config(frequencies=5))
    perturb_weights(attention)
    x = random_tensor(10, 16, 3, 4)
    with torch.no_grad():
        found = attention(x) - x
        tokens = attention.norm(x)[:5, :, 2, 1] + attention.position
        query, key, value = attention.query_key_value(tokens).view(5, 3, 2, 8).permute(1, 2, 0, 3)
        expected = attention.projection(
            nn.functional.scaled_dot_product_attention(query, key, value).transpose(0, 1).flatten(1)
        )
    torch.testing.assert_close(found[:5, :, 2, 1], expected, atol=1e-5, rtol=1e-4)


def test_weights_come_back_into_a_fresh_network():
    first, second = trained(steps=2), add_frequency_attention(SliceDenoiser(tiny_config()))
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        assert torch.equal(first(*inputs()), second(*inputs()))
