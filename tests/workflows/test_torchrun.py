"""`torchrun -m limbeck distill`: two processes, one folder, the student of one process."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

ARGUMENTS = ["distill", "kd", "student=mlp:8", "data=digits", "steps=12", "batch_size=32", "labelled=300", "--json"]


TWO = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def run(folder, teacher, *start, words=ARGUMENTS):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", *start, "limbeck", *words, f"teacher={teacher}", f"out={folder}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)


@pytest.mark.processes
def test_two_processes_leave_one_run_like_that_of_one(tmp_path):
    from limbeck.students.build import mlp
    from limbeck.students.save import save_model

    torch.manual_seed(0)
    teacher = save_model(mlp(64, 10, hidden=(16,)), tmp_path / "teacher") or tmp_path / "teacher"
    one = run(tmp_path / "one", teacher)
    assert one.returncode == 0, one.stderr[-2000:]
    two = run(tmp_path / "two", teacher, *TWO)
    assert two.returncode == 0, two.stderr[-2000:]
    assert json.loads(two.stdout)["verdict"]  # one process speaks
    weights = [load_file(tmp_path / name / "student" / "model.safetensors") for name in ("one", "two")]
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], atol=1e-5, rtol=0)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().count("\n") for name in ("one", "two")]
    assert lines[0] == lines[1]


@pytest.mark.processes
def test_two_processes_with_pieces_leave_the_run_of_one(tmp_path):
    import limbeck as lb
    from language_toys import make_tokenizer, tiny

    for family in ("GPT2", "Llama"):
        model = tiny(family)
        model.tokenizer = make_tokenizer()
        lb.save_model(model, tmp_path / family)
    texts = ["a b c d e f", "b c d e", "c d e f g h", "d e f g", "e f g h i", "f g h", "a c e g i", "b d f h"] * 4
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    words = ["distill", "lm_kd", f"student={tmp_path / 'Llama'}", f"data={tmp_path / 'texts.jsonl'}", "steps=4", "batch_size=8",
             "valid=6", "length=16", "shard=true", "learning_rate=0.01", "--json"]  # fmt: skip
    one = run(tmp_path / "one", tmp_path / "GPT2", words=words)
    assert one.returncode == 0, one.stderr[-2000:]
    two = run(tmp_path / "two", tmp_path / "GPT2", *TWO, words=words)
    assert two.returncode == 0, two.stderr[:6000]
    assert json.loads(two.stdout)["verdict"]
    weights = [load_file(tmp_path / name / "student" / "model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], atol=1e-5, rtol=0)
    records = [json.loads((tmp_path / name / "report.json").read_text())["models"] for name in ("one", "two")]
    for mine, theirs in zip(*records):  # the teacher too, which no process has whole
        for score in ("nll", "perplexity", "token_accuracy"):
            assert mine["scores"][score]["mean"] == pytest.approx(theirs["scores"][score]["mean"], rel=1e-4)
    agreements = [models[1]["agreement"]["kl_to_teacher"]["mean"] for models in records]
    assert agreements[0] == pytest.approx(agreements[1], rel=1e-3)
    logits = lb.load_model(tmp_path / "two")(torch.arange(9)[None]).logits
    assert logits.isfinite().all()
