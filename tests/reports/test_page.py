"""The report in headless Chromium: it plays, fetches nothing, runs nothing that is not its own."""

import json
import shutil

import pytest

import fastad
from fastad.base.errors import UserError
from fastad.cli import main
from fastad.reports.markup import as_script, tag

EVIL = "</script><img src=x onerror=alert(1)>\u2028"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    dataset = fastad.collect(
        out=folder / "data", num_histories=24, num_episodes=5, num_test_tasks=2,
        env_options={"size": 3, "episode_length": 4},
    )  # fmt: skip
    return fastad.train(
        data=dataset, out=folder / "room", updates=4, width=16, num_layers=2, context=12
    )


@pytest.fixture(scope="module")
def page_file(run):
    """A report of the run, whose kept result has a label that would be code."""
    pytest.importorskip("plotly")
    fastad.report(run, replays=2)
    (kept,) = (run.path / "rollouts").glob("*.json")
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"label": EVIL}))
    return fastad.report(run, replays=2, overwrite=True)


@pytest.fixture(scope="module")
def page(page_file):
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        except api.Error as error:
            pytest.skip(f"no Chromium here: {error}")
        opened = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        opened.complaints, opened.asked = [], []
        opened.on("console", lambda message: opened.complaints.append(message.text))
        opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.on("request", lambda request: opened.asked.append(request.url))
        opened.goto(page_file.as_uri())
        yield opened
        browser.close()


def test_the_page_is_quiet_asks_for_nothing_and_fits_a_phone(page, page_file):
    assert page.complaints == []
    assert page.asked == [page_file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator(".chart .main-svg").count() > 0
    assert page_file.stat().st_size < 10_000_000


def test_what_names_say_is_text(page):
    assert page.locator("img").count() == 0
    assert "onerror=alert(1)" in page.locator(".replay h3").inner_text()


def test_keys_step_play_and_change_the_episode_and_memories_are_highlighted(page):
    replay, seek = page.locator(".replay"), page.locator(".seek")
    replay.focus()
    page.keyboard.press("ArrowRight")
    assert seek.input_value() == "1"
    page.keyboard.press("PageDown")
    assert seek.input_value() == "4"
    assert page.locator(".now .episode").inner_text().startswith("Episode 2 of")
    assert page.locator(".scene .ring").count() == 1
    page.locator(".remembered").fill("2")
    assert page.locator(".recalled").inner_text().startswith("Episode 1, step 3 at")
    replay.focus()
    page.keyboard.press("Space")
    page.wait_for_timeout(1000)  # the page's policy forbids to wait for an expression
    assert int(seek.input_value()) > 4
    assert page.locator(".play").inner_text() == "Pause"
    page.keyboard.press("Space")
    assert page.locator(".play").inner_text() == "Play"
    page.keyboard.press("Home")
    assert seek.input_value() == "0"
    # Nothing has the focus: keys are for what is in sight, and for nobody where nothing is.
    page.locator(".scene").scroll_into_view_if_needed()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    assert seek.input_value() == "1"
    page.evaluate("window.scrollTo(0, 0)")
    page.keyboard.press("ArrowRight")
    assert seek.input_value() == "1"


def test_axe_finds_no_serious_fault(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found = axe.Axe().run(page).response["violations"]
        assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "does not exist"),
        (["data"], "is a dataset"),
        (["room", "--out", "page.txt"], "end it with .html"),
        (["room", "--out", "other.html", "--overwrite"], "is no report of fastad"),
        (["room", "--replays", "99"], "must lie between"),
    ],
)
def test_what_cannot_be_shown_is_one_line(words, told, run, tmp_path, monkeypatch, capsys):
    (tmp_path / "other.html").write_text("mine")
    for name in ("data", "room"):
        (tmp_path / name).symlink_to(run.path.with_name(name))
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert (tmp_path / "other.html").read_text() == "mine"


def test_nothing_is_left_unescaped():
    assert tag("b", "<i>", title='"') == '<b title="&quot;">&lt;i&gt;</b>'
    assert json.loads(as_script([EVIL])) == [EVIL]
    assert not set(as_script([EVIL])) & set("<>&\u2028")


def test_a_report_that_is_there_is_kept_unless_asked(page_file, run):
    with pytest.raises(UserError, match="replace it with --overwrite"):
        fastad.report(run)
