"""Data: what is in the folder, as examples of one shape with columns and splits."""

from fromnoise.data.cache import Dataset, open_dataset
from fromnoise.data.doctor import diagnose
from fromnoise.data.scan import scan

__all__ = ["Dataset", "diagnose", "open_dataset", "scan"]
