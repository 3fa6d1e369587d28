import math

import numpy as np
import pytest

from foreseer.evaluate.metrics.similarity import psnr, relative_error, ssim


def pair(seed=0, noise=0.1):
    generator = np.random.default_rng(seed)
    image = generator.random((32, 40, 3)).astype(np.float32)
    return image, np.clip(image + noise * generator.standard_normal(image.shape), 0, 1).astype(np.float32)


def test_psnr_is_ten_log_ten_of_the_inverse_mean_square():
    image, other = pair()
    expected = -10 * math.log10(np.mean((np.float64(image) - np.float64(other)) ** 2))
    assert psnr(image, other) == pytest.approx(expected, abs=1e-9)


def test_psnr_does_not_wrap_around_as_uint8_differences_do():
    black, white = np.zeros((8, 8, 3), np.float32), np.ones((8, 8, 3), np.float32)
    assert psnr(white, black) == pytest.approx(0.0, abs=1e-9)


def test_equal_images_have_infinite_psnr_and_ssim_one():
    image, _ = pair()
    assert psnr(image, image) == math.inf
    assert ssim(image, image) == pytest.approx(1.0)


def test_ssim_is_the_mean_over_channels_of_grey_ssim():
    from skimage.metrics import structural_similarity

    image, other = pair()
    grey = [
        structural_similarity(np.float64(image[..., c]), np.float64(other[..., c]), data_range=1.0) for c in range(3)
    ]
    assert ssim(other, image) == pytest.approx(np.mean(grey), abs=1e-12)


def test_relative_error_is_one_for_a_zero_sample_and_scale_free():
    image, other = pair()
    assert relative_error(np.zeros_like(image), image) == pytest.approx(1.0)
    assert relative_error(3 * other, 3 * image) == pytest.approx(relative_error(other, image), rel=1e-6)
