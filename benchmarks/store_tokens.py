"""What a store of a language model's logits takes for each token, and what it loses: by k, by dtype, by kept mass.

    python benchmarks/store_tokens.py

The teacher is that of the language proofs (3 layers x 96, a BPE of 512 tokens, trained on wikitext2_small; a minute the first
time). Needs the shared data folder. KL is of the teacher from what is read back, the mean over 512 test tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "proofs"))

from _language import tiny_lm, tiny_teacher

from limbeck.machine import describe
from limbeck.signals.store_encode import describe_signal
from limbeck.signals.store_levels import k_for, lost


@torch.no_grad()
def main() -> None:
    teacher, part = tiny_teacher(), tiny_lm().parts["test"]
    logits = teacher(**part.batch(range(32)).inputs, use_cache=False).logits
    rows = []
    for name, k in [(f"top {k}", k) for k in (8, 16, 32, 64)] + [
        (f"mass {m:g}", k_for(logits, m)) for m in (0.8, 0.9, 0.95)
    ]:
        for dtype in ("float16", "uint8"):
            found = lost(describe_signal("logits", logits, dtype, k), logits)
            rows.append({"kept": name, "dtype": dtype, **found})
            size, mass, kl = (found[key] for key in ("bytes", "mass", "kl"))
            print(f"{name:>10} {dtype:8} k {k:4d}  {size:5.0f} bytes a token  mass {mass:.3f}  KL {kl:.2e}")
    out = Path(__file__).parent / "results" / "store_tokens.json"
    out.write_text(json.dumps({"rows": rows, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
