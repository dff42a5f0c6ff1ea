"""Every command that asks AWS, when the laptop stack that the shell still names has gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import sched

LINES = (
    "status -s sim x", "submit -s sim -- true", "list -s sim", "cancel -s sim x", "wait -s sim x", "logs -s sim x",
    "workers -s sim", "queues -s sim", "upload . --executable x.sh -e box", "results -s sim x", "attach -s sim i-1",
    "deploy scheduler sim", "deploy environment box -s sim", "destroy sim --yes",
    "deploy pipeline pipeline.yaml -s sim", "pipeline run pipeline.yaml",
)  # fmt: skip


@pytest.fixture
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to work in, and what `sched local env` has set."""
    (tmp_path / "run.sh").write_text("")
    (tmp_path / "pipeline.yaml").write_text("name: line\nstages: [{name: one, executable: run.sh}]\n")
    monkeypatch.chdir(tmp_path)
    variables = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("_folder")
@pytest.mark.parametrize("line", LINES)
def test_no_stack_is_running(line: str) -> None:
    ran = sched(*line.split())
    assert (ran.code, ran.out, ran.exception) == (1, "", None)
    assert "the laptop stack is not running there; start it with `sched local up`" in ran.err.lower()
    assert 'eval "$(sched local env)"' in ran.err
    assert ran.err.count("\n") == 1
