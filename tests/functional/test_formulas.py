"""Every formula against loops in NumPy, written from its definition."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck import functional as f

rng = np.random.default_rng(0)
S, T = 2 * rng.normal(size=(6, 5)), 2 * rng.normal(size=(6, 5))
Y = np.array([0, 4, 2, 1, 3, 3])
s, t, y = torch.tensor(S), torch.tensor(T), torch.tensor(Y)


def softmax(z, tau=1.0):
    e = np.exp((z - z.max()) / tau)
    return e / e.sum()


def kl(p, q):
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def ce(p, q):
    return -sum(a * np.log(b) for a, b in zip(p, q, strict=True))


def onehot(label):
    return np.eye(5)[label]


def decoupled(zs, zt, label, alpha=1.0, beta=8.0, tau=4.0):
    p, q = softmax(zt, tau), softmax(zs, tau)
    pair = kl([p[label], 1 - p[label]], [q[label], 1 - q[label]])
    rest = [c for c in range(5) if c != label]
    return tau**2 * (alpha * pair + beta * kl(softmax(zt[rest], tau), softmax(zs[rest], tau)))


def nkd(zs, zt, label, gamma=1.5, tau=2.0):
    rest = [c for c in range(5) if c != label]
    hit = -softmax(zt)[label] * np.log(softmax(zs)[label])
    return hit + gamma * tau**2 * ce(softmax(zt[rest], tau), softmax(zs[rest], tau))


def pearson(a, b):
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def plackett_luce(zs, zt, label, tau=1.0):
    order = [label, *sorted((c for c in range(5) if c != label), key=lambda c: -zt[c])]
    weight = softmax(zt, tau)
    return sum(weight[c] * (np.log(np.exp(zs[order[k:]]).sum()) - zs[c]) for k, c in enumerate(order))


def js(zs, zt, beta):
    p, q = softmax(zt), softmax(zs)
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def boundary(zs, zt, label, m=0.5):
    total = 0.0
    for a, b in zip(zs, zt, strict=True):
        total += (a + m) ** 2 if a > -m and b <= 0 else 0.0
        total += (a - m) ** 2 if a <= m and b > 0 else 0.0
    return total


PER_ITEM = {
    "cross_entropy": (lambda: f.cross_entropy(s, y, reduction="none"), lambda a, b, c: -np.log(softmax(a)[c])),
    "smoothed": (lambda: f.cross_entropy(s, y, label_smoothing=0.2, reduction="none"),
                 lambda a, b, c: ce(0.8 * onehot(c) + 0.2 / 5, softmax(a))),
    "soft_cross_entropy": (lambda: f.soft_cross_entropy(s, t, temperature=3.0, reduction="none"),
                           lambda a, b, c: ce(softmax(b, 3), softmax(a, 3))),
    "adapted_cross_entropy": (lambda: f.adapted_cross_entropy(s, t, y, eps=1.4, temperature=2.0, reduction="none"),
                              lambda a, b, c: ce((softmax(b, 2) + onehot(c)) ** 1.4 - onehot(c), softmax(a, 2))),
    "forward_kl": (lambda: f.forward_kl(s, t, temperature=3.0, reduction="none"),
                   lambda a, b, c: 9 * kl(softmax(b, 3), softmax(a, 3))),
    "reverse_kl": (lambda: f.reverse_kl(s, t, temperature=3.0, reduction="none"),
                   lambda a, b, c: 9 * kl(softmax(a, 3), softmax(b, 3))),
    "jensen_shannon": (lambda: f.jensen_shannon(s, t, beta=0.3, reduction="none"), lambda a, b, c: js(a, b, 0.3)),
    "symmetric_kl": (lambda: f.symmetric_kl(s, t, reduction="none"),
                     lambda a, b, c: 0.5 * (kl(softmax(a), softmax(b)) + kl(softmax(b), softmax(a)))),
    "mse": (lambda: f.mse(s, t, reduction="none"), lambda a, b, c: ((a - b) ** 2).mean()),
    "decoupled_kl": (lambda: f.decoupled_kl(s, t, y, reduction="none"), decoupled),
    "nkd": (lambda: f.target_nontarget_cross_entropy(s, t, y, temperature=2.0, reduction="none"), nkd),
    "pearson_rows": (lambda: f.pearson_rows(s, t, temperature=2.0, reduction="none"),
                     lambda a, b, c: 4 * (1 - pearson(softmax(a, 2), softmax(b, 2)))),
    "plackett_luce": (lambda: f.plackett_luce(s, t, y, temperature=2.0, reduction="none"),
                      lambda a, b, c: plackett_luce(a, b, c, 2.0)),
    "mixed": (lambda: f.mixed_cross_entropy(s, t, y, soft=0.7, temperature=2.0, reduction="none"),
              lambda a, b, c: ce(0.3 * onehot(c) + 0.7 * softmax(b, 2), softmax(a))),
    "cosine": (lambda: f.cosine_distance(s, t, reduction="none"),
               lambda a, b, c: 1 - (a @ b) / np.sqrt((a @ a) * (b @ b))),
    "activation_boundary": (lambda: f.activation_boundary(s, t, margin=0.5, reduction="none"), boundary),
    "l1": (lambda: f.feature_l1(s, t, reduction="none"), lambda a, b, c: np.abs(a - b).mean()),
}  # fmt: skip


@pytest.mark.parametrize("name", PER_ITEM)
def test_values_per_item(name):
    ours, by_hand = PER_ITEM[name]
    expected = [by_hand(a, b, c) for a, b, c in zip(S, T, Y, strict=True)]
    torch.testing.assert_close(ours(), torch.tensor(expected), rtol=1e-7, atol=1e-10)


def test_standardize():
    expected = [(row - row.mean()) / (1e-7 + row.std(ddof=1)) for row in S]
    torch.testing.assert_close(f.standardize(s), torch.tensor(np.array(expected)))


def test_pearson_columns():
    p, q = np.array([softmax(z, 2) for z in T]), np.array([softmax(z, 2) for z in S])
    expected = 4 * (1 - np.mean([pearson(q[:, c], p[:, c]) for c in range(5)]))
    assert float(f.pearson_columns(s, t, temperature=2.0)) == pytest.approx(expected)


def test_squared_error_leaves_out_nan():
    values, labels = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, float("nan"), 5.0])
    assert float(f.squared_error(values, labels)) == pytest.approx((1 + 4) / 2)
    both = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert float(f.squared_error(both, torch.tensor([[0.0, 0.0], [float("nan"), 1.0]]))) == pytest.approx(2.5)


A, B = rng.normal(size=(5, 3, 4, 4)), rng.normal(size=(5, 6, 4, 4))


def test_attention_map():
    def attention(maps):
        flat = (maps**2).mean(0).reshape(-1)
        return flat / np.sqrt((flat**2).sum())

    expected = [((attention(a) - attention(b)) ** 2).mean() for a, b in zip(A, B, strict=True)]
    ours = f.attention_map_mse(torch.tensor(A), torch.tensor(B), reduction="none")
    torch.testing.assert_close(ours, torch.tensor(expected))


def test_factor():
    def energy(maps):
        flat = (maps**2).mean(0).reshape(-1)
        return flat / np.sqrt((flat**2).sum())

    def halved(maps):
        return maps.reshape(6, 2, 2, 2, 2).mean((2, 4))

    expected = [np.abs(energy(a) - energy(b)).mean() for a, b in zip(A, B, strict=True)]
    torch.testing.assert_close(f.factor_l1(torch.tensor(A), torch.tensor(B), reduction="none"), torch.tensor(expected))
    small = A[:, :, :2, :2]
    expected = [np.abs(energy(a) - energy(halved(b))).mean() for a, b in zip(small, B, strict=True)]
    ours = f.factor_l1(torch.tensor(small), torch.tensor(B), reduction="none")
    torch.testing.assert_close(ours, torch.tensor(expected))  # the larger map is pooled before the power


@pytest.mark.parametrize(("side", "used"), [(8, (4, 2, 1)), (4, (2, 1)), (2, (1,)), (1, ()), (3, (2, 1))])
def test_hierarchical_context(side, used):
    def pool(maps, size):
        edges = [(int(np.floor(i * side / size)), int(np.ceil((i + 1) * side / size))) for i in range(size)]
        return np.array([[maps[:, a:b, c:d].mean((1, 2)) for c, d in edges] for a, b in edges])

    one, other = rng.normal(size=(2, 3, 2, side, side))
    expected = []
    for a, b in zip(one, other, strict=True):
        total, norm, weight = ((a - b) ** 2).mean(), 1.0, 1.0
        for size in used:
            weight /= 2
            total, norm = total + weight * ((pool(a, size) - pool(b, size)) ** 2).mean(), norm + weight
        expected.append(total / norm)
    ours = f.hierarchical_context_mse(torch.tensor(one), torch.tensor(other), reduction="none")
    torch.testing.assert_close(ours, torch.tensor(expected))


def test_attention_map_pools_the_larger_map_first():
    big = torch.tensor(rng.normal(size=(2, 3, 8, 8)))
    small = torch.tensor(rng.normal(size=(2, 3, 4, 4)))
    pooled = F.avg_pool2d(big, 2)
    torch.testing.assert_close(f.attention_map_mse(big, small), f.attention_map_mse(pooled, small))
    torch.testing.assert_close(f.attention_map_mse(small, big), f.attention_map_mse(small, pooled))


def test_feature_mse_is_the_mean_over_all():
    a, b = torch.tensor(A), torch.tensor(A[::-1].copy())
    assert float(f.feature_mse(a, b)) == pytest.approx(float(((A - A[::-1]) ** 2).mean()))


def test_gram_rows():
    def gram(features):
        flat = features.reshape(len(features), -1)
        found = np.array([[a @ b for b in flat] for a in flat])
        return found / np.sqrt((found**2).sum(1, keepdims=True))

    expected = ((gram(A) - gram(B)) ** 2).sum() / 25
    assert float(f.gram_rows_mse(torch.tensor(A), torch.tensor(B))) == pytest.approx(expected)


V, W = rng.normal(size=(6, 3)), rng.normal(size=(6, 7))


def smooth_l1(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def test_relation_distance():
    def distances(v):
        found = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in v] for a in v])
        return found / found[found > 0].mean()

    expected = np.mean([smooth_l1(a - b) for a, b in zip(distances(V).flat, distances(W).flat, strict=True)])
    assert float(f.relation_distance(torch.tensor(V), torch.tensor(W))) == pytest.approx(expected)


def naive_angles(v):
    """[n, n, n] cosines at corner i between j and k, all at once."""
    edges = F.normalize(v[None] - v[:, None], dim=2)
    return edges @ edges.transpose(1, 2)


def test_relation_angle_against_a_loop_and_the_naive_gradient():
    def cosine(v, i, j, k):
        a, b = v[j] - v[i], v[k] - v[i]
        size = np.sqrt((a @ a) * (b @ b))
        return (a @ b) / size if size > 0 else 0.0

    triples = itertools.product(range(6), repeat=3)
    expected = sum(smooth_l1(cosine(V, *each) - cosine(W, *each)) for each in triples) / 6**3
    assert float(f.relation_angle(torch.tensor(V), torch.tensor(W))) == pytest.approx(expected)
    one, two = (torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    teacher = torch.randn(40, 5, dtype=torch.float64)
    one, two = one.requires_grad_(), two.clone().requires_grad_()
    f.relation_angle(one, teacher).backward()
    F.smooth_l1_loss(naive_angles(two), naive_angles(teacher)).backward()
    torch.testing.assert_close(one.grad, two.grad)


def test_relation_angle_needs_batch_squared_memory():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            for value in found if isinstance(found, tuple | list) else [found]:
                if isinstance(value, torch.Tensor):
                    Largest.size = max(Largest.size, value.numel() * value.element_size())
            return found

    features = torch.randn(256, 64, requires_grad=True)
    with Largest():
        f.relation_angle(features, torch.randn(256, 64)).backward()
    assert Largest.size <= 16 * 256 * 256 * 4  # 4 MiB; the whole tensor of triples would be 64 MiB


def test_duplicates_and_one_sample_have_finite_gradients():
    features = torch.ones(4, 3, requires_grad=True)
    teacher = torch.randn(4, 3)
    (f.relation_distance(features, teacher) + f.relation_angle(features, teacher)).backward()
    assert features.grad.isfinite().all()
    alone = torch.randn(1, 3, requires_grad=True)
    loss = f.relation_distance(alone, teacher[:1]) + f.relation_angle(alone, teacher[:1])
    loss.backward()
    assert loss == 0
    assert alone.grad.isfinite().all()


def test_cka_by_hand_and_its_invariances():
    x, yy = V - V.mean(0), W - W.mean(0)
    expected = ((yy.T @ x) ** 2).sum() / (np.sqrt(((x.T @ x) ** 2).sum()) * np.sqrt(((yy.T @ yy) ** 2).sum()))
    a, b = torch.tensor(V), torch.tensor(W)
    assert float(f.cka(a, b)) == pytest.approx(expected)
    assert float(f.cka_distance(a, b)) == pytest.approx(1 - expected)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    assert float(f.cka(a, 3 * a @ turn + 1)) == pytest.approx(1)
    noise = [torch.randn(12, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    assert float(f.cka(*noise)) > 0.8  # biased: near 1 although nothing is shared
    assert abs(float(f.cka(*noise, debiased=True))) < 0.3


GRADIENTS = {
    "cross_entropy": lambda z: f.cross_entropy(z, y, label_smoothing=0.1),
    "forward_kl": lambda z: f.forward_kl(z, t, temperature=2.0),
    "reverse_kl": lambda z: f.reverse_kl(z, t), "jensen_shannon": lambda z: f.jensen_shannon(z, t, beta=0.4),
    "symmetric_kl": lambda z: f.symmetric_kl(z, t), "decoupled_kl": lambda z: f.decoupled_kl(z, t, y),
    "nkd": lambda z: f.target_nontarget_cross_entropy(z, t, y),
    "dist": lambda z: f.pearson_rows(z, t) + f.pearson_columns(z, t),
    "pld": lambda z: f.plackett_luce(z, t, y), "mixed": lambda z: f.mixed_cross_entropy(z, t, y),
    "standardized": lambda z: f.forward_kl(f.standardize(z), f.standardize(t)),
    "relations": lambda z: f.gram_rows_mse(z, t) + f.relation_distance(z, t) + f.cka_distance(z, t),
    "soft": lambda z: f.soft_cross_entropy(z, t), "mse": lambda z: f.mse(z, t), "cosine": lambda z: f.cosine_distance(z, t),
}  # fmt: skip


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name):
    assert torch.autograd.gradcheck(GRADIENTS[name], s.clone().requires_grad_())


@given(st.integers(0, 2**31), st.floats(0.5, 8))
def test_divergences_are_zero_at_equality_positive_and_blind_to_shifts(seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    a, b = (3 * torch.randn(4, 6, dtype=torch.float64, generator=generator) for _ in range(2))
    for divergence in (f.forward_kl, f.reverse_kl, f.jensen_shannon):
        assert float(divergence(a, a, temperature=temperature)) == pytest.approx(0, abs=1e-12)
        value = float(divergence(a, b, temperature=temperature))
        assert value > 0
        assert float(divergence(a + 3, b - 7, temperature=temperature)) == pytest.approx(value)
    assert float(f.jensen_shannon(a, b)) == pytest.approx(float(f.jensen_shannon(b, a)))
    assert float(f.jensen_shannon(a, b)) <= np.log(2)


@given(st.permutations(range(5)))
def test_the_order_of_classes_does_not_matter(order):
    inverse = torch.tensor(np.argsort(order))
    labels = inverse[y]
    for formula in (f.decoupled_kl, f.target_nontarget_cross_entropy, f.plackett_luce):
        torch.testing.assert_close(formula(s[:, order], t[:, order], labels), formula(s, t, y))


def test_limits():
    # a large temperature makes T^2 KL half the mean squared difference of centred logits
    centred = ((s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))).square().sum(1).mean() / 10
    assert float(f.forward_kl(s, t, temperature=1e4)) == pytest.approx(float(centred), rel=1e-3)
    assert float(f.jensen_shannon(s, t, beta=0.0)) == pytest.approx(float(f.forward_kl(s, t)))
    assert float(f.jensen_shannon(s, t, beta=1.0)) == pytest.approx(float(f.reverse_kl(s, t)))
    sure = torch.nn.functional.one_hot(y, 5).double() * 1e3  # all worth on the label: the cross-entropy
    assert float(f.plackett_luce(s, sure, y)) == pytest.approx(float(f.cross_entropy(s, y)))
    even = float(f.plackett_luce(s, t, y, temperature=1e9))  # all worths equal: ListMLE / 5
    listmle = np.mean([
        sum(np.log(np.exp(a[o[k:]]).sum()) - a[o[k]] for k in range(5))
        for a, b, c in zip(S, T, Y, strict=True)
        for o in [[c, *sorted((i for i in range(5) if i != c), key=lambda i: -b[i])]]
    ])  # fmt: skip
    assert even == pytest.approx(listmle / 5)
    assert float(f.mixed_cross_entropy(s, t, y, soft=0.0)) == pytest.approx(float(f.cross_entropy(s, y)))


def test_unlabelled_items_follow_the_teacher_in_the_mixed_target():
    hidden = y.clone()
    hidden[:3] = -100
    values = f.mixed_cross_entropy(s, t, hidden, soft=0.5, reduction="none")
    torch.testing.assert_close(values[:3], f.soft_cross_entropy(s[:3], t[:3], reduction="none"))


def test_two_classes_have_no_rest_to_normalise():
    a, b, labels = s[:, :2], t[:, :2], y % 2
    assert float(f.decoupled_kl(a, b, labels, alpha=0.0)) == pytest.approx(0, abs=1e-12)
    assert f.target_nontarget_cross_entropy(a, b, labels).isfinite()
