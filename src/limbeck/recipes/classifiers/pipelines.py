"""One pipeline of many parts that can be exchanged: what `limbeck auto` searches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from limbeck import objectives as o
from limbeck.errors import ArgumentError
from limbeck.recipes.registry import recipe

if TYPE_CHECKING:
    from limbeck.training.job import Job
    from limbeck.training.stage import Stage

Prediction = Literal["kl", "ce", "mse"]
Intermediate = Literal["mi", "mse", "cosine", "cka", "none"]
LayerMap = Literal["spread", "last", "emd"]


@recipe(paper="Distiller: A Systematic Study of Model Distillation Methods in Natural Language Processing", year=2021,
        field="classifiers", needs=("features", "logits", "labels"))  # fmt: skip
def distiller(job: Job, prediction: Prediction = "kl", intermediate: Intermediate = "mi", alpha: float = 0.9, layers: int = 1,
              layer_map: LayerMap = "spread", soft: float = 0.9, temperature: float = 4.0,
              weight: float = 0.1) -> Stage:  # fmt: skip
    """Match predictions, and between layers the largest bound of the information that they share.

    limbeck distill distiller teacher=... student=... data=... intermediate=mi alpha=0.9

    (1 - soft) CE + soft * the `prediction` loss ("kl" times tau^2, "ce" between probabilities, both at a temperature; "mse" of
    logits) + weight * the `intermediate` one over `layers` layers: "mi", minus MI-alpha between pooled states with a critic
    that learns; "mse" and "cosine" behind a linear map; "cka"; "none". The `layer_map` pairs them: "spread" evenly over both
    depths (one: the last), "last" those before the end, "emd" each of the spread ones with all of the teacher's, weighed by the
    earth mover's distance (He et al., 2021, from its text, no code is published; the weight, the critic's size and equal masses
    of the layers are ours). Critics and maps are not part of the student. A layer of tokens is pooled, without padding.
    """
    from limbeck.signals.taps import mean_of
    from limbeck.training.inside import last_stages, layers_of, spread_layers

    if not 0 <= soft <= 1:
        raise ArgumentError(f"soft={soft!r}: expected a share from 0 to 1.")
    outputs: Any = {
        "kl": lambda: o.forward_kl(temperature=temperature), "ce": lambda: o.soft_cross_entropy(temperature=temperature),
        "mse": o.mse,
    }[prediction]()  # fmt: skip
    objective = (1 - soft) * o.cross_entropy() + soft * outputs
    if intermediate == "none":
        return job.stage(objective)

    def term(*pair: str) -> Any:
        ours, theirs = map(mean_of, pair)
        if intermediate == "mi":
            return o.mutual_information(ours, theirs, alpha=alpha)
        if intermediate == "cka":
            return o.cka_distance().on(ours, theirs)
        made = o.feature_mse() if intermediate == "mse" else o.cosine_distance()
        return made.on(ours, theirs).projected()

    pairs = last_stages(job, layers) if layer_map == "last" else spread_layers(job, layers)
    if layer_map == "emd":
        theirs = layers_of(job, "teacher")
        return job.stage(
            objective + weight * o.transported([[term(ours, each) for each in theirs] for ours, _ in pairs])
        )
    return job.stage(objective + weight * sum(term(*pair) for pair in pairs))
