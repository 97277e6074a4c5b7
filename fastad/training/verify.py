"""Holding every file of a run to the digest that was stored when it was written."""

from pathlib import Path

from fastad.base.verdict import Verdict
from fastad.training.checkpoint_folder import list_checkpoints, step_of, verify_checkpoints
from fastad.training.run_files import MANIFEST, METRICS, read_metrics, verify_run


def verify_whole_run(run: Path) -> Verdict:
    """Compare every file with its digest, checkpoints included; metrics.jsonl has none."""
    wrong, checkpoints = verify_run(run), verify_checkpoints(run)
    unknown = []
    if not wrong and not (run / MANIFEST).exists():
        unknown.append(f"{run}: of a fastad that kept no digests of config, dataset and the like")
    behind = None if checkpoints.wrong else updates_without_checkpoint(run)
    if behind is not None:
        unknown.append(f"{behind}; train --resume makes it again")
    return Verdict(wrong + checkpoints.wrong, unknown + checkpoints.unknown)


def updates_without_checkpoint(run: Path) -> str | None:
    """A line about a run whose log tells of updates that no checkpoint holds; else None."""
    logged = max((r["step"] for r in read_metrics(run / METRICS) if "loss" in r), default=0)
    newest = max((step_of(folder) or 0 for folder in list_checkpoints(run)), default=0)
    if logged <= newest:
        return None
    return (
        f"{run}: {METRICS} tells of {logged} updates, the newest checkpoint of {newest}: the "
        f"training goes on or was stopped between, or step-{logged:08d} was taken away"
    )
