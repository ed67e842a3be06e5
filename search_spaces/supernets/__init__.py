"""Networks that hold weights for every architecture of a space; one file a kind."""

from fairsweep.search_spaces.supernets.base import Step, Supernet
from fairsweep.search_spaces.supernets.catalog import build_supernet

__all__ = ["Step", "Supernet", "build_supernet"]
