"""What a dataset holds, in figures."""

from typing import Any

from fastad.histories.reader import HistoryDataset


def summarize(dataset: HistoryDataset) -> dict[str, Any]:
    """How much of it there is, and how its source learned, as plain JSON values."""
    info = dataset.info
    curve = dataset.returns()
    files = [file for file in dataset.path.rglob("*") if file.is_file()]
    return {
        "path": str(dataset.path),
        **info.to_json(),
        "complete": dataset.complete,
        "num_shards_complete": dataset.num_shards_complete,
        "num_histories_available": dataset.num_histories,
        "num_histories_train": len(dataset.train_histories),
        "num_steps_available": dataset.num_steps,
        "bytes": sum(file.stat().st_size for file in files),
        "source_returns": [round(value, 6) for value in curve.mean.tolist()],
        "source_returns_histories": curve.num_histories,
    }
