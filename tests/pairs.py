"""Stages over preference pairs in double precision, for tests of accumulation and of several processes."""

from limbeck import objectives as o
from limbeck.recipes import find
from limbeck.recipes.toy import toy_job
from limbeck.recipes.toy_language import TinyLM
from limbeck.students.declare import seeded
from limbeck.teachers.composed import Advantages, Contrast

KINDS = {
    "pairs": lambda: o.dpo() + o.redi(),
    "dckd": lambda: o.cross_entropy().among("chosen") + 2 * o.forward_kl().among("rejected"),
    "aligndistil": lambda: o.per_sequence(o.reverse_kl().against("contrast"), over="contrast:strength"),
    "adpa": lambda: o.expected_advantage().against("advantages").among("rejected"),
}
KINDS["all"] = lambda: sum(KINDS[kind]() for kind in ("pairs", "dckd", "aligndistil", "adpa"))


def pair_job(**settings):
    """40 training pairs, a student in double precision, and a second model beside the teacher."""
    job = toy_job(find("redi"), best="last", **settings)
    with seeded(3):
        job.student, reference = TinyLM(width=8).double(), TinyLM(width=12).double()
    return job, reference


def pair_stage(kind, **settings):
    job, reference = pair_job(**{"steps": 6, "batch_size": 7, **settings})
    roles = {
        "reference": reference, "teacher": job.teacher.module.double(),
        "contrast": Contrast("teacher", "reference"), "advantages": Advantages("teacher", "reference"),
    }  # fmt: skip
    return job, job.stage(KINDS[kind](), roles=roles, part=job.data.train)
