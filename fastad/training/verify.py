"""Holding every file of a run to the digest that was stored when it was written."""

from pathlib import Path

from fastad.base.verdict import Verdict
from fastad.training.checkpoint_folder import verify_checkpoints
from fastad.training.run_files import MANIFEST, verify_run


def verify_whole_run(run: Path) -> Verdict:
    """Compare every file with its digest, checkpoints included; metrics.jsonl has none."""
    wrong, checkpoints = verify_run(run), verify_checkpoints(run)
    unknown = []
    if not wrong and not (run / MANIFEST).exists():
        unknown.append(f"{run}: of a fastad that kept no digests of config, dataset and the like")
    return Verdict(wrong + checkpoints.wrong, unknown + checkpoints.unknown)
