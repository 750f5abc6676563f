"""Recipes for a student whose tokenizer is not the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck import objectives as o
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage


@recipe(paper="Cross-Tokenizer Distillation via Approximate Likelihood Matching", year=2025, field="language",
        needs=("logits", "labels"), tasks=("causal_lm",))  # fmt: skip
def alm(job: Job, temperature: float = 100.0, divergence: str = "binary_kl", ends: str = "bytes", weigh: str = "chunks",
        boundary: bool = False, ce: float = 0.0) -> Stage:  # fmt: skip
    """Give every chunk of text that both tokenizers cut out the likelihood that the teacher gives it.

    limbeck distill alm teacher=... student=decoder:2,128 tokenizer=bytes data=texts.jsonl

    Chunks are the smallest spans of a text that end at the same byte on both sides; a chunk's log-probability is the sum
    of those of its tokens. Student and teacher are compared as two coins, of log-probabilities divided by `temperature`:
    `divergence` "binary_kl", "binary_reverse_kl", "rate_kl" (the limit of high temperatures) or "likelihood_gap", the mean
    over all chunks, or (weigh="tokens") over the teacher's tokens. `ends="space"` takes chunks that end before white
    space; `boundary` compares how likely it is that a chunk stands there and white space or the end behind it. `ce` adds
    that much cross-entropy with the text. With the teacher's own tokenizer every token is a chunk, which says less than
    all of its distribution: lm_kd is better there.

    ALM (Minixhofer et al., 2025): its code takes the binary cross-entropy, which has the same gradient and is not 0 at
    equality. Gradients fall as 1/temperature, so that `ce` is of a size with ALM at 0.01 or so. Here a chunk with a token
    that either side does not predict is left out on both; the code leaves out chunks of none, and sums the rest of
    others. `boundary` is its append_space, here not behind the end of a text. Its "unbiased" chunks, its loss on hidden
    states, and weights by the norms of gradients are not part of this. It trains LoRA of rank 64 at a rate of 1e-5 for
    5,000 steps.
    """
    if job.data.train.tokenizations == 1:
        job.warn(
            "Student and teacher have one tokenizer, with which lm_kd compares whole distributions; alm, only chunks."
        )
    likelihoods = o.chunk_likelihoods(divergence, temperature=temperature, ends=ends, weigh=weigh, boundary=boundary)
    return job.stage(likelihoods if ce == 0 else likelihoods + ce * o.cross_entropy())


@recipe(paper="Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs", year=2024,
        field="language", needs=("logits", "labels"), tasks=("causal_lm",))  # fmt: skip
def uld(job: Job, weight: float = 1.5, rows: str = "index", student_temperature: float = 1.0,
        teacher_temperature: float = 1.0) -> Stage:  # fmt: skip
    """Match how the teacher spreads its probability, whatever the words are: its sorted probabilities, row by row.

    limbeck distill uld teacher=... student=decoder:2,128 tokenizer=bytes data=texts.jsonl

    CE + weight * ULD (Boizard et al., 2024). ULD is the L1 distance of the sorted next-token probabilities, the smaller
    vocabulary filled with zeros, the mean over the first min(n_S, n_T) tokens of an answer (or text), then over samples.
    Rows are paired by number, as published: after the first word that the tokenizers cut differently they speak of
    different places, and sorted values say nothing of which words are meant. Read docs/tokenizers.md before using it;
    alm compares the same text. CE is the mean over all tokens of the step here, over each batch in the released code.

    rows="observed" and rows="bayesian" compare instead the rows that predict the same chunk of text (GOLD, TRL, 2025, by its
    two ways to merge the rows of a chunk of several tokens; without its divergence on tokens that both vocabularies have).
    """
    given: dict[str, Any] = {"student_temperature": student_temperature, "teacher_temperature": teacher_temperature}
    spread = o.sorted_l1_by_index(**given) if rows == "index" else o.sorted_l1_of_chunks(merge=rows, **given)
    return job.stage(o.cross_entropy() + weight * spread)
