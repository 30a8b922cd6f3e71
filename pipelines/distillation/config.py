"""How features are laid on a grid, encoded, and computed."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from storage.recipe import RecipeModel
from teachers.base import BaseTeacherConfig
from teachers.device import default_batch_size

__all__ = ["FeaturesConfig", "StudentGrid"]

_SLIVER = 0.001
"""Of a resource that only marks nodes: it must not be what limits the number of processes."""


class StudentGrid(RecipeModel):
    """What decides the grids on which a student compares its features with a teacher's."""

    patch_size_px: int = Field(16, gt=0)
    """Side of a square patch, in px of the student's resized image."""
    mask_stride_px: int = Field(4, gt=0)
    """Pixels of the student's resized image per cell of its mask features; divides the patch size."""
    max_side_px: int = Field(1024, gt=0)
    """Upper bound of the long side of the student's resized image; a multiple of the patch size."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.patch_size_px % self.mask_stride_px:
            raise ValueError(
                f"mask_stride_px: expected a divisor of patch_size_px {self.patch_size_px}, got {self.mask_stride_px}"
            )
        if self.max_side_px % self.patch_size_px:
            raise ValueError(
                f"max_side_px: expected a multiple of patch_size_px {self.patch_size_px}, got {self.max_side_px}"
            )
        return self


class FeaturesConfig(RecipeModel):
    """From corpus and teacher to a feature store."""

    codec: Literal["raw16", "int8", "klt", "klt-20db"] = "klt"
    """Encoding: `raw16` is half precision; `int8` one byte per value, affine per image and channel, outliers exact;
    `klt` principal components at 30 dB signal-to-noise ratio, some 3 to 4 bits per value; `klt-20db` half of that."""
    calibration_images: int = Field(64, gt=0, json_schema_extra={"hashed": False})
    """Images on which `klt` is fitted to a teacher, once: what comes out is stored and known by its bytes."""
    calibration: str | None = Field(None, json_schema_extra={"hashed": False})
    """Folder or URL of a calibration to use instead of fitting one, such as that of a published store."""
    grid: str = Field("native", pattern=r"^(native|student|stride:[1-9][0-9]{0,3})$")
    """`native`: as the teacher gives it. `student`: bilinearly resized (align_corners=False) to the grid on
    which the student is compared with this teacher: the same loss from fewer bytes, for that student alone.
    `stride:n`: resized with antialiasing to one cell per n px of the teacher's input, rounded up."""
    student: StudentGrid | None = None
    """Grids of the student; needed by `grid: student` and by nothing else."""
    splits: tuple[str, ...] = ()
    """Images with a sample in one of these splits; empty: every image of the corpus."""
    batch_size: Annotated[int, Field(gt=0)] | Literal["auto"] = 16
    """Images of equal shape per forward pass; it decides the last bits of the features, so the plan fixes it.
    `auto`: what suits teacher and device, see `teachers.device.default_batch_size`; recorded as that number."""
    images_per_shard: int = Field(1024, gt=0)
    """Upper bound of the images in one shard, which is also the unit of work and of resuming."""
    shard_mib: float = Field(64.0, gt=0)
    """Upper bound of a shard's stored size in MiB; one image may be larger."""
    images_per_part: int = Field(1_000_000, gt=0, json_schema_extra={"hashed": False})
    """Upper bound of the images that are planned and leased together, and published as one part: what the memory of
    the run's own process depends on, some 1.5 kB per image. Several runs at once share what is missing by parts."""
    num_actors: int = Field(2, gt=0, json_schema_extra={"hashed": False})
    """Teachers running side by side."""
    num_cpus_per_actor: float = Field(1.0, gt=0, json_schema_extra={"hashed": False})
    """CPUs that Ray counts for each teacher."""
    num_gpus_per_actor: float = Field(0.0, ge=0, json_schema_extra={"hashed": False})
    """GPUs of each teacher; 0: it runs on the CPU."""
    num_batches_ahead: int = Field(2, gt=0, json_schema_extra={"hashed": False})
    """Batches that are read and decoded ahead of each teacher."""
    num_cpus_per_decoder: float = Field(0.5, ge=0, json_schema_extra={"hashed": False})
    """CPUs that Ray counts for each reading and decoding task. 0: threads in the teacher's own process decode,
    which is quicker for small pictures on few cores, where processes of their own don't pay."""
    max_reject_share: float = Field(0.05, ge=0, le=1, json_schema_extra={"hashed": False})
    """Share of the images of a part on which the teacher may fail; above it the part isn't published."""
    max_retries: int = Field(5, ge=0, json_schema_extra={"hashed": False})
    """How often one shard is begun again: its teacher's process died or stood still, or storage failed."""
    stuck_after_s: float = Field(900.0, gt=0, json_schema_extra={"hashed": False})
    """Seconds without a step of a shard (a batch computed or encoded, the shard written) until the
    teacher's process is ended and replaced; longer than a batch, a start of the teacher or a put may take."""
    lease_expires_after_s: float = Field(60.0, gt=0, json_schema_extra={"hashed": False})
    """Seconds without a sign of life until another run takes this one for dead and computes its images."""

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Kind of device on which teachers run."""
        return "cuda" if self.num_gpus_per_actor > 0 else "cpu"

    def process_options(self, teacher: BaseTeacherConfig) -> dict[str, Any]:
        """Options of Ray for each process of a teacher: CPUs, GPUs, and a sliver of the resource of its nodes."""
        options: dict[str, Any] = {"num_cpus": self.num_cpus_per_actor, "num_gpus": self.num_gpus_per_actor}
        if teacher.node_resource is not None:
            options["resources"] = {teacher.node_resource: _SLIVER}
        return options

    def resolved(self, teacher: BaseTeacherConfig) -> Self:
        """With the batch size that `auto` stands for."""
        if self.batch_size != "auto":
            return self
        return self.model_copy(update={"batch_size": default_batch_size(teacher, self.device)})

    @property
    def grid_stride_px(self) -> int | None:
        """Pixels of the teacher's input per cell, if the grid is given by a stride."""
        name, _, stride = self.grid.partition(":")
        return int(stride) if name == "stride" else None

    @model_validator(mode="after")
    def _has_student(self) -> Self:
        if self.grid == "student" and self.student is None:
            raise ValueError("student: expected the student's grids, since `grid: student` resizes to them; got null")
        return self
