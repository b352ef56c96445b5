"""The workflows: what they run is fixed to the commit, what they may do is little, and no package can be forgotten."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml")}

every_workflow = pytest.mark.parametrize("name", WORKFLOWS)


def jobs(name):
    return yaml.safe_load(WORKFLOWS[name])["jobs"]


def commands(name):
    return [step["run"] for job in jobs(name).values() for step in job["steps"] if "run" in step]


def test_there_are_workflows():
    assert WORKFLOWS.keys() == {"book", "canary", "test"}


@every_workflow
def test_actions_are_pinned_by_commit_and_named_by_tag(name):
    used = re.findall(r"uses: *(.*)", WORKFLOWS[name])
    assert used and all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use) for use in used), used


@every_workflow
def test_only_the_job_that_publishes_may_write(name):
    default = yaml.safe_load(WORKFLOWS[name])["permissions"]
    for job, content in jobs(name).items():
        allowed = content.get("permissions", default)
        if job == "publish":
            assert allowed == {"pages": "write", "id-token": "write"} and not any("run" in s for s in content["steps"])
        else:
            assert allowed == {"contents": "read"}


@pytest.mark.parametrize("name", ["canary", "test"])
def test_every_python_that_the_package_names_is_tried(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    for job in jobs(name).values():
        assert job["strategy"]["matrix"]["python"] == named


def test_the_book_is_published_only_where_every_claim_holds():
    assert "make book STRICT=1" in commands("book") and jobs("book")["publish"]["needs"] == "build"


def test_the_canary_installs_by_the_projects_own_extras():
    (installed,) = (command for command in commands("canary") if "pip install" in command)
    assert installed == 'pip install --upgrade -e ".[test]"'
