"""Students with other heads: taken apart by how they run, saved whole, loaded back to the same outputs."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from goldens import load
from limbeck import functional as f
from limbeck.errors import ArgumentError, ModelError, SignalError
from limbeck.export.model import export_model
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.signals.order import after, before_activation, calls, classifier_of
from limbeck.students.build import cnn, mlp, resnet, wide_resnet
from limbeck.students.heads import without
from limbeck.students.reused import ReusedClassifier
from limbeck.students.save import load_module, save_model
from limbeck.teachers.base import as_teacher
from limbeck.training.execute import Runner
from limbeck.training.headed import reuse_classifier

G = torch.Generator().manual_seed(1)
X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Flattening(nn.Module):
    """As torchvision writes them: the pooled maps are flattened by a function, not by a module."""

    def __init__(self, more=False):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ReLU())
        self.pool, self.fc, self.more = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4), more

    def forward(self, x):
        x = torch.flatten(self.pool(self.layer(x)), 1)
        return self.fc(F.relu(x - 0.1) if self.more else x)


# how a module runs


def test_calls_are_in_the_order_in_which_they_end():
    net = resnet(1, 4, 8, 4).eval()
    made, output = calls(net, lambda: net(X))
    names = [call.name for call in made]
    assert names.index("layer1") < names.index("layer2.0.conv1") < names.index("layer2.0.relu2") < names.index("fc")
    assert names[-1] == ""
    assert torch.equal(made[-1].output, output)
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in net.modules())


@pytest.mark.parametrize(
    ("net", "name"),
    [(cnn(1, 4, 4, 2, 8), "fc"), (mlp(64, 4, 8), "fc"), (wide_resnet(1, 4, 10, 1), "fc"), (Flattening(), "fc")],
)
def test_the_classifier_is_found_by_its_output(net, name):
    net.eval()
    assert classifier_of(net, lambda: net(X), lambda output: output) == name
    body = without(net, [name])
    assert body(X).shape == (3, net.fc.in_features)
    torch.testing.assert_close(net.fc(body(X)), net(X))


def test_a_model_that_does_not_end_in_a_linear_layer_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Sigmoid())
    with pytest.raises(SignalError, match="do not come from a linear layer"):
        classifier_of(net, lambda: net(X), lambda output: output)


def test_what_runs_after_a_layer():
    net = cnn(1, 4, 4, 2, 8)
    assert after(net, "block2", lambda: net(X)) == ["pool.0", "pool.1", "fc"]
    with pytest.raises(SignalError, match="did not run"):
        after(net, "block3", lambda: net(X))


@pytest.mark.parametrize(
    ("net", "stage", "tap"),
    [(cnn(1, 4, 4, 2, 8), "block1", "block1.relu#input"), (resnet(1, 4, 8, 4), "layer2", "layer2.0.relu2#input"),
     (wide_resnet(1, 4, 10, 1), "layer1", "layer1"), (wide_resnet(1, 4, 10, 1), "norm", "norm.1#input"),
     (mlp(64, 4, 8, 0.1), "hidden1", "hidden1.relu#input")],
)  # fmt: skip
def test_where_a_stage_is_activated(net, stage, tap):
    assert before_activation(net.eval(), stage, lambda: net(X)) == tap


# SimKD


@pytest.mark.shared_data
def test_golden_simkd():
    case = load("classifiers", "simkd")
    made = ReusedClassifier(nn.Identity(), 4, nn.Linear(8, 5), 2, (4, 4)).double()
    state = {
        key.removeprefix("in_state_transfer__").replace("__", "."): value
        for key, value in case.items()
        if key.startswith("in_state_transfer__")
    }
    made.projector.load_state_dict(state)
    made.classifier.load_state_dict({"weight": case["in_cls_w"], "bias": case["in_cls_b"]})
    student = case["in_student"].requires_grad_()
    seen = []
    made.projector.register_forward_hook(lambda module, args, output: seen.append(output))
    torch.testing.assert_close(made(student), case["out_logits"])
    torch.testing.assert_close(seen[0], case["out_projected"])
    loss = f.feature_mse(seen[0], f.pooled_to(4, 4)(case["in_teacher"]))
    loss.backward()
    torch.testing.assert_close(loss.detach(), case["out_loss"])
    torch.testing.assert_close(student.grad, case["grad_student"])


NETS = {
    "cnn": lambda: (cnn(1, 4, 4, 2, 8), cnn(1, 4, 8, 2, 8)),
    "the teacher's maps are larger": lambda: (cnn(1, 4, 4, 3, 8), cnn(1, 4, 8, 1, 8)),
    "the student's maps are larger": lambda: (cnn(1, 4, 4, 1, 8), cnn(1, 4, 8, 3, 8)),
    "resnet": lambda: (resnet(1, 4, 8, 4), wide_resnet(1, 4, 10, 1)),
    "flattening": lambda: (nn.Sequential(*cnn(1, 4, 4, 2, 8).children()), Flattening()),
}


def job_of(student, teacher, **settings):
    job = toy_job(find("simkd"), steps=3, **settings)
    job.student, job.teacher = student, as_teacher(teacher)
    return job


@pytest.mark.parametrize("nets", NETS)
def test_simkd_is_saved_whole(nets, tmp_path):
    student, teacher = NETS[nets]()
    job = job_of(student, teacher.eval())
    before, classifier = copy.deepcopy(student.state_dict()), copy.deepcopy(teacher.fc.state_dict())
    trained = Runner(cpu=True).run(find("simkd")(job)).student
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())  # a copy was trained
    assert all(torch.equal(value, classifier[key]) for key, value in trained.classifier.state_dict().items())
    assert sum(type(module) is nn.Linear for module in trained.modules()) == 1  # its own classifier is gone
    loaded = load_module(save_model(trained, tmp_path / "student", task="classification"))
    assert type(loaded) is ReusedClassifier
    assert torch.equal(loaded(X), trained(X))
    assert torch.equal(load_module(save_model(loaded, tmp_path / "again"))(X), trained(X))


def test_the_prediction_is_the_teacher_s_where_the_features_are():
    """Projected maps equal to the teacher's give exactly its logits."""
    student, teacher = NETS["cnn"]()
    made = reuse_classifier(job_of(student, teacher.eval()), "block2", "block2", factor=2).eval()
    made.projector = nn.Identity()
    made.body = without(teacher, after(teacher, "block2", lambda: teacher(X))).eval()
    torch.testing.assert_close(made(X), teacher(X))


def test_simkd_leaves_as_onnx(tmp_path):
    job = job_of(*NETS["cnn"]())
    trained = Runner(cpu=True).run(find("simkd")(job)).student
    record = export_model(trained, tmp_path / "student.onnx", job.task, job.data, seconds=0.01)
    assert record["max_difference"] < 1e-4


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (mlp(64, 4, 8), cnn(1, 4, 8, 2, 8), r"\[2, 8\]; SimKD projects maps"),
        (cnn(1, 4, 4, 2, 8), mlp(64, 4, 8), "teacher_layer="),
        (cnn(1, 4, 4, 2, 8), Flattening(more=True), "cannot be reused"),
        (Flattening(more=True), cnn(1, 4, 8, 2, 8), "more after 'layer'"),
    ],
)
def test_what_simkd_cannot_take_is_said_before_training(student, teacher, message):
    job = job_of(student, teacher)
    taps = ("layer" if isinstance(net, Flattening) else "auto" for net in (student, teacher))
    with pytest.raises(ModelError, match=message):
        find("simkd")(job, student_layer=next(taps), teacher_layer=next(taps))


def test_a_student_that_nobody_knows_how_to_build_is_told():
    job = job_of(Flattening(), cnn(1, 4, 8, 2, 8))
    trained = Runner(cpu=True).run(find("simkd")(job, student_layer="layer")).student
    assert any("builder=" in warning for warning in job.warnings)
    assert not hasattr(trained, "limbeck_spec")


def test_simkd_wants_a_teacher_that_can_be_opened():
    job = job_of(cnn(1, 4, 4, 2, 8), cnn(1, 4, 8, 2, 8))
    job.teacher = as_teacher(lambda inputs: torch.zeros(len(inputs), 4))
    with pytest.raises(Exception, match="no module"):
        find("simkd")(job)


# two heads

DHO = find("dho")


@pytest.mark.shared_data
def test_golden_mixture():
    case = load("classifiers", "dho_inference")
    hard, soft, labels = case["in_ce_logits"], case["in_kd_logits"], case["in_target"]
    torch.testing.assert_close(f.mixed_heads(hard, soft, 0.5, 1.0).exp(), case["out_probs_a05_b1"])
    share, temperature = f.choose_mixture(hard, soft, labels)
    assert (share, temperature) == pytest.approx((float(case["out_best_alpha"]), float(case["out_best_beta"])))
    right = (f.mixed_heads(hard, soft, share, temperature).argmax(1) == labels).double().mean()
    assert float(100 * right) == pytest.approx(float(case["out_best_acc"]))


@pytest.mark.shared_data
def test_golden_two_heads():
    case = load("classifiers", "dho_loss")
    names = ("ce_logits", "kd_l", "kd_u")
    hard, labelled, unlabelled = (case[f"in_{name}"].requires_grad_() for name in names)
    kd = sum(f.forward_kl(s, t, temperature=2.0) for s, t in ((labelled, case["in_t_l"]), (unlabelled, case["in_t_u"])))
    loss = 0.5 * f.cross_entropy(hard, case["in_target"]) + 0.5 * kd
    loss.backward()
    torch.testing.assert_close(loss.detach(), case["out_loss"])
    for name, value in zip(names, (hard, labelled, unlabelled), strict=True):
        torch.testing.assert_close(value.grad, case[f"grad_{name}"])


def test_equal_halves_give_each_kind_its_own_mean():
    hard, soft, teacher = torch.randn(3, 8, 4, generator=G)
    labels = torch.tensor([0, 1, 2, 3, -100, -100, -100, -100])
    job = toy_job(DHO)
    objective = next(DHO(job)).learners["student"].objective
    found = objective({"hard": hard, "soft": soft}, teacher, labels)
    each = [f.forward_kl(soft[part], teacher[part], temperature=2.0) for part in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(found, 0.5 * f.cross_entropy(hard[:4], labels[:4]) + 0.5 * (each[0] + each[1]))
    job.data.parts["train"] = job.labelled()  # without unlabelled samples there is one mean
    objective = next(DHO(job)).learners["student"].objective
    found = objective({"hard": hard[:4], "soft": soft[:4]}, teacher[:4], labels[:4])
    torch.testing.assert_close(found, 0.5 * f.cross_entropy(hard[:4], labels[:4]) + 0.5 * each[0])


def test_a_mixture_is_a_distribution_between_its_heads():
    hard, soft = torch.randn(2, 6, 5, generator=G, dtype=torch.float64)
    torch.testing.assert_close(f.mixed_heads(hard, soft, 1.0, 2.0), hard.log_softmax(1))
    torch.testing.assert_close(f.mixed_heads(hard, soft, 0.0, 2.0), (soft / 2).log_softmax(1))
    mixed = f.mixed_heads(hard, soft, 0.3, 2.0).exp()
    torch.testing.assert_close(mixed.sum(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(mixed, 0.3 * hard.softmax(1) + 0.7 * (soft / 2).softmax(1))


def test_the_mixture_is_chosen_by_labelled_samples_and_the_first_best_wins():
    right, wrong = torch.eye(3), torch.eye(3).roll(1, 0)
    labels = torch.tensor([0, 1, -100])
    assert f.choose_mixture(4 * right, 4 * wrong, labels)[0] > 0.5
    assert f.choose_mixture(4 * wrong, 4 * right, labels) == (0.0, 0.5)
    with pytest.raises(ValueError, match="no sample has a label"):
        f.choose_mixture(right, wrong, torch.full((3,), -100))


@pytest.mark.parametrize(
    "student", [cnn(1, 4, 4, 2, 8), mlp(64, 4, 8), resnet(1, 4, 8, 4)], ids=["cnn", "mlp", "resnet"]
)
def test_both_heads_and_their_mixture_are_saved(student, tmp_path):
    job = toy_job(DHO, steps=6)
    job.student = student
    trained = Runner(cpu=True).run(DHO(job)).student
    share, temperature = trained.mixture.tolist()
    assert (share, temperature) == pytest.approx(chosen(trained, job.data.parts["valid"]))
    loaded = load_module(save_model(trained, tmp_path / "student", task="classification"))
    assert torch.equal(loaded(X), trained(X))
    assert {"hard.weight", "soft.weight", "mixture"} <= loaded.state_dict().keys()
    torch.testing.assert_close(loaded(X).exp().sum(1), torch.ones(3))
    record = export_model(trained, tmp_path / "student.onnx", job.task, job.data, seconds=0.01)
    assert record["max_difference"] < 1e-4


def chosen(module, part):
    """By hand: every share and temperature, on the heads' outputs."""
    seen = {}
    for name in ("hard", "soft"):
        module.get_submodule(name).register_forward_hook(lambda _, args, output, name=name: seen.update({name: output}))
    with torch.no_grad():
        module(part.batch(torch.arange(len(part))).inputs)
    best, found = -1, None
    for b in (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0):
        for a in [0.05 * i for i in range(21)]:
            mixed = a * seen["hard"].double().softmax(1) + (1 - a) * (seen["soft"].double() / b).softmax(1)
            right = int((mixed.argmax(1) == part.labels).sum())
            if right > best:
                best, found = right, (a, b)
    return found


def test_texts_find_their_tokenizer_behind_two_heads(tmp_path):
    from limbeck.data.base import Data, TextPart
    from limbeck.students.build import text_bag

    texts = [f"the {word} runs" for word in ("cat", "dog", "ant", "owl") * 6]
    labels = torch.arange(4).repeat(6)
    hidden = labels.clone()
    hidden[12:] = -100
    job = toy_job(DHO, steps=4)
    job.data = Data("pets", "text", {"train": TextPart("train", texts, hidden), "valid": TextPart("valid", texts, labels)},
                    classes=list("abcd"))  # fmt: skip
    job.student, job.teacher = text_bag(4, 64, 8), as_teacher(text_bag(4, 128, 8))
    trained = Runner(cpu=True).run(DHO(job)).student
    loaded = load_module(save_model(trained, tmp_path / "student"))
    inputs = job.task.example(job.data, loaded)
    assert torch.equal(loaded(**inputs), trained(**inputs))


def test_dho_says_what_it_misses():
    job = toy_job(DHO)
    del job.data.parts["valid"]
    assert Runner(cpu=True).run(DHO(job)).student.mixture.tolist() == [0.5, 1.0]
    assert any("both heads count half" in text for text in job.warnings)
    with pytest.raises(ArgumentError, match="batch_size=all"):
        next(DHO(toy_job(DHO, batch_size="all")))
    with pytest.raises(ArgumentError, match="hard=1"):
        next(DHO(toy_job(DHO), hard=1.0))
    job = toy_job(DHO)
    job.student = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Sigmoid())
    with pytest.raises(SignalError, match="do not come from a linear layer"):
        next(DHO(job))


# subclasses

LELP = find("lelp")


@pytest.mark.parametrize("student", [cnn(1, 4, 4, 2, 8), mlp(64, 4, 8)], ids=["cnn", "mlp"])
def test_a_head_of_subclasses_is_saved(student, tmp_path):
    job = toy_job(LELP, steps=4)
    job.student = student
    stage = LELP(job, subclasses=3, hard=0.5)
    trained = Runner(cpu=True).run(stage).student
    loaded = load_module(save_model(trained, tmp_path / "student", task="classification"))
    assert torch.equal(loaded(X), trained(X))
    parts = trained.subclasses(trained.features(X)).softmax(1).unflatten(1, (4, 3)).sum(2)
    torch.testing.assert_close(trained(X).softmax(1), parts)
    record = export_model(trained, tmp_path / "student.onnx", job.task, job.data, seconds=0.01)
    assert record["max_difference"] < 1e-4


def test_the_teacher_reads_once_and_its_subclasses_are_the_target():
    job = toy_job(LELP, steps=2)
    teacher, reads = job.teacher.module, []
    teacher.register_forward_hook(lambda *_: reads.append(1))
    stage = LELP(job, subclasses=4)
    before = len(reads)
    assert stage.roles["teacher"].stored
    Runner(cpu=True).run(stage)
    assert len(reads) == before
    role = stage.roles["subclass"]
    batch = job.data.train.batch(torch.arange(8))
    signals = stage.roles["teacher"].read(batch, ["logits", role.tap], job.task)
    target = f.subclass_log_probabilities(signals["logits"], signals[role.tap], role.centres, role.directions)
    with torch.no_grad():
        wanted = teacher.eval()(batch.inputs).softmax(1)
    torch.testing.assert_close(target.exp().unflatten(1, (4, 4)).sum(2), wanted, atol=1e-3, rtol=1e-2)


def test_lelp_follows_a_teacher_whose_inputs_are_augmented_live():
    from limbeck.data.augment import Shift

    job = toy_job(LELP, steps=2)
    job.data.train.augmentation = Shift(1)
    stage = LELP(job)
    assert stage.roles["teacher"] is job.teacher
    assert Runner(cpu=True).run(stage).steps == 2


def test_what_lelp_cannot_take_is_said_before_training():
    with pytest.raises(ArgumentError, match="subclasses=1"):
        LELP(toy_job(LELP), subclasses=1)
    job = toy_job(LELP)
    job.teacher = as_teacher(lambda inputs: torch.zeros(len(inputs), 4))
    with pytest.raises(ArgumentError, match="have to be named"):
        LELP(job)
    job = toy_job(LELP)
    assert LELP(job, subclasses=40).roles
    assert any("too few samples for 40 subclasses" in text for text in job.warnings)
