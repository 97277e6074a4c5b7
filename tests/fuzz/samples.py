"""Data, a run, a result and other formats, small and whole: what every fuzzed file is a part of."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import fastad
from fastad.base.files import digest
from fastad.training.model_files import MODEL_CONFIG, WEIGHTS
from fastad.training.run_files import CONFIG, DATASET, FIXED, MANIFEST
from tests.conftest import build_dataset
from tests.fuzz.foreign import MODEL, make_foreign

DATA, RUN, RESULT = "data", "run", "result.json"
SETTINGS = {"updates": 2, "width": 8, "num_heads": 2, "num_layers": 1, "context": 8, "window": 8}
CHECKPOINT = f"{RUN}/checkpoints/step-00000002"


def make_samples(folder: Path) -> dict[str, bytes]:
    """Fill a folder; returns every file's content by its path within."""
    build_dataset(folder / DATA, episode_lengths=[4, 3, 3, 2], env_kwargs={"size": 13},
                  source="frontier")  # fmt: skip
    rooms = fastad.collect(
        out=folder / "rooms", env_options={"size": 3, "episode_length": 4}, num_histories=8,
        num_episodes=3, num_test_tasks=2,
    )  # fmt: skip
    run = fastad.train(
        data=rooms, out=folder / RUN, checkpoint_every=2, log_every=1, batch_size=2, threads=1,
        kernels="sdpa", **SETTINGS,
    )  # fmt: skip
    result = fastad.rollout(run, episodes=2, rollouts_per_task=2, kernels="sdpa", threads=1)
    result.save(folder / RESULT)
    make_foreign(folder, folder / "rooms", folder / RUN)
    shutil.rmtree(folder / "rooms")
    shutil.rmtree(folder / RUN / "rollouts", ignore_errors=True)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def sealed(name: str, content: bytes, samples: Mapping[str, bytes]) -> dict[str, bytes]:
    """What a forger would change along with one file, so that every digest fits it.

    Returns:
        Contents by path; `content` itself, sealed where such files are.
    """
    if name.endswith(".json") and _is_sealed(samples[name]):
        content = seal(content)
    changed = {name: content}
    folder = name.rpartition("/")[0]
    if name == f"{DATA}/tasks.npy":
        changed |= _with_entries(f"{DATA}/dataset.json", samples, {"tasks_digest": digest(content)})
    elif folder.startswith(f"{DATA}/shard-") and name.endswith(".npy"):
        stem = name.rpartition("/")[2].removesuffix(".npy")
        changed |= _with_entries(
            f"{folder}/meta.json", samples, {"digests": {stem: digest(content)}}
        )
    elif folder == CHECKPOINT and not name.endswith(MANIFEST):
        entry = {"bytes": len(content), "digest": digest(content)}
        file = name.rpartition("/")[2]
        changed |= _with_entries(f"{CHECKPOINT}/{MANIFEST}", samples, {"files": {file: entry}})
    elif name == f"{MODEL}/{WEIGHTS}":
        entry = {"bytes": len(content), "sha256": digest(content)}
        changed |= _with_entries(f"{MODEL}/{MODEL_CONFIG}", samples, {"weights": entry})
    elif name == f"{MODEL}/{DATASET}/tasks.npy":
        told = f"{MODEL}/{DATASET}/dataset.json"
        changed |= _with_entries(told, samples, {"tasks_digest": digest(content)})
    elif name.removeprefix(f"{RUN}/") in FIXED:
        fixed = {name.removeprefix(f"{RUN}/"): digest(content)}
        if name.endswith("tasks.npy"):
            told = f"{RUN}/{DATASET}/dataset.json"
            changed |= _with_entries(told, samples, {"tasks_digest": digest(content)})
            fixed |= {told.removeprefix(f"{RUN}/"): digest(changed[told])}
        changed |= _with_entries(f"{RUN}/{MANIFEST}", samples, {"files": fixed})
    return changed


def seal(content: bytes) -> bytes:
    """A JSON object ended by its digest; anything else as it is."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return content
    if not isinstance(values, dict) or not values.keys() - {"digest"}:
        return content
    values.pop("digest", None)
    body = json.dumps(values, indent=2).removesuffix("\n}").encode()
    return body + f',\n  "digest": "{digest(body)}"\n}}\n'.encode()


def _is_sealed(content: bytes) -> bool:
    return b'"digest": "' in content[-100:]


def _with_entries(name: str, samples: Mapping[str, bytes], entries: dict) -> dict[str, bytes]:
    values = json.loads(samples[name])
    for key, value in entries.items():
        values[key] = values[key] | value if isinstance(value, dict) else value
    content = json.dumps(values).encode()
    return {name: seal(content) if _is_sealed(samples[name]) else content}


__all__ = ["CHECKPOINT", "CONFIG", "DATA", "RESULT", "RUN", "make_samples", "seal", "sealed"]
