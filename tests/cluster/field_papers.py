"""Papers of one task, some of which cannot take part in a comparison of it. None trains for longer than a moment.

Their slugs begin with `test_`: what every paper is held to leaves those out, wherever this module has been imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairsweep.search_spaces.space import Space
from fairsweep.trainables.base import DataNotFound, Metric, Setting
from fairsweep.trainables.catalog import register
from tests.papers import Bowl, Splits


class _OfTheTask(Bowl):
    task = "test-field of bowls"
    datasets = ("bowl", "bowl2", "own")
    length = 2

    @classmethod
    def space(cls) -> Space:
        models = [cls.slug, "plain", "flat"]
        return Space.from_mapping(
            {
                "model": {"type": "categorical", "choices": models, "paper": cls.slug, "value": cls.slug},
                "x": {"type": "float", "low": 0.0, "high": 1.0, "paper": 0.5},
            },
            source=cls.slug,
        )

    def loss(self) -> float:
        offset = {"plain": 0.5, "flat": 1.0}.get(self.config["model"], 0.0)
        return (self.config["x"] - 0.3) ** 2 + offset + 0.001 * (self.setting.seed % 7)


@register
class One(_OfTheTask):
    slug = "test_field_one"


@register
class Two(_OfTheTask):
    slug = "test_field_two"
    datasets = ("bowl2", "bowl", "mine", "own")
    contenders = {"model": ("plain",)}

    def loss(self) -> float:
        return super().loss() + 0.1

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        if setting.data == "mine" and not (setting.data_dir and (setting.data_dir / "rows").is_file()):
            raise DataNotFound(f"data=mine: {setting.data_dir} has no file rows")
        super().setup(config, setting)


@register
class Elsewhere(_OfTheTask):
    """Has no data set of the others."""

    slug = "test_field_elsewhere"
    datasets = ("moon",)


@register
class Dense(_OfTheTask):
    """Says itself that it cannot."""

    slug = "test_field_dense"
    datasets = ("bowl", "bowl2", "mine")

    @classmethod
    def unsuited(cls, config: Mapping[str, Any], data: str, data_dir: Path | None) -> str | None:
        return None if config["model"] == "flat" else "dense n x n similarities: 100,000 nodes need 40 GB"


@register
class Extra(_OfTheTask):
    slug = "test_field_extra"

    def setup(self, config: Mapping[str, Any], setting: Setting) -> None:
        raise ModuleNotFoundError("No module named 'no_such_package'", name="no_such_package")


@register
class Otherwise(_OfTheTask):
    """Is tested by a metric that the others have not."""

    slug = "test_field_otherwise"
    metrics = (*Bowl.metrics[:2], Metric("test_fame", "max", "test"))


@register
class Alone(_OfTheTask):
    """The only one of its task, with several test metrics, of which it says which one counts."""

    slug = "test_field_alone"
    task = "test field of one"
    metrics = (*Bowl.metrics[:2], Metric("test_a", "min", "test"), Metric("test_b", "min", "test"))

    @classmethod
    def tested_on(cls, data: str) -> str:
        return "test_a" if data == "bowl" else "test_b"

    def test(self) -> dict[str, float]:
        return {"test_a": self.loss(), "test_b": -self.loss()}


@register
class Stranger(Splits):
    """Of another task, on other test examples of data of the same name."""

    slug = "test_field_stranger"
    task = "test field of strangers"

    def parts(self) -> dict[str, str]:
        return {part: f"{part}, seen otherwise" for part in self.rows}
