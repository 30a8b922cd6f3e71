"""What one more image costs before the first forward pass, and one more teacher the dispatcher."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence

from pipelines.distillation.dispatch import Dispatcher, Done, Event, Limits, Stirred
from pipelines.distillation.plan import ShardTask, plan_teaching
from pipelines.distillation.wanted import KnownImages
from pipelines.distillation.windows import WantedWindows
from storage.codecs import codec_of
from storage.corpus import Corpus, write_images
from storage.feature_index import read_snapshot
from storage.feature_plan import ArrayPlan, ShardPlan
from storage.features import FeatureStore
from storage.keys import Json
from storage.manifest import MANIFEST_NAME, Manifest, publish
from storage.objects import Objects
from storage.schema import SCHEMA_VERSION, ImageRecord
from storage.traffic import traffic
from tests.benchmarks.large_corpora import ROWS_PER_GROUP, coco_images, write_image_rows, write_row_part
from tests.benchmarks.measuring import Figures, Options, PeakMemory, machine
from tests.benchmarks.plan_1m import FEATURES, NUM_CHANNELS, TEACHER

__all__ = ["dispatch", "slopes"]

_NUM_PARTS = 5
_PHOTOGRAPH_BYTES = 100_000


def slopes(options: Options) -> Figures:
    """Figures at growing numbers of images, and their slopes between the last two of them."""
    sizes = [300, 3_000] if options.tiny else [10_000, 100_000, 1_000_000]
    figures: Figures = {
        "machine": machine(options, 1),
        "workload": {
            "what": "each step in a process of its own, page cache warm; seconds without imports, bytes are the "
            "largest resident memory above that before the step",
            "corpus": f"row groups of {ROWS_PER_GROUP} images, as photographs of 100 kB make them, without bytes",
            "teacher": f"Mask2Former's geometry (short side 800 px, stride 4), {NUM_CHANNELS} channels, raw16",
            "parts": _NUM_PARTS,
            "flops": None,
        },
    }
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in _STEPS}
    for num_images in sizes:
        with tempfile.TemporaryDirectory() as folder:
            options.apart(_prepare, folder, num_images)
            for name in _STEPS:
                found[name][num_images] = options.apart(_step, name, folder)
            store = Objects.open(f"{folder}/store")
            keys = [info.key for info in store.list() if info.key.endswith((MANIFEST_NAME, "rows.parquet"))]
            size = sum(store.size(key) for key in keys)
            figures[f"index_bytes_per_image_of_{num_images}"] = round(size / num_images, 1)
    for name, by_size in found.items():
        figures[name] = {
            **{str(number): {**values} for number, values in by_size.items()},
            "per_image": _slope(by_size, *sizes[-2:]),
        }
    figures["reading_ids_from_an_object_store"] = _requests(20 if options.tiny else 400)
    return figures


def _slope(by_size: dict[int, dict[str, float]], few: int, many: int) -> dict[str, Json]:
    further = {name: by_size[many][name] - by_size[few][name] for name in by_size[many]}
    return {
        "us": round(1e6 * further["seconds"] / (many - few), 3),
        "cpu_us": round(1e6 * further["cpu_s"] / (many - few), 3),
        "bytes": round(1e6 * further["mb"] / (many - few), 1),
    }


def _prepare(folder: str, num_images: int) -> None:
    images = list(coco_images(num_images))
    write_image_rows(Objects.open(f"{folder}/corpus"), images)
    store = Objects.open(f"{folder}/store")
    for number in range(_NUM_PARTS):
        write_row_part(store, f"{number:064x}", images[number::_NUM_PARTS], FEATURES, TEACHER, NUM_CHANNELS)


def _step(name: str, folder: str) -> dict[str, float]:
    prepared = _STEPS[name](folder)
    with PeakMemory() as memory:
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        kept = prepared()
        wall_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    del kept
    return {"seconds": round(wall_s, 4), "cpu_s": round(cpu_s, 4), "mb": round(memory.peak_bytes / 1e6, 2)}


def _list_wanted(folder: str) -> Callable[[], object]:
    """Teaching lists what a corpus wants."""
    corpus = Corpus.open(f"{folder}/corpus")

    def step() -> object:
        wanted = WantedWindows(corpus, FEATURES).wanted(0)
        return wanted, wanted.by_id

    return step


def _look_at_store(folder: str) -> Callable[[], object]:
    """Teaching looks at parts that are new to it."""
    wanted, store = WantedWindows(Corpus.open(f"{folder}/corpus"), FEATURES).wanted(0), Objects.open(f"{folder}/store")
    known = KnownImages(wanted, store, codec_of(FEATURES.codec))
    len(wanted.by_id)
    return lambda: known.update(read_snapshot(store))


def _plan_missing(folder: str) -> Callable[[], object]:
    """Teaching plans images that are missing, all of them as one part."""
    wanted = WantedWindows(Corpus.open(f"{folder}/corpus"), FEATURES).wanted(0)

    def step() -> object:
        sizes, codec = wanted.select(wanted.height_px > 0), codec_of(FEATURES.codec)
        plan = plan_teaching(sizes, FEATURES, TEACHER, "mask_features", NUM_CHANNELS, codec, "s")
        return plan, list(plan.tasks())

    return step


def _open_corpus(folder: str) -> Callable[[], object]:
    """A process that decodes opens a corpus and reads one image."""
    corpus = Corpus.open(f"{folder}/corpus")
    first = next(iter(coco_images(1)))[0]

    def step() -> object:
        corpus.image(first)
        return corpus

    return step


def _open_features(folder: str) -> Callable[[], object]:
    """A reader opens a feature store, as training does."""
    return lambda: FeatureStore.open(f"{folder}/store")


_STEPS: dict[str, Callable[[str], Callable[[], object]]] = {
    "list_wanted": _list_wanted,
    "look_at_store": _look_at_store,
    "plan_missing": _plan_missing,
    "open_corpus": _open_corpus,
    "open_features": _open_features,
}


def _requests(num_images: int) -> dict[str, Json]:
    """What listing a corpus' images asks of an object store, whose requests are counted here."""
    objects = Objects.open(f"memory://{uuid.uuid4().hex}/corpus")
    images = [
        ImageRecord(
            image_id=image_id,
            data=bytes(_PHOTOGRAPH_BYTES),
            uri=None,
            media_type="image/jpeg",
            height=height,
            width=width,
            coco_id=None,
            sources=(),
            difference_hash=0,
        )
        for image_id, height, width in coco_images(num_images)
    ]
    entry = write_images(objects, "0", images)
    corpus = Corpus(objects, publish(objects, Manifest("corpus", "c", SCHEMA_VERSION, {}, {}, (entry,))))
    before = traffic()
    WantedWindows(corpus, FEATURES).wanted(0)
    asked = traffic().since(before)
    return {
        "images": f"{num_images} of {_PHOTOGRAPH_BYTES} bytes",
        "requests_per_image": round(sum(asked.requests.values()) / num_images, 4),
        "bytes_per_image": round(sum(asked.read_bytes.values()) / num_images, 1),
    }


def dispatch(options: Options) -> Figures:
    """The dispatcher alone, with teachers that are done at once, one event per look: its least favourable case."""
    numbers = [4, 16] if options.tiny else [64, 512, 4_096]
    return {
        "machine": machine(options, 1),
        "workload": {
            "what": "dispatcher and a pool in memory; every look gives one finished shard; the first shard of each "
            "teacher isn't counted",
            "service_ms_per_shard": 0,
            "flops": None,
        },
        "ms_per_shard": {str(number): round(_dispatched_ms(number), 4) for number in numbers},
    }


class _InstantPool:
    """Every shard is done when it is given."""

    def __init__(self) -> None:
        self._events: deque[Event[None]] = deque()

    def start(self, worker: int) -> None:
        self._events.append(Stirred(worker, {}))

    def submit(self, worker: int, task: ShardTask) -> None:
        self._events.append(Done(worker, task.shard.key, None))

    def kill(self, worker: int) -> None:
        pass

    def poll(self) -> Sequence[Event[None]]:
        return [self._events.popleft()]


def _dispatched_ms(num_teachers: int) -> float:
    num_shards = num_teachers + 500
    array = ArrayPlan("l1", num_shards, 1, 1, 1)
    tasks = [ShardTask(ShardPlan(array, index, ()), ()) for index in range(num_shards)]
    dispatcher: Dispatcher[None] = Dispatcher(_InstantPool(), Limits(num_teachers, 0, 1e6), time.monotonic)
    results = dispatcher.run(tasks)
    for _ in range(num_teachers):
        next(results)
    start_s = time.perf_counter()
    num_left = sum(1 for _ in results)
    return 1e3 * (time.perf_counter() - start_s) / num_left
