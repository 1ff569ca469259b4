"""The files under scripts/deploy and scripts/docker: what they name is there, and their times fit together."""

import re
import shlex

import pytest
import yaml

from tests.script_runs import ROOT

DEPLOY = ROOT / "scripts" / "deploy"
DOCKERFILES = sorted(p for p in (ROOT / "scripts" / "docker").glob("Dockerfile.*") if p.suffix != ".dockerignore")
KUBERNETES = sorted(DEPLOY.glob("kubernetes*.yaml"))


@pytest.fixture(scope="module")
def server_flags():
    from mindspore_paged.serving.run import _parser

    return {option for action in _parser()._actions for option in action.option_strings}


@pytest.fixture(scope="module")
def server_paths():
    from mindspore_paged.serving.routes import health

    return {route.path for route in health.router.routes}


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def pods(path):
    """The pods of servers in a file."""
    found = [each["spec"]["template"] for each in documents(path) if each["kind"] == "Deployment"]
    return [pod for pod in found if pod["metadata"]["labels"]["app"] == "mindspore-paged-server"]


def flags_of(words):
    return {word.split("=")[0] for word in words if word.startswith("--")}


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_a_pod_is_asked_what_a_server_answers_and_has_time_to_drain(path, server_flags, server_paths):
    (pod,) = pods(path)
    (container,) = pod["spec"]["containers"]
    for probe, asked in (("startupProbe", "/ready"), ("readinessProbe", "/ready"), ("livenessProbe", "/health")):
        assert container[probe]["httpGet"]["path"] == asked
        assert asked in server_paths
    words = shlex.split(" ".join(container["args"]))
    assert flags_of(words) <= server_flags
    (drain,) = [word for word in words if word.startswith("server.drain_seconds=")]
    sleep = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] >= sleep + int(drain.split("=")[1]) + 10
    (port,) = container["ports"]
    assert port["containerPort"] == 8000


def test_the_router_finds_the_pods_and_asks_them_right(server_paths):
    everything = documents(DEPLOY / "kubernetes.yaml")
    (router,) = [
        d for d in everything if d["metadata"]["name"] == "mindspore-paged-router" and d["kind"] == "Deployment"
    ]
    (container,) = router["spec"]["template"]["spec"]["containers"]
    command = container["command"]
    name, value = command[command.index("--selector") + 1].split("=")
    for path in KUBERNETES:
        assert pods(path)[0]["metadata"]["labels"][name] == value
    compose = documents(DEPLOY / "compose.yaml")[0]["services"]
    for words in (command, compose["router"]["command"]):
        assert "--health-check-endpoint=/ready" in words
    (rules,) = [document["rules"] for document in everything if document["kind"] == "Role"]
    assert rules == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]


def test_the_router_knows_its_flags():
    from vllm_router.launch_router import parse_router_args

    kubernetes = documents(DEPLOY / "kubernetes.yaml")
    (router,) = [d for d in kubernetes if d["kind"] == "Deployment" and "router" in d["metadata"]["name"]]
    (container,) = router["spec"]["template"]["spec"]["containers"]
    compose = documents(DEPLOY / "compose.yaml")[0]["services"]["router"]["command"]
    for command in (container["command"], compose):
        assert command[0] == "vllm-router"
        assert parse_router_args(command[1:]).health_check_endpoint == "/ready"


def test_compose_starts_what_an_image_has(server_flags):
    services = documents(DEPLOY / "compose.yaml")[0]["services"]
    servers = {name: service for name, service in services.items() if name.startswith("server-")}
    assert len(servers) == 2
    urls = [word for word in services["router"]["command"] if word.startswith("http://")]
    assert urls == [f"http://{name}:8000" for name in servers]
    for server in servers.values():
        assert flags_of(server["command"]) <= server_flags


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_serve(path, server_flags):
    text = path.read_text().replace("\\\n", " ")
    entry, command = (re.search(rf"^{name} (\[.*\])$", text, re.MULTILINE).group(1) for name in ("ENTRYPOINT", "CMD"))
    words = yaml.safe_load(entry) + yaml.safe_load(command)
    words = words[words.index("scripts/run_server.py") + 1 :]
    assert {"--host", "--config"} <= flags_of(words) <= server_flags
    assert (ROOT / words[words.index("--config") + 1]).is_file()
    assert (path.parent / f"{path.name}.dockerignore").is_file()
