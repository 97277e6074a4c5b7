"""What a comparison trains where a setting is varied."""

from dataclasses import replace

import pytest

from fastad.api.vary import check_tasks, plan_all
from fastad.base.errors import UserError
from fastad.compare_config import CompareConfig
from fastad.presets import preset


def plans(name, vary, *methods):
    return plan_all(preset(name), CompareConfig(methods=methods or ("ad",), vary=vary))


def test_without_anything_varied_every_method_is_trained_as_it_is():
    ad, expert = plans("dark-room", None, "ad", "expert-distillation")
    assert (ad.title, ad.data, ad.setting, ad.train) == (
        "ad",
        "data",
        None,
        preset("dark-room").train,
    )
    assert (expert.name, expert.title) == ("expert-distillation", "expert-distillation")


def test_a_setting_of_the_histories_has_a_dataset_for_each_value():
    found = plans("dark-room", "num_train_tasks=8,16", "ad", "expert-distillation")
    assert [plan.title for plan in found] == [
        "ad-num_train_tasks=8", "ad-num_train_tasks=16",
        "expert-distillation-num_train_tasks=8", "expert-distillation-num_train_tasks=16",
    ]  # fmt: skip
    assert [plan.data for plan in found[:2]] == [
        "data-num_train_tasks=8",
        "data-num_train_tasks=16",
    ]
    assert [plan.collect.num_train_tasks for plan in found] == [8, 16, 8, 16]
    assert {plan.train for plan in found[:2]} == {preset("dark-room").train}


def test_a_setting_of_the_training_shares_the_dataset_and_the_window_of_rollouts():
    found = plans("dark-room-a2c", "width=32,64,128", "ad-look-ahead")
    assert {plan.data for plan in found} == {"data"}
    assert [plan.train.model.width for plan in found] == [32, 64, 128]
    assert {plan.train.settings.target for plan in found} == {"final"}
    assert {plan.context for plan in found} == {1200}
    # The preset's own value needs no run of its own.
    assert [plan.title for plan in found] == [
        "ad-look-ahead-width=32", "ad-look-ahead", "ad-look-ahead-width=128",
    ]  # fmt: skip


def test_what_is_varied_overrides_what_a_method_or_variant_has_of_its_own():
    assert [
        plan.train.settings.window
        for plan in plans("dark-room", "window=20", "expert-distillation")
    ] == [20]
    assert [
        plan.train.model.context
        for plan in plans("dark-room-a2c", "context=3", "decision-transformer")
    ] == [3]


def test_episodes_of_context_are_what_every_layer_looks_back_on_in_training_and_rollouts():
    found = plans("dark-room-a2c", "context_episodes=0.01,0.25,1,20")
    assert [plan.train.model.context for plan in found] == [1, 5, 20, 400]  # 20 steps an episode
    assert {plan.train.settings.window for plan in found} == {400}
    assert {(plan.train.eval_context, plan.context) for plan in found} == {(None, None)}
    assert preset("dark-room-a2c").rollout.context == 1200
    (paper,) = plans("dark-room-full", "context_episodes=2")
    assert paper.train.model.context == 2 * 20 * 3  # tokens of a step


def test_labels_are_those_that_any_value_learns_from():
    found = plans("dark-room", "target=policy,final")
    assert {plan.collect.labels for plan in found} == {("expert", "final")}


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ("num_train_task=8", "unknown setting to vary 'num_train_task'; did you mean 'num_train"),
        ("context_episode=1", "did you mean 'context_episodes'"),
        ("window", "vary=window is not of the form NAME=VALUE,VALUE"),
        ("window=", "vary=window= is not of the form"),
        ("window=5,,6", "is not of the form"),
        ("window=5,6,5", "5 is there twice"),
        ("window=5.5", r"vary=window=5.5: settings.window=5.5: Input should be a valid integer"),
        ("positions=rope,rop", "vary=positions=rop: model.positions='rop'"),
        ("width=30", "width=30 must be a multiple of num_heads=4"),
        ("seed=1,2", "vary=seed is no setting to vary"),
        ("env_options=size=5", "vary=env_options holds several values"),
        ("context_episodes=0", "vary=context_episodes=0 must be a number of episodes above 0"),
        ("context_episodes=all", "must be a number of episodes above 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_varied_is_refused(vary, message):
    with pytest.raises(UserError, match=message):
        plans("dark-room", vary)


def test_a_gru_has_no_context_to_vary():
    with pytest.raises(UserError, match="rl2 has no attention and so no context"):
        plans("dark-room", "context_episodes=10", "rl2")


def test_values_are_compared_on_the_same_tasks(tmp_path):
    def datasets(vary):
        return {
            plan.data: replace(plan.collect, out=tmp_path / plan.data)
            for plan in plans("dark-room", vary)
        }

    for split in ("test", "validation"):
        check_tasks(datasets("num_train_tasks=8,16,56"), split)
    with pytest.raises(UserError, match="split=train: those tasks of data-num_train_tasks=16 are"):
        check_tasks(datasets("num_train_tasks=8,16"), "train")
    with pytest.raises(
        UserError, match="those tasks of data-num_test_tasks=8 are not those of data,"
    ):
        check_tasks(datasets("num_test_tasks=16,8"), "test")
    with pytest.raises(UserError, match=r"num_train_tasks=57 with .* do not fit"):
        check_tasks(datasets("num_train_tasks=8,57"), "test")
    assert not [*tmp_path.iterdir()]
