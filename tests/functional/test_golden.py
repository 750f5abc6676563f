"""The formulas against outputs of official implementations: value and gradient."""

import pytest
import torch

from goldens import load
from limbeck import functional as f
from limbeck import objectives as o
from limbeck.objectives.projectors import projector

pytestmark = pytest.mark.shared_data


CASES = {
    "kd": lambda s, t, y: f.forward_kl(s, t, temperature=4.0),
    "dkd": lambda s, t, y: f.decoupled_kl(s, t, y, alpha=1.0, beta=8.0, temperature=4.0),
    "dist": lambda s, t, y: f.pearson_rows(s, t) + f.pearson_columns(s, t),
    "nkd": lambda s, t, y: f.target_nontarget_cross_entropy(s, t, y, gamma=1.5),
    "logit_standardization": lambda s, t, y: f.forward_kl(f.standardize(s), f.standardize(t), temperature=2.0),
    "ofa": lambda s, t, y: f.adapted_cross_entropy(s, t, y),
    "pld": lambda s, t, y: f.plackett_luce(s, t, y),
    "ssld_js": lambda s, t, y: f.symmetric_kl(s, t),
    "born_again": lambda s, t, y: f.forward_kl(s, t),
    "attention_transfer": lambda s, t, y: f.attention_map_mse(s, t),
    "factor_transfer": lambda s, t, y: f.factor_l1(s, t),
    "similarity_preserving": lambda s, t, y: f.gram_rows_mse(s, t),
    "rkd": lambda s, t, y: 25 * f.relation_distance(s, t) + 50 * f.relation_angle(s, t),
    "nst": lambda s, t, y: f.channel_mmd(s, t),
    "cwd": lambda s, t, y: f.channel_kl(s, t, temperature=4.0),
    "pkt": lambda s, t, y: f.neighbour_kl(s, t),
    "correlation_congruence": lambda s, t, y: f.consecutive_error_product(s, t),
    "simclr_v2_distill": lambda s, t, y: f.soft_cross_entropy(s, t),
    "textbrewer_kd_ce": lambda s, t, y: f.soft_cross_entropy(s, t),
    "textbrewer_kd_mse": lambda s, t, y: f.mse(s, t),
    "textbrewer_hid_mse_loss": lambda s, t, y: f.mse(s, t, mask=TOKENS),
    "tinybert_prediction": lambda s, t, y: f.soft_cross_entropy(s, t) / s.shape[-1],  # its mean is over classes too
    "deep_mutual_learning": lambda s, t, y: (o.cross_entropy() + o.forward_kl())(s, t, y),
}
TOKENS = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])


@pytest.mark.parametrize("name", CASES)
def test_classifiers(name):
    case = load("classifiers", name)
    first = next(key for key in ("in_student", "in_logits_S", "in_s") if key in case)
    second = {
        "in_student": "in_peer" if "in_peer" in case else "in_teacher",
        "in_logits_S": "in_logits_T",
        "in_s": "in_t",
    }[first]
    student, teacher = case[first].double().requires_grad_(), case[second].double()
    value = CASES[name](student, teacher, case.get("in_target"))
    assert float(value.detach()) == pytest.approx(float(case["out_loss"].flatten()[0]), rel=1e-6)
    gradient = case.get("grad_" + first.removeprefix("in_"))
    if gradient is not None:
        value.backward()
        torch.testing.assert_close(student.grad, gradient.double(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("name", "stages", "measure"), [
    ("reviewkd_hcl", 3, lambda s, t, i: f.hierarchical_context_mse(s, t)),
    ("activation_boundary", 2, lambda s, t, i: 3 / 1000 * 2.0 ** (i - 1) * f.activation_boundary(s, t)),
])  # fmt: skip
def test_over_stages(name, stages, measure):
    case = load("classifiers", name)
    students = [case[f"in_s{i}"].double().requires_grad_() for i in range(stages)]
    value = sum(measure(student, case[f"in_t{i}"].double(), i) for i, student in enumerate(students))
    value.backward()
    assert float(value.detach()) == pytest.approx(float(case["out_loss"]), rel=1e-6)
    for i, student in enumerate(students):
        torch.testing.assert_close(student.grad, case[f"grad_s{i}"].double(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("output", "score"), [
    ("out_linear", f.cka), ("out_linear_debiased", lambda x, y: f.cka(x, y, debiased=True)), ("out_rbf_0_8", f.cka_rbf),
])  # fmt: skip
def test_cka(output, score):
    case = load("classifiers", "cka")
    assert float(score(case["in_x"].double(), case["in_y"].double())) == pytest.approx(float(case[output]), rel=1e-6)


def test_fitnets_regressor():
    case = load("classifiers", "fitnet")
    student, teacher = case["in_student"], case["in_teacher"]
    regressor = projector("regressor", tuple(student.shape), tuple(teacher.shape)).to(student.dtype)
    conv, norm, _ = regressor
    with torch.no_grad():
        conv.weight.copy_(case["in_state_conv__weight"])
        conv.bias.copy_(case["in_state_conv__bias"])
        norm.weight.copy_(case["in_state_bn__weight"])
        norm.bias.copy_(case["in_state_bn__bias"])
    student = student.requires_grad_()
    loss = f.feature_mse(regressor(student), teacher)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(case["out_loss"]), rel=1e-5)
    torch.testing.assert_close(student.grad, case["grad_student"], rtol=1e-4, atol=1e-7)


def test_generalised_jensen_shannon():
    case = load("language-models", "gkd-jsd")
    keys = [key for key in case if key.startswith("in_")]
    student = case[next(k for k in keys if "student" in k)].double().requires_grad_()
    teacher = case[next(k for k in keys if "teacher" in k)].double()
    labels = case[next(k for k in keys if "label" in k)]
    value = f.jensen_shannon(student, teacher, beta=0.0, mask=labels != -100)
    assert float(value.detach()) == pytest.approx(float(case["out_loss"]), rel=1e-6)


def test_mi_alpha():
    case = load("classifiers", "mi_alpha_bound")
    scores, baseline = (case[name].double().requires_grad_() for name in ("in_scores", "in_baseline"))
    loss = -f.information_bound(scores, baseline, alpha=0.5)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(case["out_loss"]), rel=1e-6)
    torch.testing.assert_close(scores.grad, case["grad_scores"].double(), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(baseline.grad, case["grad_baseline"].double(), rtol=1e-5, atol=1e-8)
