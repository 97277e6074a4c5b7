"""What the table says, and when it says it."""

from dataclasses import replace

import pytest

from fastad.evaluate.table import print_table, shown_episodes


@pytest.fixture
def shown(capsys, monkeypatch):
    """What the table of a result looks like on a wide terminal."""
    monkeypatch.setenv("COLUMNS", "120")

    def show(result):
        print_table(result)
        return capsys.readouterr().out

    return show


def test_the_privilege_of_the_source_is_told(rooms, result_on, shown):
    text = shown(result_on(rooms, 3))
    assert "the source frontier knows the movement rules, not the reward" in text
    assert "2 tasks never trained on, 3 rollouts each" in text


def test_the_model_is_named_where_it_is_more_than_plain_ad(rooms, result_on, shown):
    result = result_on(rooms, 3)
    assert "the model:" not in shown(replace(result, label="algorithm distillation"))
    told = shown(replace(result, label="DPT, expert labels: told the task"))
    assert "the model: DPT, expert labels: told the task\n" in told


def test_a_noisy_source_has_a_column_without_noise(rooms, result_on, shown):
    text = shown(result_on(replace(rooms, info=replace(rooms.info, action_noise=0.5)), 4))
    assert "50% random" in text
    assert "no noise" in text


def test_one_task_has_no_interval_and_the_table_says_so(rooms, result_on, shown):
    text = shown(result_on(replace(rooms, tasks=rooms.tasks[:1]), 2))
    assert "one task: it has no interval" in text


def test_what_an_older_dataset_does_not_tell_of_its_source_is_asked_of_the_source(
    arms, result_on, shown
):
    assert arms.info.source_knows == ""
    assert "the source ucb1 knows that rewards lie in [0, 1]" in shown(result_on(arms, 2))
    model = replace(arms.info, source="algorithm-distillation", source_knows="what it was taught")
    assert replace(arms, info=model).source_knows == "what it was taught"


def test_episodes_beyond_those_that_training_showed_are_marked(rooms, result_on, shown):
    text = shown(result_on(rooms, 5, trained_episodes=2))
    assert "training windows showed 2 episodes; those beyond are marked *" in text
    firsts = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert firsts[:3] == ["1", "2", "5*"]
    assert "marked" not in shown(result_on(rooms, 2, trained_episodes=2))
    assert "showed 1 episode;" in shown(result_on(rooms, 2, trained_episodes=1))


def test_a_source_of_several_actors_is_said_to_play_more_than_is_shown(rooms, result_on, shown):
    info = replace(rooms.info, source="a2c", source_kwargs={"num_actors": 3})
    assert "plays 3 episodes for each" in shown(result_on(replace(rooms, info=info), 2))
    assert "episodes for each" not in shown(result_on(rooms, 2))


def test_what_is_not_known_is_a_dash(rooms, result_on, shown):
    text = shown(replace(result_on(rooms, 2), optimal_return=None, baselines={}))
    assert "random -, optimal -" in text
    assert "%" not in text.replace("95 %", "")


def test_the_table_shows_episodes_1_2_5_10_and_the_last():
    assert shown_episodes(10) == [1, 2, 5, 10]
    assert shown_episodes(8) == [1, 2, 5, 8]
    assert shown_episodes(200) == [1, 2, 5, 10, 20, 50, 100, 200]
    assert shown_episodes(1) == [1]
