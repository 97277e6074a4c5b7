"""Loops found in assembly written by hand."""

import pytest
from fastad_kernels.testing import sass
from fastad_kernels.testing.devices import DEVICES

_AT = "        /*{:04x}*/                   {} ;"


def _sass(*lines):
    """Listing as nvdisasm prints it: labels end in a colon, all else is an instruction."""
    out = ["\t.section\t.text.kernel"]
    for number, line in enumerate(lines):
        out.append(line if line.endswith(":") else _AT.format(16 * number, line))
    return "\n".join(out)


EXP = "MUFU.EX2 R1, R2"
MMA = "HMMA.16816.F32.BF16 R4, R8, R12, R4"
ADD = "FADD R1, R1, R2"

EDGE = [".L_x_1:", MMA, *[EXP] * 4, *[ADD] * 9, "@P0 BRA `(.L_x_1)"]
INTERIOR = [".L_x_2:", MMA, *[EXP] * 4, *[ADD] * 2, "@P0 BRA `(.L_x_2)"]
DIAGONAL = [".L_x_3:", MMA, *[EXP] * 4, *[ADD] * 6, "@!P1 BRA `(.L_x_3)"]


def test_the_interior_is_the_loop_with_fewest_instructions_per_score():
    text = _sass(ADD, *EDGE, *INTERIOR, *DIAGONAL, "EXIT")
    loops = sass.tile_loops(text, scores_per_thread=4)
    assert [loop.instructions_per_score for loop in loops] == [15 / 4, 8 / 4, 12 / 4]
    main = sass.main_loop(text, scores_per_thread=4)
    assert main.instructions_per_score == 2
    assert main.loop.num_matrix_operations == 1
    assert main.loop.mix == {"HMMA": 1, "MUFU": 4, "FADD": 2, "BRA": 1}


def test_scores_that_are_computed_twice_show():
    # 2 of the 4 exponentials are of another warp's scores.
    main = sass.main_loop(_sass(*EDGE, *INTERIOR, "EXIT"), scores_per_thread=2)
    assert (main.exponentials_per_score, main.instructions_per_score) == (2, 4)


def test_exponentials_of_the_rescaling_come_on_top():
    rescaling = [".L_x_2:", MMA, *[EXP] * 5, "@P0 BRA `(.L_x_2)"]
    main = sass.main_loop(_sass(*rescaling, "EXIT"), scores_per_thread=4)
    assert main.exponentials_per_score == 1.25


def test_a_wait_behind_the_end_neither_hides_nor_makes_a_loop():
    # The spin on a barrier stands behind EXIT and jumps back into the middle of the main loop.
    text = _sass(
        ".L_x_2:", "SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [UR4], R3", "@!P1 BRA `(.L_x_9)",
        ".L_x_8:", MMA, *[EXP] * 4, ADD, "@P0 BRA `(.L_x_2)", "EXIT",
        ".L_x_9:", "SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [UR4], R3", "@!P1 BRA `(.L_x_9)",
        "BRA `(.L_x_8)",
    )  # fmt: skip
    loops = sass.find_loops(text)
    assert [len(loop.instructions) for loop in loops] == [9 + 3, 2]
    assert sass.main_loop(text, scores_per_thread=4).loop is not None
    assert sass.main_loop(text, scores_per_thread=4).loop.mix["MUFU"] == 4


def test_the_loop_around_the_main_loop_is_not_the_main_loop():
    # Query heads of a group outside, tiles inside; the outer one computes a further tile.
    text = _sass(".L_x_0:", *[EXP] * 4, *INTERIOR, "@P2 BRA `(.L_x_0)", "EXIT")
    assert len(sass.find_loops(text)) == 2
    (only,) = sass.tile_loops(text, scores_per_thread=4)
    assert only.instructions_per_score == 2


def test_loops_without_scores_are_no_tile_loops():
    copy = [".L_x_5:", "LDG.E R2, [R4]", "STG.E [R6], R2", "@P0 BRA `(.L_x_5)"]
    with pytest.raises(ValueError, match="no loop has an exponential for each of"):
        sass.main_loop(_sass(*copy, "EXIT"), scores_per_thread=4)


def test_a_backward_branch_that_is_not_dominated_is_no_loop():
    # Two ways into the "loop": neither block dominates the other.
    text = _sass("@P0 BRA `(.L_x_2)", ".L_x_1:", ADD, ".L_x_2:", EXP, "@P1 BRA `(.L_x_1)", "EXIT")
    assert sass.find_loops(text) == []


def test_code_that_is_never_reached_is_no_loop():
    text = _sass("EXIT", ".L_x_7:", "BRA `(.L_x_7)")
    assert sass.find_loops(text) == []


def test_uniform_branches_fall_through():
    text = _sass(
        ".L_x_1:", EXP, "BRA.U UP0, `(.L_x_4)", MMA, ".L_x_4:", "@P0 BRA `(.L_x_1)", "EXIT"
    )
    (loop,) = sass.find_loops(text)
    assert loop.mix == {"MUFU": 1, "BRA": 2, "HMMA": 1}


AMD = """
	.amdgcn_target "amdgcn-amd-amdhsa--gfx942"
kernel:
.Lfunc_begin0:
	s_load_dwordx4 s[0:3], s[4:5], 0x0
.LBB0_1:                                ; =>This Inner Loop Header: Depth=1
.Ltmp1:
	v_mfma_f32_32x32x8_bf16 v[0:15], v[16:17], v[18:19], v[0:15]
	v_exp_f32_e32 v1, v2
	v_exp_f32_e32 v3, v4
	v_add_f32_e32 v1, v1, v3
	s_cbranch_scc1 .LBB0_1
; %bb.2:
	s_endpgm
"""


def test_loops_of_amd_assembly():
    main = sass.main_loop(AMD, scores_per_thread=2)
    assert main.instructions_per_score == 5 / 2
    assert main.loop.num_matrix_operations == 1
    assert main.loop.mix["v_exp_f32"] == 2
    assert sass.matrix_operation(sass.operations(AMD)) == "MFMA"


def test_headroom_is_memory_time_over_issue_time():
    main = sass.main_loop(_sass(*INTERIOR, "EXIT"), scores_per_thread=4)  # 8 instructions
    # 2 warps on 4 schedulers: 4 cycles. 1024 bytes at 3.35e12 / 132 / 1.755e9 = 14.46 per cycle.
    headroom = sass.issue_headroom(main, num_warps=2, num_bytes=1024, device=DEVICES["sm_90"])
    assert headroom == pytest.approx(1024 / (3.35e12 / 132 / 1.755e9) / 4)
