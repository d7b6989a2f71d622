from toy_stage import trouble

from components.shared.contracts.stage import Report


def run(config, inputs, outputs):
    seeds = (inputs["seeds"] / "seeds.txt").read_text()
    (outputs["policy"] / "policy.txt").write_text(seeds.upper())
    trouble("judge")
    margin = len(seeds.splitlines()) - config.bar
    return Report(stage="judge", summary=f"margin {margin}", scalars={"margin": margin})
