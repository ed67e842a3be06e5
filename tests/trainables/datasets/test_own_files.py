"""Counted images, recordings and texts of the user's own: what is read, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile

from fairsweep.trainables.base import DataError
from fairsweep.trainables.datasets import counting, recordings, texts
from fairsweep.trainables.datasets.describe import describe
from tests.trainables.datasets.test_own_graphs import files
from tests.trainables.datasets.test_own_pictures import save

POINTS = "image,x,y\n0.png,1,2\n0.png,3.5,0\n2.png,0,3\n"
LINES = "".join(f"line number {i} of a book that has some more\n" for i in range(10))


def images(folder: Path, points: str = POINTS, below: str = "") -> Path:
    for i in range(4):
        save(folder / below / "images" / f"{i}.png", np.full((4, 6), i, np.uint8))
    (folder / below / "points.csv").write_text(points)
    return folder


def sounds(folder: Path, count: int = 4, rate: int = 100) -> Path:
    for k, name in enumerate("ab"):
        for i in range(count):
            (folder / name).mkdir(exist_ok=True)
            wavfile.write(
                folder / name / f"{i}.wav", rate, np.array([0, 16384 * (k + 1) - 1, -32768, i], np.int16)
            )
    return folder


def test_points_belong_to_their_images(tmp_path: Path) -> None:
    data = counting.own(images(tmp_path))
    found = {
        int(picture[0, 0, 0]): points.tolist()
        for part in data.pictures
        for picture, points in zip(data.pictures[part], data.points[part], strict=True)
    }
    assert found == {0: [[1, 2], [3.5, 0]], 1: [], 2: [[0, 3]], 3: []}
    assert {part: len(pictures) for part, pictures in data.pictures.items()} == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }
    folder = tmp_path / "parts"
    for part in ("train", "test"):
        images(folder, below=part)
    assert {part: len(x) for part, x in counting.own(folder).points.items()} == {
        "train": 3,
        "validation": 1,
        "test": 4,
    }


def test_samples_have_a_full_scale_of_one(tmp_path: Path) -> None:
    data = recordings.own(sounds(tmp_path))
    assert (
        len(data) == 8 and data.names == ("a", "b") and set(data.rates) == {100} and set(data.lengths) == {4}
    )
    np.testing.assert_allclose(data[4], [[0, 32767 / 32768, -1, 0]])
    assert sorted(len(rows) for rows in data.split.values()) == [2, 2, 4]
    path = tmp_path / "x.wav"
    stereo = np.array([[0.5, -0.5], [0.25, 0]], np.float32)
    for written, expected in ((stereo, stereo.T), (np.array([0, 128, 255], np.uint8), [[-1, 0, 127 / 128]])):
        wavfile.write(path, 8000, written)
        rate, found = recordings.samples(path)
        assert rate == 8000 and found.dtype == np.float32
        np.testing.assert_allclose(found, expected)


def test_running_texts_are_cut_in_their_order(tmp_path: Path) -> None:
    files(tmp_path, b__txt=LINES, a__txt="Ä" * 100)
    data = texts.running(tmp_path)
    assert data.drawn and data.parts["train"].startswith("Ä" * 80 + "line number 0")
    assert sum(map(len, data.parts.values())) == 100 + len(LINES) and data.parts["test"].startswith("Ä" * 10)
    for part in ("a", "b"):
        (tmp_path / f"{part}.txt").unlink()
    files(tmp_path, train__txt=LINES, valid__txt=LINES[:50], test__txt="\ufeffnew\r\n")
    data = texts.running(tmp_path)
    assert not data.drawn and data.parts["test"] == "new\n" and "w" not in set(data.characters)
    about = describe(data)
    assert about.sizes["characters that train has not"] == {"validation": 0, "test": 1} and about.leaks


def test_texts_of_a_table_and_of_folders(tmp_path: Path) -> None:
    rows = "".join(f'"one, two\n{i}",{"ab"[i % 2]}\n' for i in range(8))
    data = texts.classified(files(tmp_path, mine=f"text,label\n{rows}"))
    assert data.texts[1] == "one, two\n1" and data.labels.tolist() == [0, 1] * 4
    assert sorted(len(rows) for rows in data.of(np.random.default_rng(0)).values()) == [2, 2, 4]
    folder = tmp_path / "folders"
    for i in range(8):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "ab"[i % 2] / f"{i}.txt").write_text(f"one, two\n{i}")
    found = texts.classified(folder)
    assert set(found.texts) == set(data.texts) and found.split is not None


def latin(folder: Path) -> None:
    (folder / "a.txt").write_bytes(LINES.encode() + "zwölf".encode("latin1"))


FAULTS: list[tuple[Callable[[Path], Any], Callable[[Path], Any], str]] = [
    (
        counting.own,
        lambda f: None,
        "has no points.csv or points.parquet; needs the folder images and points.csv",
    ),
    (
        counting.own,
        lambda f: images(f, POINTS.replace("2.png", "9.png")),
        "points.csv, line 4: column 'image' has '9.png', which",
    ),
    (
        counting.own,
        lambda f: images(f, POINTS.replace("3.5", "6")),
        "line 3: the point 6, 0 is outside of 0.png, which has 6 x 4",
    ),
    (
        counting.own,
        lambda f: images(f, POINTS.replace("3.5", "")),
        "points.csv, line 3: column 'x' has no value, must be a",
    ),
    (
        counting.own,
        lambda f: images(f, "image,x\n0.png,1\n"),
        "points.csv has no column 'y'; it has image, x",
    ),
    (recordings.own, lambda f: None, "holds nothing; needs a folder of recordings for each class"),
    (
        recordings.own,
        lambda f: (sounds(f) / "a" / "0.wav").write_bytes(b"RIFX"),
        "0.wav cannot be read as sound",
    ),
    (
        recordings.own,
        lambda f: wavfile.write(sounds(f) / "a" / "0.wav", 8, np.zeros(0, np.int16)),
        "0.wav holds no sound",
    ),
    (
        recordings.own,
        lambda f: wavfile.write(sounds(f) / "a" / "0.wav", 8, np.array([0, np.nan], np.float32)),
        "0.wav: sample 2 is not a finite number",
    ),
    (
        recordings.own,
        lambda f: (sounds(f) / "a" / "0.flac").write_bytes(b""),
        "0.flac needs soundfile to be read; pip install",
    ),
    (recordings.own, lambda f: sounds(f, 2), "the class 'a' has 2 recordings; needs 3 at least"),
    (texts.running, lambda f: None, "holds nothing; needs text files (.txt)"),
    (texts.running, lambda f: files(f, a__txt="short"), "a.txt has 5 characters; needs 100 at least"),
    (texts.running, lambda f: files(f, a__txt=" \n"), "a.txt has no text in it"),
    (texts.running, latin, "a.txt, line 11: byte 0xf6 is no UTF-8; save it as UTF-8"),
    (texts.running, lambda f: files(f, a__txt=LINES + "\0"), "a.txt, line 11: has a character of number 0"),
    (texts.running, lambda f: files(f, train__txt=LINES, test__txt=LINES), "and no validation.txt"),
    (
        texts.running,
        lambda f: files(f, train__txt=LINES, test__txt=LINES, val__txt=LINES, more__txt=LINES),
        "and more.txt beside the parts",
    ),
    (
        texts.classified,
        lambda f: None,
        "holds nothing; needs texts.csv (or .parquet) with the columns text and label",
    ),
    (
        texts.classified,
        lambda f: files(f, texts="text,label\na,x\n,y\n"),
        "texts.csv, line 3: column 'text' has no value",
    ),
    (
        texts.classified,
        lambda f: files(f, texts="text,label\na,x\nb,y\n"),
        "has the class 'x' in 1 rows; needs three",
    ),
]


@pytest.mark.parametrize("load, write, message", FAULTS, ids=[fault[2][:50] for fault in FAULTS])
def test_what_is_wrong_is_one_line_that_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Any, write: Any, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    write(tmp_path)
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    said = str(caught.value)
    assert said.startswith("data=own: ") and message in said and "\n" not in said
