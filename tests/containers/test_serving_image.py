"""The router's image, as it would be deployed: healthy by its own check, with nothing writable but its state."""

import os
import time

import pytest
from docker_images import PROJECT, built

from components.shared.contracts.records import Tier
from components.shared.contracts.selection import Benchmark, Calibration, SelectionTable

WHOLE = os.environ.get("SRL_RLVR_CAMPAIGNS") == "whole"
ROUTER = """
tiers:
  gold: {kind: vllm, url: "http://127.0.0.1:8001", base: models/local/gold, model: gold}
selection: /router/selection.json
layers: null
"""


def selection() -> SelectionTable:
    gold = Benchmark(
        model_type="npc_dialogue",
        tier=Tier.GOLD,
        trainer="srl_rlvr",
        base_model="local/gold",
        policy="0" * 16,
        quality=0.8,
        quality_low=0.7,
        samples=100,
        quality_by_complexity=(0.8,),
        usd_per_million_input_tokens=0.1,
        usd_per_million_output_tokens=0.1,
        first_token_ms=10.0,
        token_ms=1.0,
        completion_tokens=20.0,
    )
    even = Calibration(model_type="npc_dialogue", weights={}, means={}, scales={}, bias=0.0, samples=100)
    return SelectionTable(benchmarks=(gold,), calibrations=(even,), accepted_by="a test")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not WHOLE, reason="SRL_RLVR_CAMPAIGNS=whole builds this image too")
def test_the_router_becomes_healthy_as_an_anonymous_user(base_image, docker_client, tmp_path):
    image = built("serving", base_image)
    tmp_path.chmod(0o755)
    (tmp_path / "router.yaml").write_text(ROUTER)
    (tmp_path / "selection.json").write_text(selection().model_dump_json())
    models = PROJECT / "configs" / "models"
    router = docker_client.containers.run(
        image,
        ["--config", "/router/router.yaml", "--host", "0.0.0.0", "--port", "8080"],
        detach=True,
        read_only=True,
        tmpfs={"/tmp": ""},
        network_mode="none",
        environment={"SRL_RLVR_ROUTER_KEY": "a key that is long enough"},
        volumes={
            str(tmp_path): {"bind": "/router", "mode": "ro"},
            str(models): {"bind": "/opt/srl-rlvr/configs/models", "mode": "ro"},
        },
    )
    try:
        state = followed(router)
        assert state["Health"]["Status"] == "healthy", router.logs().decode()
        assert router.exec_run(["id", "-u"]).output == b"10001\n"
    finally:
        router.remove(force=True, v=True)


def followed(container, seconds: float = 90.0) -> dict:
    """A container's state once its health is decided."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        container.reload()
        state = container.attrs["State"]
        if not state["Running"] or state["Health"]["Status"] != "starting":
            break
        time.sleep(0.5)
    return state
