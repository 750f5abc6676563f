"""The cases that break engines made for the easy ones: each row of the design's table, on a toy."""

import pytest
import torch
from torch import nn

from limbeck.data.base import Batch
from limbeck.errors import ArgumentError, SignalError
from limbeck.objectives.algebra import Term
from limbeck.signals.step import Ref
from limbeck.tasks.classification import Classification
from limbeck.teachers.base import ModuleTeacher
from limbeck.teachers.live import Average, Blend, Snapshot, Spliced
from limbeck.training.learner import Learner
from limbeck.training.optimizers import make_optimizers
from limbeck.training.sources import DrawnSource, StreamSource
from toys import hard, kl, losses, near, net, toy_data, toy_job, train, weights


class Counting(nn.Module):
    """A net that counts its forward passes in training."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x):
        self.calls += self.training
        return self.inner(x)


# 1. several things learn in turn


def test_learners_take_turns():
    job = toy_job(steps=6)
    critic = job.learner("critic", kl().against("student"), net(5), every=3, offset=2)
    before = weights(critic.module)
    runner = train(job.stage(kl(), learners=[critic]))
    assert len(losses(runner)) == 6
    assert [r["step"] for r in runner.metrics.records if r.get("learner") == "critic"] == [2, 5]
    assert not torch.equal(before, weights(critic.module))


def test_a_student_s_loss_stays_out_of_its_critic():
    """The student is led through the critic's weights; only the student's own gradient may move."""

    class Through(Term):
        def needs(self):
            return [Ref("self", "logits")]

        def values(self, step):
            return step.modules["critic"](step.signal(Ref("self", "logits"))).pow(2).mean(1)

    class Nothing(Term):
        def needs(self):
            return []

        def values(self, step):
            return step.modules["critic"].weight.sum().mul(0).expand(len(step.batch))

    job = toy_job(steps=3, weight_decay=0.0)
    critic = Learner("critic", nn.Linear(3, 2), Nothing("nothing"))
    before, student = weights(critic.module), weights(job.student)
    train(job.stage(Through("through"), learners=[critic]))
    assert torch.equal(before, weights(critic.module))
    assert not torch.equal(student, weights(job.student))


def test_peers_read_each_other_once_and_detached():
    one, two = Counting(net(1)), Counting(net(2))
    job = toy_job(student=one, steps=4)
    peer = job.learner("peer", hard() + kl().against("student"), two)
    train(job.stage(hard() + kl().against("peer"), learners=[peer]))
    assert (one.calls, two.calls) == (4, 4)


def test_peers_equal_a_loop_by_hand():
    job = toy_job(student=net(1), steps=5, optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant")
    other = net(2)
    a, b = net(1), net(2)
    stage = job.stage(
        hard() + kl().against("peer"), learners=[job.learner("peer", hard() + kl().against("student"), other)]
    )
    order = [stage.source.positions(i) for i in range(5)]
    train(stage)
    part = job.data.train
    optimizer = torch.optim.SGD([*a.parameters(), *b.parameters()], lr=1e-3)
    for positions in order:
        batch = part.batch(positions)
        za, zb = a(batch.inputs), b(batch.inputs)
        loss = hard()(za, None, batch.labels) + kl()(za, zb) + hard()(zb, None, batch.labels) + kl()(zb, za)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(weights(a), weights(job.student), atol=1e-6)
    assert torch.allclose(weights(b), weights(other), atol=1e-6)


def test_sparse_and_dense_parameters_of_one_learner():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.EmbeddingBag(50, 4, sparse=True)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.table((x * 10).long().clamp(0, 49)))

    job = toy_job(student=Bag(), steps=3, clip=1.0)
    stage = job.stage(hard())
    kinds = {
        type(optimizer).__name__: optimizer for optimizer in make_optimizers(stage.learners["student"], stage.settings)
    }
    assert set(kinds) == {"AdamW", "SparseAdam"}
    assert kinds["SparseAdam"].param_groups[0]["params"] == [job.student.table.weight]
    table, head = job.student.table.weight.detach().clone(), weights(job.student.head)
    runner = train(stage)
    assert len(losses(runner)) == 3
    moved = (table != job.student.table.weight).any(1)
    assert 0 < int(moved.sum()) < 50  # the rows that were seen, and no other
    assert not torch.equal(head, weights(job.student.head))


def test_a_net_of_weights_learns_on_validation_data():
    """Each sample's weight comes from a net whose loss is that of the student on other data, one step later."""
    held = toy_data(64, seed=0).parts["valid"].batch(range(40, 64))

    class Weighted(Term):
        def needs(self):
            return [Ref("self", "logits")]

        def values(self, step):
            weight = step.modules["weigher"](step.batch.inputs)[:, 0].sigmoid().detach()
            logits = step.signal(Ref("self", "logits"))
            return weight * nn.functional.cross_entropy(logits, step.batch.labels, reduction="none")

    class Later(Term):
        per = "batch"

        def needs(self):
            return []

        def values(self, step):
            student, weigher = step.modules["student"], step.modules["weigher"]
            start = {name: value.detach().requires_grad_() for name, value in student.named_parameters()}
            logits = torch.func.functional_call(student, start, (step.batch.inputs,))
            each = nn.functional.cross_entropy(logits, step.batch.labels, reduction="none")
            inner = (weigher(step.batch.inputs)[:, 0].sigmoid() * each).mean()
            slopes = torch.autograd.grad(inner, list(start.values()), create_graph=True)
            ahead = {name: value - slope for (name, value), slope in zip(start.items(), slopes, strict=True)}
            return nn.functional.cross_entropy(torch.func.functional_call(student, ahead, (held.inputs,)), held.labels)

    data = toy_data(40)
    wrong = torch.arange(40) % 2 == 0
    data.train.inputs[:, 3] = torch.where(wrong, 2.0, -2.0)  # what tells the spoilt labels
    data.train.labels[wrong] = (data.train.labels[wrong] + 1) % 3
    job = toy_job(data=data, steps=120, batch_size=20, learning_rate=0.02, schedule="constant")
    weigher = Learner("weigher", nn.Linear(4, 1), Later("later"), every=2)
    runner = train(job.stage(Weighted("weighted"), learners=[weigher]))
    found = weigher.module(data.train.inputs)[:, 0].sigmoid().detach()
    assert float(found[wrong].mean()) < float(found[~wrong].mean()) - 0.2
    assert [r["step"] for r in runner.metrics.records if r.get("learner") == "weigher"] == list(range(0, 120, 2))


def test_a_projector_shared_by_two_learners_is_refused():
    job = toy_job()
    shared = near().on("1", "teacher:1").projected("linear")
    peer = job.learner("peer", hard() + shared, net(3))
    with pytest.raises(ArgumentError, match="share a term that learns"):
        train(job.stage(hard() + shared, learners=[peer]))


# 2. the teacher moves


def test_an_average_follows_the_student_and_is_detached():
    job = toy_job(steps=4)
    average = Average("student", decay=0.5)
    start = weights(job.student)
    train(job.stage(hard() + kl().against("average"), roles={"average": average}))
    moved = weights(average.module)
    assert not torch.allclose(moved, start)
    assert not torch.allclose(moved, weights(job.student))
    assert all(parameter.grad is None for parameter in average.module.parameters())


def test_a_snapshot_teaches_what_the_student_was():
    job = toy_job(steps=4, schedule="constant")
    runner = train(job.stage(hard() + kl().against("before"), roles={"before": Snapshot("student", every=2)}))
    found = losses(runner, term="kl")
    assert found[0] == found[2] == pytest.approx(0, abs=1e-6)  # just taken
    assert min(found[1], found[3]) > 1e-7  # a step later the student has moved and the snapshot has not


def test_average_is_the_recursion_by_hand():
    model, average = net(1), Average("student", decay=0.9)
    average.follow({"student": model})
    expected = weights(model)
    for number in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update({"student": model}, number)
        expected = 0.9 * expected + 0.1 * weights(model)
    assert torch.allclose(weights(average.module), expected, atol=1e-6)


def test_a_snapshot_moves_only_at_its_steps():
    model, snapshot = net(1), Snapshot("student", every=2)
    snapshot.follow({"student": model})
    start = weights(model)
    with torch.no_grad():
        model[0].weight.add_(1)
    snapshot.update({"student": model}, 0)
    assert torch.equal(weights(snapshot.module), start)
    snapshot.update({"student": model}, 1)
    assert torch.equal(weights(snapshot.module), weights(model))


def test_a_blend_of_teacher_and_student_follows_its_schedule():
    from limbeck.objectives.weights import ramp

    job = toy_job(steps=4, schedule="constant")
    blend = Blend({"teacher": ramp(0, 1), "student": ramp(1, 0)})
    runner = train(job.stage(kl().against("target"), roles={"target": blend}))
    found = losses(runner)
    assert found[0] == pytest.approx(0, abs=1e-6)  # at first the target is the student itself
    assert found[-1] > 1e-4


def test_an_average_of_the_student_is_what_is_kept():
    job = toy_job(steps=6, ema=0.9)
    runner = train(job.stage(hard()))
    assert torch.equal(weights(job.student), weights(runner.results[0].student))
    other = toy_job(steps=6)
    train(other.stage(hard()))
    assert not torch.allclose(weights(other.student), weights(job.student))


# 3. teacher and student see different things


def test_roles_have_views_and_share_what_is_drawn_once():
    seen = {}

    def noisy(name, amount):
        def view(batch, step):
            noise = step.once("noise", lambda generator: torch.randn(batch.inputs.shape, generator=generator))
            seen[name] = (batch.inputs.clone(), noise)
            return batch.inputs + amount * noise

        return view

    job = toy_job(steps=1)
    stage = job.stage(
        kl().on("self/strong:logits", "self/weak:logits"),
        views={"student/strong": noisy("strong", 1.0), "student/weak": noisy("weak", 0.1)},
    )
    runner = train(stage)
    assert torch.equal(seen["strong"][1], seen["weak"][1])
    assert losses(runner)[0] > 0


def test_a_task_gives_each_role_its_own_view():
    class TwoEyes(Classification):
        def view(self, batch, module, role):
            return batch.inputs[:, :2] if role == "student" else batch.inputs[:, 2:]

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 3)

        def forward(self, x):
            assert x.shape[1] == 2
            return self.linear(x)

    job = toy_job(student=Half(), teacher=Half(), task=TwoEyes(), steps=2)
    assert len(losses(train(job.stage(kl())))) == 2


# 4. a signal is put in


def test_a_spliced_teacher_sends_gradient_to_the_student_only():
    job = toy_job(student=net(2, width=16), steps=3)
    teacher = job.teacher.module
    before, student = weights(teacher), weights(job.student)
    spliced = Spliced(teacher, {"1": "student:1"})
    runner = train(job.stage(kl().on("spliced:logits", "teacher:logits"), roles={"spliced": spliced}))
    assert torch.equal(before, weights(teacher))
    assert all(parameter.grad is None for parameter in teacher.parameters())
    after = weights(job.student)
    assert not torch.equal(student[: 16 * 4], after[: 16 * 4])
    assert torch.equal(student[-3:], after[-3:])  # the student's own head took no part
    assert losses(runner)[0] > 0


def test_the_teacher_s_signal_put_into_the_student():
    job = toy_job(student=net(2, width=16), steps=2, weight_decay=0.0)
    before = weights(job.student)
    spliced = Spliced(ModuleTeacher(job.student), {"1": "teacher:1"})
    train(job.stage(kl().on("helped:logits", "teacher:logits"), roles={"helped": spliced}))
    after = weights(job.student)
    assert torch.equal(before[: 16 * 4], after[: 16 * 4])  # below the splice nothing is learnt
    assert not torch.equal(before[-3:], after[-3:])


# 5. blocks train by themselves on the teacher's inputs


def test_blocks_train_side_by_side_on_the_teacher_s_inputs():
    teacher = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3))
    blocks = [nn.Linear(4, 4), nn.Linear(4, 4)]
    job = toy_job(teacher=teacher, student=blocks[0], steps=40, learning_rate=0.05, optimizer="adam")
    learners = [
        Learner(f"block{i}", block, near().on("output", f"teacher:{i}"), feed=f"teacher:{i}#call")
        for i, block in zip((0, 2), blocks, strict=True)
    ]
    from limbeck.training.stage import Stage

    stage = job.stage(near().on("1", "teacher:1"))
    stage = Stage(
        {learner.name: learner for learner in learners}, stage.source, stage.task, stage.settings,
        {"teacher": job.teacher}, keep="block0",
    )  # fmt: skip
    runner = train(stage)
    for name in ("block0", "block2"):
        found = losses(runner, name)
        assert found[-1] < 0.3 * found[0]


# 6. data come from the models


def test_a_source_draws_from_the_student_at_a_stated_rate():
    drawn = []

    def draw(models, generator):
        assert not models["student"].training
        inputs = torch.randn(8, 4, generator=generator)
        drawn.append(inputs)
        return Batch(inputs, torch.arange(8), models["student"](inputs).argmax(1))

    job = toy_job(steps=6)
    source = DrawnSource(draw, every=3, replay=2)
    runner = train(job.stage(hard() + kl(), source=source))
    assert len(drawn) == 2  # not three: the probe's batch is that of step 0
    assert len(losses(runner)) == 6
    assert len(source.state_dict()["buffer"]) == 2


# 7. what learns is not a network


def test_synthetic_inputs_learn_through_an_inner_loop():
    """Dataset distillation in small: the images learn so that one inner step on them fits the real data."""

    class Condensed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inputs = nn.Parameter(torch.randn(3, 4))

    class OneStep(Term):
        per = "batch"

        def needs(self):
            return []

        def values(self, step):
            synthetic = step.modules["student"].inputs
            weight = torch.zeros(3, 4, requires_grad=True)
            inner = nn.functional.cross_entropy(synthetic @ weight.T, torch.arange(3))
            (gradient,) = torch.autograd.grad(inner, weight, create_graph=True)
            return nn.functional.cross_entropy(step.batch.inputs @ (weight - gradient).T, step.batch.labels)

    job = toy_job(student=net(2), steps=60, learning_rate=0.1)
    job.student = Condensed()
    found = losses(train(job.stage(OneStep("one_step"))))
    assert sum(found[-5:]) < 0.8 * sum(found[:5])


# 8. rounds


def test_a_recipe_yields_stages_and_receives_results():
    job = toy_job(steps=3)
    results = []

    def recipe(job):
        teacher = job.teacher
        for number in range(3):
            result = yield job.stage(kl(), teacher=teacher, student=job.fresh_student(number))
            results.append(result)
            teacher = result.student

    runner = train(recipe(job))
    assert len(results) == 3
    taught = [stage.roles["teacher"].module for stage in runner.stages]
    assert taught == [job.teacher.module, results[0].student, results[1].student]
    assert [result.steps for result in runner.results] == [3, 3, 3]
    assert len({id(result.student) for result in results}) == 3


def test_a_variant_changes_one_thing_of_a_yielding_recipe():
    def base(job, rounds=2):
        for number in range(rounds):
            yield job.stage(kl(), student=job.fresh_student(number))

    def variant(job):
        return (yield from base(job, rounds=1))

    assert len(train(variant(toy_job(steps=2))).results) == 1


# 9. full batch, streams, sets of unknown size


def test_one_full_batch():
    runner = train(toy_job(batch_size="all", steps=None, epochs=5).stage(hard()))
    assert runner.results[0].steps == 5


def test_a_stream_counts_samples_not_epochs():
    data = toy_data().train

    def stream():
        for start in range(0, 36, 6):
            yield data.batch(range(start, start + 6 - start % 4))  # unequal batches

    job = toy_job(steps=None, samples=20)
    runner = train(job.stage(hard(), source=StreamSource(stream)))
    assert runner.results[0].steps == 4
    with pytest.raises(ArgumentError, match="no epochs"):
        train(toy_job(steps=None, epochs=1).stage(hard(), source=StreamSource(stream)))


# 10. lazy logits have tests of their own: tests/signals/test_lazy.py and tests/tasks/test_causal_lm.py


def test_unknown_roles_and_missing_teachers_are_named():
    job = toy_job()
    with pytest.raises(ArgumentError, match="'peerr'"):
        train(job.stage(kl().against("peerr")))
    job.teacher = None
    with pytest.raises(ArgumentError, match="give teacher="):
        train(job.stage(kl()))


def test_a_tap_that_matches_nothing_is_found_before_training():
    with pytest.raises(SignalError, match="names no module"):
        train(toy_job().stage(near().on("7")))


def test_shapes_that_do_not_meet_say_which_projector_helps():
    with pytest.raises(SignalError, match="projected"):
        train(toy_job().stage(near().on("1")))  # widths 8 and 16
    assert len(losses(train(toy_job().stage(near().on("1").projected())))) == 6
