"""A toy job on which every recipe can be tried in a second: for `describe` and for the contract tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.recipes.registry import Recipe
    from limbeck.training.job import Job


def toy_job(recipe: Recipe | None = None, **settings: Any) -> Job:
    """Small images of four classes (or tables with values), a wider teacher, a small student, some samples unlabelled."""
    import torch
    from torch import nn

    from limbeck.data.base import Data, TensorPart
    from limbeck.students.build import cnn, mlp
    from limbeck.students.declare import seeded
    from limbeck.tasks import resolve
    from limbeck.teachers.base import ModuleTeacher
    from limbeck.training.job import Job
    from limbeck.training.settings import Settings

    task = resolve(recipe.tasks[0] if recipe else "classification")
    given = Settings(**{"steps": 4, "batch_size": 16, **settings})
    if task.name == "causal_lm":
        from limbeck.recipes.toy_language import language_toy, two_tokenizers_toy

        across = recipe is not None and recipe.function.__module__.endswith(".tokenizers")
        preferences = recipe is not None and "preferences" in recipe.needs
        layers = 3 if recipe is not None and "features" in recipe.needs else 0
        tokens, large, small = two_tokenizers_toy() if across else language_toy(preferences, layers)
        valid = tokens.parts["valid"]
        return Job(task, tokens, small, ModuleTeacher(large), given,
                   evaluation=lambda module: task.measure(module, valid)["scores"])  # fmt: skip
    if task.name == "embedding":
        from limbeck.recipes.toy_embedding import embedding_toy, words_toy

        worded = recipe is not None and recipe.function.__module__.endswith(".words")
        translated = recipe is not None and "translations" in recipe.needs
        return Job(task, *(words_toy() if worded else embedding_toy(translated=translated)), given)  # type: ignore
    if task.name == "ranking":
        from limbeck.recipes.toy_embedding import ranking_toy

        kinds = {"trans_encoder": "cosine", "quanti_dce": "cross"}
        return Job(task, *ranking_toy(kinds.get(recipe.name) if recipe else None), given)  # type: ignore[arg-type]
    if recipe is not None and recipe.function.__module__.endswith(".encoders"):
        from limbeck.recipes.toy_embedding import encoder_toy

        return Job(task, *encoder_toy(), given)
    generator = torch.Generator().manual_seed(0)
    student: nn.Module
    teacher: nn.Module
    if task.name == "regression":
        inputs = torch.randn(48, 6, generator=generator)
        labels = inputs @ torch.randn(6, generator=generator)
        with seeded(0):
            teacher, student = mlp(6, 1, hidden=(16, 16)), mlp(6, 1, hidden=(8, 8))
    else:
        inputs = torch.rand(48, 1, 8, 8, generator=generator)
        labels = torch.randint(4, (48,), generator=generator)
        with seeded(0):
            teacher, student = cnn(1, 4, width=8, depth=2, size=8), cnn(1, 4, width=4, depth=2, size=8)
        if recipe is not None and recipe.function.__module__.endswith(".masked"):
            from limbeck.students.masked import autoencoder_around, vit

            with seeded(0):
                teacher = autoencoder_around(vit(1, 4, size=8, patch=2, width=16, depth=3, heads=2), 16, 2, 2)
                student = vit(1, 4, size=8, patch=2, width=8, depth=2, heads=2)
    train = labels.clone()
    train[30:40] = float("nan") if labels.is_floating_point() else -100
    data = Data(
        "toy", "table" if task.name == "regression" else "image",
        {"train": TensorPart("train", inputs[:40], train[:40]), "valid": TensorPart("valid", inputs[40:], labels[40:])},
        target="values" if task.name == "regression" else "classes", classes=list("abcd"),
    )  # fmt: skip
    return Job(task, data, student, ModuleTeacher(teacher), given)
