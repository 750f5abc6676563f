"""Students of vectors outside: without torch, in sentence-transformers, as ONNX; and saved and loaded again."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
import transformers

import limbeck as lb
from embedding_toys import TEXTS, encoder, make_tokenizer, same
from limbeck.data.texts import load_texts
from limbeck.errors import ArgumentError, ModelError
from limbeck.evaluation.embeddings import cosine
from limbeck.export import OnnxModel, export_model
from limbeck.export.static import load_static
from limbeck.students.encoders import around, static
from limbeck.students.save import load_module, save_model
from limbeck.tasks import resolve
from limbeck.tasks.text import tokenize
from limbeck.teachers.load_encoders import read_encoder

SOME = [*TEXTS[:5], "", "one", "?? !!", "nine " * 40]


def small(width=16, pairs=0, normalize=True, seed=0):
    torch.manual_seed(seed)
    module = static(16, make_tokenizer(), width, pairs)
    module.normalize = normalize
    if pairs:  # they begin at zero
        torch.nn.init.normal_(module.pair_table.weight[:-1])
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
    with pytest.raises(ArgumentError, match="leave as static-int8"):
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
    state = loaded.state_dict()
    assert all(torch.equal(value, state.pop(name)) for name, value in module.state_dict().items())
    assert not state
    texts = [text for text in SOME if text]
    assert loaded.tokenizer(texts)["input_ids"] == module.tokenizer(texts)["input_ids"]
    assert loaded.tokenizer.get_vocab() == module.tokenizer.get_vocab()


@pytest.mark.parametrize("side", ["right", "left"])
def test_texts_of_like_length_are_read_together(side):
    """Without gradient a batch is read in groups; the vectors are those of each text alone. A tap sees the whole batch."""
    module, task = encoder(side=side), resolve("embedding")
    texts = [" ".join(["one", "two", "three"] * (1 + number % 7)) for number in range(70)]
    inputs = tokenize(module, texts, None)
    assert bool((inputs["attention_mask"][:, 0] == 0).any()) == (side == "left")
    with torch.no_grad():
        alone = torch.cat([module(**tokenize(module, [text], None)) for text in texts])
        same(module(**inputs), alone)
        same(task.read(module, inputs, ["embedding"])["embedding"], alone)
        read = task.read(module, inputs, ["embedding", "body.encoder.layer.0"])
    same(read["embedding"], alone)
    assert read["body.encoder.layer.0"].shape == (70, inputs["input_ids"].shape[1], 16)
    same(module.encode(texts), alone)


def test_padding_on_the_left_does_not_move_positions_that_begin_elsewhere():
    """RoBERTa counts positions from its padding id on."""
    found = []
    for side in ("right", "left"):
        config = transformers.RobertaConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=40, initializer_range=0.3, pad_token_id=0,
        )  # fmt: skip
        torch.manual_seed(0)
        body = transformers.RobertaModel(config, add_pooling_layer=False).eval()
        body.tokenizer = make_tokenizer(side)
        found.append(around(body).eval().encode(["one", "one two three four"]))
    same(found[1], found[0])


@pytest.mark.parametrize("kind", ["body", "static"])
def test_what_is_set_later_is_saved_too(kind, tmp_path):
    module = encoder() if kind == "body" else static(16, make_tokenizer())
    module.normalize = False
    if kind == "body":
        module.max_length, module.pooling = 5, "cls"
    save_model(module, tmp_path / "s", task="embedding")
    np.testing.assert_array_equal(load_module(tmp_path / "s").encode(SOME), module.encode(SOME))
    if kind == "static":
        assert not np.allclose(np.linalg.norm(load_static(tmp_path / "s").encode(["one two"]), axis=1), 1)


def test_tables_in_half_precision_are_read(tmp_path):
    for number, dtype in enumerate((torch.bfloat16, torch.float16)):
        module = small(6, 64).to(dtype)
        save_model(module, tmp_path / str(number), task="embedding")
        same(load_static(tmp_path / str(number)).encode(SOME), module.float().encode(SOME), 1e-6)


def test_texts_without_tokens_are_zeros_in_sentence_transformers(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    data = load_texts({"train": TEXTS, "test": ["?? !!", "one"]})
    export_model(small(), tmp_path / "st", resolve("embedding"), data, format="sentence-transformers")
    expected = library.SentenceTransformer(str(tmp_path / "st"), device="cpu").encode(["?? !!"])
    assert not expected.any()
    np.testing.assert_array_equal(read_encoder(str(tmp_path / "st")).encode(["?? !!"]), expected)
    with pytest.raises(ModelError, match="exported for others to read"):
        load_module(tmp_path / "st")


def test_encoders_leave_in_8_bits(tmp_path):
    task, data = resolve("embedding"), load_texts(TEXTS)
    module = encoder()
    found = export_model(module, tmp_path / "student.int8.onnx", task, data, seconds=0.01)
    assert found["kind"] == "dynamic"
    inputs = tokenize(module, TEXTS, None)
    assert cosine(OnnxModel(tmp_path / "student.int8.onnx")(inputs).numpy(), module.encode(TEXTS)) > 0.999


@pytest.mark.parametrize(("pairs", "format", "match"), [
    (64, "sentence-transformers", "table of pairs"), (0, "onnx-int8", "leave as static-int8"),
])  # fmt: skip
def test_a_form_that_does_not_fit_is_refused_before_training(pairs, format, match, tmp_path):
    with pytest.raises(ArgumentError, match=match):
        lb.distill("leaf", task="embedding", teacher=encoder(), student=small(pairs=pairs), data=TEXTS, test=8, progress=False,
                   out=tmp_path / "run", export=format)  # fmt: skip
    assert not (tmp_path / "run" / "report.json").exists()


def test_models_of_sentence_transformers_as_objects(tmp_path):
    """Their own length counts; a static one is asked for by its folder."""
    library = pytest.importorskip("sentence_transformers")
    task, texts = resolve("embedding"), ["one two three four five six seven", "two", "nine one " * 9]
    data = load_texts(texts, test=0)
    for name, module in (("st", encoder()), ("static", small())):
        export_model(module, tmp_path / name, task, load_texts(TEXTS), format="sentence-transformers")
    teacher = library.SentenceTransformer(str(tmp_path / "st"), device="cpu")
    teacher.max_seq_length = 5
    inputs = task.view(data.train.batch(torch.arange(3)), teacher, "teacher")
    assert inputs["input_ids"].shape == (3, 5)
    assert inputs["input_ids"].device == teacher.device
    with torch.no_grad():
        found = task.read(teacher, inputs, ["embedding"])["embedding"]
    same(found, teacher.encode(texts))
    with pytest.raises(ModelError, match="static model of sentence-transformers"):
        task.probe(data, library.SentenceTransformer(str(tmp_path / "static"), device="cpu"), "teacher")


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
                     out=tmp_path / "run", export="sentence-transformers,static-int8,onnx")  # fmt: skip
    assert [(each["format"], each["file"].rsplit("/", 1)[1]) for each in run.record["exports"]] == [
        ("sentence-transformers", "student.st"), ("static-int8", "student.int8"), ("onnx", "student.onnx"),
    ]  # fmt: skip
    assert (tmp_path / "run" / "student.int8" / "tokenizer" / "tokenizer.json").is_file()
    same(load_static(tmp_path / "run").encode(SOME), run.student.encode(SOME), 1e-6)


def test_a_run_is_measured_and_exported_by_its_folder(tmp_path):
    from limbeck.describe import evaluate_model, export_run, open_run

    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS))
    lb.distill("leaf", task="embedding", teacher=encoder(), student="static", data=str(tmp_path / "texts.txt"), test=8,
               length=9, progress=False, epochs=2, out=tmp_path / "run", measure=False)  # fmt: skip
    found = evaluate_model(model=str(tmp_path / "run"))
    assert found["task"] == "embedding"
    assert found["models"][0]["cost"]["parameters"] > 0
    run, texts = open_run(tmp_path / "run"), str(tmp_path / "texts.txt")
    run.export(format="sentence-transformers")
    for folder in ("run", "run/student", "run/student.st"):  # what a model is says the task
        assert evaluate_model(model=str(tmp_path / folder), data=texts)["task"] == "embedding"
    run.export(format="static-int8")
    with pytest.raises(ModelError, match="exported for others to read"):
        evaluate_model(model=str(tmp_path / "run" / "student.int8"), data=texts)
    with pytest.raises(ArgumentError, match="teacher= is empty"):
        evaluate_model(model=str(tmp_path / "run"), teacher="")
    assert export_run(path=tmp_path / "run", format="static-int8")["bytes"] > 0


def test_the_prompts_that_a_teacher_was_saved_with_are_used_and_kept(tmp_path):
    from limbeck.describe import evaluate_model

    library = pytest.importorskip("sentence_transformers")
    made = encoder()
    made.prompts = {"query": "one: ", "document": "two: "}
    export_model(made, tmp_path / "st", resolve("embedding"), load_texts(TEXTS), format="sentence-transformers")
    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS))
    options = {"data": str(tmp_path / "texts.txt"), "student": "static", "test": 8, "epochs": 1, "progress": False}
    as_object = library.SentenceTransformer(str(tmp_path / "st"), device="cpu")
    for teacher in (str(tmp_path / "st"), as_object):
        run = lb.distill(
            "leaf", teacher=teacher, task="embedding", out=tmp_path / "run", overwrite=True, measure=False, **options
        )
        assert run.data.about["prompts"] == made.prompts
        assert {text[:5] for text in run.data.train.texts} == {"one: ", "two: "}
        assert any("own prompts are used: 'one: ' before a query" in told for told in run.data.about["warnings"])
    assert load_module(tmp_path / "run" / "student").prompts == made.prompts
    assert load_static(tmp_path / "run").prompts == made.prompts
    found = evaluate_model(model=str(tmp_path / "run"))
    assert any("own prompts" in told for told in found["data"]["warnings"])
    bare = lb.distill("leaf", teacher=as_object, task="embedding", prompts={}, **options)
    assert not any(bare.data.about["prompts"].values())
    assert bare.student.prompts is None


def test_a_default_prompt_stands_before_queries_and_documents():
    from limbeck.teachers.load_encoders import prompts_of

    assert prompts_of({"query": "q: ", "passage": "p: "}, None) == {"query": "q: ", "document": "p: "}
    assert prompts_of({"clustering": "c: "}, "clustering") == {"query": "c: ", "document": "c: "}
    assert prompts_of({"query": "", "document": ""}, None) is None
    assert prompts_of(None, None) is None
