"""Checks of Triton kernels that need no GPU, and one that needs PyTorch alone.

| module | says |
|---|---|
| `interpreter` | bfloat16 made right in Triton's interpreter |
| `addresses` | out-of-bounds accesses, races between programs, the bytes really touched |
| `compile` | registers, spills, shared memory and occupancy, for GPUs that are not there |
| `sass` | loops, instruction mix and instructions per score, from the assembly |
| `budgets` | all of that for every variant of the kernels, held to a committed file |
| `host_sync` | operations at which a GPU's queue would have to run empty |

Nothing is imported here: most modules need Triton, `host_sync` does not, and each stands alone.
"""
