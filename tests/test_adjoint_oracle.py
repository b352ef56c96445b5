"""Derivatives through SVI and of its layers, against closed forms and dense Hessians written from the formulas."""

import pytest
import torch
from cases import noise
from torch.autograd.functional import hessian
from torch.linalg import matrix_power
from torch.testing import assert_close

from savae_lite import softmax
from savae_lite.adjoint import detached, difference, kept, recomputed, refine
from savae_lite.lstm import lstm

ways = pytest.mark.parametrize("adjoint", [kept, recomputed, difference])
exact = pytest.mark.parametrize("adjoint", [kept, recomputed])
steps = pytest.mark.parametrize("steps", [0, 1, 2, 40])
EYE = torch.eye(3, dtype=torch.float64)


def close(found, expected, adjoint=kept):
    """To rounding, and to what central differences in float64 reach."""
    rtol, atol = (1e-5, 1e-7) if adjoint is difference else (1e-9, 1e-11)
    assert_close(found, expected, rtol=rtol, atol=atol)


def leaf(*shape, seed, scale=1.0):
    return (scale * noise(*shape, seed=seed)).requires_grad_()


# --- quadratics: 0.5 λᵀAλ − bᵀλ, A not symmetric ---


def quadratic(a, b):
    return lambda lam: 0.5 * torch.einsum("bi,ij,bj->b", lam, a, lam) - (lam * b).sum(-1)


def stable(seed=1):
    root = noise(3, 3, seed=seed)
    return (root @ root.T / 3 + 0.1 * EYE + 0.3 * noise(3, 3, seed=seed + 50)).requires_grad_()


@ways
@steps
def test_descent_on_a_quadratic_is_a_matrix_power(adjoint, steps):
    """M = 1 − αS, S = (A + Aᵀ)/2: λ_K = M^K λ₀ + α Σ_j M^j b, and its derivatives to λ₀, b and A."""
    lr, a, b, lam = 0.2, stable(), leaf(2, 3, seed=2), leaf(2, 3, seed=3)
    s = 0.5 * (a + a.T).detach()
    powers = [matrix_power(EYE - lr * s, j) for j in range(steps + 1)]
    sums = [lr * sum(powers[:k], torch.zeros_like(s)) for k in range(steps + 1)]
    path = [lam.detach() @ powers[k] + b.detach() @ sums[k] for k in range(steps + 1)]
    found = refine([quadratic(a, b)] * steps, lam, lr=lr, adjoint=adjoint)
    close(found, path[-1])
    bar = noise(2, 3, seed=4)
    to_lam, to_b, to_a = torch.autograd.grad(found, [lam, b, a], bar, materialize_grads=True, allow_unused=True)
    close(to_lam, bar @ powers[-1], adjoint)
    close(to_b, bar @ sums[-1], adjoint)
    outer = sum(((bar @ powers[steps - 1 - k]).T @ path[k] for k in range(steps)), torch.zeros_like(s))
    close(to_a, -0.5 * lr * (outer + outer.T), adjoint)


@ways
@steps
def test_momentum_on_a_quadratic_is_a_power_of_the_companion_matrix(adjoint, steps):
    lr, momentum, a, b, lam = 0.15, 0.7, stable(), leaf(2, 3, seed=2), leaf(2, 3, seed=3)
    s = 0.5 * (a + a.T).detach()
    companion = torch.cat([torch.cat([EYE - lr * s, lr * momentum * EYE], 1), torch.cat([-s, momentum * EYE], 1)])
    drive = torch.cat([lr * EYE, EYE])
    by_lam = matrix_power(companion, steps)[:3, :3]
    by_b = sum(((matrix_power(companion, j) @ drive)[:3] for j in range(steps)), 0 * EYE)
    found = refine([quadratic(a, b)] * steps, lam, lr=lr, momentum=momentum, adjoint=adjoint)
    close(found, lam.detach() @ by_lam.T + b.detach() @ by_b.T)
    bar = noise(2, 3, seed=4)
    to_lam, to_b = torch.autograd.grad(found, [lam, b], bar, materialize_grads=True, allow_unused=True)
    close(to_lam, bar @ by_lam, adjoint)
    close(to_b, bar @ by_b, adjoint)


def test_second_derivatives_of_a_kept_scalar_descent():
    """λ_K = (1 − αa)^K λ₀."""
    lr, count, a, lam = 0.3, 6, torch.tensor(0.8, dtype=torch.float64), torch.tensor(1.7, dtype=torch.float64)
    loss = lambda a: lambda lam: 0.5 * a * lam.square().sum(-1)  # noqa: E731
    (aa, al), (la, ll) = hessian(lambda a, lam: refine([loss(a)] * count, lam.reshape(1, 1), lr=lr).sum(), (a, lam))
    rate = 1 - lr * a
    close(aa, count * (count - 1) * lr**2 * rate ** (count - 2) * lam)
    close(al, -count * lr * rate ** (count - 1))
    close(la, al)
    close(ll, torch.zeros_like(ll))


@pytest.mark.parametrize("adjoint", [recomputed, difference])
def test_one_more_derivative_is_refused_where_it_would_be_wrong(adjoint):
    a, b, lam = stable(), leaf(2, 3, seed=2), leaf(2, 3, seed=3)
    found = refine([quadratic(a, b)] * 2, lam, lr=0.1, adjoint=adjoint)
    with pytest.raises(RuntimeError):
        (gradient,) = torch.autograd.grad(found.square().sum(), lam, create_graph=True)
        torch.autograd.grad(gradient.sum(), a)


def test_detached_gives_the_same_value_as_a_constant():
    a, b, lam = stable(), leaf(2, 3, seed=2), leaf(2, 3, seed=3)
    found = refine([quadratic(a, b)] * 3, lam, lr=0.1, momentum=0.5, clip=1.0, adjoint=detached)
    close(found, refine([quadratic(a, b)] * 3, lam, lr=0.1, momentum=0.5, clip=1.0).detach())
    assert not found.requires_grad


# --- the clip ---


@ways
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_where_the_clip_always_acts_the_size_of_the_loss_is_nothing_to_it(adjoint, steps):
    """c|λ|²/2 moves λ by αη towards 0 whatever c is: Jacobian 1 − (Kαη/|λ₀|)(1 − uuᵀ), and none to c."""
    lr, norm, lam = 0.2, 0.3, leaf(2, 3, seed=5, scale=3.0)
    c = torch.tensor([2.0, 5.0], dtype=torch.float64, requires_grad=True)
    found = refine([lambda lam: 0.5 * c * lam.square().sum(-1)] * steps, lam, lr=lr, clip=norm, adjoint=adjoint)
    length = lam.detach().norm(dim=-1, keepdim=True)
    unit, part = lam.detach() / length, steps * lr * norm / length
    close(found, lam.detach() * (1 - part))
    bar = noise(2, 3, seed=6)
    to_lam, to_c = torch.autograd.grad(found, [lam, c], bar, materialize_grads=True, allow_unused=True)
    close(to_lam, bar - part * (bar - unit * (unit * bar).sum(-1, keepdim=True)), adjoint)
    close(to_c, torch.zeros_like(to_c), adjoint)


# --- any loss: the reverse recursion with dense Hessians, a row at a time ---

THETA = torch.tensor([0.4, -0.9, 0.3], dtype=torch.float64)
SHIFTS = noise(7, 2, seed=8)


def bumpy(theta, shift):
    """Convex in no direction for long; every second derivative, mixed ones too, is there."""

    def loss(lam):
        first, second = lam[..., 0], lam[..., 1]
        bend = torch.nn.functional.softplus(theta[0] * first - theta[1] * second + (shift * lam).sum(-1))
        return bend + theta[2].exp() * (first - shift[0]) ** 2 + (theta[1] * first * second).sin() + 0.05 * second**4

    return loss


def clipped(g, norm):
    """The clipped gradient and the clip's Jacobian."""
    length = g.norm()
    if norm is None or length <= norm:
        return g, torch.eye(2, dtype=torch.float64), False
    return g * norm / length, norm / length * (torch.eye(2, dtype=torch.float64) - g.outer(g) / length**2), True


def by_hand(lam, bar, count, lr, momentum, norm):
    """λ_K of one row, then λ̄₀ and θ̄ by algorithm 1 in reverse; and how many steps were clipped."""
    v, trail = torch.zeros(2, dtype=torch.float64), []
    for shift in SHIFTS[:count]:
        blocks = hessian(lambda lam, theta, shift=shift: bumpy(theta, shift)(lam), (lam, THETA))
        point = lam.clone().requires_grad_()
        (g,) = torch.autograd.grad(bumpy(THETA, shift)(point), point)
        g, jacobian, active = clipped(g, norm)
        trail.append((blocks[0][0], blocks[1][0], jacobian, active))
        v = momentum * v - g
        lam = lam + lr * v
    v_bar, theta_bar = torch.zeros(2, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for curvature, mixed, jacobian, _ in reversed(trail):
        v_bar = v_bar + lr * bar
        pulled = jacobian.T @ v_bar
        bar, theta_bar, v_bar = bar - curvature @ pulled, theta_bar - mixed @ pulled, momentum * v_bar
    return lam, bar, theta_bar, sum(active for *_, active in trail)


@ways
@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("norm", [None, 0.9])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_loss_has_the_derivatives_of_the_dense_recursion(adjoint, momentum, norm, count):
    lam, theta, bar = leaf(4, 2, seed=9), THETA.clone().requires_grad_(), noise(4, 2, seed=10)
    settings = {"lr": 0.2, "momentum": momentum, "clip": norm}
    found = refine([bumpy(theta, shift) for shift in SHIFTS[:count]], lam, **settings, adjoint=adjoint)
    to_lam, to_theta = torch.autograd.grad(found, [lam, theta], bar)
    hand = [by_hand(row, row_bar, count, 0.2, momentum, norm) for row, row_bar in zip(lam.detach(), bar, strict=True)]
    assert norm is None or 0 < sum(row[3] for row in hand) < 4 * count, "some steps are clipped, some are not"
    close(found, torch.stack([row[0] for row in hand]))
    close(to_lam, torch.stack([row[1] for row in hand]), adjoint)
    close(to_theta, torch.stack([row[2] for row in hand]).sum(0), adjoint)


@exact
def test_many_steps_end_at_the_minimum_and_forget_the_start(adjoint):
    """Then dλ*/dθ is that of the implicit function: −(∇²_λλ f)⁻¹ ∇²_λθ f."""
    lam, theta, bar = torch.full((1, 2), 0.5, dtype=torch.float64), THETA.clone().requires_grad_(), noise(1, 2, seed=10)
    lam.requires_grad_()
    found = refine([bumpy(theta, SHIFTS[0])] * 600, lam, lr=0.1, momentum=0.5, adjoint=adjoint)
    to_lam, to_theta = torch.autograd.grad(found, [lam, theta], bar)
    blocks = hessian(lambda lam, theta: bumpy(theta, SHIFTS[0])(lam), (found.detach()[0], THETA))
    assert torch.linalg.eigvalsh(blocks[0][0]).min() > 0.1
    assert_close(to_lam, torch.zeros_like(lam), atol=1e-9, rtol=0)
    assert_close(to_theta, -torch.linalg.solve(blocks[0][0], bar[0]) @ blocks[0][1], rtol=1e-7, atol=1e-9)


@ways
def test_rows_together_are_rows_alone(adjoint):
    lam, theta, bar = leaf(4, 2, seed=9), THETA.clone().requires_grad_(), noise(4, 2, seed=10)

    def through(rows):
        found = refine([bumpy(theta, s) for s in SHIFTS], lam[rows], lr=0.2, momentum=0.6, clip=0.9, adjoint=adjoint)
        return found, *torch.autograd.grad(found, [lam, theta], bar[rows])

    together = through(slice(None))
    alone = [through(slice(b, b + 1)) for b in range(4)]
    assert_close(together[0], torch.cat([row[0] for row in alone]), rtol=1e-12, atol=1e-14)
    for found, parts in zip(together[1:], list(zip(*alone, strict=True))[1:], strict=True):
        close(found, sum(parts), adjoint)


@ways
def test_a_leaf_under_lam_and_losses_gets_both_parts(adjoint):
    """Everything hangs on one leaf: λ₀ = Wx, and losses share W·W made once outside them; λ_K is linear in λ₀."""
    w, x, bar = leaf(3, 3, seed=14, scale=0.5), noise(2, 3, seed=15), noise(2, 3, seed=16)

    def plain(w):
        power = matrix_power(EYE - 0.1 * w.T @ w, 5)
        return (bar * (x @ w @ power)).sum()

    shared = w.T @ w
    found = refine([quadratic(shared, 0.0)] * 5, x @ w, lr=0.1, adjoint=adjoint)
    (expected,) = torch.autograd.grad(plain(w), w)
    close(torch.autograd.grad(found, w, bar)[0], expected, adjoint)


@ways
def test_every_step_has_parameters_of_its_own(adjoint):
    """b_k moves λ_K by α M^(K−1−k); the last loss has none."""
    lr, a, lam = 0.2, stable().detach(), leaf(2, 3, seed=2)
    biases = [leaf(2, 3, seed=k) for k in range(3, 6)]
    found = refine([quadratic(a, b) for b in [*biases, 0.0]], lam, lr=lr, adjoint=adjoint)
    bar, shrink = noise(2, 3, seed=7), EYE - lr * 0.5 * (a + a.T)
    for k, to_b in enumerate(torch.autograd.grad(found, biases, bar)):
        close(to_b, lr * bar @ matrix_power(shrink, 3 - k), adjoint)


@ways
def test_gradients_of_very_different_size_are_all_exact(adjoint):
    """A far smaller λ̄ of one row keeps its digits beside those of the others."""
    lam, theta = leaf(4, 2, seed=9), THETA.clone().requires_grad_()
    size, bar = torch.tensor([[1e-8], [1.0], [1e8], [1e-3]], dtype=torch.float64), noise(4, 2, seed=10)
    found = refine([bumpy(theta, shift) for shift in SHIFTS], lam, lr=0.2, momentum=0.6, adjoint=adjoint)
    (scaled,) = torch.autograd.grad(found, lam, size * bar)
    rows = zip(lam.detach(), bar, strict=True)
    close(scaled / size, torch.stack([by_hand(*row, 7, 0.2, 0.6, None)[1] for row in rows]), adjoint)


@ways
@pytest.mark.parametrize("wants", ["lam", "theta"])
def test_what_wants_no_gradient_gets_none_and_changes_nothing(adjoint, wants):
    leaves = {"lam": leaf(4, 2, seed=9), "theta": THETA.clone().requires_grad_()}

    def gradient(leaves):
        losses = [bumpy(leaves["theta"], shift) for shift in SHIFTS]
        found = refine(losses, leaves["lam"], lr=0.2, momentum=0.6, adjoint=adjoint)
        return torch.autograd.grad(found, leaves[wants], noise(4, 2, seed=10))[0]

    some = {name: value if name == wants else value.detach() for name, value in leaves.items()}
    close(gradient(some), gradient(leaves), adjoint)


# --- the layers: dense Jacobians of all orders ---


def plain_lstm(gates, recurrent, h):
    """A unit and a time step at a time, from the formulas."""
    size = h.shape[-1]
    c, states = torch.zeros_like(h), []
    for gate in gates:
        total = gate + h @ recurrent
        i, f, o = (1 / (1 + (-total[:, k * size : (k + 1) * size]).exp()) for k in range(3))
        c = f * c + i * total[:, 3 * size :].tanh()
        h = o * c.tanh()
        states.append(h)
    return torch.stack(states)


def plain_log_probability(targets):
    def function(states, weight, bias):
        logits = states @ weight + bias
        return logits[range(len(targets)), targets] - logits.exp().sum(-1).log()

    return function


def layer(name, seed=20):
    """The layer, the same written here, and inputs for both."""
    if name == "lstm":
        return lstm, plain_lstm, [noise(3, 2, 8, seed=seed), noise(2, 8, seed=seed + 1), noise(2, 2, seed=seed + 2)]
    targets = torch.tensor([0, 3, 3, 1, 2])
    inputs = [noise(5, 3, seed=seed), noise(3, 4, seed=seed + 1), noise(4, seed=seed + 2)]
    return lambda *given: softmax.log_probability(*given, targets), plain_log_probability(targets), inputs


layers = pytest.mark.parametrize("name", ["lstm", "softmax"])


def curved(function, seed=30):
    """One number of the output that is linear in none of it, so that the bar has derivatives too."""

    def number(*inputs):
        out = function(*inputs)
        return (noise(*out.shape, seed=seed) * out + 0.3 * out.square()).sum()

    return number


@pytest.fixture(params=[None, 7])
def block(request, monkeypatch):
    """The output layer takes many rows in blocks; here there are few, so the blocks are small."""
    if request.param:
        monkeypatch.setattr(softmax, "BLOCK", request.param)


@layers
@pytest.mark.parametrize("further", [False, True])
def test_value_gradient_and_dense_hessian(name, block, further):
    """Also where a third derivative may follow."""
    ours, mine, inputs = layer(name)
    close(ours(*inputs), mine(*inputs))
    given = [value.clone().requires_grad_() for value in inputs]
    found = torch.autograd.grad(curved(ours)(*given), given)
    for one, other in zip(found, torch.autograd.grad(curved(mine)(*given), given), strict=True):
        close(one, other)
    found, expected = (hessian(curved(f), tuple(inputs), create_graph=further) for f in (ours, mine))
    for i in range(3):
        for j in range(3):
            close(found[i][j], expected[i][j])


@layers
@pytest.mark.parametrize("inner", [(0,), (0, 1, 2), (2,), (1,), (0, 2)])
@pytest.mark.parametrize("wants", [(0, 1, 2), (0,), (1,), (2,)])
def test_mixed_derivatives_of_every_choice_of_inputs(name, block, inner, wants):
    """A gradient to some inputs, and its derivative to others; what wants none is a constant."""
    ours, mine, inputs = layer(name)

    def mixed(function):
        given = [value.clone().requires_grad_(k in inner + wants) for k, value in enumerate(inputs)]
        first = torch.autograd.grad(curved(function)(*given), [given[k] for k in inner], create_graph=True)
        bars = [noise(*gradient.shape, seed=40 + k) for k, gradient in enumerate(first)]
        along = sum((gradient * bar).sum() for gradient, bar in zip(first, bars, strict=True))
        return torch.autograd.grad(along, [given[k] for k in wants])

    for found, expected in zip(mixed(ours), mixed(mine), strict=True):
        close(found, expected)


@layers
def test_third_derivatives(name, block):
    ours, mine, inputs = layer(name)

    def third(function):
        given = [value.clone().requires_grad_() for value in inputs]
        total = curved(function)(*given)
        for order in range(2):
            gradients = torch.autograd.grad(total, given, create_graph=True)
            total = sum((noise(*g.shape, seed=50 + order + k) * g).sum() for k, g in enumerate(gradients))
        return torch.autograd.grad(total, given)

    for found, expected in zip(third(ours), third(mine), strict=True):
        close(found, expected)


@layers
@ways
def test_a_layer_inside_the_steps(name, adjoint):
    """λ is the layer's first input, all the others are parameters."""
    ours, mine, inputs = layer(name)
    rows = inputs[0].shape[1] if name == "lstm" else inputs[0].shape[0]

    def through(function):
        first, *parameters = [(0.7 * value).requires_grad_() for value in inputs]

        def loss(lam):
            data = lam.reshape(rows, 3, -1).transpose(0, 1) if name == "lstm" else lam
            out = function(data, *parameters)
            return (out.square().sum((0, 2)) if name == "lstm" else -out) + 0.1 * lam.square().sum(-1)

        lam = first.transpose(0, 1).reshape(rows, -1) if name == "lstm" else first
        found = refine([loss] * 4, lam, lr=0.4, momentum=0.5, clip=0.5, adjoint=adjoint)
        return found, torch.autograd.grad(found, [first, *parameters], noise(*found.shape, seed=60))

    (found, gradients), (expected, other) = through(ours), through(mine)
    close(found, expected)
    for one, two in zip(gradients, other, strict=True):
        close(one, two, adjoint)


def test_the_lstm_is_torch_s():
    """torch orders the gates input, forget, candidate, output and multiplies from the other side."""
    gates, recurrent, h = (value.requires_grad_() for value in layer("lstm")[2])
    order = [0, 1, 2, 3, 6, 7, 4, 5]
    theirs = torch.nn.LSTM(8, 2, bias=False, dtype=torch.float64)
    weights = {"weight_ih_l0": torch.eye(8, dtype=torch.float64)[order], "weight_hh_l0": recurrent.T[order]}
    expected, _ = torch.func.functional_call(theirs, weights, (gates, (h[None], torch.zeros_like(h)[None])))
    found = lstm(gates, recurrent, h)
    close(found, expected)
    bar = noise(3, 2, 2, seed=21)
    ours, other = (torch.autograd.grad(out, [gates, recurrent, h], bar) for out in (found, expected))
    for one, two in zip(ours, other, strict=True):
        close(one, two)


def test_extreme_logits_leave_everything_finite():
    """Where one logit is far above: log-probabilities 0 and −2000, gradient of the other −(1 at the top)."""
    states = torch.tensor([[1.0], [1.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[1000.0, -1000.0]], dtype=torch.float64, requires_grad=True)
    found = softmax.log_probability(states, weight, torch.zeros(2, dtype=torch.float64), torch.tensor([0, 1]))
    close(found, torch.tensor([0.0, -2000.0], dtype=torch.float64))
    gradient, slope = torch.autograd.grad(found.sum(), [weight, states], create_graph=True)
    close(gradient, torch.tensor([[-1.0, 1.0]], dtype=torch.float64))
    close(slope, torch.tensor([[0.0], [-2000.0]], dtype=torch.float64))
    (second,) = torch.autograd.grad(slope.sum(), weight)
    close(second, torch.tensor([[-1.0, 1.0]], dtype=torch.float64))


@pytest.mark.parametrize("length, rows", [(1, 1), (1, 3), (6, 1)])
def test_an_lstm_of_one_step_or_one_row(length, rows):
    inputs = [noise(length, rows, 8, seed=1), noise(2, 8, seed=2), noise(rows, 2, seed=3)]
    found, expected = hessian(curved(lstm), tuple(inputs)), hessian(curved(plain_lstm), tuple(inputs))
    for i in range(3):
        for j in range(3):
            close(found[i][j], expected[i][j])


@layers
def test_inputs_that_are_not_contiguous(name):
    ours, mine, inputs = layer(name)
    strange = [value.mT.contiguous().mT if value.ndim > 1 else value.flip(0).flip(0) for value in inputs]
    strange[-1] = strange[-1][:1].expand_as(strange[-1])
    for found, expected in zip(
        *(torch.autograd.functional.jvp(curved(f), tuple(strange), tuple(inputs)) for f in (ours, mine)), strict=True
    ):
        close(found, expected)
