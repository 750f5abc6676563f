"""Students of vectors outside: without torch, in sentence-transformers, as ONNX; and saved and loaded again."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

import limbeck as lb
from embedding_toys import TEXTS, encoder, make_tokenizer, same
from limbeck.data.texts import load_texts
from limbeck.errors import ArgumentError, ModelError
from limbeck.evaluation.embeddings import cosine
from limbeck.export import OnnxModel, export_model
from limbeck.export.static import load_static
from limbeck.students.encoders import static
from limbeck.students.save import load_module, save_model
from limbeck.tasks import resolve
from limbeck.teachers.load_encoders import read_encoder

SOME = [*TEXTS[:5], "", "one", "?? !!", "nine " * 40]


def small(width=16, pairs=0, normalize=True, seed=0):
    torch.manual_seed(seed)
    module = static(16, make_tokenizer(), width, pairs)
    module.normalize = module.limbeck_spec["arguments"]["normalize"] = normalize
    return module.eval()


SMALL = [{}, {"width": 6}, {"pairs": 64}, {"width": 6, "pairs": 64, "normalize": False}]


@pytest.mark.parametrize("options", SMALL)
def test_without_torch_it_gives_the_same(options, tmp_path):
    module = small(**options)
    save_model(module, tmp_path / "student", task="embedding")
    same(load_static(tmp_path).encode(SOME), module.encode(SOME), 1e-6)
    same(
        load_static(tmp_path / "student").encode(SOME[:2], prompt="two "),
        module.encode(["two " + t for t in SOME[:2]]),
        1e-6,
    )
    assert load_static(tmp_path).encode([]).shape == (0, 16)


def test_neither_torch_nor_transformers_is_imported(tmp_path):
    save_model(small(), tmp_path / "s", task="embedding")
    code = (f"import sys; from limbeck.export.static import load_static; load_static({str(tmp_path / 's')!r}).encode(['one']); "
            "print(sorted({'torch', 'transformers', 'sklearn', 'scipy'} & set(sys.modules)))")  # fmt: skip
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_what_is_no_static_student_is_refused(tmp_path):
    with pytest.raises(ModelError, match="holds no saved student"):
        load_static(tmp_path)
    save_model(encoder(), tmp_path / "body", task="embedding")
    with pytest.raises(ModelError, match="only static students"):
        load_static(tmp_path / "body")
    save_model(small(), tmp_path / "s", task="embedding")
    (tmp_path / "s" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        load_static(tmp_path / "s")


@pytest.mark.parametrize("options", SMALL)
def test_tables_of_bytes(options, tmp_path):
    module, data = small(**options), load_texts(TEXTS)
    found = export_model(module, tmp_path / "b", resolve("embedding"), data, format="static-int8")
    assert cosine(load_static(tmp_path / "b").encode(SOME), module.encode(SOME)) > 0.9999
    assert found["max_difference"] < 0.05
    save_model(module, tmp_path / "s")
    weights = [(tmp_path / place / "model.safetensors").stat().st_size for place in "bs"]
    assert weights[0] < weights[1]  # of wide tables a quarter
    export_model(module, tmp_path / "b", resolve("embedding"), data, format="static-int8")  # again, in its place
    with pytest.raises(ArgumentError, match="is for static students"):
        export_model(encoder(), tmp_path / "c", resolve("embedding"), data, format="static-int8")


@pytest.mark.parametrize("options", [{}, {"pooling": "cls", "normalize": False}, {"outputs": 8, "max_length": 12},
                                     {"pooling": "last"}])  # fmt: skip
@pytest.mark.parametrize("kind", ["body", "static"])
def test_a_folder_for_sentence_transformers(kind, options, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    module = encoder(**options) if kind == "body" else small(8 if "outputs" in options else 16)
    found = export_model(
        module, tmp_path / "st", resolve("embedding"), load_texts(TEXTS), format="sentence-transformers"
    )
    assert found["max_difference"] < 1e-5
    texts = [text for text in SOME if text.strip(" ?!")]
    loaded = library.SentenceTransformer(str(tmp_path / "st"), device="cpu")
    same(loaded.encode(texts), module.encode(texts))
    same(read_encoder(str(tmp_path / "st")).encode(texts), module.encode(texts))


def test_pairs_are_no_folder_for_others(tmp_path):
    with pytest.raises(ArgumentError, match="table of pairs"):
        export_model(
            small(pairs=8), tmp_path / "st", resolve("embedding"), load_texts(TEXTS), format="sentence-transformers"
        )
    assert not (tmp_path / "st").exists()
    with pytest.raises(ArgumentError, match="not exported as"):
        export_model(small(), tmp_path / "x", resolve("embedding"), load_texts(TEXTS), format="onnx-int8")


@pytest.mark.parametrize("make", [lambda: small(), lambda: small(6, 64), lambda: encoder(), lambda: encoder(outputs=8)])
def test_onnx(make, tmp_path):
    module, data, task = make(), load_texts(TEXTS), resolve("embedding")
    found = export_model(module, tmp_path / "student.onnx", task, data, seconds=0.01)
    assert found["max_difference"] < 1e-5
    assert onnx.load(str(tmp_path / "student.onnx")).graph.output[0].name == "sentence_embedding"
    ids = {"input_ids": torch.tensor([[5, 6, 7, 8, 9]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    with torch.no_grad():
        same(OnnxModel(tmp_path / "student.onnx")(ids), module(**ids))


@pytest.mark.parametrize("make", [lambda: small(6, 64, False), lambda: encoder(outputs=8, pooling="cls", max_length=9)])
def test_saved_and_loaded_it_is_the_same_to_the_last_bit(make, tmp_path):
    module = make()
    save_model(module, tmp_path / "s", task="embedding")
    loaded = load_module(tmp_path / "s")
    np.testing.assert_array_equal(loaded.encode(SOME), module.encode(SOME))
    assert type(loaded) is type(module)


@pytest.mark.parametrize("side", ["right", "left"])
def test_texts_of_like_length_are_read_together(side):
    """Without gradient a batch is read in groups; the vectors are those of the whole batch at once."""
    module = encoder(side=side)
    texts = [" ".join(["one", "two", "three"] * (1 + number % 7)) for number in range(70)]
    from limbeck.tasks.text import tokenize

    inputs = tokenize(module, texts, None)
    with torch.no_grad():
        grouped = module(**inputs)
    same(grouped, module(**inputs).detach(), 1e-5)


def test_an_encoder_of_sentence_transformers_teaches(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    module = encoder()
    export_model(module, tmp_path / "st", resolve("embedding"), load_texts(TEXTS), format="sentence-transformers")
    teacher = library.SentenceTransformer(str(tmp_path / "st"), device="cpu")
    run = lb.distill("leaf", task="embedding", teacher=teacher, student="static", data=TEXTS, test=8, progress=False, epochs=30,
                     measure=False, learning_rate=3e-2)  # fmt: skip
    by_path = lb.distill("leaf", teacher=str(tmp_path / "st"), student="static", data=TEXTS, test=8, progress=False, epochs=30,
                         measure=False, learning_rate=3e-2)  # fmt: skip
    found, other = (each.record["models"][1]["agreement"]["cosine"]["mean"] for each in (run, by_path))
    assert found > 0.6
    assert other == pytest.approx(found, abs=0.02)


def test_a_run_is_exported_by_name(tmp_path):
    teacher = encoder()
    run = lb.distill("leaf", task="embedding", teacher=teacher, student="static", data=TEXTS, test=8, progress=False, epochs=2,
                     out=tmp_path / "run", export=["sentence-transformers", "static-int8", "onnx"])  # fmt: skip
    assert [(each["format"], each["file"].rsplit("/", 1)[1]) for each in run.record["exports"]] == [
        ("sentence-transformers", "student.st"), ("static-int8", "student.int8"), ("onnx", "student.onnx"),
    ]  # fmt: skip
    assert (tmp_path / "run" / "student.int8" / "tokenizer" / "tokenizer.json").is_file()
    same(load_static(tmp_path / "run").encode(SOME), run.student.encode(SOME), 1e-6)
