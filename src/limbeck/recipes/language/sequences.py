"""Recipes that choose, cut and complete the answers that are learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from collections.abc import Generator

    from limbeck.training.job import Job
    from limbeck.training.stage import Result, Stage


@recipe(paper="Distribution-Aligned Sequence Distillation for Superior Long-CoT Reasoning", year=2026, field="language",
        needs=("logits", "answers", "prompts"), tasks=("causal_lm",))  # fmt: skip
def dasd(job: Job, low: float = 0.6, high: float = 1.0, low_share: float = 0.25, candidates: int = 4, threshold: float = 0.1,
         sentence_ends: str = ".!?\n", mixed: float = 0.1, cap: float = 1.5, beside: float = 2.6, required: str = "",
         repeats: int = 4, max_new_tokens: int = 512) -> Generator[Stage, Result, None]:  # fmt: skip
    """Learn the teacher's answers: sure ones first, then varied ones unlike the student's own, then the student's completed.

    limbeck distill dasd teacher=... student=... data=answers.jsonl out=runs/dasd

    Three stages of cross-entropy (Yan et al., 2026). (1) `low_share` of the prompts, answered at temperature `low`. (2) The
    others at `high`, `candidates` to each, of which the one with the largest share of teacher sentences is learnt: those whose
    geometric-mean probability under the teacher is by `threshold` above the student's. (3) `mixed` of the prompts answered by
    the student, with `cap` times the tokens of the teacher's answer; where it does not come to an end, the teacher writes on
    from a random point of the second half. These are learnt whole, together with `beside` times as many of before.

    Answers that are empty, unfinished, repetitive (`repeats` times the same 16 tokens) or do not match the regular expression
    `required` are left out. The paper's threshold and filters are not published: these are ours. Of a length in steps, samples
    or tokens the stages take their shares. What is written is kept in the run's folder, as `generated/*.jsonl`.
    """
    from limbeck.data.answers_kept import AnswerFilter
    from limbeck.training.sequence_stages import Dasd

    plan = Dasd(job, AnswerFilter(repeats=repeats, required=required), max_new_tokens, sentence_ends, threshold)
    first, rest = plan.split(low_share)
    if len(first):
        part = plan.sure(first, low)
        yield plan.stage("low temperature", part, (1 - mixed) * low_share)
    if len(rest):
        part = plan.unlike(rest, high, candidates)
        yield plan.stage("high temperature", part, (1 - mixed) * (1 - low_share))
    if mixed and (completed := plan.completed(mixed, high, cap, beside)) is not None:
        yield plan.stage("mixed policy", completed, mixed)


@recipe(paper="Skip-Thinking: Chunk-wise Chain-of-Thought Distillation", year=2025, field="language",
        needs=("labels", "prompts"), tasks=("causal_lm",))  # fmt: skip
def skip_thinking(job: Job, chunks: int = 4, sentence_ends: str = ".!?\n", search: bool = True,
                  skip: float = 0.5, checker: Any = "final") -> Generator[Stage, Result, None]:  # fmt: skip
    """Learn one chunk of a rationale at a time, then learn to leave out the chunks without which the answer is still right.

    limbeck distill skip_thinking student=... data=rationales.jsonl checker=final

    Rationales (a larger model's, such as those that `seq_kd` stores) are cut into `chunks` at sentence ends, evenly by tokens,
    and with `search` each cut moves to the sentence end next to it as long as that lowers the student's loss, the sum of the
    chunks' means. Chunk-wise training: in each step the tokens of one chunk count, and the loss is their mean; the chunks
    before are read. Skip-thinking training, for the share `skip` of the length: of each rationale every chunk between the
    first and the last is left out without which the student, reading what is left, still comes to an answer that the `checker`
    finds right, in no more tokens than the last chunk has (Chen et al., 2025; the search, the order in which chunks are tried
    and that limit are our reading of it). `search` is for a student that can read already.
    """
    from limbeck.training.chunk_stages import SkipThinking

    plan = SkipThinking(job, chunks, sentence_ends, checker)
    rows = plan.chunked(search)
    if skip < 1:
        yield plan.one_chunk_at_a_time(rows, 1 - skip)
    if skip:
        yield plan.shortened(rows, skip)
