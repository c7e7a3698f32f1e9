"""Ray Data under `run_jobs`: one actor per GPU or share of the CPU cores. Nothing else imports Ray."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import torch

from ..checks import ProtectionError, require
from ..openmp import SPINS
from .job import RayOptions, Work, attempt, raised_at

OBJECT_STORE_BYTES = 100 * 2**20  # only names and small results travel; Ray would take 30 % of the memory
CORES_PER_WORKER = 2
# Threads that wait must hardly spin: two workers of two threads on two cores took 292 s with spinning, 20 s without.
WORKER_ENVIRONMENT = {"GOMP_SPINCOUNT": SPINS}


# ------------------------------------------------------------------------------------------------ in the workers


@dataclass(frozen=True)
class _NotLoaded:
    """In a result's place: this worker could not load."""

    error: Exception


class _Starts:
    """An actor of its own, which outlives the workers: how often each thing was begun and not ended."""

    def __init__(self):
        self.count: dict[object, int] = {}

    def begin(self, what) -> int:
        self.count[what] = self.count.get(what, 0) + 1
        return self.count[what]

    def end(self, what) -> None:
        self.count[what] = 0


class _Worker:
    """Loads once, and does one job after the other. Nothing that is wrong with a job leaves it as an exception."""

    def __init__(self, load: Callable[[], Work], retries: int, threads: int, starts, workers: int):
        self.retries, self.starts, self.not_loaded = retries, starts, None
        if torch.get_num_threads() != threads:  # setting it also changes how Intel's MKL shares work: other last bits
            torch.set_num_threads(threads)
        try:
            deaths = self._count("begin", "load") - workers
            require(deaths <= retries, "a worker process dies while it loads the models", _MORE_MEMORY)
            self.work = load()
            self._count("end", "load")
        except Exception as error:
            self.not_loaded = _NotLoaded(error)

    def _count(self, what: str, key):
        import ray

        return ray.get(getattr(self.starts, what).remote(key))

    def __call__(self, row: dict) -> dict:
        return {"number": row["number"], "outcome": _packed(self.not_loaded or self._outcome(**row))}

    def _outcome(self, number: int, job: bytes):
        if self._count("begin", number) > self.retries + 1:
            return _died()
        return attempt(lambda packed: self.work(pickle.loads(packed)), job, self.retries)


_MORE_MEMORY = "use fewer workers (--workers); most often the memory was not enough for all of them"


def _died() -> ProtectionError:
    return ProtectionError("the worker process died at this job", _MORE_MEMORY)


def _packed(outcome) -> bytes:
    """Pickled, exceptions with where they were raised; what cannot be pickled becomes an exception that says so."""
    from ray import cloudpickle

    error = outcome.error if isinstance(outcome, _NotLoaded) else outcome
    if isinstance(error, Exception):
        error.raised_at = raised_at(error)
    try:
        packed = cloudpickle.dumps(outcome)
        pickle.loads(packed)  # exceptions with a constructor of their own fail only here
        return packed
    except Exception:
        text = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else f"a {type(outcome).__name__}"
        plain = RuntimeError(f"{text} (which cannot be pickled)")
        plain.raised_at = getattr(error, "raised_at", "unknown")
        return cloudpickle.dumps(_NotLoaded(plain) if isinstance(outcome, _NotLoaded) else plain)


# ------------------------------------------------------------------------------------------------ Ray


def run_with_ray(jobs: list, load: Callable[[], Work], options: RayOptions, retries: int):
    if not jobs:
        return
    with cluster() as ray:
        lost = set(range(len(jobs)))
        rows = _rows(ray, jobs, load, options, retries)
        with closing(rows):
            for row in rows:
                outcome = pickle.loads(row["outcome"])
                if isinstance(outcome, _NotLoaded):
                    raise outcome.error
                lost.discard(row["number"])
                yield row["number"], outcome
        yield from ((number, _died()) for number in sorted(lost))


def _import_ray():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray would report to its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns of a change to come
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", r"Task MapWorker|A worker died or was killed")  # we say it
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ProtectionError("the package Ray Data is missing", 'pip install "ray[data]"') from error
    return ray


def _rows(ray, jobs: list, load: Callable[[], Work], options: RayOptions, retries: int) -> Iterator[dict]:
    """One row per job, as they finish."""
    workers = min(_count_workers(ray.cluster_resources(), options), len(jobs))
    starts = ray.remote(num_cpus=0)(_Starts).remote()
    threads = torch.get_num_threads()  # in each worker as here, because the number changes the last bits
    rows = [{"number": number, "job": ray.cloudpickle.dumps(job)} for number, job in enumerate(jobs)]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _Worker,
        fn_constructor_args=(load, retries, threads, starts, workers),
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        runtime_env={"env_vars": _environment(threads)},
        **_share(ray.cluster_resources(), options, workers),
    )
    try:
        # iter_rows would hold every row back until the next one is there.
        for batch in dataset.iter_batches(batch_size=1, prefetch_batches=0, batch_format="pyarrow"):
            yield from batch.to_pylist()
    except ray.exceptions.RayError as error:
        raise ProtectionError(
            f"Ray stopped ({type(error).__name__}): {error}",
            "see the last line of it; with a cluster, FaceProtect and its packages must be installed on every machine "
            "of it",
        ) from error


def _environment(threads: int) -> dict[str, str]:
    environment = WORKER_ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)}
    if not os.environ.get("RAY_ADDRESS"):  # on this machine workers import from where this process does
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return environment


def _count_workers(resources: dict, options: RayOptions) -> int:
    gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if options.device == "cpu":
        return options.workers or max(1, cores // CORES_PER_WORKER)
    workers = options.workers or gpus
    require(
        1 <= workers <= gpus,
        f"there are {gpus} GPUs that Ray knows of, for {workers} workers" if workers else "Ray knows of no GPU",
        "use --workers of that many, or fewer, or --device cpu" if gpus else "use --device cpu",
    )
    return workers


def _share(resources: dict, options: RayOptions, workers: int) -> dict:
    """What Ray sets aside for each worker; a part of a core where there are more workers than cores."""
    cores = resources.get("CPU", 1) / workers
    share = {"num_cpus": min(CORES_PER_WORKER, int(cores)) if cores >= 1 else int(cores * 1000) / 1000}
    return share if options.device == "cpu" else share | {"num_gpus": 1}


@contextmanager
def cluster():
    """Ray, quiet: the cluster that there is, or one of this machine, which is stopped at the end, its files removed."""
    ray = _import_ray()
    with _quiet(ray):
        if ray.is_initialized():
            yield ray
            return
        scratch = _scratch()
        try:
            _start(ray, scratch)
            yield ray
        finally:
            ray.shutdown()
            shutil.rmtree(scratch, ignore_errors=True)


def _start(ray, scratch: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "error"}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            here = {"object_store_memory": OBJECT_STORE_BYTES, "_temp_dir": scratch, "include_dashboard": False}
            ray.init(address="local", **here, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ProtectionError(
            f"Ray could not be started or reached ({type(error).__name__}: {error})",
            "check RAY_ADDRESS, and RAY_AUTH_MODE=token if the cluster wants a token; or unset RAY_ADDRESS to use this "
            "machine",
        ) from error


def _scratch() -> str:
    """A short path: the names of sockets in it may have 100 characters."""
    return tempfile.mkdtemp(prefix="ray-", dir="/tmp" if os.path.isdir("/tmp") else None)


@contextmanager
def _quiet(ray):
    """No progress bars, no log lines of Ray Data on the terminal, no limit to the time that a job takes."""
    context = ray.data.DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "max_errored_blocks": -1,  # a job that is lost is reported as such, and does not stop the others
        "execution_no_progress_timeout_s": -1,
    }
    wanted = {name: value for name, value in wanted.items() if hasattr(context, name)}
    before = {name: getattr(context, name) for name in wanted}
    logger = logging.getLogger("ray.data")
    level = logger.level
    for name, value in wanted.items():
        setattr(context, name, value)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)
