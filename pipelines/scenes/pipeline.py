"""The scenes stage on Ray: one task per block of pictures, the rest on the driver."""

from __future__ import annotations

import ray

from pipelines.observer import Observer, current_observer
from pipelines.progress import Progress
from pipelines.scenes.blocks import Block, plan_blocks, write_block
from pipelines.scenes.config import ScenesConfig
from pipelines.scenes.generate import finish, finished, missing_blocks
from storage.errors import UsageError
from storage.manifest import Manifest
from storage.objects import Objects

__all__ = ["generate"]


def generate(config: ScenesConfig, output: Objects, progress: Progress) -> Manifest:
    """Writes the scenes of a configuration with Ray tasks; the bytes are those of the local `generate`.

    Ray must be initialised. Tasks write their own files, so nothing but their names travels.

    Args:
        config: what to draw.
        output: the folder of this configuration's scenes; every worker must reach it.
        progress: told about finished pictures.

    Returns:
        The manifest, written last.

    Raises:
        UsageError: the configuration leaves no room for its objects, or `output` is in memory.
        ManifestConflict: other scenes stand at `output`.
    """
    if output.url.startswith("memory://"):
        raise UsageError(f"{output.url}: workers can't reach this process's memory; give a folder or a bucket")
    present = finished(config, output)
    if present is not None:
        return present
    blocks = plan_blocks(config)
    missing = missing_blocks(output, blocks)
    total = sum(block.stop - block.start for block in blocks)
    done = total - sum(block.stop - block.start for block in missing)
    observer = current_observer()
    draw = ray.remote(num_cpus=1)(_draw)
    running = {draw.remote(observer, config, output, block): block for block in missing}
    while running:
        progress.update(done, total, unit="images")
        ready, _ = ray.wait(list(running), num_returns=1)
        for reference in ready:
            ray.get(reference)
            block = running.pop(reference)
            done += block.stop - block.start
            observer.count("sailloft_images_total", block.stop - block.start, outcome="drawn")
    progress.update(done, total, unit="images")
    return finish(config, output)


def _draw(observer: Observer, config: ScenesConfig, output: Objects, block: Block) -> None:
    with observer.here():
        write_block(config, output, block)
