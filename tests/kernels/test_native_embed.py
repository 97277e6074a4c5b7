"""Sums of rows of tables: the C++ kernel against plain PyTorch, with gradients."""

import pytest
import torch
from fastad_kernels import embed, reference
from fastad_kernels.native import why_unavailable
from fastad_kernels.native.embed import embed_backward_op, embed_op

from tests.kernels.tolerance import NUM_DRAWS, assert_as_exact_as_plain

native = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))


def make_inputs(shape=(3, 70), width=64, seed=0):
    """Five tables as of Dark Room; one has two rows to a token, one a factor."""
    generator = torch.Generator().manual_seed(seed)
    sizes, counts = (6, 6, 18, 2, 20), (1, 1, 2, 1, 1)
    tables = [torch.randn(rows, width, generator=generator) for rows in sizes]
    indices = [
        torch.randint(rows, (*shape, count), generator=generator)
        for rows, count in zip(sizes, counts, strict=True)
    ]
    factors = [None, torch.randn(shape, generator=generator), None, None, None]
    return tables, indices, factors, torch.randn(*shape, width, generator=generator)


def run(tables, indices, factors, grad_out, impl, dtype=torch.float32):
    """The sum and the tables' gradients."""
    tables = [x.detach().to(dtype).requires_grad_() for x in tables]
    factors = [None if x is None else x.to(dtype) for x in factors]
    out = embed(tables, indices, factors, impl=impl)
    return out.detach(), *torch.autograd.grad(out, tables, grad_out.to(dtype))


def orders(inputs):
    """Plain PyTorch's with the tokens, and the tables, in four orders."""
    tables, indices, factors, grad_out = inputs
    for shift in (0, 7, 19, 33):
        by, back = shift % len(tables), len(tables) - shift % len(tables)
        turned = [x[by:] + x[:by] for x in (tables, indices, factors)]
        moved = [[None if x is None else x.roll(shift, 1) for x in y] for y in turned[1:]]
        out, *grads = run(turned[0], *moved, grad_out.roll(shift, 1), "reference")
        yield out.roll(-shift, 1), *(grads[back:] + grads[:back])


@native
@pytest.mark.parametrize("width", [1, 16, 40, 64, 100])
@pytest.mark.parametrize("threads", [1, 2])
def test_sums_and_gradients_are_as_exact_as_plain_pytorch(width, threads):
    before = torch.get_num_threads()
    actual, plain, exact = [], [], []
    for seed in range(NUM_DRAWS):
        inputs = make_inputs(width=width, seed=seed)
        torch.set_num_threads(threads)
        actual.append(run(*inputs, "native"))
        torch.set_num_threads(1)
        plain.append(list(orders(inputs)))
        exact.append(run(*inputs, "reference", torch.float64))
    torch.set_num_threads(before)
    for i, name in enumerate(("out", "action", "reward", "observation", "start", "step")):
        assert_as_exact_as_plain(
            torch.stack([x[i] for x in actual]),
            [torch.stack([x[order][i] for x in plain]) for order in range(4)],
            torch.stack([x[i] for x in exact]),
            name,
        )


@native
def test_a_token_has_the_same_bits_alone_and_tables_with_any_number_of_threads():
    inputs = make_inputs(shape=(1, 50), width=48)
    tables, indices, factors, _ = inputs
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        results.append(run(*inputs, "native"))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    alone = embed(
        tables, [x[:, 17:18] for x in indices],
        [None if x is None else x[:, 17:18] for x in factors], impl="native",
    )  # fmt: skip
    assert torch.equal(alone, results[0][0][:, 17:18])


@native
def test_gaps_in_memory_and_tokens_without_number_are_read_as_they_are():
    tables, indices, factors, _ = make_inputs()
    expected = embed(tables, indices, factors, impl="reference")
    apart = [x.repeat_interleave(2, dim=-1)[..., ::2] for x in indices]
    wide = [torch.cat([x, x], dim=1)[:, : x.shape[1]] for x in tables]
    out = embed(wide, apart, factors, impl="native")
    torch.testing.assert_close(out, expected)
    nobody = embed(tables, [x[:, :0] for x in indices], impl="native")
    assert nobody.shape == (3, 0, 64)


@native
def test_the_operators_are_what_pytorch_expects():
    tables, indices, factors, grad_out = make_inputs(width=8)
    given = [torch.empty(0) if x is None else x for x in factors]
    leaves = [x.requires_grad_() for x in tables]
    torch.library.opcheck(embed_op, (leaves, indices, given))
    sizes = [len(x) for x in tables]
    torch.library.opcheck(embed_backward_op, (grad_out, sizes, indices, given))


@native
def test_compiled_it_gives_the_same_gradients():
    tables, indices, factors, grad_out = make_inputs()
    leaves = [x.requires_grad_() for x in tables]

    @torch.compile(backend="aot_eager", fullgraph=True)
    def summed(*tables):
        return embed(tables, indices, factors, impl="native")

    gradients = torch.autograd.grad(summed(*leaves), leaves, grad_out)
    expected = run(tables, indices, factors, grad_out, "native")[1:]
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))


def test_factors_that_want_a_gradient_get_it():
    tables, indices, factors, grad_out = make_inputs()
    factors[1].requires_grad_()
    out = embed(tables, indices, factors)
    (gradient,) = torch.autograd.grad(out, factors[1], grad_out)
    rows = tables[1][indices[1].squeeze(-1)]
    torch.testing.assert_close(gradient, (rows * grad_out).sum(-1))


def test_transforms_of_functions_find_every_derivative():
    tables, indices, factors, _ = make_inputs(shape=(2, 5), width=4)

    def summed(table, factor):
        return embed([table, *tables[1:]], indices, [None, factor, *factors[2:]]).square().sum()

    inputs = tables[0], factors[1]
    expected = torch.autograd.grad(summed(*(x.requires_grad_() for x in inputs)), inputs)
    found = torch.func.grad(summed, argnums=(0, 1))(*(x.detach() for x in inputs))
    torch.testing.assert_close(found, expected)
    plain = [x.detach() for x in inputs]
    _, along = torch.func.jvp(summed, tuple(plain), tuple(torch.ones_like(x) for x in plain))
    torch.testing.assert_close(along, sum(x.sum() for x in expected))
    several = torch.stack([plain[0], 2 * plain[0]])
    each = torch.vmap(lambda table: embed([table, *tables[1:]], indices, factors))(several)
    torch.testing.assert_close(each[1], embed([several[1], *tables[1:]], indices, factors))


@pytest.mark.parametrize("impl", [pytest.param("native", marks=native), "reference"])
@pytest.mark.parametrize("row", [-1, 18])
def test_a_row_that_a_table_lacks_is_refused(impl, row):
    tables, indices, factors, _ = make_inputs()
    indices[2][1, 3, 1] = row
    with pytest.raises(IndexError):
        embed(tables, indices, factors, impl=impl)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t, i, f: (t[:4], i, f), "4 tables, 5 indices and 5 factors must be as many"),
        (lambda t, i, f: ([*t[:4], t[4][:, :3]], i, f), r"tables\[4\] \(20, 3\) must be"),
        (lambda t, i, f: (t, [i[0].int(), *i[1:]], f), r"indices\[0\] .* of torch.int32 must be"),
        (lambda t, i, f: (t, [*i[:4], i[4][:2]], f), r"indices\[4\] \(2, 70, 1\) of torch.int64"),
        (lambda t, i, f: ([x.sum() for x in t], i, f), r"tables\[0\] \(\) must be \(rows, width"),
        (lambda t, i, f: ([t[0][:0], *t[1:]], i, f), r"tables\[0\] \(0, 64\) must .* one row at"),
        (lambda t, i, f: (t, [i[0].to("meta"), *i[1:]], f), r"indices\[0\] on meta must be on cpu"),
        (lambda t, i, f: (t, i, [f[1][:1], *f[1:]]), r"factors\[0\] \(1, 70\) must be \(3, 70\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_named(change, complaint):
    tables, indices, factors, _ = make_inputs()
    with pytest.raises(ValueError, match=complaint):
        embed(*change(tables, indices, factors))


def test_the_reference_is_a_sum_of_lookups():
    tables, indices, factors, _ = make_inputs(shape=(4,), width=3)
    out = reference.embed(tables, indices, factors)
    for n in range(4):
        expected = sum(
            (1.0 if factor is None else factor[n]) * table[row]
            for table, index, factor in zip(tables, indices, factors, strict=True)
            for row in index[n]
        )
        torch.testing.assert_close(out[n], expected)
