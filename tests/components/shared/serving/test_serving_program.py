"""What the serving container starts."""

from components.shared.serving.__main__ import main


def test_what_must_not_be_served_is_one_line_and_an_exit_code(tmp_path, capsys):
    config = tmp_path / "router.yaml"
    config.write_text(
        "tiers: {gold: {kind: vllm, url: 'http://127.0.0.1:1', base: x, model: gold}}\nselection: s.json\n"
    )
    config.write_text(config.read_text() + "anonymous: true\n")
    assert main(["--config", str(config), "--host", "0.0.0.0"]) == 2
    said = capsys.readouterr().err
    assert said == "error: anonymous requests on 0.0.0.0: take keys, or listen on 127.0.0.1\n"
