"""Every command: where it lives, what its bare word means, and how it is continued."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """Where a command lives, what its bare word means, and how it is continued."""

    config: str
    function: str
    positional: str
    summary: str
    settings: str = ""  # what --config takes; "": there is no such option
    continued: tuple[str, ...] | None = None  # flags that continue it; None: it starts anew
    runs_code: bool = False  # whether files may name code for it to run, see `fastad.base.trust`
    ranks: bool = False  # whether several processes, which torchrun starts, do it together


COMMANDS = {
    "demo": Command(
        "DemoConfig", "run_demo", "preset", "all of it, end to end, in minutes", "FILE", ()
    ),
    "collect": Command(
        "CollectConfig", "run_collect", "out", "source + env -> learning histories",
        "FILE|PRESET", ("--resume",), runs_code=True,
    ),
    "train": Command(
        "TrainConfig", "run_train", "data", "learning histories -> run folder",
        "FILE|PRESET", ("--resume",), runs_code=True, ranks=True,
    ),
    "rollout": Command(
        "RolloutConfig", "run_rollout", "run", "frozen weights on unseen tasks", "FILE|PRESET",
        runs_code=True,
    ),
    "compare": Command(
        "CompareConfig", "run_compare", "what", "methods side by side, over seeds", "FILE", (),
        runs_code=True,
    ),
    "report": Command(
        "ReportConfig", "run_report", "runs", "one page on runs, for a browser", runs_code=True,
    ),
    "inspect": Command(
        "InspectConfig", "run_inspect", "path", "what is in a dataset or run", "FILE"
    ),
    "convert": Command(
        "ConvertConfig", "run_convert", "source destination",
        "histories and models to and from other formats",
    ),
    "bench": Command(
        "BenchConfig", "run_bench", "questions", "speed and memory beside peers", "FILE"
    ),
    "envs": Command("EnvsConfig", "run_envs", "name", "the environments and their options"),
    "sources": Command("SourcesConfig", "run_sources", "name", "what learns them, their options"),
    "methods": Command("MethodsConfig", "run_methods", "", "ways to train, what each is told"),
    "presets": Command("PresetsConfig", "run_presets", "name", "settings that work, by name"),
    "doctor": Command("DoctorConfig", "run_doctor", "", "what this machine can use"),
}  # fmt: skip

EXAMPLES = """\
examples:
  fastad demo                                        # watch in-context learning happen
  fastad collect data/room --env dark-room --source frontier
  fastad train data/room                             # writes runs/room
  fastad rollout runs/room
  fastad compare dark-room --seeds 3
  fastad train data/room --out runs/paper --config dark-room-full    # see: fastad presets
  fastad bench rollout train                         # what these are: fastad bench --help

`fastad COMMAND --help` explains every option of a command."""


def overview() -> str:
    """What `fastad --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return (
        "usage: fastad COMMAND [options]\n\nAlgorithm Distillation: train a transformer on "
        "learning histories; with frozen weights it then\nlearns new tasks in its context.\n\n"
        "commands:\n" + "\n".join(lines) + "\n\n" + EXAMPLES
    )
