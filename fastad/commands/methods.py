"""`fastad methods`: what can be learnt, from what, and what each is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodsConfig:
    """List the methods of fastad train, each with the name that its results bear.

    Whatever a method is told beyond what its source was stands in that name.
    """


def run_methods(config: MethodsConfig) -> None:
    """Print what there is to know of each."""
    from fastad.base.config import typed
    from fastad.base.docs import rows, summary
    from fastad.configs import TrainConfig
    from fastad.methods.ad import COLUMNS
    from fastad.methods.registry import METHODS, label

    for name, method in METHODS.items():
        usual = TrainConfig.begin_with({"method": name})
        target = usual.settings.target
        told = {
            "called": label(name, target),
            "does": summary(method.build).partition(": ")[2],
            "flags": " ".join(["--method", name, *_others(typed(usual))]),
        }
        if target == "expert":
            told["data"] = f"want an expert's labels; {COLUMNS[target][1]}"
        print(f"{name}\n{rows(told)}")
    print(
        "\none of them: fastad train DATA --method NAME; beside each other: fastad compare PRESET"
    )


def _others(words: list[str]) -> list[str]:
    """Flags but for the method's own."""
    at = words.index("--method") if "--method" in words else len(words)
    return words[:at] + words[at + 2 :]
