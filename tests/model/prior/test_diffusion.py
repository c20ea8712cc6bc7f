"""The noise schedule, the loss and the DDIM step, against diffusers and against closed forms."""

import pytest
import torch

from model.prior.diffusers_modules import DDIMScheduler
from model.prior.diffusion import (
    CLEAN_STEP,
    DIFFUSION_STEPS,
    add_noise,
    amplitudes,
    ddim_schedule,
    ddim_step,
    denoising_error,
    draw_noise,
    mask_features,
    noise_from_output,
    predict_z0,
)
from tests.support.tiny import random_tensor

SCHEDULER = DDIMScheduler(
    beta_start=0.0015,
    beta_end=0.0195,
    beta_schedule="scaled_linear",
    clip_sample=False,
    timestep_spacing="trailing",
)


def at(*n: int) -> torch.Tensor:
    return torch.tensor(n)


def test_amplitudes_are_the_schedule_s():
    of_signal, of_noise = (a.flatten() for a in amplitudes(torch.arange(DIFFUSION_STEPS)))
    torch.testing.assert_close(of_signal.square(), SCHEDULER.alphas_cumprod, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(of_signal.square() + of_noise.square(), torch.ones(DIFFUSION_STEPS))
    assert of_signal[0] == pytest.approx((1 - 0.0015) ** 0.5)
    assert [a.item() for a in amplitudes(at(CLEAN_STEP))] == [1, 0]


def test_noised_latents_keep_their_variance():
    z0, noise = random_tensor(2, 3, 4, 32, 32), random_tensor(2, 3, 4, 32, 32, seed=1)
    z = add_noise(z0, at(0, 600), noise)
    torch.testing.assert_close(z, SCHEDULER.add_noise(z0, noise, at(0, 600)), atol=1e-5, rtol=1e-5)
    assert z.var(dim=(1, 2, 3, 4)).tolist() == pytest.approx([1, 1], abs=0.05)
    torch.testing.assert_close(predict_z0(z, noise, at(0, 600)), z0, atol=1e-5, rtol=1e-4)


@pytest.mark.sample(3)
@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4, 50, 250, 1000])
def test_ddim_is_that_of_diffusers(steps):
    """Step by step from the same latents, with any prediction; relative to z, which the first steps
    amplify. The numbers of steps divide 1,000: otherwise diffusers steps to n - 1000 // steps,
    which is not the n of its next step.
    """
    SCHEDULER.set_timesteps(steps)
    ours = ddim_schedule(steps)
    assert ours == SCHEDULER.timesteps.tolist()
    for now, after in zip(ours, [*ours[1:], CLEAN_STEP], strict=True):
        z, eps = random_tensor(1, 2, 4, 4, 4, seed=now), random_tensor(1, 2, 4, 4, 4, seed=now + 1)
        expected = SCHEDULER.step(eps, now, z).prev_sample
        found = ddim_step(z, eps, at(now), at(after))
        assert (found - expected).abs().max() < 1e-6 * max(1, expected.abs().max().item()) + 1e-6, (
            now
        )


def test_steps_begin_at_the_noisiest_and_are_even():
    assert ddim_schedule(1) == [999]
    assert ddim_schedule(4) == [999, 749, 499, 249]
    assert ddim_schedule(1000) == list(range(999, -1, -1))
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="expected 1 to 1000"):
            ddim_schedule(steps)


def test_ddim_with_the_true_noise_goes_to_the_true_latents():
    z0, noise = random_tensor(2, 3, 4, 4, 4), random_tensor(2, 3, 4, 4, 4, seed=1)
    back = ddim_step(add_noise(z0, at(999, 400), noise), noise, at(999, 400), at(700, CLEAN_STEP))
    torch.testing.assert_close(back[0], add_noise(z0, at(700, 0), noise)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(back[1], z0[1], atol=1e-5, rtol=1e-4)


def test_the_error_is_0_for_the_true_noise_and_1_for_none():
    noise, n = random_tensor(3, 2, 4, 32, 32), at(3, 400, 999)
    assert denoising_error(noise, noise, n).tolist() == [0, 0, 0]
    assert denoising_error(0 * noise, noise, n).tolist() == pytest.approx([1, 1, 1], abs=0.1)


def test_an_error_of_weight_0_does_not_count():
    noise, n = random_tensor(2, 3, 4, 8, 8), at(3, 400)
    eps = noise.clone()
    eps[:, :, :, :4] += 2.0
    weight = torch.zeros(2, 8, 8)
    weight[:, 4:] = 1
    assert denoising_error(eps, noise, n, weight=weight).tolist() == [0, 0]
    weight[0, :2] = 0.5
    # a quarter of the pixels of the first, half the square of 2
    assert denoising_error(eps, noise, n, weight=weight).tolist() == pytest.approx([0.5, 0])


def test_a_velocity_says_the_noise_and_its_error_is_the_velocity_s():
    z0, noise, n = (
        random_tensor(3, 2, 4, 8, 8),
        random_tensor(3, 2, 4, 8, 8, seed=1),
        at(3, 400, 999),
    )
    of_signal, of_noise = amplitudes(n)
    velocity, z = of_signal * noise - of_noise * z0, add_noise(z0, n, noise)
    torch.testing.assert_close(
        noise_from_output(velocity, z, n, "velocity"), noise, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        predict_z0(z, noise_from_output(velocity + 0.5, z, n, "velocity"), n),
        z0 - 0.5 * of_noise,
        atol=2e-3,
        rtol=1e-3,
    )
    assert noise_from_output(velocity, z, n, "noise") is velocity
    off = noise_from_output(velocity + 0.5, z, n, "velocity")
    assert denoising_error(off, noise, n, "velocity").tolist() == pytest.approx(
        [0.25] * 3, rel=1e-2
    )
    assert denoising_error(off, noise, n).tolist() == pytest.approx(
        (0.25 * of_signal.square().flatten()).tolist(), rel=1e-2
    )


def test_dropped_features_are_zero_even_if_they_were_not_numbers():
    features = torch.full((2, 16, 4, 4), float("nan"))
    assert not mask_features(features, torch.tensor([False, False])).any()


def test_draws_are_seeded_and_uniform():
    shape = (4000, 1, 1, 1, 1)
    drawn, again, other = (
        draw_noise(shape, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert not torch.equal(drawn.noise, other.noise)
    assert drawn.n.min() < 5 and drawn.n.max() > 994 and abs(drawn.n.float().mean() - 499.5) < 20
    assert 0.88 < drawn.has_condition.float().mean() < 0.92
    assert draw_noise(shape, torch.Generator().manual_seed(5), dropped=0.0).has_condition.all()
