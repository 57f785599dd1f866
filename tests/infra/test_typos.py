"""Every file of infra/ is valid, and no key of it can be misspelt without a test that fails."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.infra.schemas import CHECKS, check_kubernetes_file, check_overlays

INFRA = Path(__file__).parents[2] / "infra"
KUBERNETES = sorted(path.relative_to(INFRA).as_posix() for path in (INFRA / "k8s").rglob("*.yaml"))

# `key:` at the beginning of a line or of an item, or within {…}.
_KEY = re.compile(r"(?m)(?:^[ ]*(?:- )*|[{,] ?)([A-Za-z<][\w./~<-]*):(?=\s)")
# Names that users of the format choose: those of labels and environment variables, of services,
# volumes and node types, and what Ray keeps of a job.
_CHOSEN = {
    *("job", "config.kubernetes.io/local-config"),
    *("head", "worker", "gpu", "s3", "bucket", "prometheus", "grafana"),
    *("lake", "metrics", "models", "dense", "x-ray"),
}


def typos(text: str) -> Iterator[str]:
    """The text with one key misspelt, for every key that is not free."""
    code = re.sub(r"(?m)#.*$", lambda comment: " " * len(comment[0]), text)
    for match in _KEY.finditer(code):
        key = match[1]
        free = key in _CHOSEN or key.isupper() or key.startswith("GF_") or is_label(key)
        if not free:
            yield text[: match.start(1)] + key + "x" + text[match.end(1) :]


def is_label(key: str) -> bool:
    return "/" in key and key != "nvidia.com/gpu"


def test_every_file_has_a_check():
    files = {path.relative_to(INFRA).as_posix() for path in INFRA.rglob("*.yaml")}

    # The demo's flow is run by `make demo`.
    assert files - set(KUBERNETES) - set(CHECKS) == {"demo/flow.yaml"}


@pytest.mark.parametrize("name", KUBERNETES)
def test_the_file_of_kubernetes_is_valid(name):
    check_kubernetes_file(INFRA / name)


def test_the_overlays_are_valid():
    check_overlays(INFRA / "k8s")


@pytest.mark.parametrize("name", CHECKS)
def test_the_file_is_valid(name):
    CHECKS[name](yaml.safe_load((INFRA / name).read_text()))


@pytest.mark.parametrize("name", CHECKS)
def test_a_misspelt_key_is_found(name):
    accepted = []
    for text in typos((INFRA / name).read_text()):
        try:
            CHECKS[name](yaml.safe_load(text))
        except Exception:  # noqa: BLE001, S112  whichever the check raises
            continue
        accepted.append(text)

    assert not [_difference(name, text) for text in accepted]


@pytest.mark.parametrize("name", KUBERNETES)
def test_a_misspelt_key_of_kubernetes_is_found(name, tmp_path):
    folder = tmp_path / "k8s"
    shutil.copytree(INFRA / "k8s", folder)
    accepted = []
    for text in typos((INFRA / name).read_text()):
        (tmp_path / name).write_text(text)
        try:
            check_kubernetes_file(tmp_path / name)
            check_overlays(folder)
        except Exception:  # noqa: BLE001, S112
            continue
        accepted.append(text)

    assert not [_difference(name, text) for text in accepted]


def _difference(name: str, text: str) -> str:
    before = (INFRA / name).read_text().splitlines()
    return next(new for old, new in zip(before, text.splitlines(), strict=True) if old != new)
