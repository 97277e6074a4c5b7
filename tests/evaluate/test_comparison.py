"""A comparison's lines and figures, by values worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from fastad.base.errors import UserError
from fastad.evaluate.comparison import Entry, final_episodes
from fastad.evaluate.comparison_families import families_of
from fastad.evaluate.comparison_figures import figures_of_family
from fastad.evaluate.metrics import t_quantile
from fastad.evaluate.result import Baseline

# Two tasks, five episodes. The source plays two episodes for each of its own four.
AD = [[0, 2, 4, 6, 8], [0, 0, 0, 4, 4]]
SOURCE = [[0, 2, 4, 8], [0, 2, 4, 4]]


@pytest.fixture
def beside():
    """Baselines of such a source, and of chance, which returns 2."""
    return {
        "source": Baseline(np.array(SOURCE, dtype=np.float32), None, 2),
        "random": Baseline(np.full((2, 4), 2, dtype=np.float32)),
    }


def figures_of(*entries):
    (family,) = families_of(entries)
    figures = figures_of_family(family)
    return figures, {line["label"]: line for line in figures["lines"]}


@pytest.fixture
def ad(told, beside):
    return Entry("ad", 0, told(AD, baselines=beside), 5.0)


def test_the_end_is_the_last_tenth_of_the_episodes_and_at_least_three():
    assert [final_episodes(count) for count in (1, 2, 3, 10, 39, 40, 60)] == [1, 2, 3, 3, 3, 4, 6]


def test_first_final_and_area_are_means_over_episodes_and_tasks(ad):
    figures, lines = figures_of(ad)
    line = lines["AD"]
    assert line["returns"] == [0, 1, 2, 5, 6]
    assert line["first"]["mean"] == 0
    assert line["final"]["mean"] == pytest.approx((6 + 8 / 3) / 2)  # of the last three
    assert line["area"]["mean"] == pytest.approx((4 + 1.6) / 2)
    assert line["final"]["by_seed"] == {0: pytest.approx(13 / 3)}
    assert (figures["random_return"], figures["optimal_return"]) == (2, 10)


def test_chance_scores_0_and_the_optimum_1(ad):
    _, lines = figures_of(ad)
    line = lines["AD"]
    assert line["score"] == [-0.25, -0.125, 0, 0.375, 0.5]
    assert line["area_score"]["mean"] == pytest.approx((2.8 - 2) / 8)
    low, high = line["area"]["interval"]
    assert line["area_score"]["interval"] == pytest.approx([(low - 2) / 8, (high - 2) / 8])
    assert lines["random"]["score"] == [0] * 4


def test_scores_of_an_optimal_policy_have_no_error_however_tasks_differ(told, beside):
    # Optima of 6 and 14, mean 10; chance returns 2.
    facts = {"task_optima": [6.0, 14.0], "baselines": beside}
    _, lines = figures_of(Entry("ad", 0, told([[6] * 4, [14] * 4], **facts)))
    assert lines["AD"]["final_score"]["mean"] == 1
    assert lines["AD"]["final_score"]["interval"] == pytest.approx([1, 1])
    low, high = lines["AD"]["final"]["interval"]
    assert high - low > 10
    # Half of the way on average, at 6: both return 6, but for the one that is all it can.
    _, lines = figures_of(Entry("ad", 0, told([[6] * 4, [6] * 4], **facts)))
    score = lines["AD"]["final_score"]
    assert score["mean"] == 0.5
    # By task 6 - (6 - 10) / 2 = 8 and 4, less 2, over 8: 0.75 and 0.25.
    half = t_quantile(0.975, 1) * np.std([0.75, 0.25], ddof=1) / 2**0.5
    assert np.ptp(score["interval"]) / 2 == pytest.approx(half)


def test_without_an_optimum_there_are_returns_and_no_scores(told, beside):
    figures, lines = figures_of(Entry("ad", 0, told(AD, optimal_return=None, baselines=beside)))
    assert figures["optimal_return"] is None
    assert not [name for name in lines["AD"] if "score" in name]
    assert lines["AD"]["episodes_to_80_percent"] is None
    assert lines["AD"]["returns"] == [0, 1, 2, 5, 6]


def test_a_source_of_two_actors_spends_two_episodes_for_each_of_its_own(ad):
    _, lines = figures_of(ad)
    source, own = lines["source a2c"], lines["source a2c, by its own episodes"]
    assert source["returns"] == [0, 0, 2, 2, 4]  # as many as the rollouts have
    assert own["returns"] == [0, 2, 4, 6]
    assert (source["num_episodes"], own["num_episodes"]) == (8, 4)
    assert source["area"]["mean"] == pytest.approx(8 / 5)
    assert own["area"]["mean"] == 3
    # The end of its history, wherever that is: of its own last three.
    assert source["final"]["mean"] == own["final"]["mean"] == 4


def test_episodes_to_80_percent_are_those_of_all_actors(told, beside):
    # Of the way from 2 to 5: 4.4, which the source's means of 0, 2, 4 and 6 pass in its fourth.
    _, lines = figures_of(Entry("ad", 0, told(AD, optimal_return=5.0, baselines=beside)))
    assert lines["AD"]["episodes_to_80_percent"] == 4
    assert lines["source a2c"]["episodes_to_80_percent"] is None  # not in five episodes
    assert lines["source a2c, by its own episodes"]["episodes_to_80_percent"] == 4
    longer = told(np.zeros((2, 9)), optimal_return=5.0, baselines=beside)
    _, lines = figures_of(Entry("ad", 0, longer))
    assert lines["source a2c"]["episodes_to_80_percent"] == 8
    assert lines["AD"]["episodes_to_80_percent"] is None


def test_found_and_what_is_returned_once_found(told):
    # Rollouts of task 0 are rewarded first in episodes 1 and 3, of task 1 in the last and never.
    rows = [[1, 3, 5], [0, 0, 4], [0, 0, 2], [0, 0, 0]]
    result = replace(told(rows), tasks=np.array([[0], [1]]))
    _, lines = figures_of(Entry("ad", 0, result))
    line = lines["AD"]
    assert line["found"]["mean"] == 0.75
    assert line["return_once_found"]["mean"] == 4  # 3 and 5; task 1 tells nothing
    assert line["found_before"] == [0, 0.25, 0.25]
    assert line["return_if_found_before"] == [None, 3, 5]


def test_others_have_found_what_they_found_in_as_many_environment_episodes(told, beside):
    # The source finds the reward in its second episode, when its two actors have played four.
    short = told([[0, 0, 0], [0, 0, 0]], baselines=beside)
    _, lines = figures_of(Entry("ad", 0, short))
    assert lines["source a2c"]["found"]["mean"] == 0
    assert lines["source a2c, by its own episodes"]["found"]["mean"] == 1
    assert lines["source a2c, by its own episodes"]["return_once_found"]["mean"] == 4
    _, lines = figures_of(Entry("ad", 0, told(AD, baselines=beside)))
    assert lines["source a2c"]["found"]["mean"] == 1
    assert lines["source a2c"]["return_once_found"]["mean"] is None


@pytest.mark.parametrize("facts", [{"regret": np.ones(2, dtype=np.float32)}, {"rows": [[-1, 0]]}])
def test_where_no_reward_has_to_be_found_nothing_is_said_of_it(told, facts):
    result = told(facts.pop("rows", [[0, 1], [0, 1]]), **facts)
    _, lines = figures_of(Entry("ad", 0, result))
    assert "found" not in lines["AD"]
    assert ("regret" in lines["AD"]) == ("regret" in facts)


def test_controls_are_lines_of_their_own_and_names_part_equal_labels(told):
    entries = [
        Entry("ad", 0, told(AD)),
        Entry("ad", 0, told(AD, control="no-reward")),
        Entry("deep", 0, told(AD)),
        Entry("dt", 0, told(AD, label="DT", method="decision-transformer")),
    ]
    (family,) = families_of(entries)
    assert [(line.label, line.kind) for line in family.lines] == [
        ("AD (ad)", "method"),
        ("AD (deep)", "method"),
        ("DT", "method"),
        ("AD (ad), control no-reward", "control"),
    ]
    assert family.reference is family.lines[0]


def test_a_noisy_source_is_shown_clean_and_as_it_acted(told, beside):
    beside |= {"source_clean": replace(beside["source"], returns=beside["source"].returns + 1)}
    options = {"source_options": {"num_actors": 2}}
    result = told(AD, baselines=beside, source_action_noise=0.05, **options)
    _, lines = figures_of(Entry("ad", 0, result))
    clean, acted = "source a2c (num_actors=2)", "source a2c (num_actors=2), with 5% random actions"
    assert lines["AD"]["source"] == clean
    assert np.subtract(lines[clean]["returns"], lines[acted]["returns"]).tolist() == [1] * 5


def test_whoever_else_was_tried_stands_before_chance(told, beside):
    beside |= {"ucb1": Baseline(np.full((2, 5), 9, dtype=np.float32))}
    _, lines = figures_of(Entry("ad", 0, told(AD, baselines=beside)))
    assert [(label, line["kind"]) for label, line in lines.items()][-2:] == [
        ("ucb1", "baseline"),
        ("random", "random"),
    ]
    assert lines["ucb1"]["final"]["mean"] == 9


def test_environments_with_other_options_are_families_of_their_own(told):
    entries = [
        Entry("ad", 0, told(AD)),
        Entry("ad", 0, told(AD, env_options={"size": 5})),
        Entry("ad", 1, told(AD, env_options={"size": 5})),
    ]
    small, large = families_of(entries)
    assert (small.env_options, small.seeds) == ({}, [0])
    assert (large.env_options, large.seeds) == ({"size": 5}, [0, 1])


def test_two_runs_of_one_seed_are_not_silently_one(told):
    with pytest.raises(UserError, match="AD is there twice with seed=3"):
        families_of([Entry("ad", 3, told(AD)), Entry("ad", 3, told(AD))])
    with pytest.raises(UserError, match="nothing to compare"):
        families_of([])


def test_all_seeds_are_shown_and_the_mean_is_theirs(told):
    entries = [Entry("ad", seed, told(np.add(AD, seed))) for seed in (0, 1, 5)]
    figures, lines = figures_of(*entries)
    assert figures["seeds"] == lines["AD"]["seeds"] == [0, 1, 5]
    assert lines["AD"]["returns"] == [2, 3, 4, 7, 8]
    assert lines["AD"]["returns_by_seed"][5] == [5, 6, 7, 10, 11]
    assert lines["AD"]["first"]["by_seed"] == {0: 0, 1: 1, 5: 5}
