import random

from toy_stage import trouble

from components.shared.contracts.errors import PipelineError
from components.shared.contracts.stage import Report
from components.shared.performance.performance_tracker import progress


def run(config, inputs, outputs):
    if config.fail:
        print("about to go wrong")
        raise PipelineError(f"grow.fail is {config.fail}: set it to false")
    draw = random.Random(config.seed)
    lines = [f"{draw.random()}\n" for _ in progress(range(config.size), "seeds")]
    trouble("grow")
    (outputs["seeds"] / "seeds.txt").write_text("".join(lines))
    return Report(stage="grow", summary=f"{config.size} seeds", metrics={"size": config.size})
