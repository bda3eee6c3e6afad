"""Rows in VideoReasonBench's published layout, made up: a small video of each demo, with questions and answers."""

from typing import Any

BOARD = [[3, 1, 2], [4, 0, 5], [6, 7, 8]]


def asked(question: str, dim: str, answer: str | None, **more: Any) -> dict[str, Any]:
    text = f"Some introduction. Please answer the following question:\n\n{question}\n\nSay it after 'Final Answer:'"
    return {"video": "videos/x.mp4", "question": text, "answer": answer, "dim": dim, "visible_time": "start", **more}


# The board's rows are stored from the bottom: "up" brings the 1, which is seen below the empty square, into it.
HRD = {
    "num_state": 3, "num_operation": 2, "moves": ["up", "right"],
    "states": [BOARD, [[3, 0, 2], [4, 1, 5], [6, 7, 8]], [[0, 3, 2], [4, 1, 5], [6, 7, 8]]],
}  # fmt: skip
CUP = {
    "num_state": 3, "num_operation": 2, "moves": [[[0, 0], [2, 1]], [[0, 1], [0, 2]]],
    "states": [
        [[1, 0, 0], [0, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 0], [0, 1, 0]], [[0, 0, 0], [0, 1, 0], [0, 1, 0]],
    ],
}  # fmt: skip
GRID = {
    "num_state": 3, "num_operation": 1, "moves": ["x+1"], "coords": [[0, 0], [1, 0]],
    "states": [[[0, 0, 0], [0, 0, 0], [0, 0, 0]], [[1, 1, 1], [0, 1, 0], [0, 0, 0]]],
}  # fmt: skip
FILES = {
    "num_state": 2, "num_operation": 2,
    "commands": [
        "touch path0/{a.py,b.txt} path1/{c.py}", "ls path0 path1", "mv path0/{a.py} path1/", "rm -rf path1/{c.py}",
    ],
    "states": {
        "path0": {"init": ["a.py", "b.txt"], "mv path0/{a.py} path1/": ["b.txt"], "rm -rf path1/{c.py}": ["b.txt"]},
        "path1": {"init": ["c.py"], "mv path0/{a.py} path1/": ["c.py", "a.py"], "rm -rf path1/{c.py}": ["a.py"]},
    },
}  # fmt: skip
CARD = {
    "num_state": 1, "num_operation": 2, "actions": ["add Ace of Spades to pile0", "remove 2 of Hearts from pile0"],
    "states": {
        "pile0": [
            ["2 of Hearts", "10 of Clubs"], ["2 of Hearts", "10 of Clubs", "Ace of Spades"],
            ["10 of Clubs", "Ace of Spades"],
        ]
    },
}  # fmt: skip
CHIP = {
    "num_state": 2, "num_operation": 2, "actions": ["add 5 to cup1", "remove 100 from cup0"],
    "states": {"cup0": [[100, 5], [100, 5], [5]], "cup1": [[], [5], [5]]},
}  # fmt: skip

_END = "as it was at the end of the video"
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "hrd": {
        "order": asked("What are the 1st to 2nd blue squares?", "order_operation",
                       "1st: (c,2) up\n2nd: (c,1) right", **HRD),
        "count": asked("How many times was the 'upward' move performed?", "counting_operation", "1: (c,2)", **HRD),
        "state": asked("What is the arrangement at the end of the video?", "order_state",
                       "(a,1): 6\n(a,2): 7\n(a,3): 8\n(b,1): 4\n(b,2): 1\n(b,3): 5\n(c,1): 0\n(c,2): 3\n(c,3): 2",
                       **HRD),
        "compare": asked("What differs? Give the number at the end of the video", "comparison_state",
                         "(b,2): 1\n(c,1): 0\n(c,2): 3", **HRD),
        # Nothing is right of the empty square's row to push it further left: the second move is passed over.
        "predict": asked(f"If it is {_END}, and these moves are executed: `leftward, rightward, rightward`, what then?",
                         "prediction_state",
                         "(a,1): 6\n(a,2): 7\n(a,3): 8\n(b,1): 4\n(b,2): 1\n(b,3): 5\n(c,1): 0\n(c,2): 3\n(c,3): 2",
                         **HRD),
        "do": asked(f"If it is {_END}, how is the desired number arrangement: `(a,1): 6, (a,2): 7, (a,3): 8, (b,1): 4, "
                    "(b,2): 1, (b,3): 5, (c,1): 3, (c,2): 0, (c,3): 2` achieved?", "prediction_operation", None, **HRD),
    },
    "cup": {
        "order": asked("What are the 1st to 2nd moves?", "order_operation", "1st: (a1, c2)\n2nd: (a2, a3)", **CUP),
        "count": asked("How many times were cups in the row 'a' involved?", "counting_operation",
                       "1st: a1\n2nd: (a2,a3)\n", **CUP),
        "state": asked("What are the positions of the coins at the end of the video?", "order_state", "b2, c2", **CUP),
        "compare": asked("What differs? Give the content at the end of the video.", "comparison_state",
                         "a1: empty, c2: coin", **CUP),
        "predict": asked(f"If it is {_END}, and the following are executed in order: `(a1, b2)`, what then?",
                         "prediction_state", "a1, c2", **CUP),
        "do": asked(f"If it is {_END}, what achieves the desired distribution of coins: `a1, a2`?",
                    "prediction_operation", None, **CUP),
    },
    "grid": {
        "order": asked("Which directions have the 1st to 1st moves?", "order_operation", "right", **GRID),
        "count": asked("Given the movement direction `right`, how many times?", "counting_operation", "1: (a,0)",
                       **GRID),
        "state": asked("What is the arrangement at the end of the video?", "order_state",
                       "(a, 0): black\n(a, 1): black\n(a, 2): black\n(b, 0): white\n(b, 1): black\n(b, 2): white\n"
                       "(c, 0): white\n(c, 1): white\n(c, 2): white\n", **GRID),
        "compare": asked("What differs? Give the piece color at the end of the video.", "comparison_state",
                         "(a,0): black, (a,1): black, (a,2): black, (b,1): black", **GRID),
        # Colours of predicted states are published as digits.
        "predict": asked(f"If it is {_END}, and the following moves are executed: `up, left`, what then?",
                         "prediction_state",
                         "(a,0): 0\n(a,1): 0\n(a,2): 1\n(b,0): 1\n(b,1): 1\n(b,2): 0\n(c,0): 0\n(c,1): 0\n(c,2): 0\n",
                         **GRID),
        "do": asked(f"If it is {_END}, what leads to the desired arrangement of black and white pieces: `(a,0): white, "
                    "(a,1): white, (a,2): black, (b,0): black, (b,1): black, (b,2): white, (c,0): white, (c,1): white, "
                    "(c,2): white`?", "prediction_operation", None, **GRID),
    },
    "file_sys": {
        "order": asked("What are the 1st to 2nd commands shown?", "order_operation",
                       "1st: ls path0 path1\n2nd: mv path0/{a.py} path1/", **FILES),
        "count": asked("How many different `.py` files were involved in the `rm` commands?", "counting_operation",
                       "1 `.py` files: c.py", **FILES),
        "state": asked("At the end of the video, how many `.py` files remain in `path1/`?", "counting_state",
                       "1 `.py` files: a.py", **FILES),
        "compare": asked("After the command `mv path0/{a.py} path1/` was executed, what files were in `path1` but were "
                         "not in `path0`?", "comparison_state", "a.py, c.py", **FILES),
        "gone": asked("What files were in `path0/` at the start of the video, but were not there at the end of the "
                      "video?", "comparison_state", "a.py", **FILES),
        "predict": asked("If the files are the same as they did at the end of the video, and we run the command `rm "
                         "-rf path0/{b.txt} & touch path0/{d.csv}`, which `.txt` files would be in `path0`?",
                         "prediction_state", "None", **FILES),
        "do": asked("If the files are the same as they did at the end of the video, to ensure that `path1` contains "
                    "exactly the following files: `b.py, c.py`, which commands?", "prediction_operation", None,
                    **FILES),
    },
    "card": {
        "order": asked("What are the 1st to 1st cards being removed from any pile?", "order_operation",
                       "1st: 2 of Hearts, pile0", **CARD),
        "count": asked("How many cards were added to `pile0`?", "counting_operation", "1 cards: Ace of Spades", **CARD),
        "state": asked("At the end of the video, what cards are in `pile0`?", "order_state",
                       "Ace of Spades, 10 of Clubs", **CARD),
        "compare": asked("What cards were in `pile0` at the start of the video, but were not there at the end of the "
                         "video?", "comparison_state", "2 of Hearts", **CARD),
        "predict": asked("If they are the same as they did at the end of the video, and we do these actions in "
                         "order: `remove 10 of Clubs from pile0, add 3 of Hearts to pile0`. What cards would be in "
                         "`pile0`?", "prediction_state", "3 of Hearts, Ace of Spades", **CARD),
        "do": asked("If they are the same as they did at the end of the video, to ensure that `pile0` contains exactly "
                    "the following cards from top to bottom: `3 of Hearts, Ace of Spades`, which actions?",
                    "prediction_operation", None, **CARD),
    },
    "chip": {
        "order": asked("What are the 1st to 1st chips being added to any cup?", "order_operation", "1st: 5, cup1",
                       **CHIP),
        "count": asked("how many chips were removed from `cup0`?", "counting_operation", "1 chips: 100", **CHIP),
        "state": asked("At the start of the video, how many chips were in `cup1`?", "counting_state", "None", **CHIP),
        "compare": asked("When is the value of chips in `cup0` higher?", "comparison_state", "start, 100", **CHIP),
        "predict": asked("If they are the same as they did at the end of the video, and we do these actions in "
                         "order: `add 20 to cup0`. How many chips would be in `cup0`?", "prediction_state",
                         "2 chips: 5, 20", **CHIP),
        "do": asked("If they are the same as they did at the end of the video, to ensure that `cup0` contains "
                    "exactly the following chips: `50, 50` (in any order), what?", "prediction_operation", None,
                    **CHIP),
    },
}  # fmt: skip
