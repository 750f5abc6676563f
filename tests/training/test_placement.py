"""Where learners and teachers lie, and what cannot lie in pieces; what two processes do is in test_shards."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from limbeck.data.base import Batch
from limbeck.errors import ArgumentError, ModelError
from limbeck.shards import in_pieces, local, spread, whole
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.live import Blend
from limbeck.teachers.tempered import Tempered
from limbeck.training.placement import Pieces, Placement, _twin, lies_in_pieces, place, running
from limbeck.training.settings import Settings
from limbeck.training.sources import DrawnSource
from toys import hard, kl, net, toy_job


def test_one_process_needs_no_other():
    assert type(place(Accelerator(cpu=True), Settings(shard=True))) is Placement


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_what_accelerate_would_do_by_itself_is_refused(kind):
    accelerator = SimpleNamespace(distributed_type=SimpleNamespace(value=kind), num_processes=2)
    with pytest.raises(ArgumentError, match=f"Accelerate is set to {kind}.*say shard=true"):
        place(accelerator, Settings())


def test_what_cannot_be_in_pieces_is_refused():
    pieces = Pieces.__new__(Pieces)
    job = toy_job()
    peers = job.stage(hard(), learners=[job.learner("peer", hard(), net(3))])
    blended = job.stage(kl().against("both"), roles={"both": Blend({"teacher": 0.5, "student": 0.5})})
    drawn = job.stage(hard(), source=DrawnSource(lambda models, generator: Batch(torch.zeros(1, 4), torch.zeros(1))))
    for stage, words in (
        (peers, "this recipe has peer too"),
        (blended, "this recipe has both too"),
        (drawn, "DrawnSource has models write on the way"),
        (job.stage(hard(), precision="fp16"), "Take precision=bf16"),
    ):
        with pytest.raises(ArgumentError, match=words):
            pieces._check(stage)
    module = nn.Linear(2, 2)
    module.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ModelError, match=r"'scale' of Linear is a parameter without an axis.*\[1\]"):
        pieces._shard(module)


def test_a_twin_shares_weights_and_tokenizer_and_nothing_else():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    module[1].bias.requires_grad_(False)
    module.tokenizer = object()
    twin = _twin(module)
    assert twin.tokenizer is module.tokenizer
    assert twin[0].weight is twin[1].weight is not module[0].weight
    assert twin[0].weight.data_ptr() == module[0].weight.data_ptr()
    assert not twin[1].bias.requires_grad
    twin[0].weight = nn.Parameter(torch.zeros(3, 3))
    assert module[0].weight.abs().sum() > 0


def test_the_modules_of_a_teacher_are_found_in_what_it_is_made_of():
    one, two = net(1), net(2)
    found = running(Tempered(Ensemble([one, two]), 2.0))
    assert found[0] is one
    assert found[1] is two
    assert not lies_in_pieces(Ensemble([one, two]))
    assert not lies_in_pieces(None)


def test_whole_tensors_stay_as_they_are():
    tensor = torch.ones(3)
    state = {"a": tensor, "b": [tensor, 1]}
    found = whole(state)
    assert found["a"] is tensor
    assert found["b"][0] is tensor
    assert spread(tensor, tensor) is tensor
    assert local(tensor) is tensor
    assert not in_pieces(tensor)
