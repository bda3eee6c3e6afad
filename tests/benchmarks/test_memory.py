"""Questions about what comes back: where they are asked, what is right, and how answers are added up."""

import types

import numpy as np
import pytest

from benchmarks import memory
from benchmarks.memory import Question, accuracy, ask, row_of, table, world_of
from configs import memory_quickstart
from data_pipelines.world.commentator import lexicon
from mmduplex_jax.text_tokenizer import TextTokenizer

SILENCE_S = 20.0


def test_the_question_is_where_the_phrases_part():
    config, tokenizer = memory_quickstart.get_config(), TextTokenizer.word_level(lexicon())
    trained = types.SimpleNamespace(tokenizer=tokenizer, config=config)
    world = world_of(config, SILENCE_S)
    is_id, enters_id = (tokenizer.encode_word(word)[0] for word in ("is", "enters"))
    kinds = {True: 0, False: 0}
    for index in range(6):
        asked = ask(trained, world, SILENCE_S, 3, index)
        assert True in asked.after
        assert False in asked.after
        for step, away_s in zip(asked.steps, asked.away_s, strict=True):
            kinds[away_s is not None] += 1
            assert asked.slots[step] == (enters_id if away_s is None else is_id)
            assert asked.slots[step - 1] == tokenizer.word_id
            assert away_s is None or 0 < away_s < world.clip_s
        first_after = asked.after.index(True)
        assert asked.steps[first_after] - asked.steps[first_after - 1] > world.clock.steps_in(SILENCE_S) / 2
        # All questions of both words are asked.
        assert len(asked.steps) == int(np.isin(asked.slots, [is_id, enters_id]).sum())
    assert min(kinds.values()) > 3


def answers(back: list[float], new: list[float]) -> list[Question]:
    asked = [Question(i, 12.0, True, margin) for i, margin in enumerate(back)]
    return asked + [Question(i, None, True, margin) for i, margin in enumerate(new)]


def test_the_accuracy_is_balanced():
    assert accuracy(answers([1.0] * 9, [1.0])) == 0.5  # says "is back" of everything
    assert accuracy(answers([1.0, -1.0], [-1.0] * 7)) == 0.75
    assert accuracy(answers([1.0], [])) is None


def test_a_row_counts_both_kinds_and_says_how_sure_it_is():
    row = row_of(answers([1.0, 1.0, -1.0, 1.0], [-1.0, -1.0, 1.0, -1.0]), "20 s", "memory")
    assert (row["balanced"], row["back_right"], row["new_right"]) == (0.75, 0.75, 0.75)
    assert (row["back"], row["new"], row["away_s_median"]) == (4, 4, 12.0)
    assert row["low"] < 0.75 < row["high"]
    assert "| 20 s | memory | 0.75 (" in table([row])
    assert "| - |" in table([row_of([], "20 s", "memory")])


def test_flags_that_do_not_fit_are_refused(capsys):
    assert memory.main(["--checkpoint=nowhere", "--streams=3", "--batch=2"]) == 2
    assert "multiple of --batch" in capsys.readouterr().err
    assert memory.main(["--checkpoint=nowhere", "--streams=2", "--batch=2"]) == 2
    assert "no checkpoint in nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("margin", [0.3, -0.3])
def test_right_is_what_is_true(margin):
    assert Question(0, 5.0, True, margin).right == (margin > 0)
    assert Question(0, None, True, margin).right == (margin < 0)
