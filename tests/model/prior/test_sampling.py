"""Sampling: known distributions, guidance, seeds, the place for a hook, and back to pixels."""

import pytest
import torch
from torch import Tensor

from model.prior.autoencoder import AutoencoderConfig, SliceAutoencoder
from model.prior.diffusion import amplitudes, predict_z0
from model.prior.frequency_attention import build_denoiser
from model.prior.sampling import apply_guidance, decode_spectrum, initial_noise, sample_latents
from pipeline.motion.normalize import normalize
from tests.support.tiny import perturb_weights, random_tensor, tiny_config

SHAPE = (3, 4, 8, 8)


def of_gaussian(m: float, s: float):
    """The noise in z_n when clean latents are N(m, s^2), one by one: known in closed form."""

    def eps(z: Tensor, n: Tensor, features: Tensor | None) -> Tensor:
        a, sigma = amplitudes(n)
        return sigma * (z - a * m) / (a**2 * s**2 + sigma**2)

    return eps


@pytest.mark.slow
@pytest.mark.parametrize(("m", "s"), [(0.0, 1.0), (2.0, 0.5), (-1.0, 3.0)])
def test_samples_of_a_gaussian_have_its_mean_and_deviation(m, s):
    """The flow that DDIM integrates is known too: (z - sqrt(a) m) / sqrt(a s^2 + 1 - a) stays as it
    is. Begun with N(0, 1) at n = 999, it ends at m + s (noise - 0.012 m) / sqrt(0.00014 s^2 +
    0.99986).
    """
    z = sample_latents(of_gaussian(m, s), None, (16, 4, 16, 16), seeds=[1, 2], steps=500)
    a, sigma = (float(x) for x in amplitudes(torch.tensor([999])))
    expected = (
        m + s * (initial_noise((16, 4, 16, 16), [1, 2]) - a * m) / (a**2 * s**2 + sigma**2) ** 0.5
    )
    torch.testing.assert_close(z, expected, atol=0.04, rtol=0.02)
    assert z.mean().item() == pytest.approx(m, abs=0.08 * s * abs(m) + 0.03)
    assert z.std().item() == pytest.approx(s, rel=0.03)


def test_more_steps_come_nearer_to_the_flow():
    a, sigma = (float(x) for x in amplitudes(torch.tensor([999])))
    expected = 2 + 0.5 * (initial_noise(SHAPE, [0]) - a * 2) / (a**2 * 0.25 + sigma**2) ** 0.5
    errors = [
        (sample_latents(of_gaussian(2.0, 0.5), None, SHAPE, [0], steps) - expected)
        .abs()
        .max()
        .item()
        for steps in (10, 50, 250)
    ]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


@pytest.mark.parametrize("mode", ["coordinated", "independent", "volume"])
def test_a_sample_does_not_depend_on_its_batch(mode):
    eps = perturb_weights(build_denoiser(tiny_config(mode=mode)))
    features = random_tensor(3, 16, 8, 8)
    together = sample_latents(eps, features, SHAPE, [7, 8, 9], steps=4, guidance=1.0)
    alone = sample_latents(eps, features[1:2], SHAPE, [8], steps=4, guidance=1.0)
    torch.testing.assert_close(
        together[1:2], alone, atol=1e-4 * float(alone.abs().max()), rtol=1e-4
    )
    assert (together[0] - together[1]).abs().max() > 0.1


def test_initial_noise_is_each_seed_s_own():
    noise = initial_noise(SHAPE, [7, 8, 9])
    assert torch.equal(noise[1:2], initial_noise(SHAPE, [8]))
    assert torch.equal(noise, initial_noise(SHAPE, [9, 8, 7]).flip(0))
    assert not torch.equal(noise[0], noise[1])


def test_guidance_goes_from_the_unconditional_past_the_conditional():
    """A conditional mean of 1 and an unconditional one of 0: with weight w the noise is (1 + w)
    conditional - w unconditional.
    """

    def eps(z: Tensor, n: Tensor, features: Tensor | None) -> Tensor:
        assert features is not None
        return z * 0 + features.mean(dim=(1, 2, 3)).view(-1, 1, 1, 1, 1)

    z, n, features = random_tensor(2, *SHAPE), torch.tensor([3, 4]), torch.ones(2, 16, 8, 8)
    for weight in (0.0, 1.0, 1.75):
        torch.testing.assert_close(
            apply_guidance(eps, weight)(z, n, features), torch.full_like(z, 1 + weight)
        )


def test_guidance_of_a_network_is_its_formula_and_weight_0_is_the_plain_condition():
    eps = perturb_weights(build_denoiser(tiny_config()))
    z, n, features = random_tensor(2, *SHAPE), torch.tensor([3, 400]), random_tensor(2, 16, 8, 8)
    with torch.no_grad():
        assert torch.equal(apply_guidance(eps, 0.0)(z, n, features), eps(z, n, features))
        assert torch.equal(apply_guidance(eps, 2.0)(z, n, None), eps(z, n, None))
        torch.testing.assert_close(
            apply_guidance(eps, 1.5)(z, n, features),
            2.5 * eps(z, n, features) - 1.5 * eps(z, n, None),
            atol=1e-4,
            rtol=1e-4,
        )


def test_a_hook_steers_by_a_gradient():
    """The gradient of the distance between the implied clean latents and a target moves samples
    towards it, and the hook sees each step.
    """
    steps = []

    def towards_5(z: Tensor, n: Tensor, eps: Tensor) -> Tensor:
        steps.append(int(n[0]))
        with torch.enable_grad():
            z = z.requires_grad_()
            distance = (predict_z0(z, eps, n) - 5).square().mean(dim=(1, 2, 3, 4)).sum()
            (gradient,) = torch.autograd.grad(distance, z)
        return eps + amplitudes(n)[1] * gradient

    plain = sample_latents(of_gaussian(0.0, 1.0), None, SHAPE, [0], steps=10)
    steered = sample_latents(of_gaussian(0.0, 1.0), None, SHAPE, [0], steps=10, hook=towards_5)
    assert (steered - 5).abs().mean() < 0.9 * (plain - 5).abs().mean()
    assert steps == [999 - 100 * i for i in range(10)]
    assert not steered.requires_grad
    assert torch.equal(
        plain,
        sample_latents(
            of_gaussian(0.0, 1.0), None, SHAPE, [0], steps=10, hook=lambda z, n, eps: eps
        ),
    )


@pytest.mark.slow
def test_noising_back_and_stepping_again_leaves_a_gaussian_what_it_is():
    """Fresh noise at each step, so that samples differ from those of one turn, but not in mean and
    deviation.
    """
    once, twice = (
        sample_latents(
            of_gaussian(2.0, 0.5), None, (8, 4, 16, 16), [1, 2], steps=500, recurrence=times
        )
        for times in (1, 2)
    )
    assert (once - twice).abs().mean() > 0.1
    assert twice.mean().item() == pytest.approx(2, abs=0.05)
    assert twice.std().item() == pytest.approx(0.5, rel=0.05)


def test_a_sample_of_several_turns_does_not_depend_on_its_batch():
    together = sample_latents(of_gaussian(0.0, 1.0), None, SHAPE, [7, 8, 9], steps=10, recurrence=2)
    torch.testing.assert_close(
        together[1:2],
        sample_latents(of_gaussian(0.0, 1.0), None, SHAPE, [8], steps=10, recurrence=2),
    )
    assert (together[0] - together[1]).abs().max() > 0.1
    with pytest.raises(ValueError, match="recurrence is 0, expected at least 1"):
        sample_latents(of_gaussian(0.0, 1.0), None, SHAPE, [7], recurrence=0)


def test_samples_that_are_not_finite_are_named():
    def eps(z: Tensor, n: Tensor, features: Tensor | None) -> Tensor:
        return torch.stack([z[0], z[1] * float("nan")])

    with pytest.raises(ValueError, match="not finite for seed 8"):
        sample_latents(eps, None, SHAPE, [7, 8], steps=2)


def test_a_seed_is_needed_for_each_photograph():
    with pytest.raises(ValueError, match="2 seeds for 3 photographs"):
        sample_latents(of_gaussian(0.0, 1.0), random_tensor(3, 16, 8, 8), SHAPE, [1, 2])


@pytest.mark.parametrize("normalisation", ["adaptive", "linear", "log", "resolution"])
def test_latents_become_pixels_with_a_real_mean(normalisation):
    torch.manual_seed(0)
    autoencoder = SliceAutoencoder(
        AutoencoderConfig(channels=(8, 16, 16), layers_per_block=1, norm_groups=4)
    )
    autoencoder.fit_whitening([random_tensor(4, 4, 8, 8) * 2 + 1])
    scale = torch.tensor([100.0, 30, 10]).view(3, 1, 1, 1).expand(3, 4, 1, 1)
    z = random_tensor(2, 3, 4, 8, 8)
    spectrum = decode_spectrum(autoencoder, z, scale, normalisation)
    assert spectrum.shape == (2, 3, 4, 32, 32)
    assert (spectrum[:, 0, 1::2] == 0).all()
    assert (spectrum[:, 0, ::2] != 0).any() and (spectrum[:, 1:] != 0).any()
    expected = autoencoder.decode_white(z)
    expected[:, 0, 1::2] = 0
    torch.testing.assert_close(
        normalize(spectrum, scale, normalisation), expected, atol=1e-4, rtol=1e-4
    )


def test_gradients_of_pixels_reach_the_latents():
    autoencoder = SliceAutoencoder(
        AutoencoderConfig(channels=(8, 16, 16), layers_per_block=1, norm_groups=4)
    )
    z = random_tensor(1, 3, 4, 8, 8).requires_grad_()
    decode_spectrum(autoencoder, z, torch.ones(3, 4, 1, 1)).square().sum().backward()
    assert z.grad is not None and z.grad.isfinite().all()
    # at its linear start a latent channel is a channel of the slice, and two of S_0 are 0 whatever
    # the latents
    moves = (z.grad != 0).flatten(3).any(dim=3)[0]
    assert moves.tolist() == [[True, False, True, False], [True] * 4, [True] * 4]
