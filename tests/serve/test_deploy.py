"""Dockerfile, compose, Prometheus and Kubernetes say what the server is; none of them is run here."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from libra_guard import __version__
from libra_guard.policy import load_policy
from libra_guard.serve.app import create_app
from libra_guard.serve.settings import PREFIX, ServerSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PORT = ServerSettings.model_fields["port"].default


def read(name: str) -> Any:
    documents = list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))
    return documents[0] if len(documents) == 1 else documents


@pytest.fixture(scope="module")
def paths() -> set[str]:
    """What the server answers a GET at."""
    return set(create_app(ServerSettings(), {}).openapi()["paths"])


def settings_of(variables: dict[str, str]) -> ServerSettings:
    """The settings that variables of the environment make."""
    unknown = {name for name in variables if name.removeprefix(PREFIX).lower() not in ServerSettings.model_fields}
    assert not unknown
    return ServerSettings(**{name.removeprefix(PREFIX).lower(): value for name, value in variables.items()})


def steps() -> list[tuple[str, str]]:
    """The Dockerfile's instructions."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]  # type: ignore[misc]


def test_the_image(paths: set[str]) -> None:
    said = steps()
    assert [what for step, what in said if step == "FROM"] == ["python:3.12-slim AS build", "python:3.12-slim"]
    last = said[[step for step, _ in said].index("FROM", 1) :]
    kept = dict(last)
    environment = dict(pair.split("=", 1) for pair in shlex.split(kept["ENV"]))
    settings = settings_of({name: value for name, value in environment.items() if name.startswith(PREFIX)})
    assert (settings.host, settings.port) == ("0.0.0.0", PORT)
    assert kept["EXPOSE"] == str(PORT)
    assert int(kept["USER"]) > 0
    assert f"--uid {kept['USER']} " in kept["RUN"]
    assert yaml.safe_load(kept["CMD"]) == ["libra", "serve"]
    # Nothing secret is built in, and nothing is copied that is not there.
    assert not re.search("KEY|TOKEN|SECRET", " ".join(what for _, what in said))
    for _, what in (one for one in said if one[0] == "COPY" and "--from" not in one[1]):
        assert all((ROOT / name).exists() for name in what.split()[:-1])


@pytest.mark.parametrize("status", [200, 503])
def test_the_image_asks_the_server_at_its_port_and_no_proxy(paths: set[str], status: int) -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    (program,) = [what.partition("CMD ")[2] for step, what in steps() if step == "HEALTHCHECK"]
    _, *arguments = json.loads(program)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        environment = {"LIBRA_SERVE_PORT": str(server.server_port), "http_proxy": "http://127.0.0.1:1"}
        done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, timeout=60)
        server.shutdown()
        thread.join(20)
    assert (done.returncode == 0) == (status == 200), done.stderr
    assert len(asked) == 1
    assert set(asked) <= paths


def test_the_server_needs_nothing_that_the_image_lacks() -> None:
    (removed,) = re.findall(r"uninstall --yes (.+)", "\n".join(what for _, what in steps()))
    lacking = {"sklearn" if name == "scikit-learn" else name for name in removed.split()}
    program = f"""if True:
        import sys
        sys.modules.update(dict.fromkeys({sorted(lacking)}))
        from starlette.testclient import TestClient
        from libra_guard.serve.app import create_app
        from libra_guard.serve.settings import ServerSettings
        with TestClient(create_app(ServerSettings()), "http://127.0.0.1") as client:
            asked = {{"conversation": {{"question": "如何泡一杯绿茶？"}}, "explain": True}}
            assert client.post("/v1/guard", json=asked).json()["results"][0]["verdict"]["analysis"]
            assert client.get("/metrics").status_code == 200
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_image_is_made_of_is_sent_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = {name for step, what in steps() if step == "COPY" and "--from" not in what for name in what.split()[:-1]}
    assert sent == {name.removeprefix("./") for name in copied}
    assert lines.index("*") < min(i for i, line in enumerate(lines) if line.startswith("!"))


def test_compose() -> None:
    services = read("compose.yaml")["services"]
    libra = services["libra"]
    settings = settings_of(libra["environment"])
    secret = Path(str(settings.api_key_file))
    assert secret == Path("/run/secrets") / libra["secrets"][0]
    assert libra["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    (mounted,) = libra["volumes"]
    here, there, mode = mounted.split(":")
    assert mode == "ro"
    for file in settings.policies:
        assert file.parent == Path(there)
        assert load_policy(DEPLOY / here / file.name).name == settings.policy
    assert int(libra["stop_grace_period"].removesuffix("s")) > settings.grace_seconds
    assert libra["read_only"]
    assert (DEPLOY / libra["build"]).resolve() == ROOT
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for mount in service.get("volumes", []):
            assert not mount.startswith("./") or (DEPLOY / mount.split(":")[0]).exists()


def test_prometheus(paths: set[str]) -> None:
    services = read("compose.yaml")["services"]
    (job,) = read("prometheus.yml")["scrape_configs"]
    assert job["metrics_path"] in paths
    assert job["static_configs"] == [{"targets": [f"libra:{PORT}"]}]
    assert "libra" in services
    assert job["authorization"]["credentials_file"] == services["libra"]["environment"]["LIBRA_SERVE_API_KEY_FILE"]
    assert services["prometheus"]["secrets"] == services["libra"]["secrets"]
    assert "/etc/prometheus/prometheus.yml" in services["prometheus"]["command"][0]


def test_kubernetes(paths: set[str], tmp_path: Path) -> None:
    configured, deployment, service = read("kubernetes.yaml")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {v["name"]: v.get("value", "from a secret") for v in container["env"]}
    settings = settings_of(variables)
    assert settings.api_key
    assert container["ports"] == [{"name": "http", "containerPort": PORT}]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/readyz",
        "readiness": "/readyz",
        "liveness": "/healthz",
    }
    assert {probe["path"] for probe in probes.values()} <= paths
    assert {probe["port"] for probe in probes.values()} == {"http"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    for file in settings.policies:
        assert str(file.parent) == mounts["policy"]
        written = tmp_path / file.name
        written.write_text(configured["data"][file.name], encoding="utf-8")
        assert load_policy(written).name == settings.policy
    assert pod["volumes"][0] == {"name": "policy", "configMap": {"name": configured["metadata"]["name"]}}
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > waits + settings.grace_seconds
    assert settings.threads == int(container["resources"]["limits"]["cpu"])
    assert container["image"] == f"libra-guard:{__version__}"
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels.items() >= deployment["spec"]["selector"]["matchLabels"].items()
    assert labels.items() >= service["spec"]["selector"].items()
    assert service["spec"]["ports"][0]["targetPort"] == "http"
    # What scrapes by annotation has no key, and /metrics asks for one.
    assert "annotations" not in deployment["spec"]["template"]["metadata"]
    docs = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    assert f"docker build -t {container['image']} ." in docs


def test_kubernetes_grants_no_more_than_needed() -> None:
    pod = read("kubernetes.yaml")[1]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    user = dict(steps())["USER"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == int(user)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod["automountServiceAccountToken"]


def test_no_variable_of_kubernetes_is_taken_for_a_setting() -> None:
    configured, deployment, service = read("kubernetes.yaml")
    assert deployment["spec"]["template"]["spec"]["enableServiceLinks"] is False
    # Other pods of the namespace may be of this image too, and have the links.
    assert not service["metadata"]["name"].upper().replace("-", "_").startswith(PREFIX.rstrip("_"))
    assert configured["metadata"]["name"] == service["metadata"]["name"]
