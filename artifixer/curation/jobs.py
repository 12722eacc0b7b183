"""Captures -> a folder of training pairs, made by processes that may be killed at any time.

In: sources, settings, a seed, workers. Out: the folder that ``pair_folder`` describes. A scene's
pairs depend only on the scene, the settings and the seed, and a shard only on its scenes: neither
the number of processes nor an interruption changes a byte.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from artifixer.curation.make_scene import CurationConfig, MadeScene, make_scene
from artifixer.curation.pair_folder import CurationResult, PairFolder
from artifixer.curation.process_workers import ProcessWorkers
from artifixer.curation.ray_workers import RayWorkers
from artifixer.curation.sources import Source
from artifixer.curation.workers import ATTEMPTS, Job, one_thread, work_through, worker_devices
from artifixer.runtime.errors import Stopped
from artifixer.runtime.fingerprint import fingerprint
from artifixer.runtime.progress import Progress
from artifixer.runtime.run_folder import RunFolder
from artifixer.runtime.stopping import stop_on_sigterm, stop_requested

#: Error of a scene whose worker died in every attempt.
WORKER_DIED = (
    f"its worker died {ATTEMPTS} times (killed, or out of memory?); fewer --workers need less "
    "memory"
)


def curate(
    sources: Sequence[Source],
    config: CurationConfig,
    seed: int,
    out: Path,
    workers: int,
    overwrite: bool = False,
    device: str = "cpu",
    ray: str | None = None,
) -> CurationResult:
    """Make the pairs of all sources; another call with the same arguments continues or returns at
    once.

    workers: number of processes with one thread each; 1 without Ray works in this process. When a
    worker dies, its scene is made once more, and counts as failed when its worker dies again.
    device: ``cpu`` or ``cuda``, where each worker has a GPU of its own. ray: None, or the address
    of a cluster (``ray_workers.RayWorkers``). The folder's content does not depend on these.
    Raises ``InputError`` when the folder belongs to other sources or settings, ``Stopped`` after
    SIGTERM.
    """
    known_by = [(source.identity, source.changed) for source in sources]
    identity = {"sources": fingerprint(known_by), "scenes": len(sources)}
    settings = {"config": config, "seed": seed}
    with RunFolder.open(out, identity, settings, overwrite) as run, stop_on_sigterm():
        folder = PairFolder(run, sources)
        with (
            Progress(("curate",), log_file=run.path("log.txt")) as progress,
            progress.stage("curate", len(sources)) as stage,
        ):
            stage.update(len(folder.records))
            waiting = [number for number in range(len(sources)) if number not in folder.records]
            jobs = ((number, (number, sources[number], config, seed)) for number in waiting)
            with _worked(jobs, workers, device, ray) as results:
                for number, made in results:
                    folder.add(number, made)
                    if made.error is not None:
                        progress.note(f"{sources[number].name} failed: {made.error}")
                    failed = sum(record.error is not None for record in folder.records.values())
                    stage.update(len(folder.records), pairs=folder.pairs, failed=failed)
            if stop_requested() and len(folder.records) < len(sources):
                raise Stopped(
                    f"curation stopped after {len(folder.records)} of {len(sources)} scenes; run "
                    "the same command to continue"
                )
        return folder.finish()


@contextmanager
def _worked(
    jobs: Iterator[Job], workers: int, device: str, ray: str | None
) -> Iterator[Iterator[tuple[int, MadeScene]]]:
    """Results of ``make_scene`` for the jobs, as they are done. After a request to stop no new job
    begins, and those running finish.
    """
    devices = worker_devices(device, workers) if ray is None else ()
    if len(devices) == 1:
        with one_thread():
            yield (
                (number, make_scene(*(*job, devices[0])))
                for number, job in jobs
                if not stop_requested()
            )
        return
    started = time.monotonic()
    pool = (
        ProcessWorkers(make_scene, devices)
        if ray is None
        else RayWorkers(make_scene, workers, device, ray)
    )
    try:
        yield (
            (
                number,
                MadeScene((), (), time.monotonic() - started, WORKER_DIED)
                if made is None
                else made,
            )
            for number, made in work_through(pool, jobs)
        )
    finally:
        pool.close()
