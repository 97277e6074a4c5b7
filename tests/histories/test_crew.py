"""Workers elsewhere: those with other software refuse before they write."""

import pytest

from fastad.base.errors import UserError
from fastad.histories.crew import check_versions, versions_here


def test_a_worker_with_the_same_software_works():
    check_versions(versions_here())


@pytest.mark.parametrize("name", ["schema", "fastad", "torch", "numpy"])
def test_a_worker_with_another_version_names_it_and_its_own(name):
    here = versions_here()
    with pytest.raises(UserError, match=f"has {name} ") as refusal:
        check_versions(here | {name: "9.9.9"})
    assert str(here[name]) in str(refusal.value)
    assert "9.9.9" in str(refusal.value)


def test_commits_are_compared_where_both_are_known(monkeypatch):
    def known_here(commit):
        here = versions_here() | {"commit": commit}
        monkeypatch.setattr("fastad.histories.crew.versions_here", lambda: here)
        return here

    here = known_here("abc1234")
    with pytest.raises(UserError, match="has commit abc1234, and fff0000"):
        check_versions(here | {"commit": "fff0000"})
    check_versions(here | {"commit": None})  # there fastad was installed, not checked out
