"""Files of the repository: workflows, issue forms, versions, and the limits in SECURITY.md."""

import re

import pytest

from foreseer.files.container import MOST_HEADER
from foreseer.forecast import l2p
from foreseer.kernel.kernel_file import KERNEL_FILE
from foreseer.methods.profile import PROFILE_FILE
from foreseer.pipelines import MOST_PROMPT_BYTES, MOST_PROMPTS
from foreseer.plan.file import PLAN_FILE
from foreseer.zoo.folder import MOST_SAMPLING
from tests.packaging.version import ROOT, main, versions

yaml = pytest.importorskip("yaml")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit_and_name_their_version(path):
    uses = re.findall(r"uses: (.+)$", path.read_text(), re.MULTILINE)
    assert uses
    for line in uses:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_read_only_unless_a_job_asks_and_end_in_time(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert "github.event" not in step.get("run", "")  # what others may write is never put into a shell


def test_only_the_publishing_job_may_publish():
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["environment"]["name"] == "pypi"
    assert jobs["publish"]["needs"] == "build"
    assert "password" not in str(jobs)
    assert "secrets" not in str(jobs)


@pytest.mark.parametrize("path", [path for path in FORMS if path.stem != "config"], ids=lambda path: path.stem)
def test_issue_forms_have_what_github_asks_for(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= form.keys()
    names = [field["id"] for field in form["body"]]
    assert len(names) == len(set(names)) > 1
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"]["label"]
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_every_file_states_the_same_version():
    assert len(set(versions().values())) == 1


def test_a_tag_of_another_version_is_refused(capsys):
    assert main(f"v{versions()['pyproject.toml']}") == 0
    assert main("v9.9.9") == 1
    assert "The tag is v9.9.9, but pyproject.toml says" in capsys.readouterr().err


def test_the_limits_that_the_security_page_states_are_those_of_the_code():
    page = (ROOT / "SECURITY.md").read_text()
    assert f"safetensors | {PLAN_FILE.most_bytes // 2**20} MiB |" in page
    assert f"safetensors | {KERNEL_FILE.most_bytes // 2**30} GiB |" in page
    assert f"kernel and plans | {PROFILE_FILE.most_bytes // 2**30} GiB |" in page
    assert f"{l2p.MOST_BYTES // 10**6} MB, {l2p.MOST_STEPS:,} steps |" in page
    assert f"{MOST_PROMPT_BYTES // 2**20} MiB, {MOST_PROMPTS:,} prompts |" in page
    assert f"JSON | {MOST_SAMPLING // 2**20} MiB |" in page
    assert f"at most {MOST_HEADER // 2**10} KiB" in page
