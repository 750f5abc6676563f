"""Means as signals: over the places of a map, and over the tokens of a text that are no padding."""

from __future__ import annotations

import pytest
import torch

import limbeck as lb
from limbeck.errors import SignalError
from limbeck.functional import pooled
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.recipes.toy_embedding import encoder_toy
from limbeck.signals.taps import Taps, mean_of
from limbeck.students.build import cnn
from limbeck.tasks import resolve
from limbeck.tasks.text import tokenize
from limbeck.training.execute import Runner
from toys import weights


def read(module, taps, **inputs):
    with Taps(module.eval(), taps) as open_taps, torch.no_grad():
        open_taps.run(lambda: module(**inputs))
    return open_taps.signals


def test_the_mean_of_a_text_is_what_it_is_without_padding():
    _, student, _ = encoder_toy()
    layer = "bert.encoder.layer.1"
    words = student.tokenizer.get_vocab()
    texts = [" ".join(list(words)[5 : 5 + count]) for count in (2, 9)]
    together = read(student, [f"{layer}#mean", layer], **tokenize(student, texts))
    assert together[layer].shape[1] > 5  # the first text is padded
    for number, text in enumerate(texts):
        alone = read(student, [layer], **tokenize(student, [text]))[layer]
        torch.testing.assert_close(together[f"{layer}#mean"][number], alone[0].mean(0), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[f"{layer}#mean"][0], together[layer][0].mean(0), atol=1e-3)


def test_the_mean_of_a_map_of_an_input_and_of_a_vector():
    model, images = cnn(1, 4, width=4, depth=2, size=8), torch.rand(3, 1, 8, 8)
    with Taps(model.eval(), ["block2", "block2#mean", "block2#input#mean", "block2#input", "fc#mean", "fc"]) as taps:
        taps.run(lambda: model(images))
        found = taps.signals
    torch.testing.assert_close(found["block2#mean"], found["block2"].mean((2, 3)))
    torch.testing.assert_close(found["block2#input#mean"], found["block2#input"].mean((2, 3)))
    assert torch.equal(found["fc#mean"], found["fc"])


def test_a_mask_of_other_places_does_not_count():
    tokens = torch.randn(2, 3, 4)
    assert torch.equal(pooled(tokens, torch.ones(2, 5)), tokens.mean(1))
    half = pooled(tokens, torch.tensor([[1, 1, 0], [1, 0, 0]]))
    torch.testing.assert_close(half, torch.stack([tokens[0, :2].mean(0), tokens[1, 0]]))


def test_a_mean_is_not_rounded_on_its_way():
    tokens, mask = torch.randn(2, 300, 4).bfloat16(), torch.ones(2, 300)
    mask[0, 77:] = 0
    expected = torch.stack([tokens[0, :77].float().mean(0), tokens[1].float().mean(0)])
    for given in (tokens, tokens.float()):
        with torch.autocast("cpu", torch.bfloat16):
            found = pooled(given, mask)
        assert found.dtype == given.dtype
        torch.testing.assert_close(found, expected.to(given.dtype), rtol=1e-2 if given is tokens else 1e-5, atol=1e-6)


def test_what_is_no_mean():
    assert mean_of("layer#mean") == mean_of("layer") == "layer#mean"
    with pytest.raises(SignalError, match="is not a tap"):
        Taps(cnn(1, 4, size=8), ["block2#mean#1"]).__enter__()
    with pytest.raises(SignalError, match="cannot be replaced"):
        Taps(cnn(1, 4, size=8), replace={"block2#mean": torch.zeros(1)})


@pytest.mark.parametrize("name", ["rkd", "pkt", "cka", "crd", "distiller", "correlation_congruence"])
def test_recipes_of_relations_look_at_means(name):
    job = toy_job(find("tinybert"))
    objective = find(name)(job).learners["student"].objective
    looked = [ref for ref in objective.needs() if ref.tap != "logits"]
    assert {ref.role for ref in looked} == {"self", "teacher"}
    assert all(ref.tap.endswith("#mean") for ref in looked)
    Runner(cpu=True).run(find(name)(job))


def test_a_mean_can_be_stored_and_learned_from(tmp_path):
    data = lb.load_data("digits", test=0.5)
    teacher = lb.distill(
        "alone", data=data, student="cnn(width=8,depth=2)", steps=3, progress=False, measure=False
    ).student
    task, taps = resolve(None, data), ["logits", "block2#mean"]
    store = lb.store_signals(teacher, data, tmp_path / "store", task=task, taps=taps, dtype="float32")

    def taught(by, layer):
        run = lb.distill("rkd", teacher=by, teacher_layer=layer, data=data, student="cnn(width=4,depth=2)", steps=3,
                         progress=False, measure=False)  # fmt: skip
        return weights(run.student)

    torch.testing.assert_close(taught(store, "block2#mean"), taught(teacher, "block2"))
