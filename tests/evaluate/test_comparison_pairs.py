"""Differences and ratios on the same tasks and seeds, by values worked out by hand."""

import numpy as np
import pytest

from fastad.evaluate.comparison import Entry
from fastad.evaluate.comparison_families import families_of
from fastad.evaluate.comparison_figures import figures_of_family
from fastad.evaluate.metrics import t_quantile
from fastad.evaluate.result import Baseline

AD = [[0, 2, 4, 6, 8], [0, 0, 0, 4, 4]]
OTHER = [[1, 2, 3, 3, 3], [1, 1, 1, 1, 1]]
DT = {"label": "DT", "method": "decision-transformer"}


def lines_of(entries):
    (family,) = families_of(entries)
    return {line["label"]: line for line in figures_of_family(family)["lines"]}


def test_a_method_minus_ad_is_paired_by_task(told):
    lines = lines_of([Entry("ad", 0, told(AD)), Entry("dt", 0, told(OTHER, **DT))])
    apart = lines["DT"]["minus_ad"]
    assert apart["returns"]["mean"] == [1, 0.5, 0, -3, -4]
    # By task: 3 - 6 and 1 - 8 / 3. Two tasks: Student's quantile with one degree of freedom.
    each = np.array([-3.0, -5 / 3])
    assert apart["final"]["mean"] == pytest.approx(each.mean())
    half = t_quantile(0.975, 1) * each.std(ddof=1) / 2**0.5
    assert np.ptp(apart["final"]["interval"]) / 2 == pytest.approx(half)
    assert apart["area"]["mean"] == pytest.approx(1.7 - 2.8)
    assert "minus_ad" not in lines["AD"]


def test_only_seeds_and_tasks_that_both_have_are_compared(told):
    other = told(np.add(OTHER, 1), tasks=np.array([[7], [8]]), **DT)
    entries = [Entry("ad", 0, told(AD)), Entry("ad", 1, told(AD)), Entry("ad", 2, told(AD)),
               Entry("dt", 1, told(OTHER, **DT)), Entry("dt", 2, other)]  # fmt: skip
    apart = lines_of(entries)["DT"]["minus_ad"]
    assert apart["seeds"] == [1]
    assert apart["returns"]["mean"] == [1, 0.5, 0, -3, -4]
    nothing = lines_of([Entry("ad", 0, told(AD)), Entry("dt", 1, told(OTHER, **DT))])
    assert nothing["DT"]["minus_ad"] is None


def test_beside_the_source_all_its_actors_episodes_count(told):
    # Two episodes each: 0, 0, 2, 2, 4 and 0, 0, 2, 2, 4 by environment episodes.
    source = Baseline(np.array([[0, 2, 4, 8], [0, 2, 4, 4]], dtype=np.float32), None, 2)
    line = lines_of([Entry("ad", 0, told(AD, baselines={"source": source}))])["AD"]
    assert line["minus_source"]["returns"]["mean"] == [0, 1, 0, 3, 2]
    assert line["minus_source"]["area"]["mean"] == pytest.approx(2.8 - 1.6)
    assert line["minus_source"]["final"]["mean"] == pytest.approx(13 / 3 - 4)
    over = line["over_source"]
    assert over["final"]["value"] == pytest.approx((13 / 3) / 4)
    assert over["area"]["value"] == pytest.approx(2.8 / 1.6)
    # Its own first four episodes average 3.5 and 2.5; those of the rollouts 3 and 1.
    assert over["area_by_own_episodes"]["value"] == pytest.approx(2 / 3)
    assert over["final"]["by_seed"] == {0: pytest.approx(13 / 12)}


def test_a_source_that_returned_nothing_has_no_ratio(told):
    nothing = {"source": Baseline(np.zeros((2, 5), dtype=np.float32))}
    line = lines_of([Entry("ad", 0, told(AD, baselines=nothing))])["AD"]
    assert line["over_source"]["final"]["value"] is None
    assert line["minus_source"]["final"]["mean"] == pytest.approx(13 / 3)


def test_regrets_are_compared_over_as_many_pulls(told):
    def bandits(regret, **facts):
        source = Baseline(np.zeros((2, 5), dtype=np.float32), np.array([4, 6], dtype=np.float32))
        regret = np.array(regret, dtype=np.float32)
        return told(np.ones((2, 5)), regret=regret, **{"baselines": {"source": source}} | facts)

    longer = Baseline(np.zeros((2, 9), dtype=np.float32), np.array([4, 6], dtype=np.float32))
    lines = lines_of([Entry("ad", 0, bandits([3, 3])), Entry("dt", 0, bandits([5, 9], **DT))])
    assert lines["AD"]["regret"]["mean"] == 3
    assert lines["source a2c"]["regret"]["mean"] == 5
    assert lines["AD"]["over_source"]["regret"]["value"] == pytest.approx(3 / 5)
    assert lines["DT"]["minus_ad"]["regret"]["mean"] == 4
    assert lines["DT"]["minus_source"]["regret"]["mean"] == 2
    lines = lines_of([Entry("ad", 0, bandits([3, 3], baselines={"source": longer}))])
    assert "regret" not in lines["source a2c"]
    assert "regret" not in lines["AD"]["over_source"]
