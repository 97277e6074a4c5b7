"""What a comparison trains, by the names that a user types."""

from dataclasses import replace

import pytest

from fastad.api.plans import episodes_of, labels_of, plans_of
from fastad.base.errors import UserError
from fastad.configs import DEFAULTS
from fastad.methods.registry import METHODS
from fastad.presets import PRESETS, preset


@pytest.fixture
def room():
    variants = {"ad-look-ahead": {"target": "final", "updates": 7}}
    return replace(preset("dark-room"), variants=variants)


def test_every_method_and_variant_is_trained_by_default_plain_ad_first(room):
    plans = plans_of(room)
    assert [*plans] == [*METHODS, "ad-look-ahead"]
    assert plans["ad"] == room.train
    ahead = plans["ad-look-ahead"]
    assert (ahead.method, ahead.settings.target, ahead.settings.updates) == ("ad", "final", 7)
    assert ahead.model == room.train.model


def test_those_that_are_named_come_in_their_order(room):
    assert [*plans_of(room, ["ad-look-ahead", "ad"])] == ["ad-look-ahead", "ad"]


def test_histories_hold_what_anything_there_learns_from_whatever_is_named(room):
    for names in (["ad"], ["dpt", "ad-look-ahead"]):
        assert labels_of(room, plans_of(room, names).values()) == ("expert", "final")
    plain = preset("dark-room")
    assert labels_of(plain, plans_of(plain).values()) == ("expert",)
    stored = replace(plain, collect=replace(plain.collect, labels=("final",)))
    assert labels_of(stored, plans_of(stored).values()) == ("expert", "final")


def test_without_an_expert_nothing_learns_from_one_unless_it_is_named(room, added):
    # A family without an expert, see tests/envs/combination_lock.py.
    lock = replace(room, collect=replace(room.collect, env="combination-lock", env_options=()))
    assert [*plans_of(lock)] == [*(name for name in METHODS if name != "dpt"), "ad-look-ahead"]
    assert labels_of(lock, plans_of(lock).values()) == ("final",)
    assert labels_of(lock, plans_of(lock, ["dpt"]).values()) == ("expert", "final")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_compared_as_far_as_its_settings_tell(name):
    assert [*plans_of(preset(name))][: len(METHODS)] == [*METHODS]


def test_expert_distillation_sees_the_last_quarter_of_every_history(room):
    # Histories of 10 episodes of 20 steps.
    settings = plans_of(room)["expert-distillation"].settings
    assert (settings.window, settings.start) == (40, "history")
    own = replace(room, variants={"expert-distillation": {"window": 60}})
    plan = plans_of(own)["expert-distillation"]
    assert (plan.method, plan.settings.window) == ("expert-distillation", 60)


def test_a_method_that_reads_no_histories_begins_with_its_own_defaults(room):
    plan = plans_of(room)["rl2"]
    assert plan == replace(DEFAULTS["rl2"], env="dark-room")
    small = replace(room, variants={"rl2-small": {"method": "rl2", "updates": 9}})
    assert plans_of(small)["rl2-small"].model == plan.model
    assert plans_of(small)["rl2-small"].settings == replace(plan.settings, updates=9)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("decision-transformer", {"start": "anywhere", "target": "sampled"}),
        ("dpt", {"target": "expert"}),
    ],
)
def test_other_methods_of_histories_are_trained_as_plain_ad_but_for_what_they_need(
    room, method, changes
):
    settings = replace(room.train.settings, **changes)
    assert plans_of(room, [method])[method] == replace(room.train, method=method, settings=settings)
    wide = replace(room, variants={"wide": {"method": method, "width": 128}})
    plan = plans_of(wide, ["wide"])["wide"]
    assert (plan.method, plan.model.width, plan.settings) == (method, 128, settings)


def test_rollouts_are_as_long_as_a_window_of_plain_ad_whatever_else_is_trained(room):
    assert episodes_of(room) == 10
    settings = room.train.settings
    kth = replace(room.train, settings=replace(settings, every_kth_episode=2))
    assert episodes_of(replace(room, train=kth)) == 5
    window = replace(room.train, settings=replace(settings, window=65))
    assert episodes_of(replace(room, train=window)) == 3
    assert episodes_of(replace(room, rollout=replace(room.rollout, episodes=60))) == 60
    assert episodes_of(preset("bandit")) == 200


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["ad-lookahead"], "unknown methods 'ad-lookahead'; did you mean 'ad-look-ahead'"),
        (["ad", "ad"], "methods=ad ad: ad is there twice"),
    ],
)
def test_names_that_are_none_are_refused_with_the_valid_ones(room, names, message):
    with pytest.raises(UserError, match=message):
        plans_of(room, names)


def test_a_setting_that_a_variant_misnames_is_refused(room):
    with pytest.raises(UserError, match="the preset's x: 'targets'; did you mean 'target'"):
        plans_of(replace(room, variants={"x": {"targets": "final"}}))


@pytest.mark.parametrize("name", [name for name in PRESETS if name + "-look-ahead" in PRESETS])
def test_a_preset_from_scratch_is_plain_ad_with_look_ahead_beside_it(name):
    plain, ahead = preset(name), preset(name + "-look-ahead")
    plans = plans_of(plain)
    assert plans["ad"].settings.target == "policy"
    assert plans["ad-look-ahead"].settings == ahead.train.settings
    assert plans["ad-look-ahead"].data == ahead.train.data == plain.collect.out
    assert "look-ahead" in ahead.summary
    # Through all layers together it sees one episode at most.
    dt = plans["decision-transformer"]
    seen = dt.model.num_layers * (dt.model.context - 1) + 1
    lengths = {"dark-room": 20, "dark-key-to-door": 50, "watermaze": 50}
    episode_length = lengths[plain.collect.env]
    assert seen <= dt.settings.window == episode_length
    assert dt.eval_context is None
