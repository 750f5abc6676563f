"""Masked autoencoders: the formulas, one mask for all, what of the teacher runs, and what is saved."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import goldens
import limbeck as lb
from limbeck.errors import ArgumentError
from limbeck.functional import (
    argmax_cross_entropy,
    feature_l1,
    patch_mse,
    patches_of,
    standardised_smooth_l1,
    token_directions,
)
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.signals.step import Step
from limbeck.students.build import build_student, cnn
from limbeck.students.masked import autoencoder_around, sine_positions, vit
from limbeck.students.save import load_module, save_model
from limbeck.training.execute import Runner
from limbeck.training.masking import Masked, MaskedTeacher
from toys import weights


@pytest.mark.parametrize("side", [2, 4, 14])
def test_positions_tell_patches_apart_and_have_nothing_in_common(side):
    found = sine_positions(side, 32)
    assert found.shape == (1 + side**2, 32)
    assert not found[0].any()  # the class token
    torch.testing.assert_close(found[1:].mean(0), torch.zeros(32), rtol=0, atol=1e-6)
    gaps = torch.cdist(found[1:], found[1:]) + 9 * torch.eye(side**2)
    assert float(gaps.min()) > 0.1
    # less the mean, they are sines and cosines: differences of columns are those of the formula
    rates = 10000 ** -(np.arange(8) / 8)
    expected = np.concatenate([np.sin(rates), np.cos(rates) - 1])
    np.testing.assert_allclose((found[2] - found[1])[:16], expected, atol=1e-5)


@pytest.mark.shared_data
def test_reconstruction_is_the_official_one():
    case = goldens.load("classifiers", "mae_reconstruction")
    predicted = case["in_pred"].requires_grad_()
    loss = patch_mse(predicted, patches_of(case["in_imgs"], 4), mask=case["in_mask"])
    loss.backward()
    torch.testing.assert_close(loss, case["out_loss"])
    torch.testing.assert_close(predicted.grad, case["grad_pred"])


@pytest.mark.shared_data
def test_features_of_seen_tokens_are_the_official_ones():
    case = goldens.load("classifiers", "dmae_feature")
    student = case["in_student"].requires_grad_()
    ours = F.linear(student, case["in_proj_w"], case["in_proj_b"])
    loss = feature_l1(token_directions(ours), token_directions(case["in_teacher"]))
    loss.backward()
    torch.testing.assert_close(loss, case["out_loss"])
    torch.testing.assert_close(student.grad, case["grad_student"])


@pytest.mark.shared_data
def test_the_generic_stage_is_the_official_one():
    case = goldens.load("drafters-and-compression", "g2sd-generic")
    student = case["in_student_pred"].requires_grad_()
    loss = standardised_smooth_l1(student[None], case["in_teacher_hidden"][None])
    loss.backward()
    torch.testing.assert_close(loss, case["out_loss"])
    torch.testing.assert_close(student.grad, case["grad_student_pred"])


def test_patches_and_their_errors_by_hand():
    images = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    found, predicted = patches_of(images, 2), torch.randn(2, 4, 12)
    errors = patch_mse(predicted, found, normalised=True, reduction="none")
    for sample in range(2):
        for number in range(4):
            row, column = 2 * (number // 2), 2 * (number % 2)
            true = images[sample, :, row : row + 2, column : column + 2].permute(1, 2, 0).flatten().numpy()
            assert found[sample, number].tolist() == true.tolist()
            true = (true - true.mean()) / np.sqrt(true.var(ddof=1) + 1e-6)
            assert errors[sample, number].item() == pytest.approx(
                ((predicted[sample, number].numpy() - true) ** 2).mean(), rel=1e-5
            )


def test_the_best_class_of_the_teacher_is_a_label():
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    torch.testing.assert_close(argmax_cross_entropy(student, teacher), F.cross_entropy(student, teacher.argmax(1)))


def test_hidden_patches_are_not_seen_and_places_are_kept():
    model = autoencoder_around(vit(1, 3, size=8, patch=2, width=8, depth=2, heads=2), 12, 1, 2)
    images, keep = torch.rand(2, 1, 8, 8), torch.tensor([[3, 0, 9, 12], [15, 1, 2, 4]])
    others = torch.rand_like(images)
    cut = patches_of(images, 2).scatter(1, keep[..., None].expand(-1, -1, 4), torch.zeros(2, 4, 4))
    assert cut.count_nonzero() == 2 * 12 * 4  # what is hidden, as patches
    seen = torch.zeros(2, 16).scatter(1, keep, 1).view(2, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(model(images, keep), model(images * seen + others * (1 - seen), keep))
    turned = keep.flip(1)  # the order of the kept patches says nothing: every token carries its place
    torch.testing.assert_close(model(images, keep), model(images, turned), atol=1e-5, rtol=1e-5)
    everything = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(model.encoder(images), model.encoder(images, everything))


def test_student_and_teacher_share_the_mask_and_the_teacher_stops():
    """By counted calls: of three blocks the first two run, once a step, on 1 + 4 of 17 tokens, and no decoder."""
    job = toy_job(find("dmae"))
    teacher, calls, seen = job.teacher.module, [], []
    places: dict[str, list[torch.Tensor]] = {"teacher": [], "student": []}
    for name in ("encoder.blocks.0", "encoder.blocks.1", "encoder.blocks.2", "decoder", "predict", "encoder.fc"):
        teacher.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    teacher.encoder.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    teacher.register_forward_pre_hook(
        lambda _, args, kwargs: places["teacher"].append(kwargs["keep"]), with_kwargs=True
    )
    plan = find("dmae")(job)
    stage = next(plan)
    stage.learners["student"].module.register_forward_pre_hook(
        lambda _, args, kwargs: places["student"].append(kwargs["keep"]), with_kwargs=True
    )
    result = Runner(cpu=True).run(stage)
    assert calls == ["encoder.blocks.0", "encoder.blocks.1"] * (len(calls) // 2)
    assert len(calls) // 2 in (result.steps, result.steps + 1)  # one more to see the shapes
    assert set(seen) == {1 + 4}
    assert all(torch.equal(*pair) for pair in zip(places["student"], places["teacher"], strict=True))


def test_every_step_has_another_mask_and_a_repeated_one_the_same():
    batch = toy_job().data.train.batch(torch.arange(5))
    view = Masked(16, 4)
    masks = [view.kept(Step(batch, number=number, seed=3)) for number in (0, 1, 0)]
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[1])
    assert all(len(set(row.tolist())) == 4 for mask in masks for row in mask)
    read = MaskedTeacher(toy_job(find("mae")).teacher.module, view)
    assert read.derive(Step(batch, seed=3), ["encoder.blocks.0"], toy_job().task)["encoder.blocks.0"].shape == (
        5,
        5,
        16,
    )


@pytest.mark.parametrize("name", ["mae", "dmae", "g2sd"])
def test_the_student_is_saved_without_decoder_and_predicts_the_same(name, tmp_path):
    job = toy_job(find(name))
    student = Runner(cpu=True).run(find(name)(job)).student.eval()
    assert not any("decoder" in key or "mask_token" in key for key in student.state_dict())
    again = load_module(save_model(student, tmp_path / "student")).eval()
    images = job.data.train.batch(torch.arange(4)).inputs
    with torch.no_grad():
        torch.testing.assert_close(again(images), student(images))


def test_an_autoencoder_is_kept_and_serves_as_pretrained(tmp_path):
    job = toy_job(find("mae"))
    before = weights(job.student)
    made = Runner(cpu=True).run(find("mae")(job, before=1.0)).student
    assert not torch.equal(weights(made.encoder), before)
    folder = str(save_model(made, tmp_path / "autoencoder"))
    torch.testing.assert_close(weights(load_module(folder)), weights(made))
    for name in ("dmae", "g2sd"):
        job = toy_job(find(name))
        job.teacher = lb.teachers.base.as_teacher(copy.deepcopy(job.teacher.module.encoder))  # type: ignore[attr-defined]
        assert Runner(cpu=True).run(find(name)(job, pretrained=folder)).steps > 0


def test_what_does_not_fit_is_said():
    def plan(name, student=None, teacher=None, **arguments):
        job = toy_job(find(name))
        job.student = student or job.student
        if teacher is not None:
            job.teacher = lb.teachers.base.as_teacher(teacher)
        return next(find(name)(job, **arguments))

    with pytest.raises(ArgumentError, match=r"student is a Sequential.*vit\(width=64"):
        plan("mae", cnn(1, 4, 4, 2, 8))
    with pytest.raises(ArgumentError, match="not those of other libraries"):
        plan("dmae", teacher=cnn(1, 4, 4, 2, 8))
    with pytest.raises(ArgumentError, match="VisionTransformer has none: give pretrained="):
        plan("g2sd", teacher=vit(1, 4, size=8, patch=2, width=8, depth=2, heads=2))
    with pytest.raises(ArgumentError, match="give the student patch=4"):
        plan("dmae", teacher=vit(1, 4, size=8, patch=4, width=8, depth=2, heads=2))
    with pytest.raises(ArgumentError, match=r"ratio=0\.99"):
        plan("mae", ratio=0.99)
    with pytest.raises(ArgumentError, match=r"at=1\.5"):
        plan("dmae", at=1.5)
    with pytest.raises(ArgumentError, match=r"before=1\.5"):
        plan("mae", before=1.5)
    with pytest.raises(ArgumentError, match="depth=0"):
        plan("g2sd", decoder_depth=0)
    with pytest.raises(ArgumentError, match="patch=3 does not divide"):
        vit(1, 4, size=8, patch=3)


def test_a_word_builds_it_for_the_data():
    data = toy_job().data
    made = build_student("vit(width=16, depth=2, patch=2)", data)
    assert made.limbeck_spec["arguments"]["size"] == 8
    assert made(torch.rand(2, 1, 8, 8)).shape == (2, 4)
