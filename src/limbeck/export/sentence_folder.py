"""A folder that sentence-transformers loads: `SentenceTransformer("runs/q/student.st")`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.errors import ArgumentError, ExportError
from limbeck.evaluation.cost import bytes_on_disk
from limbeck.students.encoder_grams import HashedGrams
from limbeck.students.encoders import SentenceEncoder, StaticEncoder
from limbeck.students.save import replacing, taught

MODULES = "sentence_transformers.models."


def export_sentence_folder(
    module: StaticEncoder | SentenceEncoder, folder: Path, texts: list[str], tolerance: float = 1e-4
) -> dict[str, Any]:
    """Write the folder, read it again, and compare vectors of some texts.

    Gives {"format", "file", "bytes", "max_difference"}. Raises ArgumentError for what its modules cannot express (a table of
    pairs, a module of one's own), ExportError where the folder gives other vectors: what was there before then stays.
    A text without a token has a vector of its own in a static student, and zeros in the folder; it is not compared.
    """
    from limbeck.teachers.load_encoders import read_encoder

    with replacing(folder) as aside:
        kinds = _static(module, aside) if isinstance(module, StaticEncoder) else _body(module, aside)
        if module.projection is not None:
            kinds.append(("Dense", _dense(module.projection, aside / f"{len(kinds)}_Dense")))
        if module.normalize:
            (aside / f"{len(kinds)}_Normalize").mkdir()
            kinds.append(("Normalize", f"{len(kinds)}_Normalize"))
        steps = [
            {"idx": place, "name": str(place), "path": path, "type": MODULES + kind}
            for place, (kind, path) in enumerate(kinds)
        ]
        _write(aside / "modules.json", steps)
        _write(
            aside / "config_sentence_transformers.json",
            {"similarity_fn_name": "cosine", "prompts": module.prompts or {}},
        )
        _write(aside / "limbeck.json", {"format": "limbeck-sentence-folder", **taught(module)})
        if isinstance(module, StaticEncoder):
            tokens = module.tokenizer(texts)["input_ids"]  # type: ignore[misc]
            texts = [text for text, ids in zip(texts, tokens) if max(ids) < module.vocabulary]
        worst = float(abs(read_encoder(str(aside)).encode(texts) - module.encode(texts)).max(initial=0))
        if worst > tolerance:
            raise ExportError(
                f"The folder {folder} would give vectors that differ by {worst:.3g}, more than {tolerance:g}."
            )
    return {"format": "sentence-transformers", "file": str(folder), "bytes": bytes_on_disk(folder), "max_difference": worst,
            "scores": {}, "latency": []}  # fmt: skip


def _static(module: StaticEncoder, folder: Path) -> list[tuple[str, str]]:
    from safetensors.torch import save_file

    if module.tokenizer is None:
        raise ArgumentError("This static student has no tokenizer; set module.tokenizer first.")
    if isinstance(module.tokenizer, HashedGrams):
        raise ArgumentError(
            "A static student of hashed words is no folder of sentence-transformers, whose static embedding wants words. It "
            "leaves as safetensors, which limbeck.export.static reads without torch, or as onnx."
        )
    place = folder / "0_StaticEmbedding"
    module.tokenizer.save_pretrained(place)
    rows = module.table.weight.detach()[: module.vocabulary].cpu().contiguous()
    save_file({"embedding.weight": rows}, place / "model.safetensors")
    return [("StaticEmbedding", place.name)]


def _body(module: SentenceEncoder, folder: Path) -> list[tuple[str, str]]:
    body: Any = module.body
    body.save_pretrained(folder)
    module.tokenizer.save_pretrained(folder)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": module.max_length, "do_lower_case": False})
    (folder / "1_Pooling").mkdir()
    modes = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}
    config: dict[str, Any] = {f"pooling_mode_{mode}": mode == modes[module.pooling] for mode in modes.values()}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": int(module.config.hidden_size), **config})
    return [("Transformer", ""), ("Pooling", "1_Pooling")]


def _dense(layer: nn.Linear, folder: Path) -> str:
    from safetensors.torch import save_file

    folder.mkdir()
    state = {f"linear.{name}": value.detach().cpu().contiguous() for name, value in layer.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    _write(folder / "config.json", {"in_features": layer.in_features, "out_features": layer.out_features, "bias": True,
                                    "activation_function": "torch.nn.modules.linear.Identity"})  # fmt: skip
    return folder.name


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n")
