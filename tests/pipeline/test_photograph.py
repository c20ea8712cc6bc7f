import numpy as np
import pytest
from PIL import Image

from pipeline.photograph import at_size, read_photograph
from tests.videos import texture

PICTURE = texture(96, 64)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def test_a_photograph_comes_out_upright_and_in_eight_bits(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(tmp_path / "a.png", Image.fromarray(np.rot90(PICTURE).copy()), exif=exif)
    np.testing.assert_array_equal(read_photograph(turned), PICTURE)
    grey = PICTURE[..., 0]
    sixteen = saved(tmp_path / "b.png", Image.fromarray(grey.astype(np.uint16) * 257))
    np.testing.assert_array_equal(read_photograph(sixteen), np.dstack([grey] * 3))
    for mode, most in (("CMYK", 0), ("L", 0), ("P", 60)):
        path = saved(tmp_path / f"{mode}.tif", Image.fromarray(PICTURE).convert(mode))
        found = read_photograph(path)
        assert found.shape == PICTURE.shape and (mode == "L" or np.abs(found.astype(int) - PICTURE).mean() <= most)
    clear = np.dstack([PICTURE, np.zeros(PICTURE.shape[:2], np.uint8)])
    assert (read_photograph(saved(tmp_path / "c.png", Image.fromarray(clear))) == 255).all()
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    frames[0].save(tmp_path / "d.webp", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(read_photograph(tmp_path / "d.webp"), PICTURE)


def test_what_is_no_picture_is_a_sentence(tmp_path):
    (tmp_path / "a.jpg").write_text("not a picture")
    cut = saved(tmp_path / "b.png", Image.fromarray(PICTURE))
    cut.write_bytes(cut.read_bytes()[:200])
    for name, words in (("a.jpg", "no picture that can be read"), ("b.png", "no picture that can be read"), ("c.png", "is not there")):
        with pytest.raises(ValueError, match=words):
            read_photograph(tmp_path / name)


def test_the_middle_is_taken_in_the_aspect_of_the_size():
    image = np.zeros((100, 400, 3), np.uint8)
    image[:, 120:280] = 255
    assert (at_size(image, (80, 50)) == 255).all() and at_size(image, (80, 50)).shape == (50, 80, 3)
    with pytest.raises(ValueError, match="400x100 pixels, expected at least 256x160"):
        at_size(image, (256, 160))
