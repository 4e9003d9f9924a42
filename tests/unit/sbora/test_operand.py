"""A weight with adapters on it multiplies as the sum of the two does, without the sum being made."""

import pytest
import torch
import torch.nn.functional as F

from sbora.operand import Adapter, Operand, _GatherAt

EXPERTS, IN, OUT, R = 3, 8, 12, 4
VARIANTS = pytest.mark.parametrize("variant", ["fa", "fb"])
IN_DIMS = pytest.mark.parametrize("in_dim", [-1, -2])
SORTED = torch.tensor([0, 0, 1, 1, 1, 2])  # the expert of each row
OFFSETS = torch.tensor([2, 5, 6], dtype=torch.int32)


class Made(Exception):
    """The sum was made."""


def _operand(variant, in_dim, r=R, seed=0, dtype=torch.float64, count=1, dense=False):
    """An operand and the sum that it stands for, with gradients to the adapters' matrices."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(EXPERTS, OUT, IN, generator=generator, dtype=dtype)
    total, adapters = weight, []
    for _ in range(count):
        size = IN if variant == "fa" else OUT
        index = torch.stack([torch.randperm(size, generator=generator)[:r].sort().values for _ in range(EXPERTS)])
        shape = (EXPERTS, OUT, r) if variant == "fa" else (EXPERTS, r, IN)
        matrix = torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
        adapters.append(Adapter(variant, matrix, index, scaling=0.5))
        dim = 2 if variant == "fa" else 1
        total = total.scatter_add(dim, index.unsqueeze(3 - dim).expand_as(matrix), 0.5 * matrix)
    total = total if in_dim == -1 else total.transpose(-2, -1)
    stored = weight if in_dim == -1 else weight.transpose(-2, -1).contiguous()
    operand = Operand(lambda: stored, adapters, in_dim)
    if not dense:
        operand.dense = lambda: (_ for _ in ()).throw(Made())
    return operand, total, [adapter.weight for adapter in adapters]


def _natural(w, in_dim):
    """W so that rows of inputs are multiplied with it from the left."""
    return w.transpose(-2, -1) if in_dim == -1 else w


def _one_by_one(x, w, in_dim):
    rows = []
    for i, expert in enumerate(SORTED):
        rows.append(F.linear(x[i], w[expert]) if in_dim == -1 else x[i] @ w[expert])
    return torch.stack(rows)


def _grouped(x, w, in_dim):
    return F.grouped_mm(x, _natural(w, in_dim), offs=OFFSETS)


def _batched(x, w, in_dim):
    if in_dim == -1:
        return torch.bmm(w[SORTED], x.unsqueeze(-1)).squeeze(-1)
    return torch.bmm(x.unsqueeze(1), w[SORTED]).squeeze(1)


def _all(x, w, in_dim):
    return torch.bmm(x.view(EXPERTS, 2, IN), _natural(w, in_dim)).view(6, OUT)


def _all_by_operator(x, w, in_dim):
    return (x.view(EXPERTS, 2, IN) @ _natural(w, in_dim)).view(6, OUT)


WAYS = pytest.mark.parametrize("way", [_one_by_one, _grouped, _batched, _all, _all_by_operator])
BY_KEYWORD = [
    lambda x, w: F.linear(weight=w[0].t(), input=x),
    lambda x, w: torch.matmul(input=x, other=w[1]),
    lambda x, w: torch.mm(x, mat2=w[2]),
    lambda x, w: torch.bmm(input=x.expand(EXPERTS, 6, IN), mat2=w),
    lambda x, w: F.grouped_mm(mat_a=x, mat_b=w, offs=OFFSETS),
]


@VARIANTS
@pytest.mark.parametrize("multiply", BY_KEYWORD)
def test_operands_may_be_given_by_keyword(variant, multiply):
    operand, total, _ = _operand(variant, -2, dtype=torch.float32)
    x = torch.randn(6, IN)
    torch.testing.assert_close(multiply(x, operand), multiply(x, total))


def test_a_product_with_settings_is_that_of_the_sum():
    operand, total, _ = _operand("fa", -2, dense=True)
    x, out = torch.randn(6, IN, dtype=torch.float64), torch.empty(6, OUT, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(torch.mm(x, operand[0], out=out), x @ total[0])


@VARIANTS
@IN_DIMS
@WAYS
@pytest.mark.parametrize("count", [1, 2])
def test_products_and_gradients_are_those_of_the_sum(variant, in_dim, way, count):
    dtype = torch.float32 if way is _grouped else torch.float64  # the kernel knows no float64
    operand, total, matrices = _operand(variant, in_dim, dtype=dtype, count=count)
    x = torch.randn(6, IN, dtype=dtype, requires_grad=True)
    y = way(x, operand, in_dim)
    expected = way(x, total, in_dim)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    got = torch.autograd.grad(y, [x, *matrices], grad)
    torch.testing.assert_close(got, torch.autograd.grad(expected, [x, *matrices], grad))


@VARIANTS
@IN_DIMS
@pytest.mark.parametrize("r", [1, 3])
def test_grouped_products_of_ranks_that_the_kernel_refuses(variant, in_dim, r):
    """It wants rows of whole 16 bytes."""
    operand, total, matrices = _operand(variant, in_dim, r=r, dtype=torch.float32)
    x = torch.randn(6, IN, requires_grad=True)
    y, expected = _grouped(x, operand, in_dim), _grouped(x, total, in_dim)
    torch.testing.assert_close(y, expected)
    grads = [torch.autograd.grad(out.square().sum(), [x, *matrices]) for out in (y, expected)]
    torch.testing.assert_close(*grads)


@VARIANTS
@IN_DIMS
@pytest.mark.parametrize("way", [_one_by_one, _batched, _all])
def test_gradients_pass_gradcheck(variant, in_dim, way):
    operand, _, (matrix,) = _operand(variant, in_dim, r=2)

    def product(x, matrix):
        adapters = [Adapter(variant, matrix, operand.adapters[0].index, 0.5)]
        return way(x, Operand(operand.parameter, adapters, in_dim), in_dim)

    x = torch.randn(6, IN, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(product, (x, matrix))
    assert torch.autograd.gradgradcheck(product, (x, matrix))


@VARIANTS
@IN_DIMS
def test_a_product_over_the_other_dimension(variant, in_dim):
    """x W instead of x W^T, as a tied layer does it."""
    operand, total, matrices = _operand(variant, in_dim)
    x = torch.randn(6, OUT, dtype=torch.float64, requires_grad=True)
    y = x @ _natural(operand[1], in_dim).t()
    expected = x @ _natural(total[1], in_dim).t()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(
        torch.autograd.grad(y.sum(), [x, *matrices]), torch.autograd.grad(expected.sum(), [x, *matrices])
    )


@VARIANTS
@IN_DIMS
def test_biases_and_frozen_inputs(variant, in_dim):
    operand, total, _ = _operand(variant, in_dim)
    x, bias = torch.randn(2, 5, IN, dtype=torch.float64), torch.randn(OUT, dtype=torch.float64)
    for number in range(EXPERTS):
        expert = _natural(operand[torch.tensor(number)], in_dim).t()
        torch.testing.assert_close(F.linear(x, expert, bias), F.linear(x, _natural(total[number], in_dim).t(), bias))


@VARIANTS
@IN_DIMS
def test_it_says_of_itself_what_the_sum_would(variant, in_dim):
    operand, total, _ = _operand(variant, in_dim)
    for view in (lambda w: w, lambda w: w[1], lambda w: w[SORTED], lambda w: w.transpose(1, 2), lambda w: w[2].T):
        one, other = view(operand), view(total)
        assert (one.shape, one.dim(), one.ndim, len(one)) == (other.shape, other.dim(), other.ndim, len(other))
        assert (one.dtype, one.device, one.size(-1)) == (other.dtype, other.device, other.size(-1))


@VARIANTS
@IN_DIMS
def test_whatever_else_is_done_gets_the_sum(variant, in_dim):
    operand, total, matrices = _operand(variant, in_dim, dense=True)
    x = torch.randn(6, IN, dtype=torch.float64)
    for use in (
        lambda w: torch.einsum("eij,ki->ekj", w, torch.ones(2, w.shape[1], dtype=w.dtype)),
        lambda w: w[1].sum(0),
        lambda w: w[SORTED] * 2,
        lambda w: w[:2],
        lambda w: w[1].chunk(2)[0],
        lambda w: w.transpose(0, 1),
        lambda w: _natural(w[1], in_dim).mul(3),
        lambda w: torch.addmm(torch.ones(OUT, dtype=x.dtype), x, _natural(w[1], in_dim)),
        lambda w: torch.cat([w, w[:1]]),
        lambda w: torch.stack(tensors=[w[0], w[1]]),
        lambda w: torch.linalg.multi_dot([x, _natural(w[1], in_dim), _natural(w[1], in_dim).t()]),
        lambda w: torch.where(w != 0, 2**w, 0) + (w == w) + 1 / w + 7 // w + 7 % w + w // 2 + w % 2,
    ):
        torch.testing.assert_close(use(operand), use(total))
    grads = [torch.autograd.grad(w.square().sum(), matrices) for w in (operand, total)]
    torch.testing.assert_close(*grads)


@VARIANTS
def test_dropout_of_inputs_or_a_refusal(variant):
    operand, _, _ = _operand(variant, -1, dense=True, dtype=torch.float32)
    operand.adapters[0].dropout = 0.5
    x = torch.ones(6, IN)
    base = F.grouped_mm(x, operand.parameter().transpose(-2, -1), offs=OFFSETS)
    operand.adapters[0].dropout = 0.0
    plain = _grouped(x, operand, -1) - base
    operand.adapters[0].dropout = 0.5
    torch.manual_seed(0)
    mean = sum(_grouped(x, operand, -1) - base for _ in range(3000)) / 3000
    assert (mean - plain).norm() < 0.06 * plain.norm()
    with pytest.raises(ValueError, match="sbora_dropout must be 0"):
        operand + 1


@VARIANTS
@WAYS
def test_16_bit_weights_with_adapters_of_32(variant, way):
    operand, total, _ = _operand(variant, -1, dtype=torch.float32)
    half = Operand(lambda: operand.parameter().bfloat16(), operand.adapters, -1)
    x = torch.randn(6, IN).bfloat16().requires_grad_()
    y = way(x, half, -1)
    assert y.dtype == torch.bfloat16
    expected = way(x.float(), total, -1)
    assert (y - expected).norm() < 0.02 * expected.norm()
    y.sum().backward()
    assert operand.adapters[0].weight.grad.dtype == torch.float32


def test_a_gradient_that_somebody_holds_is_not_added_to():
    x = torch.randn(2, IN, requires_grad=True)
    weight, index, held = torch.randn(IN, OUT), torch.tensor([[0, 3], [1, 2]]), []
    through, gathered = _GatherAt.apply(x, index, lambda index: index)
    through.register_hook(held.append)
    ((through @ weight).sum() + gathered.sum()).backward()
    of_product = weight.sum(1).expand(2, IN)
    torch.testing.assert_close(held[0], of_product)
    torch.testing.assert_close(x.grad, of_product.scatter_add(-1, index, torch.ones(2, 2)))
