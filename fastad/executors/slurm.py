"""Jobs in the queue of a SLURM cluster, through submitit; or through it on this machine, to try."""

import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from fastad.base.errors import UserError
from fastad.base.extras import how_to_install
from fastad.executors.base import Executor, Handle, Job, WorkerDiedError, Workers
from fastad.executors.lease import Lease
from fastad.executors.remote import cannot_begin, work

ASK_SECONDS = 30.0  # between questions to SLURM about jobs that have left no result
# What a shared file system may take to show the result of a job that SLURM calls ended.
ARRIVAL = {"slurm": 15.0, "local": 0.0}
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Slurm(Executor):
    """SLURM, through submitit (https://github.com/facebookincubator/submitit): a job per shard.

    Attributes:
        cluster: "local" runs the same jobs on this machine.
        partition: Of the cluster; "" leaves it to SLURM, as what follows.
        account: Who pays.
        qos: Quality of service.
        constraint: Features that nodes must have.
        time: Minutes that a job may take.
        memory_gb: Per job; 0 leaves it to SLURM.
        logs: Folder for what jobs print, and for what submitit keeps, shared by all hosts; by
            default one beside the dataset, deleted at the end unless something failed.
    """

    cluster: Literal["slurm", "local"] = "slurm"
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    time: int = 24 * 60
    memory_gb: float = 0.0
    logs: str = ""

    def __post_init__(self) -> None:
        if self.time < 1 or self.memory_gb < 0:
            field = f"time={self.time}" if self.time < 1 else f"memory_gb={self.memory_gb}"
            raise UserError(f"{field} is not possible; use a positive number")

    def check(self) -> None:
        """See `Executor.check`."""
        if find_spec("submitit") is None:
            raise UserError(
                f"executor=slurm needs submitit; install it with: {how_to_install('slurm')}"
            )
        if self.cluster == "slurm" and shutil.which("srun") is None:
            raise UserError(
                "executor=slurm: there is no SLURM on this machine (no command srun); run this "
                "where jobs can be submitted, or try it here with --executor-options cluster=local"
            )

    @contextmanager
    def start(self, num_workers: int, lease: Lease, logs: Path) -> Iterator[Workers]:
        """See `Executor.start`."""
        workers = _Submitted(self, lease, Path(self.logs) if self.logs else logs)
        try:
            yield workers
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            workers.forget()  # after a failure they stay, to be looked into; it is said where
            raise
        workers.forget()


class _Submitted:
    """See `Workers`."""

    is_remote = True

    def __init__(self, asked: Slurm, lease: Lease, home: Path) -> None:
        import submitit

        self._submitit, self._errors = submitit, submitit.core.utils
        self._asked, self._lease, self._home = asked, lease, home
        self._folder: Path | None = None  # there once something was submitted
        self._running: dict[Handle, float] = {}  # and when SLURM is asked again
        self._left: dict[Handle, float] = {}  # ended without a result, and since when

    @cached_property
    def _queue(self) -> Any:
        asked = self._asked
        self._home.mkdir(parents=True, exist_ok=True)
        # Nobody else's: pickles that this process loads again lie in it.
        self._folder = Path(tempfile.mkdtemp(prefix=".fastad-jobs-", dir=self._home))
        queue = self._submitit.AutoExecutor(folder=self._folder, cluster=asked.cluster)
        names = ("partition", "account", "qos", "constraint")
        queue.update_parameters(
            name="fastad", timeout_min=asked.time, cpus_per_task=1, mem_gb=asked.memory_gb or None,
            **{f"slurm_{name}": getattr(asked, name) or None for name in names},
        )  # fmt: skip
        return queue

    def forget(self) -> None:
        """Delete what the jobs left."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def submit(self, function: Job, arguments: tuple[Any, ...]) -> Handle:
        try:
            job: Handle = self._queue.submit(work, function, arguments, self._lease)
        except (self._errors.FailedJobError, self._errors.FailedSubmissionError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f"executor=slurm: sbatch refuses the job ({reason}); see --executor-options"
            ) from error
        self._running[job] = time.monotonic() + ASK_SECONDS
        return job

    def ended(self, handles: Collection[Handle], seconds: float) -> Collection[Handle]:
        deadline = time.monotonic() + seconds
        while True:
            ended = [job for job in handles if self._has_ended(job)]
            left = deadline - time.monotonic()
            if ended or left <= 0:
                return ended
            time.sleep(min(left, 0.1))

    def _has_ended(self, job: Any) -> bool:
        if job.paths.result_pickle.exists():
            return True
        now = time.monotonic()
        asks = now >= self._running[job]
        if asks:
            self._running[job] = now + ASK_SECONDS
        if not job.done(force_check=asks):
            self._left.pop(job, None)
            return False
        since = self._left.setdefault(job, now)
        return now - since >= ARRIVAL[self._asked.cluster]

    def outcome(self, handle: Handle) -> BaseException | None:
        job: Any = handle
        del self._running[handle]
        if not job.paths.result_pickle.exists():
            raise WorkerDiedError(f"job {job.job_id}: {job.state}; see {self._folder}")
        try:
            error: BaseException | None = job.result()
        except self._errors.FailedJobError as failed:
            raise cannot_begin(str(job.stderr() or failed)) from failed
        if isinstance(error, self._errors.UncompletedJobError):
            return UserError(
                f"job {job.job_id} took longer than time={self._asked.time} minutes; give it more "
                "with --executor-options time=MINUTES, or have more shards"
            )
        return error

    def told(self, handle: Handle) -> int:
        return 0

    def cancel(self) -> None:
        """End what runs or waits in the queue; of this machine's own, wait until it is so."""
        for job in self._running:
            with suppress(OSError):
                job.cancel(check=False)  # type: ignore[attr-defined]
        if self._asked.cluster == "local":
            deadline = time.monotonic() + STOP_SECONDS
            while self._running and time.monotonic() < deadline:
                self._running = {
                    job: when
                    for job, when in self._running.items()
                    if not job.done()  # type: ignore[attr-defined]
                }
                time.sleep(0.05)
