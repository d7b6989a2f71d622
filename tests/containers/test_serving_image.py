"""The router's image, as it would be deployed: healthy by its own check, with nothing writable but its state."""

import json
import time

import pytest
from docker_images import PROJECT

from components.shared.contracts.records import Tier
from components.shared.contracts.selection import Benchmark, Calibration, SelectionTable

KEY = "a key that is long enough"
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
@pytest.mark.timeout(3600)
def test_the_router_becomes_healthy_as_an_anonymous_user_and_asks_for_a_key(serving_image, docker_client, tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "router.yaml").write_text(ROUTER)
    (tmp_path / "selection.json").write_text(selection().model_dump_json())
    models = PROJECT / "configs" / "models"
    router = docker_client.containers.run(
        serving_image,
        ["--config", "/router/router.yaml", "--host", "0.0.0.0", "--port", "8080"],
        detach=True,
        read_only=True,
        tmpfs={"/tmp": ""},
        network_mode="none",
        environment={"SRL_RLVR_ROUTER_KEY": KEY},
        volumes={
            str(tmp_path): {"bind": "/router", "mode": "ro"},
            str(models): {"bind": "/opt/srl-rlvr/configs/models", "mode": "ro"},
        },
    )
    try:
        state = followed(router)
        assert state["Health"]["Status"] == "healthy", router.logs().decode()
        assert router.exec_run(["id", "-u"]).output == b"10001\n"
        assert asked(router, "/health") == (200, {"tiers": {"gold": True}, "selection": selection().version})
        assert asked(router, "/v1/models")[0] == 401
        code, models = asked(router, "/v1/models", KEY)
        assert (code, [model["id"] for model in models["data"]]) == (200, ["npc_dialogue", "npc_dialogue@gold"])
    finally:
        router.remove(force=True, v=True)


def asked(container, path: str, key: str = "") -> tuple[int, dict]:
    """A request from within, where alone the router is reached: its status and its answer."""
    ask = (
        "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8080, timeout=10);"
        f"c.request('GET', {path!r}, headers={{'Authorization': 'Bearer {key}'}} if {key!r} else {{}});"
        "r = c.getresponse(); print(r.status); print(r.read().decode())"
    )
    status, answer = container.exec_run(["python", "-c", ask]).output.decode().split("\n", 1)
    return int(status), json.loads(answer)


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
