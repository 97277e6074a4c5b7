"""Published figures of the GPUs that kernels are compiled for, and the occupancy they allow.

Sources: NVIDIA's CUDA programming guide, table of technical specifications per compute capability
(registers, shared memory, warps and blocks per multiprocessor), and the data sheets of A100 80 GB
SXM, H100 SXM and B200 (multiprocessors, boost clock, memory bandwidth); AMD's CDNA 3 instruction
set guide and the data sheet of MI300X.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Occupancy:
    """How many blocks of a kernel one multiprocessor holds at a time.

    Attributes:
        blocks: Resident blocks.
        warps: Resident warps (AMD: waves), `blocks` times the warps of a block.
        limiter: What runs out first: registers, shared memory, warps, blocks or tensor memory.
    """

    blocks: int
    warps: int
    limiter: str


@dataclass(frozen=True)
class Device:
    """One GPU model. A multiprocessor is called compute unit by AMD, a warp wave.

    Attributes:
        name: The product.
        num_multiprocessors: On the whole device.
        clock: Hz, boost.
        bandwidth: Bytes per second of its memory.
        warp_size: Threads per warp.
        registers: Of 32 bits, per multiprocessor and lane group as `register_unit` counts them.
        register_unit: Registers are handed to a warp in multiples of this many, all lanes together.
        max_shared_bytes: That one block may ask for.
        shared_bytes: Per multiprocessor.
        reserved_shared_bytes: Taken from every block by the system.
        max_warps: Resident per multiprocessor.
        max_blocks: Resident per multiprocessor.
        num_schedulers: Each starts one instruction of one warp at a time.
        cycles_per_instruction: For which a scheduler is then busy (AMD: 64 lanes over 16 units).
    """

    name: str
    num_multiprocessors: int
    clock: float
    bandwidth: float
    warp_size: int = 32
    registers: int = 65536
    register_unit: int = 256
    max_shared_bytes: int = 232448
    shared_bytes: int = 228 * 1024
    reserved_shared_bytes: int = 1024
    max_warps: int = 64
    max_blocks: int = 32
    num_schedulers: int = 4
    cycles_per_instruction: int = 1

    def occupancy(
        self,
        *,
        registers: int,
        shared_bytes: int,
        num_warps: int,
        tensor_memory_columns: int = 0,
    ) -> Occupancy:
        """Resident blocks of a kernel.

        Args:
            registers: Per thread.
            shared_bytes: Per block.
            num_warps: Per block.
            tensor_memory_columns: Per block, of the 512 that sm_100 has.

        Returns:
            The smallest of the limits; where several are equal, the first of registers, shared
            memory, warps, blocks.
        """
        per_warp = -(-registers * self.warp_size // self.register_unit) * self.register_unit
        # Each scheduler has its own quarter of the register file, and a warp lives in one of them.
        warps = self.num_schedulers * (self.registers // self.num_schedulers // per_warp)
        shared = -(-shared_bytes // 128) * 128 + self.reserved_shared_bytes
        limits = {
            "registers": warps // num_warps,
            "shared memory": self.shared_bytes // shared if shared else self.max_blocks,
            "warps": self.max_warps // num_warps,
            "blocks": self.max_blocks,
        }
        if tensor_memory_columns:
            limits["tensor memory"] = 512 // tensor_memory_columns
        limiter = min(limits, key=lambda name: limits[name])
        return Occupancy(limits[limiter], limits[limiter] * num_warps, limiter)

    def issue_cycles(self, num_instructions: float, num_warps: int) -> float:
        """Cycles in which the schedulers of one multiprocessor start all of a block's instructions.

        Args:
            num_instructions: Per warp.
            num_warps: Of the block.
        """
        return num_instructions * num_warps * self.cycles_per_instruction / self.num_schedulers

    def memory_cycles(self, num_bytes: float) -> float:
        """Cycles in which one multiprocessor gets `num_bytes`, at its share of the bandwidth."""
        return num_bytes / (self.bandwidth / self.num_multiprocessors / self.clock)


DEVICES = {
    "sm_80": Device(
        "A100 80 GB SXM",
        num_multiprocessors=108,
        clock=1.41e9,
        bandwidth=2.039e12,
        max_shared_bytes=166912,
        shared_bytes=164 * 1024,
    ),
    "sm_90": Device("H100 SXM", num_multiprocessors=132, clock=1.755e9, bandwidth=3.35e12),
    "sm_100": Device("B200", num_multiprocessors=148, clock=1.85e9, bandwidth=8.0e12),
    # 4 SIMDs of 512 registers by 64 lanes, handed out by 8; the local data share is 64 KiB.
    "gfx942": Device(
        "MI300X",
        num_multiprocessors=304,
        clock=2.1e9,
        bandwidth=5.3e12,
        warp_size=64,
        registers=4 * 512 * 64,
        register_unit=8 * 64,
        max_shared_bytes=65536,
        shared_bytes=65536,
        reserved_shared_bytes=0,
        max_warps=32,
        max_blocks=16,
        cycles_per_instruction=4,
    ),
}
