"""The denoiser in its three modes: signature, sizes, condition, and what each frequency may depend
on.
"""

import pytest
import torch

from model.prior.denoiser import DenoiserConfig, SliceDenoiser
from model.prior.diffusion import amplitudes
from model.prior.frequency_attention import build_denoiser
from model.prior.inference import ConditionedDenoiser
from model.prior.photo_encoder import ImageEncoder
from tests.support.tiny import perturb_weights, random_tensor, tiny_config

MODES = ["coordinated", "independent", "volume"]
N = torch.tensor([0, 999])


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("freq", [1, 3])
def test_one_signature_for_all_modes(mode, freq):
    eps = build_denoiser(tiny_config(mode=mode, frequencies=freq))
    features = eps.features(random_tensor(2, 3, 32, 48).clamp(-1, 1))
    assert features.shape == (2, 16, 8, 12)
    z = random_tensor(2, freq, 4, 8, 12)
    assert eps(z, N, features).shape == eps(z, N, None).shape == z.shape


@pytest.mark.parametrize("mode", MODES)
def test_no_features_are_features_of_zero(mode):
    eps = perturb_weights(build_denoiser(tiny_config(mode=mode)))
    z = random_tensor(2, 3, 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(eps(z, N, None), eps(z, N, torch.zeros(2, 16, 8, 8)))
        assert (eps(z, N, None) - eps(z, N, random_tensor(2, 16, 8, 8))).abs().max() > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_a_velocity_is_handed_on_as_the_noise_that_it_implies(mode):
    by_noise, by_velocity = (
        perturb_weights(build_denoiser(tiny_config(mode=mode, prediction=prediction)))
        for prediction in ("noise", "velocity")
    )
    by_velocity.load_state_dict(by_noise.state_dict())
    z, features = random_tensor(2, 3, 4, 8, 8), random_tensor(2, 16, 8, 8)
    of_signal, of_noise = amplitudes(N)
    with torch.no_grad():
        torch.testing.assert_close(
            by_velocity(z, N, features),
            of_noise * z + of_signal * by_noise(z, N, features),
            atol=1e-6,
            rtol=1e-6,
        )


def test_a_step_of_training_forgets_the_photographs_whose_condition_is_dropped():
    network = ConditionedDenoiser(perturb_weights(build_denoiser(tiny_config())))
    z, photographs, bands = (
        random_tensor(2, 3, 4, 8, 8),
        random_tensor(2, 3, 32, 32),
        torch.arange(3).expand(2, 3),
    )
    with torch.no_grad():
        seen, some, none = (
            network(z, N, photographs, torch.tensor(kept), bands)
            for kept in ([True, True], [True, False], [False, False])
        )
        assert torch.equal(none, network.denoiser(z, N, None))
    assert torch.equal(some[0], seen[0]) and torch.equal(some[1], none[1])
    assert (seen - none).abs().max() > 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_samples_of_a_batch_do_not_mix(mode):
    eps = perturb_weights(build_denoiser(tiny_config(mode=mode)))
    z, features = random_tensor(2, 3, 4, 8, 8), random_tensor(2, 16, 8, 8)
    with torch.no_grad():
        together = eps(z, N, features)
        alone = torch.cat([eps(z[i : i + 1], N[i : i + 1], features[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_step_and_frequency_are_told_apart(mode):
    eps = perturb_weights(build_denoiser(tiny_config(mode=mode)))
    z = random_tensor(1, 1, 4, 8, 8).expand(2, 3, 4, 8, 8)
    with torch.no_grad():
        made = eps(z, N, None)
    assert (made[0] - made[1]).abs().max() > 1e-3
    assert (made[:, 0] - made[:, 1]).abs().max() > 1e-3


def test_a_slice_depends_on_its_band_alone():
    eps = perturb_weights(SliceDenoiser(tiny_config()))
    z, features = random_tensor(2, 3, 4, 8, 8), random_tensor(2, 16, 8, 8)
    bands = torch.tensor([[2, 0], [1, 1]])
    picked = torch.stack([z[i, bands[i]] for i in range(2)])
    with torch.no_grad():
        every, some = eps(z, N, features), eps(picked, N, features, bands)
    torch.testing.assert_close(
        some, torch.stack([every[i, bands[i]] for i in range(2)]), atol=1e-5, rtol=1e-4
    )


def test_the_photograph_is_seen_where_it_is():
    encoder = perturb_weights(ImageEncoder(tiny_config()))
    image = torch.zeros(1, 3, 64, 64)
    image[..., :32] = 1
    with torch.no_grad():
        features = encoder(image)
    assert features.shape == (1, 16, 16, 16)
    # far from edges, where convolutions see one shade only, features are constant along columns and
    # differ between the halves
    assert (features[..., 8, 4] - features[..., 8, 11]).abs().max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_stays_near(mode, dtype):
    eps = perturb_weights(build_denoiser(tiny_config(mode=mode)))
    z, image = random_tensor(2, 3, 4, 8, 8), random_tensor(2, 3, 32, 32).clamp(-1, 1)
    with torch.no_grad():
        exact = eps(z, N, eps.features(image))
        with torch.autocast("cpu", dtype):
            rough = eps(z, N, eps.features(image))
    torch.testing.assert_close(rough.float(), exact, atol=0.15, rtol=0.1)


def test_channels_last_gives_the_same():
    eps = perturb_weights(build_denoiser(tiny_config(mode="coordinated")))
    z, features = random_tensor(2, 3, 4, 8, 8), random_tensor(2, 16, 8, 8)
    with torch.no_grad():
        before = eps(z, N, features)
        after = eps.to(memory_format=torch.channels_last)(
            z, N, features.to(memory_format=torch.channels_last)
        )
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_latents_that_do_not_fit_are_named(mode):
    eps = build_denoiser(tiny_config(mode=mode))
    with pytest.raises(ValueError, match="9x8, expected multiples of 2"):
        eps(random_tensor(2, 3, 4, 8, 9), N, None)
    with pytest.raises(ValueError, match="4 frequencies, expected 3"):
        eps(random_tensor(2, 4, 4, 8, 8), N, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(frequencies=0), "frequencies are 0"),
        (dict(channels=(16, 30)), "norm groups"),
        (dict(head_channels=5), "channels of a head"),
        (dict(attention_levels=(2,)), "expected some of 0 to 1"),
    ],
)
def test_settings_that_do_not_fit_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields)


def test_the_paper_s_numbers_are_the_defaults():
    config = DenoiserConfig()
    assert (config.channels, config.features, config.frequencies, config.mode) == (
        (128, 512, 1024),
        16,
        16,
        "coordinated",
    )
    assert config.prediction == "noise"
