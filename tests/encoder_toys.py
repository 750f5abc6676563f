"""Jobs of small encoders for tests, and their recipes run stage by stage."""

import copy

from limbeck.recipes.toy import toy_job
from limbeck.recipes.toy_embedding import encoder_toy
from limbeck.training.execute import Runner

TEXTS = ["one two three", "four and five", "not of", "seven eight nine ten"]


def job_of(recipe, student=2, teacher=4, width=16, **settings):
    job = toy_job(recipe, **settings)
    job.data, job.student, job.teacher = encoder_toy(student, teacher, width)
    return job


def plan_of(recipe, job, **arguments):
    """All stages, run; with the students after each."""
    runner, plan, stages, students, result = Runner(cpu=True), recipe(job, **arguments), [], [], None
    try:
        while True:
            stages.append(plan.send(result))
            result = runner.stage(stages[-1])
            students.append(copy.deepcopy(result.student))
    except StopIteration:
        return stages, students, runner
