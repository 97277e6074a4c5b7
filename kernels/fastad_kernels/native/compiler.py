"""The C++ compiler: which one, with which flags, for which processor, and what it says."""

import os
import platform
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

SOURCES = Path(__file__).parent / "src"
FLAGS = (
    "-std=c++17", "-O3", "-fopenmp", "-shared", "-fPIC",
    "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off",
)  # fmt: skip
MOST_AT_ONCE = 4  # of some 300 MB each
DEFAULT_COMPILERS = ("g++", "clang++", "c++")
# Compilers of x86 take -march=native, those of Arm and POWER -mcpu=native, others neither for sure.
TUNING = {
    "x86_64": "-march=native", "amd64": "-march=native", "i686": "-march=native",
    "s390x": "-march=native", "aarch64": "-mcpu=native", "arm64": "-mcpu=native",
    "armv7l": "-mcpu=native", "ppc64le": "-mcpu=native",
}  # fmt: skip


class NativeUnavailableError(RuntimeError):
    """The kernels cannot be compiled or loaded here; the message says why, and what to do."""


def find_compiler() -> list[str] | None:
    """The command of $CXX, or of the first usual compiler that is there; None without any."""
    named = os.environ.get("CXX")
    commands = [shlex.split(named)] if named else [[name] for name in DEFAULT_COMPILERS]
    return next((command for command in commands if command and shutil.which(command[0])), None)


def require_compiler() -> list[str]:
    """As `find_compiler`.

    Raises:
        NativeUnavailableError: If there is none.
    """
    command = find_compiler()
    if command is None:
        named = os.environ.get("CXX")
        wanted = f"CXX={named}" if named else f"none of {', '.join(DEFAULT_COMPILERS)}"
        raise NativeUnavailableError(
            f"the C++ kernels need a compiler, and {wanted} is {'not ' if named else ''}there; "
            "install one (Debian: apt install g++), or set CXX"
        )
    return command


def arguments() -> list[str]:
    """Our flags, the processor's, then the user's $CXXFLAGS."""
    tuning = TUNING.get(platform.machine().lower())
    users = shlex.split(os.environ.get("CXXFLAGS", ""))
    return [*FLAGS, *([tuning] if tuning else []), *users]


def describe_purpose() -> list[str]:
    """What a library is compiled from and for, other than the compiler's own version."""
    content = b"".join(source.read_bytes() for source in sorted(SOURCES.iterdir()))
    return [repr(content), os.environ.get("CXX", ""), *arguments(), _processor()]


def describe_version(command: list[str]) -> list[str]:
    """Which compiler it is, found without starting it: a run must be able to load what it has.

    All words of the command that are programs count: `ccache g++` is g++.
    """
    programs = [Path(found).resolve() for word in command if (found := shutil.which(word))]
    return [
        f"{program} {info.st_size} {info.st_mtime_ns}"
        for program, info in ((program, program.stat()) for program in programs)
    ]


def _processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """What compiling for this machine depends on."""
    try:
        lines = info.read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = ("flags", "Features", "model", "CPU ")  # "CPU implementer", "CPU part" and more on Arm
    return "\n".join(sorted({line for line in lines if line.startswith(kept)}))


def compile_kernels(command: list[str], target: Path) -> str:
    """Compile all sources into one library, some at once where there are processors for it.

    Args:
        command: Of the compiler.
        target: The library; objects are put beside it.

    Returns:
        The command line, without its files.

    Raises:
        NativeUnavailableError: If the compiler fails; with its first error.
        OSError: If it cannot be started.
    """
    line = [*command, *arguments()]
    # The largest first: the last one to begin is nobody's to wait for.
    sources = sorted(SOURCES.glob("*.cpp"), key=lambda path: -path.stat().st_size)
    objects = [target.with_name(f"{source.stem}.o") for source in sources]

    compilers = _Compilers()

    def compile_one(source: Path, made: Path) -> None:
        compilers.run([*(x for x in line if x != "-shared"), "-c", str(source)], made)

    with ThreadPoolExecutor(min(MOST_AT_ONCE, _processors())) as pool:
        started = [pool.submit(compile_one, *files) for files in zip(sources, objects, strict=True)]
        try:
            for done in as_completed(started):
                done.result()
        except BaseException:  # one has failed, or Ctrl-C: nobody waits for the others
            pool.shutdown(wait=False, cancel_futures=True)
            compilers.stop()
            raise
    compilers.run([*line, *map(str, objects)], target)
    return shlex.join(line)


def _processors() -> int:
    """How many we may use, whatever number of threads PyTorch was told to."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Compilers:
    """Compilers at work, each on one file, which can be stopped together."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        self._stopped = False

    def run(self, line: list[str], target: Path) -> None:
        """Let one make a file; errors as those of `compile_kernels`."""
        process = subprocess.Popen(
            [*line, "-o", str(target)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._processes.append(process)
        if self._stopped:  # while it was started
            process.kill()
        _, errors = process.communicate()
        if process.returncode != 0:
            lines = errors.strip().splitlines() or [f"status {process.returncode}"]
            reason = next((line for line in lines if "error" in line), lines[-1])
            users = os.environ.get("CXXFLAGS")
            fix = f"leave out CXXFLAGS={users!r}" if users else "set CXX to another compiler"
            raise NativeUnavailableError(f"{line[0]} failed on the C++ kernels: {reason}; {fix}")
        if not target.exists():
            raise NativeUnavailableError(
                f"{line[0]} made nothing of the C++ kernels; set CXX to another compiler"
            )

    def stop(self) -> None:
        """Kill all that run, and those that are being started."""
        self._stopped = True
        for process in self._processes:
            process.kill()
