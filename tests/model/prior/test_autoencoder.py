"""The autoencoder's losses against hand-made answers, its sizes, and the whitening of its latents."""

from dataclasses import replace
from math import exp

import pytest
import torch
from torch import Tensor, nn

from model.prior.autoencoder import (
    AutoencoderConfig,
    Reconstruction,
    SliceAutoencoder,
    autoencoder_loss,
    divergence,
    gradient_consistency,
    moments,
)

TINY = AutoencoderConfig(channels=(8, 16, 16), layers_per_block=1, norm_groups=4)


@pytest.fixture(scope="module")
def autoencoder() -> SliceAutoencoder:
    torch.manual_seed(0)
    return SliceAutoencoder(TINY)


def slices(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_gradients_of_a_ramp():
    """A residual that rises by 1 a pixel along x rises by 1, 2, 4, 8 between every 1st, 2nd, 4th,
    8th pixel; a constant has none.
    """
    x = slices(2, 4, 16, 32)
    ramp = torch.arange(32.0).expand_as(x)
    torch.testing.assert_close(gradient_consistency(x, x + ramp, 4), torch.tensor(15.0))
    torch.testing.assert_close(gradient_consistency(x, x - 2 * ramp, 2), torch.tensor(6.0))
    torch.testing.assert_close(
        gradient_consistency(x, x + 3, 4), torch.tensor(0.0), atol=1e-5, rtol=0
    )
    diagonal = ramp + torch.arange(16.0)[:, None]
    torch.testing.assert_close(gradient_consistency(x, x + diagonal, 1), torch.tensor(2.0))


def test_gradients_of_a_slice_too_small_for_all_scales():
    x = slices(1, 4, 4, 8)
    assert torch.isfinite(gradient_consistency(x, 0 * x, 4))


def test_divergence_of_known_gaussians():
    zero = torch.zeros(3, 4, 2, 2)
    assert divergence(zero, zero) == 0
    torch.testing.assert_close(divergence(zero + 2, zero), torch.tensor(16 * 2.0))
    torch.testing.assert_close(divergence(zero, zero - 1), torch.tensor(16 * 0.5 * exp(-1)))


def test_the_loss_is_the_weighted_sum():
    x = slices(2, 4, 16, 16)
    made = Reconstruction(x + 0.5, torch.ones(2, 4, 4, 4), torch.zeros(2, 4, 4, 4))
    loss = autoencoder_loss(x, made, TINY)
    assert loss.l1 == pytest.approx(0.5, rel=1e-5)
    assert loss.kl == pytest.approx(32)
    assert loss.total == pytest.approx(0.5 + 0.2 * float(loss.gradient) + 1e-6 * 32, rel=1e-5)
    ramp = autoencoder_loss(x, made._replace(slices=x + torch.arange(16.0)), TINY)
    assert ramp.total == pytest.approx(7.5 + 0.2 * 15 + 1e-6 * 32, rel=1e-5)


@pytest.mark.parametrize("channels", [(8, 16, 16), (16, 16, 32)])
@pytest.mark.parametrize("attention", [False, True])
def test_it_starts_as_averaging_and_bilinear_enlargement(channels, attention):
    """Exactly, but for the last 8 pixels before the border, where convolutions see the padding's
    zeros.
    """
    torch.manual_seed(0)
    autoencoder = SliceAutoencoder(
        replace(TINY, channels=channels, layers_per_block=2, middle_attention=attention)
    )
    x = 5 * slices(2, 4, 64, 64)
    with torch.no_grad():
        made = autoencoder(x)
    small = nn.functional.avg_pool2d(x, 4)
    twice = nn.functional.interpolate(
        nn.functional.interpolate(small, scale_factor=2, mode="bilinear"),
        scale_factor=2,
        mode="bilinear",
    )
    torch.testing.assert_close(made.mean, small, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        made.slices[..., 8:-8, 8:-8], twice[..., 8:-8, 8:-8], atol=1e-4, rtol=1e-4
    )
    assert (made.log_variance == -6).all()


@pytest.mark.slow
def test_it_leaves_its_start():
    """On smooth slices a few steps already beat averaging, which every weight then has a part in."""
    torch.manual_seed(0)
    autoencoder = SliceAutoencoder(TINY)
    optimiser = torch.optim.Adam(autoencoder.parameters(), 2e-3)
    x = nn.functional.interpolate(slices(8, 4, 4, 4), scale_factor=8, mode="bicubic")
    with torch.no_grad():
        start = autoencoder.loss(x).l1
    for step in range(40):
        optimiser.zero_grad()
        autoencoder.loss(x, slices(8, 4, 8, 8, seed=step)).total.backward()
        optimiser.step()
    assert autoencoder.loss(x).l1 < 0.7 * start
    assert all(p.grad is not None and (p.grad != 0).any() for p in autoencoder.parameters())


def test_without_a_linear_start_it_is_the_plain_network():
    plain = SliceAutoencoder(replace(TINY, linear_start=False, channels=(4, 8, 8)))
    assert plain(slices(1, 4, 16, 16)).slices.shape == (1, 4, 16, 16)
    with pytest.raises(ValueError, match="expected at least 8 and 4 for a linear start"):
        replace(TINY, channels=(4, 8, 8))


def test_a_quarter_of_the_size_and_back(autoencoder):
    x = slices(3, 4, 24, 32)
    made = autoencoder(x)
    assert made.slices.shape == x.shape
    assert made.mean.shape == made.log_variance.shape == (3, 4, 6, 8)
    loss = autoencoder.loss(x, slices(3, 4, 6, 8))
    loss.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in autoencoder.parameters())


def test_a_size_that_cannot_be_quartered_is_named(autoencoder):
    with pytest.raises(ValueError, match="32x30, expected multiples of 4"):
        autoencoder(slices(1, 4, 30, 32))


def test_widths_that_the_groups_do_not_divide_are_named():
    with pytest.raises(ValueError, match=r"channels are \(8, 18\)"):
        replace(TINY, channels=(8, 18))


def test_noise_makes_a_sample_of_the_posterior(autoencoder):
    x, noise = slices(2, 4, 16, 16), slices(2, 4, 4, 4, seed=1)
    mean, log_variance = autoencoder.encode(x)
    torch.testing.assert_close(autoencoder.encode_white(x), mean)
    torch.testing.assert_close(
        autoencoder.encode_white(x, noise), mean + (log_variance / 2).exp() * noise
    )


def test_moments_do_not_depend_on_the_batches():
    z = slices(7, 3, 4, 5, 6) * torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1) + torch.tensor(
        [100.0, 0, -1, 5]
    ).view(4, 1, 1)
    mean, deviation = moments([z])
    torch.testing.assert_close(mean, z.mean(dim=(0, 1, 3, 4)))
    torch.testing.assert_close(deviation, z.std(dim=(0, 1, 3, 4), correction=0), rtol=1e-5, atol=0)
    apart = moments([z[:1], z[1:5].flatten(0, 1), z[5:]])
    assert all(torch.equal(a, b) for a, b in zip(apart, (mean, deviation), strict=True))


@pytest.mark.parametrize("latents", [[], [torch.ones(2, 4, 3, 3)]], ids=["none", "constant"])
def test_latents_that_cannot_be_whitened(latents):
    with pytest.raises(ValueError, match="expected"):
        moments(latents)


def test_white_latents_have_mean_0_and_deviation_1_and_decode_as_before():
    torch.manual_seed(0)
    autoencoder = SliceAutoencoder(TINY)
    x = slices(2, 3, 4, 16, 16)
    with torch.no_grad():
        before = autoencoder.decode_white(autoencoder.encode_white(x))
        autoencoder.fit_whitening([autoencoder.encode(x.flatten(0, 1))[0]])
        z = autoencoder.encode_white(x)
        assert z.shape == (2, 3, 4, 4, 4)
        torch.testing.assert_close(z.mean(dim=(0, 1, 3, 4)), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(z.std(dim=(0, 1, 3, 4), correction=0), torch.ones(4))
        torch.testing.assert_close(autoencoder.decode_white(z), before, atol=1e-5, rtol=1e-4)


def test_whitening_travels_with_the_weights():
    first, second = SliceAutoencoder(TINY), SliceAutoencoder(TINY)
    first.fit_whitening([slices(2, 4, 8, 8) * 3 + 1])
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.mean, second.mean) and torch.equal(first.deviation, second.deviation)
    assert second.deviation.min() > 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_stays_near(autoencoder, dtype):
    x = slices(2, 4, 16, 16)
    with torch.no_grad():
        exact = autoencoder(x)
        with torch.autocast("cpu", dtype):
            rough = autoencoder(x)
    assert rough.slices.dtype == rough.mean.dtype == torch.float32
    torch.testing.assert_close(rough.slices, exact.slices, atol=0.1, rtol=0)
