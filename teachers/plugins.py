"""Teachers of other distributions, found by the entry point group `sailloft.teachers`; see `storage.plugins`."""

from __future__ import annotations

from storage.plugins import PluginGroup
from teachers.base import BaseTeacherConfig

__all__ = ["PLUGINS"]

PLUGINS = PluginGroup("sailloft.teachers", "teacher", BaseTeacherConfig)
