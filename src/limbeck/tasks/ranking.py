"""Ranking: candidates of a query get scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.data.base import Batch, Data, Inputs, Part
from limbeck.data.rankings import RankingPart, load_rankings
from limbeck.data.texts import Pairs, Retrieval
from limbeck.errors import ArgumentError, DataError, ModelError
from limbeck.evaluation.modes import device_of
from limbeck.students.rankers import Ranker, VectorRanker, ranker
from limbeck.tasks.base import Task
from limbeck.teachers.base import Teacher, as_teacher
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.scores import GivenScores, ScoreEnsemble
from limbeck.training.progress import counting

if TYPE_CHECKING:
    from limbeck.objectives import Objective
    from limbeck.training.job import Job

DEPTH = 50  # documents, the best by BM25, that a ranker without vectors of documents puts into order


class Ranking(Task):
    """A score for each candidate of a query. Signals "scores" [batch, candidates], and "in_batch" (see `Ranker`)."""

    name = "ranking"
    outputs = ("scores", "in_batch")
    best = ("ndcg@10", "max")
    default_recipe = "margin_mse"
    measures = tokenized = keyed = True
    at_once, kept_as = 64, "float32"
    exports = ("safetensors",)

    def __init__(self) -> None:
        self.length = None
        self.benches: dict[str, Pairs | Retrieval] = {}

    def load(self, spec: Any, models: Sequence[Any] = (), **options: Any) -> Data:
        """See `limbeck.data.rankings.load_rankings`; `length`: how many tokens of a text count in training."""
        self.length = options.pop("length", None)
        if self.length is not None and (not isinstance(self.length, int) or self.length < 1):
            raise ArgumentError(f"length={self.length!r}: expected how many tokens of a text count, 1 or more.")
        data = load_rankings(spec, **options)
        self.benches = data.benches
        return data

    def pretrained(self, name: str, *, role: str, trust_remote_code: bool, seed: int) -> Any:
        if name == "scores" and role == "teacher":
            return GivenScores()
        from limbeck.teachers.load_encoders import read_pair_classifier

        found = read_pair_classifier(name, trust_remote_code=trust_remote_code)
        return ranker("dot", name, seed=seed) if found is None else found

    def taught(self, teacher: Teacher, data: Data) -> Teacher:
        return ScoreEnsemble(teacher, data, self) if isinstance(teacher, Ensemble) else teacher

    # how a model is run
    def view(self, batch: Batch, module: nn.Module | None, role: str) -> Inputs:
        if not isinstance(module, Ranker):
            raise ModelError(
                f"The {role}, a {type(module).__name__}, does not score candidates. Put an encoder into a ranker: "
                "limbeck.students.rankers.ranker('dot', encoder), or student=ranker:dot,FOLDER."
            )
        return module.prepare(batch.inputs["query"], batch.inputs["documents"], self.length)

    def forward(self, module: nn.Module, inputs: Inputs) -> Any:
        return module(**inputs)

    def signals(self, output: Any) -> dict[str, Tensor]:
        if not isinstance(output, Mapping) or "scores" not in output:
            raise ModelError("A ranker gives {'scores': [batch, candidates]}.")
        return dict(output)

    # how it is supervised and measured
    def supervised(self) -> Objective:
        from limbeck.objectives import cross_entropy

        return cross_entropy().on("scores")

    def measure(self, model: Any, part: Part, teacher: Any = None) -> dict[str, Any]:
        """Scores on the benches, how often the first candidate is first, and how many pairs lie as the teacher has them."""
        scores: dict[str, float] = {}
        if isinstance(module := getattr(model, "module", model), Ranker):
            for name, bench in self.benches.items():
                found = self.spearman(model, bench) if isinstance(bench, Pairs) else scores_of(module, bench)
                scores |= {f"{name}: {key}" if len(self.benches) > 1 else key: value for key, value in found.items()}
        own, agreement = self.scored(model, part), {}
        if own.shape[1] > 1:
            scores["first_is_first"] = float((own.argmax(1) == 0).float().mean())
            if teacher is not None:
                agreement = {"order_agreement": order_agreement(own, self.scored(teacher, part))}
        return {"scores": scores, "agreement": agreement, "reliability": []}

    def scored(self, model: Any, part: Part, progress: Callable[[int, int], None] | None = None) -> Tensor:
        """The scores [rows, candidates] that a model gives a part's rows, float32; the longest rows are read first."""
        teacher, device = as_teacher(model), torch.device("cpu")
        for module in teacher.modules():
            device = device_of(module)
        order = torch.arange(len(part))
        if isinstance(part, RankingPart):
            order = torch.tensor([-max(map(len, texts)) for texts in part.documents]).argsort(stable=True)
        found = []
        with torch.no_grad():
            for places in order.split(64):
                found.append(teacher.read(part.batch(places).to(device), ["scores"], self)["scores"].float().cpu())
                if progress is not None:
                    progress(sum(map(len, found)), len(part))
        every = torch.cat(found)
        return torch.empty_like(every).index_copy_(0, order, every)

    def spearman(self, model: Any, pairs: Pairs) -> dict[str, float]:
        """How the scores of pairs are ordered as their similarities are."""
        from limbeck.evaluation.embeddings import spearman

        part = RankingPart(pairs.name, pairs.first, [[text] for text in pairs.second])
        return {"spearman": spearman(self.scored(model, part)[:, 0].numpy(), pairs.similarity)}

    def check(self, data: Data, models: dict[str, nn.Module]) -> None:
        """Raise where a model is no ranker; warn where a cosine cannot reach the margins of given scores."""
        part = data.train
        for role, module in models.items():
            self.view(part.batch(torch.arange(min(1, len(part)))), module, role)
        student, scores = models.get("student"), getattr(part, "scores", None)
        if (
            isinstance(student, VectorRanker)
            and student.cosine
            and isinstance(part, RankingPart)
            and scores is not None
        ):
            most = 2 * float(student.log_scale.detach().exp())
            wide = float(((scores[:, :1] - scores[:, 1:]).abs() > most).float().mean()) if scores.shape[1] > 1 else 0.0
            if wide:
                data.about["warnings"].append(
                    f"{wide:.0%} of the teacher's margins are beyond {most:g}, which no difference of cosines reaches at "
                    "the scale that it begins with: give a larger scale, or use the kind dot."
                )


def order_agreement(own: Tensor, theirs: Tensor) -> float:
    """The share of pairs of candidates that both order alike, of scores [rows, candidates]; pairs that tie count nowhere."""
    mine, other = (rows[:, :, None] - rows[:, None, :] for rows in (own, theirs))
    counted = (mine != 0) & (other != 0)
    return float(((mine.sign() == other.sign()) & counted).sum() / counted.sum().clamp(min=1))


def scores_of(module: Ranker, bench: Retrieval) -> dict[str, float]:
    """nDCG@10, Recall@100 and MRR of a ranker. One without vectors of documents orders BM25's best `DEPTH` anew."""
    from limbeck.evaluation.embeddings import bm25, ranking_scores

    queries, documents = list(bench.queries.values()), list(bench.documents.values())
    if module.indexed:
        return ranking_scores(bench, module.score_all(queries, documents))
    words = bm25(bench)
    found = words - words.max() - 1  # all others behind, in the order that BM25 has them
    with torch.no_grad():
        for row, query in enumerate(queries):
            best = np.argsort(-words[row])[: min(DEPTH, len(documents))]
            inputs = module.prepare([query], [documents[place] for place in best])
            was, module.training = module.training, False
            scores = module.eval()(**inputs)["scores"][0].float().cpu().numpy()
            module.train(was)
            found[row, best] = 1 + scores - scores.min()
    return ranking_scores(bench, found)


def labelled_pairs(job: Job, models: Sequence[Ranker], both_orders: bool) -> RankingPart:
    """The pairs of a job's training part, labelled from 0 to 1 by the mean of models: cosines clipped, logits by a sigmoid."""
    part = job.data.train
    if not isinstance(part, RankingPart):
        raise DataError(f"The data {job.data.name!r} have no pairs of texts: give query and documents.")
    if job.rehearsal:
        return part.pairs(torch.zeros(len(part), part.candidates), both_orders)
    found = []
    for model in models:
        with counting("labels of pairs") as progress:
            scores = job.task.scored(model, part, progress)  # type: ignore[attr-defined]
        found.append(scores.clamp(0, 1) if isinstance(model, VectorRanker) else scores.sigmoid())
    return part.pairs(torch.stack(found).mean(0), both_orders)
