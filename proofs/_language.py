"""The bench of the language proofs: real text (tiny-lm), checked reasoning (tiny-reason), an exact truth (oracle-markov).

Teachers are trained once and kept in runs/proofs, by their settings; a changed setting trains a new one.
"""

from __future__ import annotations

import copy
import fcntl
import functools
import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import limbeck as lb
from limbeck.data.base import Data
from limbeck.data.language import load_language_data
from limbeck.data.language_named import named_language
from limbeck.data.language_parts import TokenRows
from limbeck.data.language_tokens import Document
from limbeck.data.splits import take
from limbeck.data.tokenizer import train_tokenizer
from limbeck.objectives import cross_entropy
from limbeck.proving import paired
from limbeck.recipes.registry import recipe
from limbeck.students.declare import seeded
from limbeck.tasks import resolve
from limbeck.teachers.load import load_model
from limbeck.training.sources import PartSource

torch.set_num_threads(1)
KEPT = Path(__file__).resolve().parents[1] / "runs" / "proofs"


def trained(recipe: Any, *, seed: int, data: Data, **options: Any) -> lb.Run:
    """One run in memory, without measuring cost. `seed` moves the student's weights and the order of the batches."""
    return lb.distill(recipe, data=data, seed=seed, task="causal_lm", measure=False, progress=False, **options)  # type: ignore[return-value]


def score(run: lb.Run, name: str = "nll", role: str = "student") -> float:
    """A score of the run on its test part: nats per token for "nll" and "kl_to_teacher", percent for shares."""
    model = next(model for model in run.record["models"] if model["role"] == role)
    value = {**model["scores"], **model["agreement"]}[name]["mean"]
    return value if name in ("nll", "kl_to_teacher", "perplexity") else 100 * value


def kept(name: str, data: Data, student: Any, **options: Any) -> nn.Module:
    """A model trained on the data alone, from runs/proofs when it has been trained before with the same settings."""
    about = json.dumps([data.fingerprint(), str(student), options], sort_keys=True, default=str)
    folder = KEPT / f"{name}-{hashlib.sha256(about.encode()).hexdigest()[:10]}"
    KEPT.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # proofs that run beside one another wait for what one of them trains
        if not (folder / "report.json").exists():
            given = {"overwrite": True} if (folder / "run.json").exists() else {}
            lb.distill("alone", data=data, student=student, task="causal_lm", out=folder, measure=False, progress=False,
                       **given, **options)  # fmt: skip
    return load_model(str(folder), task=resolve("causal_lm"))  # type: ignore[return-value]


# tiny-lm: next tokens of real text
LENGTH = 128
BUDGET = {"steps": 300, "batch_size": 8, "learning_rate": 3e-3, "clip": 1.0, "best": "last", "evaluate_every": 1000}


SMALL = "decoder:1,48"


@functools.cache
def tiny_lm(name: str = "wikitext2_small", share: float = 1.0, symbols: int = 512, seed: int = 0) -> Data:
    """Packed rows of 128 tokens of a tokenizer of `symbols`, with a `share` of the training texts: train and test.

    The tokenizer is learnt from all training texts, so that rows of different shares are of the same tokens.
    """
    splits = named_language(name)
    tokenizer = train_tokenizer(splits["train"], symbols)
    texts = list(splits["train"])
    random.Random(seed).shuffle(texts)
    some = {"train": texts[: max(1, round(share * len(texts)))], "test": splits["test"]}
    data = load_language_data(some, tokenizer, length=LENGTH, valid=0.0)
    rows = data.parts["test"]
    data.parts["test"] = take(rows, torch.arange(min(100, len(rows))), "test")
    return data


@functools.cache
def tiny_teacher(name: str = "wikitext2_small", layers: int = 3, width: int = 96, steps: int = 800) -> nn.Module:
    """A teacher trained on all texts; about a minute on one core the first time."""
    options = {**BUDGET, "steps": steps}
    return kept(f"tiny-lm-{name}-{layers}x{width}", tiny_lm(name), f"decoder:{layers},{width}", **options)


def given_text(seed: int, recipe: str, kd: float = 1.0, teacher: nn.Module | None = None, warm: bool = True,
               **options: Any) -> dict[str, float]:  # fmt: skip
    """A recipe on an eighth of the text beside its fair baselines: the same student alone, and by forward KL (`lm_kd`).

    NLL on the test part, and KL to the teacher. `kd` is that of both methods, where a recipe has it. `warm`: all of them go
    on from one student, trained on the text for as many updates before, as the papers' students are; else they begin afresh.
    """
    if "kd" in lb.recipes.find(recipe).parameters:
        options["kd"] = kd
    teacher = teacher or tiny_teacher()
    run = continued(recipe, seed, warm, teacher=teacher, **options)
    return {**_baselines(seed, kd, teacher, warm), "method": score(run), "method_kl": score(run, "kl_to_teacher")}


def continued(recipe: str, seed: int, warm: bool = True, **options: Any) -> lb.Run:
    """A run on an eighth of the text, of the small student as it is after its training on the text alone, or afresh."""
    data = tiny_lm(share=1 / 8)
    student = kept(f"tiny-lm-student-{seed}", data, SMALL, seed=seed, **BUDGET) if warm else SMALL
    return trained(recipe, seed=seed, data=data, student=copy.deepcopy(student), **options, **BUDGET)


@functools.cache  # several proofs, run together, share them
def _baselines(seed: int, kd: float, teacher: nn.Module, warm: bool) -> dict[str, float]:
    run = continued("lm_kd", seed, warm, teacher=teacher, kd=kd)
    alone = continued("alone", seed, warm)
    return {"alone": score(alone), "forward_kl": score(run), "forward_kl_kl": score(run, "kl_to_teacher")}


def judge_given_text(rows: list[dict[str, float]], margin: float = 0.0) -> tuple[bool, str]:
    """Whether the method's NLL is below the student's alone, and at most `margin` above forward KL's; and what was found."""
    alone, alone_error = paired(rows, "method", "alone")
    other, other_error = paired(rows, "method", "forward_kl")
    kl, kl_error = paired(rows, "method_kl", "forward_kl_kl")
    return alone + alone_error < 0 and other <= margin, (
        f"Test NLL {alone:+.3f} ± {alone_error:.3f} nats from the student alone, {other:+.3f} ± {other_error:.3f} from "
        f"forward KL; KL to the teacher {kl:+.3f} ± {kl_error:.3f} from forward KL's."
    )


# tiny-reason: sums with their carries written out, and an exact checker
DIGITS = 2


def problem(a: int, b: int) -> dict[str, str]:
    """One sum with its chain of thought, lowest digit first: "47+85=" and "7+5+0=12;4+8+1=13;132"."""
    steps, carry, x, y = [], 0, a, b
    while x or y or not steps:
        total = x % 10 + y % 10 + carry
        steps.append(f"{x % 10}+{y % 10}+{carry}={total}")
        x, y, carry = x // 10, y // 10, total // 10
    return {"prompt": f"{a}+{b}=", "response": ";".join([*steps, str(a + b)])}


def check(prompt: str, answer: str, reference: str | None = None) -> float:
    """1.0 where the last number of the answer is the sum that the prompt asks for."""
    asked = re.fullmatch(r"\s*(\d+)\+(\d+)=\s*", prompt)
    assert asked is not None, prompt
    return float(answer.strip().rsplit(";", 1)[-1] == str(int(asked[1]) + int(asked[2])))


@functools.cache
def tiny_reason(number: int = 4000, seed: int = 0, chain: bool = True) -> Data:
    """`number` training sums and 200 test sums of numbers below 100 that share no pair; tokens are characters (bytes).

    Without `chain` the answers are the sums alone.
    """
    pairs = [(a, b) for a in range(10**DIGITS) for b in range(10**DIGITS)]
    random.Random(seed).shuffle(pairs)
    made = [problem(a, b) for a, b in pairs[: number + 200]]
    if not chain:
        made = [{**one, "response": one["response"].rsplit(";", 1)[-1]} for one in made]
    tokenizer = train_tokenizer(["0123456789+=;"], 261)
    splits = {"train": made[:-200], "test": made[-200:]}
    return load_language_data(splits, tokenizer, length=48, valid=0.0, template="plain", join="", pack=False)


REASON = {"steps": 800, "batch_size": 64, "learning_rate": 3e-3, "clip": 1.0, "best": "last", "evaluate_every": 10_000}


def reason_teacher(layers: int = 2, width: int = 96, **options: Any) -> nn.Module:
    """A teacher of sums, trained for long: a model finds the rule all at once, sooner or later by the machine's rounding."""
    data, given = tiny_reason(), {**REASON, "steps": 1600, **options}
    return kept(f"tiny-reason-{layers}x{width}", data, f"decoder:{layers},{width}", **given)


def reason_start(seed: int, steps: int | None = None, student: str = "decoder:2,64") -> nn.Module:
    """A student of sums after a training on given answers: where learning from one's own answers begins.

    Without `steps` it is trained, in lengths of 900, 1,050 and so on, until 5 of 100 of its answers at temperature 1 are right:
    a weak start, of which one's own answers can say something; when that is differs from seed to seed.
    """
    lengths = range(900, 2400, 150) if steps is None else [steps]
    for length in lengths:
        options = {**REASON, "steps": length, "batch_size": 32, "seed": seed}
        model = kept(f"tiny-reason-start-{seed}", tiny_reason(), student, **options)
        if steps is not None or sampled_match(model, 0) >= 5:
            break
    return model


def reasoned(recipe: str, seed: int, student: nn.Module, **options: Any) -> lb.Run:
    """A recipe on sums, from a student that has begun, taught by the teacher of sums; the answers to 200 test sums scored."""
    given = {**REASON, "steps": 150, "batch_size": 32, "learning_rate": 1e-3, "teacher": reason_teacher(),
             "generate": 200, "checker": check, **options}  # fmt: skip
    return trained(recipe, seed=seed, data=tiny_reason(), student=copy.deepcopy(student), **given)


@recipe(paper="a baseline of proofs", year=2026, field="language", needs=("labels",), tasks=("causal_lm",))
def given_answers(job: Any) -> Any:
    """The given answers by cross-entropy, in batches that are shuffled as those that models write: not sorted by length."""
    return job.stage(cross_entropy(), source=PartSource.of(job.data.train, job.settings))


def sampled_match(student: nn.Module, seed: int, number: int = 200) -> float:
    """Percent of right answers to test sums, drawn at temperature 1."""
    from limbeck.data.generate import Sampling, told
    from limbeck.data.generate_models import find_ends, sampler_of
    from limbeck.data.language_parts import prompts

    data, task = tiny_reason(), resolve("causal_lm")
    rows: Any = data.parts["test"]
    task.load(data)  # takes the data's tokenizer
    ends = find_ends(rows, student, tokenizer=data.tokenizer)
    asked = prompts(rows, torch.arange(min(number, len(rows))))
    answers = sampler_of(student, task, ends).generate(asked, Sampling(32), torch.Generator().manual_seed(seed))
    questions = [told(rows, place, data.tokenizer, ends)[0] for place in range(len(asked))]
    right = [check(question, text) for question, text in zip(questions, answers.texts(data.tokenizer))]
    return 100 * sum(right) / len(right)


FILLERS = ("let me see;", "so far so good;", "now the next one;", "nearly done;", "that was easy;")


@functools.cache
def fresh_sums(number: int = 600, seen: int = 4000, filled: bool = False) -> Data:
    """`number` sums beyond those that `tiny_reason` trains on, and its 200 test sums.

    `filled`: a sentence that says nothing stands behind every step of the chains, in training and test.
    """
    pairs = [(a, b) for a in range(10**DIGITS) for b in range(10**DIGITS)]
    random.Random(0).shuffle(pairs)  # as `tiny_reason` does: it trains on the first ones, and tests on the next 200
    chance, made = random.Random(1), []
    for a, b in pairs[seen : seen + 200 + number]:
        one = problem(a, b)
        *steps, end = one["response"].split(";")
        filling = "".join(f"{step};{chance.choice(FILLERS)}" for step in steps)
        made.append({**one, "response": filling + end} if filled else one)
    splits = {"train": made[200:], "test": made[:200]}
    return load_language_data(
        splits, tiny_reason().tokenizer, length=80, valid=0.0, template="plain", join="", pack=False
    )


# oracle-markov: a truth whose probabilities are known
class Oracle:
    """A random Markov chain of the second order over `symbols` tokens; token 0 begins every sequence.

    `table` [symbols, symbols, symbols]: the probabilities of the next token after two, of a Dirichlet of `concentration`.
    """

    def __init__(self, symbols: int = 16, concentration: float = 0.3, seed: int = 0):
        self.symbols = symbols
        draw = torch.Generator().manual_seed(seed)
        gamma = torch._standard_gamma(torch.full((symbols,) * 3, concentration, dtype=torch.float64), draw)
        gamma[..., 0] = 0  # the beginning never comes again
        self.table = gamma / gamma.sum(-1, keepdim=True)

    def sample(self, number: int, length: int, seed: int) -> Tensor:
        """Sequences [number, length] int64."""
        draw, rows = torch.Generator().manual_seed(seed), torch.zeros(number, length, dtype=torch.int64)
        for position in range(1, length):
            before = rows[:, position - 2] if position > 1 else rows[:, 0]
            rows[:, position] = torch.multinomial(self.table[before, rows[:, position - 1]], 1, generator=draw)[:, 0]
        return rows

    def log_probabilities(self, rows: Tensor) -> Tensor:
        """Of every next token, log p [number, length, symbols]: what a model's logits at these places should say."""
        before = torch.cat([rows[:, :1], rows[:, :-1]], 1)
        return self.table[before, rows].log()

    def data(self, parts: dict[str, Tensor]) -> Data:
        """Parts of sequences: every token but the first is to be predicted."""
        made: dict[str, Any] = {}
        for number, (name, rows) in enumerate(parts.items()):
            documents = [Document.of(row, 1) for row in rows.tolist()]
            ids = torch.arange(len(rows)) + 1_000_000 * number
            made[name] = TokenRows(name, documents, range(len(rows)), ids=ids, padding=0, even=True)
        return Data("oracle-markov", "tokens", made, "none")

    def model(self, layers: int = 1, width: int = 64, seed: int = 0) -> nn.Module:
        """A small Llama over the oracle's tokens."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(vocab_size=self.symbols, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
                             num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=128)  # fmt: skip
        with seeded(seed):
            return LlamaForCausalLM(config)
