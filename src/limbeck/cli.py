"""The command line: thin, every command one call of the Python API."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from limbeck.errors import ArgumentError, Interrupted, LimbeckError
from limbeck.words import arguments, call, one, only_named, show

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="""Knowledge distillation: from a model that works to a small one that is nearly as good, with proof.

Start with `limbeck demo`, then `limbeck distill teacher=... student=... data=...`.

Exit codes: 0 done, 1 something in models, data or files must be mended, 2 wrong arguments, 3 a proof failed, 130 stopped.
""",
)  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Words = Annotated[list[str] | None, typer.Argument(help="key=value arguments, see above.", show_default=False)]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="A YAML file with the same arguments.")]


@app.command()
def demo(what: Annotated[str | None, typer.Argument(help="embeddings, or nothing for images.", show_default=False)] = None,
         out: Annotated[Path | None, typer.Option(help="The run's folder (default: runs/demo, or runs/demo-embeddings); an "
                                                       "earlier demo there is replaced.", show_default=False)] = None,
         seeds: Annotated[int | None, typer.Option(help="How many seeds, of the demo without a word (default: 5).",
                                                   show_default=False)] = None) -> None:  # fmt: skip
    """The main job on real input in about a minute: handwritten digits, a good teacher, 100 labels, many unlabelled images.

    **limbeck demo embeddings** a sentence encoder becomes a table of token vectors, whose queries search the encoder's index:
    the docstrings of the Python libraries that are installed. A few minutes the first time. Needs the extra `embeddings`.
    """
    if what is None:
        from limbeck.demo import demo as run_demo

        run_demo(out or Path("runs/demo"), seeds=5 if seeds is None else seeds)
        return
    if what != "embeddings":
        from limbeck.errors import nearest

        raise ArgumentError(f"There is no demo {what!r}.{nearest(what, ['embeddings'])}")
    if seeds is not None:
        raise ArgumentError("--seeds means nothing for the demo of embeddings, which has one seed. Leave it out.")
    from limbeck.demo_embeddings import demo as run_embeddings

    run_embeddings(out or Path("runs/demo-embeddings"))


@app.command()
def serve(folder: Annotated[Path, typer.Argument(help="A folder with student/ and index/, such as runs/demo-embeddings.")],
          port: Annotated[int, typer.Option(help="The port; 0: a free one.", min=0, max=65535)] = 0) -> None:  # fmt: skip
    """Open a page on this machine in which student, teacher and BM25 answer a query side by side, with their times.

    **limbeck serve runs/demo-embeddings** prints the address. Nobody else can reach it, and nothing is asked of the network.
    """
    from limbeck.serve import serve as run_serve

    run_serve(folder, port)


@app.command()
def distill(words: Words = None, config: Config = None, json_: Json = False,
            dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; train nothing.")] = False,
            ) -> None:  # fmt: skip
    """Train a small student from a teacher and data, measure both, write a report.

    **limbeck distill [RECIPE] teacher=... student=... data=... out=runs/x**

    - teacher: a saved-module folder, a Transformers folder or hub name, timm:NAME, a run folder, a signal store
    - student: mlp:64, cnn:16, resnet:20, bag, decoder:2,128, shrink(depth=2,width=0.5), or a folder; without one, a small
      one that fits; lora=16 to train adapters of a pretrained one
    - data: digits, breast_cancer, wine, a CSV/JSONL/Parquet file, an image folder, a `datasets` name
    - about the data: label= text= features= labelled=100 valid=0.1 test=0.2 unlabelled=FILE augment=crop_flip image_size=
    - about texts for language models: tokenizer= length= pack= prompt= response= messages=
    - about texts that get vectors: sts=PAIRS retrieval=FOLDER forms=true prompts= (what they are measured on, also in
      bytes, signs and fewer numbers; what is put before them)
    - about the training: epochs= batch_size= learning_rate= precision=bf16 accumulate= clip= ema= patience= seed= ...
    - about memory: teacher_precision=bf16 teacher_device=cuda:1 checkpointing=true shard=true (with torchrun)
    - about the report: generate=64 (prompts that teacher and student answer) checker=final
    - about trust: monitor=true oracle=MODEL (is the student hacking its teacher? on by itself for language models)
    - about the run: out= seeds=5 baseline=alone (the same student without a teacher: doubles the time) export=onnx
      resume=true overwrite=true track=tensorboard

    Everything else is an argument of the recipe: `limbeck describe dist` shows them. Without a recipe: the task's default.
    """
    plain, given = arguments(words, config)
    if "recipe" in given:
        plain = [given.pop("recipe"), *plain]
    if len(plain) > 1:
        raise ArgumentError(f"Expected one recipe, got {plain}. Arguments are written key=value.")
    for needed in ("data",):
        if needed not in given:
            raise ArgumentError(
                f"Missing: {needed}=. For example: limbeck distill kd teacher=runs/teacher data=digits out=runs/x"
            )
    from limbeck.api import distill as run_distill
    from limbeck.training.folder import main_process

    given.setdefault("dry_run", dry_run)
    if given.get("baseline") and not given["dry_run"] and not json_:
        print(
            "baseline=alone trains the same student a second time, without a teacher: about twice the time.",
            file=sys.stderr,
        )
    run = run_distill(plain[0] if plain else None, **given)
    if not main_process():
        return
    if isinstance(run, dict):
        if json_:
            show(run)
        else:
            from limbeck.report.dry_run import show_dry_run

            show_dry_run(run)
    elif json_:
        show({"verdict": run.verdict, "table": run.table, "out": run.path})
    else:
        run.show()
        if run.path:
            print(f"Report: {run.path / 'report.html'}")


@app.command()
def describe(words: Words = None, json_: Json = False) -> None:
    """Say what a recipe, a model, a run or a data set is.

    **limbeck describe dist** its idea, paper, arguments and objective; **describe kd dkd** what differs between the two;
    **describe teacher=PATH** the stages and modules that can be tapped; **describe data=digits** parts and counts;
    **describe runs/x** how far a run came.
    """
    from limbeck.describe import describe_all

    plain, given = arguments(words)
    found = describe_all(plain, given)
    show(found.plain) if json_ else found.show()


@app.command()
def compare(words: Words = None, config: Config = None, json_: Json = False) -> None:
    """Train several recipes on equal terms and rank them: same student, budget, batches, tuning effort.

    **limbeck compare recipes=kd,dkd,dist data=... teacher=... student=... seeds=5 out=runs/compared** and the options of
    `limbeck distill` for data and training. tune=8 tries eight ways of each recipe on the validation part; "kd(soft=[0.5,0.9])"
    says which. The student alone is always among them. Several data sets: data=[a,b] teacher=[runs/a,runs/b].
    """
    from limbeck.comparing import compare as run_compare

    given = only_named(
        words, config, ("recipes", "data"), "limbeck compare recipes=kd,dkd data=digits teacher=runs/t student=mlp:16"
    )
    found = run_compare(**given)
    show(found.record) if json_ else found.show()
    if found.path is not None and not json_:
        print(f"Page: {found.path / 'comparison.html'}")


@app.command()
def auto(words: Words = None, config: Config = None, json_: Json = False) -> None:
    """Recommend a pipeline for your task, search for a better one within a budget of time, and say what mattered.

    **limbeck auto data=... teacher=... student=... budget=20m out=runs/auto** and the options of `limbeck distill` for data and
    training; an option given as a list is searched too (batch_size=[32,128]). recipes="kd(soft=[0.5,0.9]),dkd" says what is
    searched, trials=50 ends earlier, seeds=3 are those of the last comparison, earlier=FOLDER learns from earlier searches what
    to try first. Ctrl-C keeps what was tried; resume=true goes on.
    """
    from limbeck.automatic import auto as run_auto

    given = only_named(
        words, config, ("data", "teacher"), "limbeck auto data=digits teacher=runs/t student=mlp:16 budget=5m"
    )
    found = run_auto(**given)
    show(found.record) if json_ else found.show()
    if found.path is not None and not json_:
        print(f"Page: {found.path / 'auto.html'}")


@app.command()
def select(words: Words = None, json_: Json = False) -> None:
    """Say which samples without a label to have labelled next, by what a model says of them.

    **limbeck select margin model=runs/x data=labelled.csv unlabelled=pool.csv count=100 out=chosen.csv** and the options of the
    data (label=, text=). Selectors: margin, entropy, core_set, badge, pcoreset, rad (wrong=0.1: of one who errs), random.
    What has a label is known; the pool is unlabelled=, or has labels of -100.
    """
    from limbeck.selecting import select as run_select

    plain, given = arguments(words)
    if len(plain) > 1:
        raise ArgumentError(f"Expected one selector, got {plain}. Arguments are written key=value.")
    if "model" not in given:
        raise ArgumentError(
            "Missing: model=. For example: limbeck select margin model=runs/x unlabelled=pool.csv count=100"
        )
    found = run_select(*plain, **given)
    show({"rows": found.rows, "pool": found.pool, "known": found.known}) if json_ else found.show()
    if given.get("out") and not json_:
        print(f"Written: {given['out']}")


@app.command()
def advise(words: Words = None, config: Config = None, json_: Json = False) -> None:
    """Say which of several teachers suits a student: short runs against each, equal steps and seeds.

    **limbeck advise [RECIPE] teachers=[runs/a,runs/b,runs/c] student=... data=... steps=300 seeds=5** and the options of
    `limbeck distill` for data and training. Shows the student's score against the teacher's size, and where it is best: a
    peak, with its bootstrap interval, or none. Several students (student=[...]) also fit the law of capacity gap.
    """
    from limbeck.advice import advise as run_advise

    plain, given = arguments(words, config)
    given.setdefault("recipe", plain[0] if plain else None)
    if len(plain) > 1:
        raise ArgumentError(f"Expected one recipe, got {plain}. Arguments are written key=value.")
    for needed in ("teachers", "student", "data"):
        if needed not in given:
            raise ArgumentError(
                f"Missing: {needed}=. For example: limbeck advise teachers=[runs/a,runs/b] student=mlp:16 data=digits"
            )
    found = run_advise(given.pop("recipe"), **given)
    show(found.plain) if json_ else found.show()


@app.command()
def store(words: Words = None, json_: Json = False) -> None:
    """Run a teacher once over data and keep its signals, so that training needs no teacher in memory.

    **limbeck store teacher=... data=... out=stores/x**

    - which signals: taps=[logits,layer3] views=all (of augmented images) parts=[train]
    - of logits: top_k=64 or top_mass=0.98 (the k that keeps it); dtype=float16, or uint8 for the values of top-k logits
    - about the data: the options of `limbeck distill`
    - the same command goes on after an interruption; overwrite=true replaces another store in out=

    Then: **limbeck distill kd teacher=stores/x data=...** with the same data and seed.
    """
    from limbeck.describe import store_teacher

    _, given = arguments(words)
    found = call(store_teacher, given)
    if json_:
        show(found)
        return
    from limbeck.report.numbers import size

    print(f"Stored {found['rows']:,} rows, {size(found['bytes'])}, in {found['out']}")


@app.command()
def evaluate(words: Words = None, json_: Json = False) -> None:
    """Measure a model on data: quality, calibration, agreement with a teacher, size, speed.

    **limbeck evaluate runs/x data=... teacher=... part=test** (a run folder, a saved module, a Transformers folder)

    **limbeck evaluate runs/x data=known.jsonl novel=other.jsonl** also tells how well the model notices what is new (AUROC,
    AUPR, FAR95): language models by the perplexity of a text, classifiers by their largest probability.

    **limbeck evaluate runs/x tasks=arc_easy,hellaswag** asks the lm-evaluation-harness about a language model (the extra
    `harness`); include=FOLDER of tasks of one's own, limit=100 shots=5 batch_size=16.

    **limbeck evaluate runs/x tasks=STSBenchmark,NFCorpus teacher=...** asks MTEB about an encoder (the extra `mteb`); with a
    teacher, what a task searches is encoded by the teacher.
    """
    from limbeck.describe import evaluate_model

    plain, given = arguments(words)
    if "tasks" in given:
        from limbeck.evaluation.harness import run_tasks, show_tasks

        scores = call(run_tasks, given, model=one(plain, "model"))
        show(scores) if json_ else show_tasks(scores)
        return
    found = call(evaluate_model, given, model=one(plain, "model"))
    if json_:
        show(found)
        return
    from limbeck.report.text import show as show_table

    show_table(found)


@app.command()
def export(words: Words = None, json_: Json = False) -> None:
    """Export the student of a run and compare it with torch on real inputs.

    **limbeck export runs/x format=onnx** (or onnx-int8, safetensors; out=FILE; tolerance=1e-4). A larger difference is an
    error.
    """
    from limbeck.describe import export_run

    plain, given = arguments(words)
    found = call(export_run, given, path=one(plain, "run folder"))
    if json_:
        show(found)
    else:
        print(f"{found['file']}: {found['bytes']:,} bytes, largest difference to torch {found['max_difference']:.2g}")


@app.command()
def report(words: Words = None, json_: Json = False) -> None:
    """Show the table of a finished run again and rewrite its report.html (out=FILE: to another place)."""
    from limbeck.describe import report_run

    plain, given = arguments(words)
    record, path = call(report_run, given, path=one(plain, "run folder"))
    if json_:
        from limbeck.report.text import table_rows

        show({"verdict": record["verdict"], "table": table_rows(record), "report": path})
        return
    from limbeck.report.text import show as show_table

    show_table(record)
    print(f"Report: {path}")


@app.command()
def recipes(json_: Json = False,
            have: Annotated[str | None, typer.Option(help="What you have: logits,labels,preferences,...")] = None,
            field: Annotated[str | None, typer.Option(help="Only this field, such as classifiers.")] = None,
            ) -> None:  # fmt: skip
    """List the recipes: field, paper, year, what each needs, and whether its proof stands.

    **limbeck recipes --have logits,unlabelled** answers: what can I use with what I have.
    """
    from limbeck.errors import nearest
    from limbeck.recipes.registry import FIELDS, NEEDS
    from limbeck.recipes.registry import recipes as every

    rows = [recipe.row() for recipe in every().values()]
    if field is not None:
        if field not in FIELDS:
            raise ArgumentError(f"There is no field {field!r}.{nearest(field, FIELDS)}")
        rows = [row for row in rows if row["field"] == field]
    if have is not None:
        given = {word.strip() for word in have.split(",") if word.strip()}
        for word in given - set(NEEDS):
            raise ArgumentError(f"--have {word!r}: {nearest(word, NEEDS).strip()}")
        given |= {"logits"} if "features" in given else set()
        rows = [row for row in rows if set(row["needs"]) <= given]
    if json_:
        show(rows)
        return
    from rich.console import Console

    # one line a recipe: what does not fit into it stands on its page
    console, names = Console(), ["name", "field", "year", "needs", "proof", "what it does", "paper"]
    cells = [
        [
            row["name"],
            row["field"],
            str(row["year"]),
            ", ".join(row["needs"]),
            row["verdict"],
            row["summary"],
            row["paper"],
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for line in [names, *cells]:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        fits = len(text) <= console.width or not console.is_terminal
        console.print(text if fits else text[: console.width - 1] + "…", style="bold" if line is names else None,
                      highlight=False, soft_wrap=True, markup=False)  # fmt: skip
    counts = ", ".join(
        f"{sum(row['verdict'] == kind for row in rows)} {kind}" for kind in ("stands", "failed", "unproven")
    )
    console.print(f"{len(rows)} recipes; proofs: {counts}. `limbeck describe NAME` shows a recipe's page.")


@app.command()
def prove(name: Annotated[str | None, typer.Argument(help="The proof, such as kd; without one, the list.")] = None,
          all_: Annotated[bool, typer.Option("--all", help="Run every proof.")] = False,
          json_: Json = False) -> None:  # fmt: skip
    """Run the experiment that shows that a recipe does what it claims, and record what came out.

    Writes proofs/results/NAME.json: the claim, numbers for each seed, verdict, versions, machine, seconds. A proof that
    fails is recorded as failed, and the exit code is 3.
    """
    from limbeck.proving import proofs, run_proof

    known = proofs()
    if name is None and not all_:
        rows = [{"name": proof.name, "claim": proof.claim, "verdict": proof.verdict} for proof in known.values()]
        show(rows) if json_ else print("\n".join(f"{row['name']:24} {row['verdict']:9} {row['claim']}" for row in rows))
        return
    records = [run_proof(each) for each in ([name] if name else known)]
    if json_:
        show(records)
    else:
        for record in records:
            print(f"{record['name']}: {record['verdict']}. {record['claim']}\n  {record['finding']}")
    if any(record["verdict"] == "failed" for record in records):
        raise typer.Exit(3)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        from limbeck import __version__

        print(__version__)
        raise typer.Exit()


def main() -> None:
    """The entry point: a LimbeckError becomes one clear line and an exit code."""
    code = run()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # the threads of gloo abort some exits after all is done
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run() -> int:
    """Run the command line; returns its exit code."""
    try:
        app(prog_name="limbeck")
    except SystemExit as done:
        if done.code == 130:  # typer makes this of a Ctrl-C that nothing else has taken
            print(
                "limbeck: stopped. If a training had begun, the same command with resume=true goes on.", file=sys.stderr
            )
        return done.code if isinstance(done.code, int) else 0 if done.code is None else 1
    except LimbeckError as error:
        print(f"limbeck: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 2 if isinstance(error, ArgumentError) else 1
    return 0


if __name__ == "__main__":
    main()
