"""Everything about the kernels that needs a GPU, in under eight minutes, in one JSON file.

    python benchmarks/gpu_check.py --out gpu.json

1. Correctness: forward, backward, decode, the dropout mask, determinism and 8-bit storage against
   float64, over head dims, lengths and features; a captured CUDA graph against eager steps; a
   rollout of a model through the kernels, and as a CUDA graph.
2. Times of forward and backward against PyTorch, FlexAttention and flash-attn, where present.
3. Decode as bytes per second, and as a share of what a copy on this device reaches.

Nothing is timed whose checks failed. What time does not allow is listed as not run, never left
out. A full check that passes is kept in the user's cache: from then on rollouts replay CUDA graphs
on this GPU, with this torch and fastad. Without a GPU the checks run on tiny sizes in Triton's
interpreter, times are "not measured", and the file says so. The exit status is 1 if a check failed.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch

# From a checkout, installed or not; and the interpreter has to be chosen before Triton is imported.
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("benchmarks", "kernels", ".")]
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from gpu import (  # noqa: E402
    attention_checks,
    attention_times,
    decode_checks,
    decode_times,
    rollout_checks,
)
from gpu.common import HAS_GPU, NO_GPU, Check, Clock, describe_machine  # noqa: E402

# Of the time limit, when each section ends at the latest.
ATTENTION_CHECKED, DECODE_CHECKED, ATTENTION_TIMED, DECODE_TIMED = 0.45, 0.6, 0.88, 1.0


def run(clock: Clock, quick: bool) -> dict:
    """All sections; the dictionary that is written."""
    result: dict = describe_machine() | {
        "run_on": "gpu" if HAS_GPU else "Triton's interpreter on a CPU: no times",
        "quick": quick,
    }
    checks, left_attention = attention_checks.run(clock, ATTENTION_CHECKED, quick)
    decode, left_decode = decode_checks.run(clock, DECODE_CHECKED, quick)
    checks += decode + rollout_checks.run()
    failures = [check for check in checks if check.problem]
    failed = {(check.group, check.head_dim) for check in failures}
    result["correctness"] = {
        "passed": len(checks) - len(failures),
        "failed": len(failures),
        "cases_without_time": left_attention + left_decode,
        "failures": [vars(check) for check in failures],
        "checks": [vars(check) for check in checks],
    }
    if not HAS_GPU:
        times = dict.fromkeys(("attention", "copy_bandwidth", "decode"), NO_GPU)
        return result | times | {"seconds": clock.seconds}
    result["attention"] = attention_times.run(clock, ATTENTION_TIMED, quick, failed)
    result["copy_bandwidth"], result["decode"] = decode_times.run(
        clock, DECODE_TIMED, quick, failed
    )
    return result | {"seconds": clock.seconds}


def print_checks(checks: dict) -> None:
    """What was checked, and every failure."""
    groups: dict[tuple[str, int], list[Check]] = {}
    for check in checks["checks"]:
        groups.setdefault((check["group"], check["head_dim"]), []).append(check)
    for (group, head_dim), members in sorted(groups.items()):
        passed = sum(check["problem"] is None for check in members)
        print(f"{group:9s} D={head_dim:<4d} {passed} of {len(members)} checks passed")
    for check in checks["failures"]:
        where = f"{check['group']} D={check['head_dim']} {check['name']}"
        print(f"FAILED {where}: {check['problem']}")
    if checks["cases_without_time"]:
        print(f"{checks['cases_without_time']} cases were not run: no time left")


def print_times(result: dict) -> None:
    """Two tables; rows that were not measured say why."""
    if not HAS_GPU:
        print(f"times: {NO_GPU}")
        return
    print("\npass      D    length window  impl         ms     TFLOP/s  triton is faster by")
    for row in result["attention"]:
        head = (
            f"{row['pass']:9s} {row['head_dim']:<4d} {row['length']:<6d} {row['window'] or '-':<7}"
        )
        if "ms" not in row:
            print(f"{head} {row['impl']:11s} {row['status']}")
            continue
        ratio = f"{row['triton_is_faster_by']:.2f}x" if "triton_is_faster_by" in row else ""
        print(f"{head} {row['impl']:11s} {row['ms']:8.3f} {row['tflops']:8.1f}  {ratio}")
    print(f"\ncopy on the device: {result['copy_bandwidth'] / 1e9:.0f} GB/s")
    print("decode: envs window D    new storage   impl           us      GB/s   of a copy")
    for row in result["decode"]:
        head = (
            f"{row['envs']:12d} {row['window']:<6d} {row['head_dim']:<4d} {row['new_tokens']:<3d}"
        )
        head = f"{head} {row['storage']:9s} {row['impl']:12s}"
        if "ms" not in row:
            print(f"{head} {row['status']}")
            continue
        speed = f"{row['gigabytes_per_second']:8.0f} {100 * row['share_of_copy']:8.0f} %"
        print(f"{head} {1e3 * row['ms']:8.1f} {speed}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="where to write the JSON file")
    parser.add_argument("--quick", action="store_true", help="few cases of tiny sizes")
    parser.add_argument("--seconds", type=float, default=450, help="limit; 450 by default")
    arguments = parser.parse_args()
    result = run(Clock(arguments.seconds), arguments.quick or not HAS_GPU)
    print(f"{result['device']['name']}, {result['versions']}, commit {result['commit']}")
    print_checks(result["correctness"])
    print_times(result)
    print(f"{result['seconds']:.0f} s")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    if HAS_GPU and not result["quick"]:
        keep(result["correctness"])
    return int(result["correctness"]["failed"] > 0)


def keep(correctness: dict) -> None:
    """Remember that everything was checked here, or that something failed, and say so."""
    from fastad.rollouts.gpu_proof import keep_proof

    passed = not correctness["failed"] and not correctness["cases_without_time"]
    file = keep_proof(torch.device("cuda"), passed=passed)
    if passed:
        print(f"rollouts replay CUDA graphs on this GPU from now on ({file})")
    else:
        print("CUDA graphs stay off: a check failed, or there was no time for all (--seconds)")


if __name__ == "__main__":
    sys.exit(main())
