"""The report in headless Chromium: it plays, fetches nothing, runs nothing that is not its own."""

import json
import re
import shutil
import sys

import numpy as np
import pytest

import fastad
from fastad.base.errors import UserError
from fastad.cli import main
from fastad.reports import charts, pictures
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


@pytest.fixture
def untried(run, tmp_path):
    """The run as a training leaves it, without results."""
    return shutil.copytree(
        run.path, tmp_path / "room", ignore=shutil.ignore_patterns("rollouts"), symlinks=True
    )


def data_of(page_file):
    """The figures that a page brings along."""
    (data,) = re.findall(r'id="data">(.*?)</script>', page_file.read_text(encoding="utf-8"))
    return json.loads(data)


def test_runs_of_one_method_and_seed_are_told_apart_and_replays_have_their_line_s_colour(
    run, untried, tmp_path
):
    pytest.importorskip("plotly")
    wider = fastad.train(
        data=run.path.with_name("data"), out=tmp_path / "wider", updates=2, width=32, context=12
    )
    page_file = fastad.report([wider, untried], replays=1, out=tmp_path / "both.html")
    shown, text = data_of(page_file), page_file.read_text(encoding="utf-8")
    lines = {
        curve["name"]: curve["line"]["color"]
        for curve in shown["charts"][0]["data"] if "name" in curve
    }  # fmt: skip
    names = [f"algorithm distillation ({name})" for name in ("wider", "room")]
    assert [replay["title"] for replay in shown["replays"]] == [f"{x}, seed 0" for x in names]
    assert [replay["colour"] for replay in shown["replays"]] == [lines[name] for name in names]
    assert lines[names[0]] != lines[names[1]]
    assert [curve["line"]["color"] for curve in shown["charts"][1]["data"]] == [
        lines[name] for name in names
    ]
    for name in names:
        assert f">{name}, seed 0</th>" in text  # a column of the configuration


def test_a_kept_result_that_this_fastad_cannot_read_is_made_anew(untried):
    pytest.importorskip("plotly")
    (untried / "rollouts").mkdir()
    old = untried / "rollouts/20200101-000000-test.json"
    old.write_text('{"version": 0}')
    page_file = fastad.report(untried, replays=0)
    (made,) = set((untried / "rollouts").glob("*.json")) - {old}
    returns = fastad.Result.load(made).returns.mean(axis=0).tolist()
    curves = data_of(page_file)["charts"][0]["data"]
    assert any(curve["y"] == pytest.approx(returns) for curve in curves)


def test_without_plotly_a_line_says_what_to_install_and_nothing_is_rolled_out(
    untried, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert main(["report", str(untried)]) == 2
    error = capsys.readouterr().err
    assert "reports need plotly" in error
    assert "pip install" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["room"]
    assert not (untried / "rollouts").exists()


def test_nothing_is_left_unescaped():
    assert tag("b", "<i>", title='"') == '<b title="&quot;">&lt;i&gt;</b>'
    assert json.loads(as_script([EVIL])) == [EVIL]
    assert not set(as_script([EVIL])) & set("<>&\u2028")


def test_a_loss_has_ticks_that_can_be_read_or_no_logarithm():
    def ticks(*values):
        return charts._log_ticks([{"y": values}])

    assert ticks(1.16, 0.5, 0.13) == [0.2, 0.5, 1.0]
    assert ticks(2.0, 0.00004) == [0.0001, 0.001, 0.01, 0.1, 1.0]
    assert len(ticks(2.3, 2.1)) < 2
    assert ticks(0.05, 0.02) == [0.02, 0.05]


def test_a_small_curve_is_called_by_what_tells_its_task_from_others():
    for words, common in (
        (["goal (3, 4)", "goal (3, 5)"], "goal "),
        (["5 arms, the best is 2, with mean 1", "5 arms, the best is 0, with mean 2"],
         "5 arms, the best is "),
        (["key (2, 0), door (1, 2)", "key (2, 0), door (3, 2)"], "key "),
        (["goal (3, 4)"], ""),
        (["near", "far"], ""),
    ):  # fmt: skip
        assert pictures._common(words) == len(common)


def test_a_small_curve_of_many_episodes_is_of_means_and_ends_with_the_last():
    thinned = pictures._thin(np.arange(205.0))
    assert thinned[-1] == np.arange(199, 205).mean()
    assert len(thinned) == 34
    np.testing.assert_array_equal(pictures._thin(np.arange(20.0)), np.arange(20.0))


def test_a_report_that_is_there_is_kept_unless_asked(page_file, run):
    with pytest.raises(UserError, match="replace it with --overwrite"):
        fastad.report(run)
