"""Every route to the data gives the same pixels; damaged files are named."""

import hashlib
import importlib.util
import pickle
import tarfile

import numpy as np
import pytest

from jgmm.data import arrays, cifar, load, tfds, to_features
from jgmm.data.images import Images
from jgmm.errors import InputError


@pytest.fixture(scope="module")
def records():
    """The bytes of the five files of a made-up CIFAR-10."""
    ramp = np.arange(3072, dtype=np.uint32)[None]
    rows = np.arange(10_000, dtype=np.uint32)[:, None]
    for_file = [((rows + 7 * ramp + i) % 251).astype(np.uint8) for i in range(5)]
    labels = [((np.arange(10_000) + i) % 10).astype(np.uint8) for i in range(5)]
    return list(zip(labels, for_file, strict=True))


@pytest.fixture(scope="module")
def binary(records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bin") / "cifar-10-batches-bin"
    folder.mkdir()
    for i, (labels, pixels) in enumerate(records, 1):
        (folder / f"data_batch_{i}.bin").write_bytes(np.concatenate([labels[:, None], pixels], axis=1).tobytes())
    return folder


@pytest.fixture(scope="module")
def python(records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("py") / "cifar-10-batches-py"
    folder.mkdir()
    for i, (labels, pixels) in enumerate(records, 1):
        batch = {
            b"batch_label": b"made up",
            b"labels": labels.tolist(),
            b"data": pixels,
            b"filenames": [b"a"],
        }
        (folder / f"data_batch_{i}").write_bytes(pickle.dumps(batch, protocol=2 if i % 2 else 4))
    return folder


def _tar(folder, path):
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        tar.add(folder, folder.name)
    return path


def test_binary_files_follow_the_official_layout(binary, records, monkeypatch):
    images = load("cifar10", binary.parent)
    assert images.pixels.shape == (50_000, 32, 32, 3)
    assert images.pixels.dtype == np.uint8
    labels, pixels = records[2]
    plane = pixels[17].reshape(3, 32, 32)  # a record is all red, then all green, then all blue
    np.testing.assert_array_equal(images.pixels[20_017], plane.transpose(1, 2, 0))
    np.testing.assert_array_equal(images.labels[20_000:30_000], labels)
    monkeypatch.setenv("JGMM_DATA", str(binary.parent))
    assert load("cifar10").sha256 == images.sha256
    assert load("cifar10", binary).sha256 == images.sha256
    assert images.sha256 == hashlib.sha256(images.pixels.tobytes()).hexdigest()


def test_every_route_gives_the_same_array(binary, python, tmp_path):
    expected = load("cifar10", binary.parent)
    for route in (
        python.parent,
        _tar(binary, tmp_path / "cifar-10-binary.tar.gz").parent,
        _tar(python, (tmp_path / "py").mkdir() or tmp_path / "py" / "cifar-10-python.tar.gz").parent,
    ):
        images = load("cifar10", route)
        assert images.sha256 == expected.sha256
        np.testing.assert_array_equal(images.labels, expected.labels)


def test_the_real_cifar(cifar_dir):
    images = load("cifar10", cifar_dir)
    assert images.pixels.shape == (50_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(images.labels), np.full(10, 5000))
    assert images.labels[0] == 6  # the first training image is a frog
    assert images.pixels[0, 0, 0].tolist() == [59, 62, 63]


@pytest.mark.parametrize("route", ["binary", "python"])
def test_a_truncated_file_is_named_with_its_size(route, binary, python, tmp_path):
    source = {"binary": binary, "python": python}[route]
    copy = tmp_path / source.name
    copy.mkdir()
    for file in source.iterdir():
        (copy / file.name).symlink_to(file)
    broken = copy / sorted(f.name for f in source.iterdir())[1]
    content = broken.read_bytes()[:-1000]
    broken.unlink()
    broken.write_bytes(content)
    with pytest.raises(InputError, match=rf"data_batch_2.*{len(content):,}"):
        load("cifar10", tmp_path)
    broken.unlink()
    with pytest.raises(InputError, match="data_batch_2.* is missing"):
        load("cifar10", tmp_path)


def test_a_truncated_archive_and_a_foreign_one(binary, tmp_path):
    archive = _tar(binary, tmp_path / "cifar-10-binary.tar.gz")
    archive.write_bytes(archive.read_bytes()[:100_000])
    with pytest.raises(InputError, match="cifar-10-binary.tar.gz.* truncated or damaged"):
        load("cifar10", tmp_path)
    archive.unlink()
    _tar(binary / "data_batch_1.bin", archive)
    with pytest.raises(InputError, match="holds no data_batch_2.bin"):
        load("cifar10", tmp_path)


class _Attack:
    def __reduce__(self):
        return (print, ("run by the unpickler",))


def test_a_hostile_pickle_is_not_run(tmp_path, capsys):
    content = pickle.dumps({b"data": _Attack(), b"labels": [1]})
    with pytest.raises(InputError, match=r"data_batch_1: refused to unpickle builtins.print"):
        cifar._parse_python(tmp_path / "data_batch_1", content)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {b"data": np.zeros((10, 3072), np.uint8), b"labels": [0] * 10},
            "expected 30,720,000 bytes.*got 30,720",
        ),
        ({b"data": np.zeros((10_000, 3072)), b"labels": [0] * 10_000}, "uint8"),
        ({b"data": np.zeros((10_000, 3072), np.uint8), b"labels": [0]}, "10000 labels"),
        ({b"x": 1}, "data and labels"),
        ([1, 2], "data and labels"),
    ],
)
def test_a_pickle_of_something_else(batch, message, tmp_path):
    with pytest.raises(InputError, match=message):
        cifar._parse_python(tmp_path / "data_batch_1", pickle.dumps(batch))


def test_photos_are_the_same_on_every_machine():
    photos = load("photos")
    assert photos.pixels.shape == (20_000, 32, 32, 3)
    assert photos.sha256 == load("photos").sha256
    np.testing.assert_array_equal(np.bincount(photos.labels), [10_000, 10_000])
    assert photos.pixels.std() > 40


def test_digits_keep_their_levels():
    digits = load("digits")
    assert digits.pixels.shape == (1797, 8, 8, 1)
    assert digits.pixels.dtype == np.uint8
    np.testing.assert_array_equal(np.unique(digits.pixels), np.round(np.arange(17) * 255 / 16))


def test_pixels_become_features_and_mirror_images_double_them(rng):
    pixels = rng.integers(0, 256, (5, 4, 3, 2)).astype(np.uint8)
    images = Images("some", pixels, np.arange(5), "here")
    np.testing.assert_allclose(to_features(pixels), pixels.reshape(5, -1) / 127.5 - 1, atol=1e-6)
    doubled = images.with_mirror_images()
    assert len(doubled) == 10
    np.testing.assert_array_equal(doubled.pixels[:5], pixels)
    np.testing.assert_array_equal(doubled.pixels[5:, :, 0], pixels[:, :, -1])
    np.testing.assert_array_equal(doubled.labels, np.tile(np.arange(5), 2))
    with pytest.raises(InputError, match="mirror images"):
        Images("flat", pixels.reshape(5, -1), None, "here").with_mirror_images()


def test_arrays(tmp_path, rng):
    x = rng.normal(size=(7, 3))
    np.save(tmp_path / "x.npy", x.astype(np.float16))
    assert arrays.load(tmp_path / "x.npy").pixels.dtype == np.float32
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 2, 2, 3), np.uint8), labels=np.arange(4))
    images = arrays.load(tmp_path / "x.npz")
    assert images.pixels.shape == (4, 2, 2, 3)
    np.testing.assert_array_equal(images.labels, np.arange(4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((3, 4, 5)), r"shape \(3, 4, 5\): expected \[N, D\] or \[N, H, W, C\]"),
        (np.zeros((0, 4)), "is empty"),
        (np.zeros((3, 4), np.int64), "holds int64: expected uint8 pixels or floating point"),
        (np.array([[1.0, np.nan]]), "NaN or infinite"),
        (np.array([[1.0, np.inf]]), "NaN or infinite"),
        (np.array([{"a": 1}, None], dtype=object), "never unpickled"),
        (b"not a numpy file", "not a whole"),
        (None, "no file at"),
    ],
)
def test_bad_arrays_are_refused(content, message, tmp_path):
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        arrays.load(path)


def test_an_ambiguous_archive_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", first=np.zeros((2, 2)), second=np.zeros((2, 2)))
    with pytest.raises(InputError, match="expected one array"):
        arrays.load(tmp_path / "x.npz")


def test_an_unknown_data_set_and_a_missing_folder(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'cifar10'"):
        load("cifar")
    with pytest.raises(InputError, match="does not exist"):
        load("cifar10", tmp_path / "nowhere")


def test_a_shuffled_copy_is_put_in_order(rng):
    images = rng.integers(0, 256, (30, 32, 32, 3)).astype(np.uint8)
    examples = [{"id": f"train_{i:05d}".encode(), "image": images[i], "label": i % 10} for i in range(30)]
    pixels, labels = tfds._read(examples[k] for k in rng.permutation(30))
    np.testing.assert_array_equal(pixels, images)
    np.testing.assert_array_equal(labels, np.arange(30) % 10)


def test_preparing_a_copy_needs_tensorflow(tmp_path, monkeypatch):
    if importlib.util.find_spec("tensorflow"):
        pytest.skip("TensorFlow is installed: it would try to download")
    monkeypatch.delenv("JGMM_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match="Three remedies(.|\\n)*needs TensorFlow"):
        load("cifar10")
