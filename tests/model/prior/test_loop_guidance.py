"""Motion self-guidance, on latents whose distribution is known and coefficients that are read off
them.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from model.evaluate.spectral import seam
from model.motion.series import energy, to_series
from model.prior.autoencoder import AutoencoderConfig, SliceAutoencoder
from model.prior.diffusion import amplitudes, predict_z0
from model.prior.loop_guidance import seam_loss, seam_weights, self_guidance
from model.prior.sampling import decode_spectrum, sample_latents
from pipeline.motion.normalize import denormalize
from pipeline.motion.spectrum import to_motion
from tests.model.prior.test_sampling import of_gaussian
from tests.support.tiny import random_tensor

T, FPS, K = 150, 30.0, 8
SHAPE = (K, 4, 8, 8)
SCALE = (0.3 * T / (1 + torch.arange(K))).view(K, 1, 1, 1).expand(K, 4, 1, 1)


def enlarged(z: Tensor) -> Tensor:
    """Coefficients of white latents: four times as large, bilinear, by the adaptive normalisation."""
    slices = torch.nn.functional.interpolate(
        z.flatten(0, 1), scale_factor=4, mode="bilinear"
    ).unflatten(0, z.shape[:2])
    return denormalize(slices, SCALE)


def volume(spectrum: Tensor) -> np.ndarray:
    """S of one sample."""
    return spectrum[0, :, 0::2].double().numpy() + 1j * spectrum[0, :, 1::2].double().numpy()


def test_the_loss_is_that_of_the_motion_itself():
    spectrum = enlarged(random_tensor(2, *SHAPE))
    spectrum[:, 0, 1::2] = 0
    for last in (41, 149):
        expected = []
        for one in spectrum:
            motion, k = to_motion(volume(one[None]), T), np.arange(K)[:, None, None, None]
            speed = to_motion(2j * np.pi * k / T * volume(one[None]), T)
            expected.append(
                np.abs(motion[last] - motion[0]).sum() + np.abs(speed[last] - speed[0]).sum()
            )
        torch.testing.assert_close(
            seam_loss(spectrum, T, last), torch.tensor(expected).float(), rtol=1e-4, atol=1e-2
        )
    torch.testing.assert_close(seam_loss(spectrum, T, T), seam_loss(spectrum, T, T - 1))


def test_only_the_mean_is_without_a_say():
    weights = seam_weights(K, T, 41)
    assert (weights[:, 0] == 0).all() and (weights[:, 1:].abs() > 0).all()


@pytest.mark.thorough
@pytest.mark.parametrize(("period", "lower"), [(41, 0.4), (90, 0.4), (150, 0.6)])
def test_guided_samples_close_and_move_as_much(period, lower):
    """Of 200 steps, against samples that are noised back as often and not guided."""
    guide = self_guidance(enlarged, T, period)
    found = []
    for hook in (None, guide):
        spectrum = enlarged(
            sample_latents(
                of_gaussian(0.0, 1.0), None, SHAPE, [0], steps=200, hook=hook, recurrence=2
            )
        )
        series = to_series(volume(spectrum), T, FPS)
        found.append(
            (
                float(seam_loss(spectrum, T, period)),
                seam(series.frames(np.arange(period) / FPS)),
                energy(series, np.arange(T) / FPS),
            )
        )
    (loss, score, moved), (guided_loss, guided_score, guided_moved) = found
    assert guided_loss < lower * loss
    assert (
        guided_score.position < (lower + 0.1) * score.position
        and guided_score.velocity < score.velocity
    )
    assert guided_moved == pytest.approx(moved, rel=0.1)


def test_no_strength_bursts_and_more_than_the_paper_s_is_no_more():
    usual, huge = (
        sample_latents(
            of_gaussian(0.0, 1.0),
            None,
            SHAPE,
            [0],
            steps=20,
            hook=self_guidance(enlarged, T, 90, strength),
            recurrence=2,
        )
        for strength in (200.0, 1e12)
    )
    assert huge.std() == pytest.approx(float(usual.std()), rel=0.05)
    losses = [float(seam_loss(enlarged(z), T, 90)) for z in (usual, huge)]
    assert losses[1] == pytest.approx(losses[0], rel=0.3)


def test_no_strength_changes_nothing_and_each_sample_is_guided_by_itself():
    z, n, eps = random_tensor(2, *SHAPE), torch.tensor([500, 30]), random_tensor(2, *SHAPE, seed=1)
    assert torch.equal(self_guidance(enlarged, T, 90, 0.0)(z, n, eps), eps)
    guide = self_guidance(enlarged, T, 90)
    torch.testing.assert_close(guide(z, n, eps)[1:], guide(z[1:], n[1:], eps[1:]))
    assert not guide(z, n, eps).requires_grad


def test_a_step_goes_along_the_gradient_and_across_that_of_the_energy():
    """Far from the bound the step of z_0 is -u sigma^2 g; at it, a third of what takes a linear
    loss to 0; energy keeps to first order.
    """
    z, n, eps = random_tensor(1, *SHAPE), torch.tensor([600]), random_tensor(1, *SHAPE, seed=1)
    moves = [
        predict_z0(z, self_guidance(enlarged, T, 90, u)(z, n, eps), n) - predict_z0(z, eps, n)
        for u in (1e-4, 2e-4, 1e6)
    ]
    torch.testing.assert_close(
        2 * moves[0], moves[1], rtol=0.05, atol=1e-3 * float(moves[1].abs().max())
    )
    z0 = predict_z0(z, eps, n).requires_grad_()
    loss, moving = seam_loss(enlarged(z0), T, 90).sum(), enlarged(z0)[:, 1:].square().sum()
    (slope,) = torch.autograd.grad(loss, z0)
    (along,) = torch.autograd.grad(moving, z0)
    loss = loss.detach()
    assert float((moves[2] * slope).sum()) == pytest.approx(-float(loss) / 3, rel=0.01)
    assert abs(float((moves[2] * along).sum())) < 1e-3 * float(moves[2].norm() * along.norm())
    assert float((moves[2] * slope).sum() / moves[2].norm() / slope.norm()) < -0.5
    assert float(amplitudes(n)[1]) > 0.5


def test_gradients_come_through_an_autoencoder():
    autoencoder = SliceAutoencoder(
        AutoencoderConfig(channels=(8, 16, 16), layers_per_block=1, norm_groups=4)
    ).requires_grad_(False)
    guide = self_guidance(lambda z: decode_spectrum(autoencoder, z, SCALE[:3].contiguous()), T, 90)
    z = sample_latents(
        of_gaussian(0.0, 1.0), None, (3, 4, 8, 8), [0, 1], steps=10, hook=guide, recurrence=2
    )
    plain = sample_latents(
        of_gaussian(0.0, 1.0), None, (3, 4, 8, 8), [0, 1], steps=10, recurrence=2
    )
    before, after = (
        seam_loss(decode_spectrum(autoencoder, x, SCALE[:3].contiguous()), T, 90)
        for x in (plain, z)
    )
    assert (after < 0.7 * before).all()


def test_mistakes_are_named():
    for period, strength, match in [
        (1, 1.0, "a loop of 1 frames was asked for, expected 2 to the window's 150"),
        (151, 1.0, "a loop of 151"),
        (90, -1.0, "strength is -1"),
        (90, float("nan"), "strength is nan"),
    ]:
        with pytest.raises(ValueError, match=match):
            self_guidance(enlarged, T, period, strength)
