"""Jobs on a Ray cluster: one that runs, or one that is started on this machine for as long."""

import os
import signal
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastad.base.errors import UserError
from fastad.base.extras import how_to_install
from fastad.base.interrupt import STOP_SIGNALS
from fastad.executors.base import Executor, Handle, Job, WorkerDiedError, Workers
from fastad.executors.lease import Lease
from fastad.executors.remote import cannot_begin, work

# Ray shall neither phone home nor talk about itself; these it reads when it is imported.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
STORE_BYTES = 80 * 2**20  # about the least that Ray takes: jobs exchange files, not objects
CONNECT_SECONDS, STOP_SECONDS = 5.0, 10.0


@dataclass(frozen=True)
class Ray(Executor):
    """Ray (https://docs.ray.io): tasks, each on as many CPUs of the cluster as asked for.

    Attributes:
        address: Of a cluster that runs, HOST:PORT, or auto for the one of this machine. Without,
            and without RAY_ADDRESS, one is started here with a CPU for each worker.
        cpus: Per job, as Ray counts them; a job has one thread.
        memory_gb: Per job, as Ray counts it; 0 for uncounted.
    """

    address: str = ""
    cpus: float = 1.0
    memory_gb: float = 0.0

    def __post_init__(self) -> None:
        if self.cpus <= 0 or self.memory_gb < 0:
            field = f"cpus={self.cpus}" if self.cpus <= 0 else f"memory_gb={self.memory_gb}"
            raise UserError(f"{field} is not possible; use a positive number")

    def check(self) -> None:
        """See `Executor.check`."""
        if find_spec("ray") is None:
            raise UserError(f"executor=ray needs Ray; install it with: {how_to_install('ray')}")

    @contextmanager
    def start(self, num_workers: int, lease: Lease, logs: Path) -> Iterator[Workers]:
        """See `Executor.start`; whoever has called `ray.init` already keeps that cluster."""
        os.environ |= {name: os.environ.get(name, value) for name, value in QUIET.items()}
        import ray

        with ExitStack() as stack:
            if not ray.is_initialized():
                self._connect(ray, num_workers)
                stack.callback(ray.shutdown)
            self._check_room(ray)
            options = {"num_cpus": self.cpus, "memory": self.memory_gb * 2**30 or None}
            yield _Tasks(ray, lease, options)

    def _connect(self, ray: Any, num_workers: int) -> None:
        address = self.address or os.environ.get("RAY_ADDRESS", "")
        options: dict[str, Any] = {"address": address}
        if address in ("", "local"):
            options = {"address": "local", "num_cpus": num_workers * self.cpus}
            options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        try:
            _knock(address)
            with _own_signals():
                _init(ray, options)
        except Exception as error:  # Ray raises bare ones, too
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"executor=ray: no cluster answers at address={address or 'local'} ({reason}); "
                "start one with `ray start --head`, name another with --executor-options "
                "address=HOST:PORT, or take another executor"
            ) from error

    def _check_room(self, ray: Any) -> None:
        """Refuse jobs that no node of the cluster could ever take."""
        needed = {"CPU": self.cpus, "memory": self.memory_gb * 2**30}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(k, 0) >= v for k, v in needed.items()) for node in nodes):
            raise UserError(
                f"executor_options cpus={self.cpus} memory_gb={self.memory_gb}: no node of the Ray "
                f"cluster has as much, of {len(nodes)}; ask for less"
            )


class _Tasks:
    """See `Workers`."""

    is_remote = True

    def __init__(self, ray: Any, lease: Lease, options: dict[str, Any]) -> None:
        self._ray, self._lease = ray, lease
        self._work = ray.remote(max_retries=0, **options)(work)
        self._running: set[Handle] = set()

    def submit(self, function: Job, arguments: tuple[Any, ...]) -> Handle:
        handle: Handle = self._work.remote(function, arguments, self._lease)
        self._running.add(handle)
        return handle

    def ended(self, handles: Collection[Handle], seconds: float) -> Collection[Handle]:
        ready: list[Handle] = self._ray.wait([*handles], num_returns=1, timeout=seconds)[0]
        return ready

    def outcome(self, handle: Handle) -> BaseException | None:
        self._running.remove(handle)
        errors = self._ray.exceptions
        try:
            error: BaseException | None = self._ray.get(handle)
        except (errors.RayTaskError, errors.RaySystemError, errors.RuntimeEnvSetupError) as failed:
            raise cannot_begin(str(failed)) from failed
        except errors.RayError as failed:
            raise WorkerDiedError(f"Ray: {type(failed).__name__}") from failed
        return error

    def told(self, handle: Handle) -> int:
        return 0

    def cancel(self) -> None:
        """Kill whoever is at work, and wait until they are dead."""
        for handle in self._running:
            self._ray.cancel(handle, force=True)
        if self._running:
            everyone = [*self._running]
            self._ray.wait(everyone, num_returns=len(everyone), timeout=STOP_SECONDS)


def _init(ray: Any, options: dict[str, Any]) -> None:
    """Connect; on a busy machine the half minute that Ray gives its own start may not be enough."""
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
    except Exception:  # Ray raises bare ones, too; the second attempt's reaches the user
        ray.shutdown()
        if options["address"] != "local":
            raise
        ray.init(log_to_driver=False, logging_level="ERROR", **options)


def _knock(address: str) -> None:
    """See whether anybody listens: Ray itself would try for long, and complain at length."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of this process; Ray has one for SIGTERM, which exits at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:
                signal.signal(number, handler)
