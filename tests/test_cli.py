"""The command line as scripts use it: exit codes, JSON, and errors in one line that name the thing."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from limbeck import cli
from limbeck.training.loop import Loop
from limbeck.words import value

QUICK = ["steps=3", "measure=false"]


@pytest.fixture
def limbeck(capsys, monkeypatch):
    """Run a command line in this process; gives its code, standard output and standard error."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["limbeck", *words])
        capsys.readouterr()
        code = cli.run()
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a teacher's run and some files, for all tests; runs of theirs go elsewhere."""
    folder = tmp_path_factory.mktemp("place")
    rows = "".join(f"{n % 7},{n % 5},{'cat' if n % 2 else 'dog'}\n" for n in range(60))
    (folder / "t.csv").write_text("a,b,label\n" + rows)
    (folder / "job.yaml").write_text("recipe: alone\ndata: t.csv\nstudent: mlp:4\nsteps: 3\nmeasure: false\n")
    (folder / "broken.yaml").write_text("- one\n- two\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(
            sys, "argv", ["limbeck", "distill", "alone", "data=t.csv", "student=mlp:8", "out=teacher", *QUICK]
        )
        assert cli.run() == 0
    return folder


@pytest.fixture(autouse=True)
def _inside(place, monkeypatch):
    monkeypatch.chdir(place)


COMMANDS = ["demo", "serve", "distill", "describe", "store", "evaluate", "export", "report", "recipes", "prove"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(limbeck, command):
    said = limbeck(command, "--help")
    assert said.code == 0
    assert "Usage: limbeck" in said.out
    assert command in limbeck("--help").out
    assert len(said.out.split()) > 40


WRONG = {  # command line -> exit code, what is said
    "distill": (2, "Missing: data="),
    "distill kdd data=t.csv teacher=teacher": (2, "Did you mean 'kd'"),
    "distill kd data=wne teacher=teacher": (1, "Did you mean 'wine'"),
    "distill kd data=t.cs teacher=teacher": (1, "no data called 't.cs'"),
    "distill kd data=t.csv teacher=./techer": (1, "no teacher './techer'. Did you mean 'teacher'"),
    "distill kd data=t.csv teacher=teacher student=mpl:4": (2, "Did you mean 'mlp'"),
    "distill kd data=t.csv teacher=teacher label=lable": (1, "Did you mean 'label'"),
    "distill kd data=t.csv teacher=teacher temprature=2": (2, "Did you mean 'temperature'"),
    "distill kd data=t.csv teacher=teacher temperature=warm": (2, "temperature='warm'"),
    "distill kd data=t.csv teacher=teacher temperature=0": (2, "temperature=0.0: expected a positive number"),
    "distill kd data=t.csv teacher=teacher seeds=0": (2, "seeds=0"),
    "distill kd data=t.csv teacher=teacher seed=abc": (2, "seed='abc'"),
    "distill data=t.csv teacher=teacher seed=-1": (2, "seed=-1"),
    "distill kd data=t.csv teacher=teacher workers=-1": (2, "workers=-1"),
    "distill kd data=t.csv teacher=teacher batch_size=true": (2, "batch_size=True"),
    "distill kd data=t.csv teacher=teacher labelled=many": (2, "labelled='many'"),
    "distill kd data=t.csv teacher=teacher labelled=5000": (1, "labelled=5000 of 42 samples"),
    "distill kd data=t.csv teacher=teacher export=onx out=x": (2, "Did you mean 'onnx'"),
    "distill kd data=t.csv teacher=teacher track=tensorbord": (2, "Did you mean 'tensorboard'"),
    "distill kd data=t.csv teacher=teacher resume=true": (2, "needs out="),
    "distill kd data=t.csv teacher=teacher task=clasification": (2, "Did you mean 'classification'"),
    "distill kd data=t.csv teacher=teacher out=t.csv": (1, "is a file"),
    "distill kd data=t.csv teacher=teacher out=.": (1, "holds no run of Limbeck"),
    "distill kd data=t.csv teacher=teacher out=teacher": (1, "already holds a run (finished)"),
    "distill kd data=t.csv": (2, "give teacher="),
    "distill kd dkd data=t.csv": (2, "Expected one recipe"),
    "distill kd data=t.csv --dryrun": (2, "No such option"),
    "distill --config no.yaml": (2, "no such file"),
    "distill --config broken.yaml": (2, "mapping"),
    "describe": (2, "Say what to describe"),
    "describe dst": (2, "Did you mean 'dist'"),
    "describe data=wne": (1, "Did you mean 'wine'"),
    "describe data=t.csv lable=label": (2, "Did you mean 'label'"),
    "store teacher=teacher data=t.csv": (2, "Missing: out="),
    "store teacher=teacher data=t.csv out=s tap=logits": (2, "Did you mean 'taps'"),
    "store teacher=teacher data=t.csv out=s taps=[fcc]": (1, "The tap 'fcc' names no module"),
    "store teacher=teacher data=t.csv out=s top_k=0": (2, "top_k=0"),
    "evaluate": (2, "Expected one model"),
    "evaluate teacher data=wine": (1, "does not take the inputs of shape [2, 13] of 'wine'"),
    "evaluate teacher part=tset": (2, "Did you mean 'test'"),
    "evaluate nowhere": (1, "no run folder"),
    "export teacher format=onx": (2, "Did you mean 'onnx'"),
    "export teacher tolerance=small": (2, "tolerance='small'"),
    "export teacher frmat=onnx": (2, "Did you mean 'format'"),
    "export nowhere": (1, "holds no finished run"),
    "report nowhere": (1, "holds no finished run"),
    "recipes --have logit": (2, "Did you mean 'logits'"),
    "recipes --field classifer": (2, "Did you mean 'classifiers'"),
    "prove kdd": (2, "Did you mean 'kd'"),
    "demo embedings": (2, "There is no demo 'embedings'. Did you mean 'embeddings'"),
    "demo embeddings --seeds 3": (2, "--seeds means nothing"),
    "serve nowhere": (1, "There is no folder 'nowhere'"),
    "serve teacher": (1, "There is no index/ in 'teacher'"),
    "serve teacher --port 70000": (2, "less than or equal to 65535"),
    "brew": (2, "No such command"),
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_wrong_command_lines(limbeck, line, place):
    before = sorted(place.rglob("*"))
    code, message = WRONG[line]
    said = limbeck(*line.split())
    assert message in " ".join(said.err.split())
    assert said.code == code
    assert "Traceback" not in said.err
    assert sorted(place.rglob("*")) == before  # bad input leaves nothing behind


def test_json_is_all_that_is_printed(limbeck, tmp_path):
    out = f"out={tmp_path / 'run'}"
    found = json.loads(
        limbeck("distill", "kd", "data=t.csv", "teacher=teacher", "student=mlp:4", out, *QUICK, "--json").out
    )
    assert set(found) == {"verdict", "table", "out"}
    assert [row["model"] for row in found["table"]] == ["teacher", "student"]
    again = json.loads(limbeck("report", str(tmp_path / "run"), "--json").out)
    assert (again["verdict"], again["table"]) == (found["verdict"], found["table"])
    dry = json.loads(limbeck("distill", "kd", "data=t.csv", "teacher=teacher", "steps=3", "--dry-run", "--json").out)
    assert {"shapes", "parameter_groups", "samples", "estimated_seconds", "estimated_bytes"} <= set(dry)
    listed = json.loads(limbeck("recipes", "--json").out)
    assert all({"name", "field", "paper", "year", "needs", "verdict"} <= set(row) for row in listed)
    assert {row["verdict"] for row in listed} <= {"stands", "failed", "unproven"}
    assert json.loads(limbeck("describe", "dist", "--json").out)["name"] == "dist"
    assert json.loads(limbeck("describe", "data=t.csv", "--json").out)["classes"] == ["cat", "dog"]
    stored = json.loads(limbeck("store", "teacher=teacher", "data=t.csv", f"out={tmp_path / 's'}", "--json").out)
    assert stored["rows"] == 42
    assert json.loads(limbeck("evaluate", "teacher", "--json").out)["models"][0]["scores"]["accuracy"]["mean"] <= 1
    exported = json.loads(limbeck("export", "teacher", f"out={tmp_path / 'x.onnx'}", "--json").out)
    assert exported["max_difference"] < 1e-4
    assert {row["name"] for row in json.loads(limbeck("prove", "--json").out)} >= {"kd", "dist", "pld", "ssld"}


def test_what_can_be_used_with_what_there_is(limbeck):
    names = {row["name"] for row in json.loads(limbeck("recipes", "--have", "logits,unlabelled", "--json").out)}
    assert {"kd", "dist", "ssld"} <= names
    assert not {"fitnets", "dkd", "alone"} & names  # they need features, or labels
    shown = limbeck("recipes", "--have", "logits,unlabelled").out
    assert "Distilling the Knowledge in a Neural Network" in shown  # the paper stands in the list too
    assert "\n0 recipes" in limbeck("recipes", "--have", "unlabelled").out


def test_yaml_is_the_same_as_words_and_words_come_later(limbeck, tmp_path):
    first = limbeck("distill", "--config", "job.yaml", f"out={tmp_path / 'a'}")
    assert first.code == 0
    again = limbeck(
        "distill", "--config", str(tmp_path / "a" / "config.yaml"), "steps=4", f"out={tmp_path / 'b'}", "measure=false"
    )
    assert again.code == 0
    config = [(tmp_path / name / "config.yaml").read_text() for name in "ab"]
    assert config[0].replace("steps: 3", "steps: 4") == config[1]


VALUES = [
    ("1e3", 1000),
    ("1e-3", 1e-3),
    ("2.5e0", 2.5),
    ("true", True),
    ("[1,2]", [1, 2]),
    ("", ""),
    ("a: b: c", "a: b: c"),
]


@pytest.mark.parametrize(("text", "expected"), VALUES)
def test_values_of_the_command_line(text, expected):
    assert value(text) == expected
    assert type(value(text)) is type(expected)


def test_a_stopped_run_is_130_and_says_how_to_go_on(limbeck, tmp_path, monkeypatch):
    step = Loop.step

    def stop_after_two(self, batches):
        step(self, batches)
        self.stop.asked = self.number == 2

    words = ["distill", "kd", "data=t.csv", "teacher=teacher", "student=mlp:4", f"out={tmp_path / 'run'}", *QUICK]
    monkeypatch.setattr(Loop, "step", stop_after_two)
    said = limbeck(*words)
    assert (said.code, "resume=true" in said.err) == (130, True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    monkeypatch.setattr(Loop, "step", step)
    assert limbeck(*words, "resume=true").code == 0


def test_a_ctrl_c_outside_of_training_is_130_too(limbeck, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("limbeck.api.distill", stop)
    said = limbeck("distill", "kd", "data=t.csv", "teacher=teacher")
    assert (said.code, "stopped" in said.err) == (130, True)


def test_a_proof_that_fails_is_3(limbeck, monkeypatch):
    record = {"name": "kd", "verdict": "failed", "claim": "It helps.", "finding": "It does not."}
    monkeypatch.setattr("limbeck.proving.run_proof", lambda name: record)
    assert limbeck("prove", "kd").code == 3
    record["verdict"] = "stands"
    assert limbeck("prove", "kd").code == 0


def test_warnings_are_said_on_the_terminal_too(limbeck, tmp_path):
    rows = "".join(f"{n % 7},{n % 5},{3 if n % 2 else 8}\n" for n in range(60))
    (tmp_path / "n.csv").write_text("a,b,label\n" + rows)
    said = limbeck("distill", "alone", f"data={tmp_path / 'n.csv'}", "student=mlp:4", *QUICK)
    assert "Warning: The labels 3, 8 were numbered from 0" in said.out
