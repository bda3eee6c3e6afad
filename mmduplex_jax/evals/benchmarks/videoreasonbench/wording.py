"""The words of generated questions. Ours, but for the phrases in which the published ones say what they ask."""

# What a video shows, told before each question; n squares a side.
INTRODUCTIONS = {
    "hrd": (
        "You see a sliding puzzle on a {n}x{n} board with one empty square. The numbers of the squares are shown "
        "only at the {visible} of the video; for the rest of it they are covered in blue."
    ),
    "cup": (
        "You see a puzzle on a {n}x{n} board of cups, some of which hide a coin. The cups are lifted only at the "
        "{visible} of the video. Cups that swap take along what they hide."
    ),
    "grid": (
        "The video presents a {n}x{n} grid of black and white pieces, which are shown only at the {visible} of "
        "the video. A red circle moves over the grid. Wherever it arrives, the piece there and its neighbours "
        "above, below, left and right turn from black to white or from white to black."
    ),
    "file_sys": "You see commands in a Linux shell. The files are listed only at the {visible} of the video.",
    "card": (
        "You see cards being added to the top of a pile, or removed from the bottom of it. The cards of the piles"
        " are shown only at the {visible} of the video."
    ),
    "chip": (
        "You see chips being added to cups, or removed from them. What the cups contain is shown only at the "
        "{visible} of the video."
    ),
}
REQUEST = "Watch the video and answer the following question:"
ENDING = "Summarize your answer after 'Final Answer:'"

NOW = {
    "hrd": "If the board is now as it was at the {time} of the video",
    "cup": "If the board is now as it was at the {time} of the video",
    "grid": "If the grid, circle included, is now as it was at the {time} of the video",
    "file_sys": "If the paths now contain the same files as they did at the {time} of the video",
    "card": "If the piles now contain the same cards as they did at the {time} of the video",
    "chip": "If the cups now contain the same chips as they did at the {time} of the video",
}

TEMPLATES: dict[tuple[str, str], str] = {
    ("hrd", "order_operation"): (
        "What are the {first} to {last} squares that move? Write for each where it was and in which direction it "
        "moved: 1st: (a,2) right."
    ),
    ("hrd", "counting_operation"): (
        "How often was the '{direction}ward' move made? Write the number and where the square was each time: 2: "
        "(b,2), (c,2)."
    ),
    ("hrd", "order_state"): (
        "How are the numbers arranged at the {time} of the video? 0 is the empty square. Write squares with what "
        "is on them: (a,1): 3, (b,2): 0."
    ),
    ("hrd", "comparison_state"): (
        "Which squares differ between the start and the end of the video? Write each with its number at the "
        "{time} of the video. 0 is the empty square."
    ),
    ("hrd", "prediction_state"): (
        "{now}, and these moves are executed: `{operations}`, how are the numbers arranged afterwards? 0 is the "
        "empty square. Write squares with what is on them: (a,1): 3, (b,2): 0."
    ),
    ("hrd", "prediction_operation"): (
        "{now}, which moves (left, right, up, down) lead to the desired number arrangement: `{target}`? 0 is the "
        "empty square."
    ),
    ("cup", "order_operation"): "Which cups swapped in the {first} to {last} moves? 1st: (a1, b2).",
    (
        "cup",
        "counting_operation",
    ): "When were cups in the row '{row}' swapped? Write where they were each time: 1st: a1, 2nd: (a1,a2).",
    ("cup", "order_state"): "Where are the coins at the {time} of the video? Write squares: a2, b1.",
    ("cup", "comparison_state"): (
        "Where do the contents differ between the start and the end of the video? Write the content at the {time}"
        " of the video: a1: empty, b3: coin."
    ),
    ("cup", "prediction_state"): (
        "{now}, and these swaps are executed in order: `{operations}`, where are the coins afterwards? Write "
        "squares: a2, b1."
    ),
    ("cup", "prediction_operation"): (
        "{now}, which swaps achieve the desired distribution of coins: `{target}`? Write pairs of squares: (a1, "
        "b2), (c3, b1)."
    ),
    (
        "grid",
        "order_operation",
    ): "In which directions (left, right, up, down) are the {first} to {last} moves of the circle?",
    ("grid", "counting_operation"): (
        "How often does the circle move in the direction `{direction}`? Write the number and where it came from "
        "each time: 2: (b,0), (c,2)."
    ),
    ("grid", "order_state"): (
        "How are the pieces arranged at the {time} of the video? Write squares with what is on them: (a,1): "
        "black, (b,2): white."
    ),
    ("grid", "comparison_state"): (
        "Which pieces differ between the start and the end of the video? Write each with the piece color at the "
        "{time} of the video. Write squares with what is on them: (a,1): black, (b,2): white."
    ),
    ("grid", "prediction_state"): (
        "{now}, and these moves are executed: `{operations}`, how are the pieces arranged afterwards? Write "
        "squares with what is on them: (a,1): black, (b,2): white."
    ),
    ("grid", "prediction_operation"): (
        "{now}, which moves (left, right, up, down) of the circle lead to the desired arrangement of black and "
        "white pieces: `{target}`?"
    ),
    (
        "file_sys",
        "order_operation",
    ): "What are the {first} to {last} `{verb}` commands? Write each: 1st: touch path0/{{a.txt,b.py}}",
    ("file_sys", "counting_operation"): (
        "How many different `{suffix}` files stand in the `{verb}` commands? Write the number and their names: 2:"
        " a{suffix}, b{suffix}."
    ),
    ("file_sys", "counting_state"): (
        "At the {time} of the video, how many `{suffix}` files remain in `{place}`? Write the number and their "
        "names: 2: a{suffix}, b{suffix}."
    ),
    (
        "file_sys",
        "comparison_state",
    ): "What files were in `{place}` at the {time} of the video, but were not there at the {other}?",
    (
        "file_sys",
        "prediction_state",
    ): "{now}, and we run the command `{operations}`, which `{suffix}` files would be in `{place}`?",
    ("file_sys", "prediction_operation"): (
        "{now}, which commands should be run to ensure that `{place}` contains exactly the following files: "
        "`{target}`? At most one `touch` and one `rm -rf`, with no file in both: touch path0/{{a.txt}} & rm -rf "
        "path0/{{c.py,d.json}}"
    ),
    (
        "card",
        "order_operation",
    ): "What are the {first} to {last} cards being {verb}, of any pile? 1st: 6 of Hearts, pile0.",
    ("card", "counting_operation"): (
        "How many cards were {verb} `{place}`? Write the number and the cards: 2 cards: 6 of Hearts, King of Clubs."
    ),
    ("card", "order_state"): (
        "At the {time} of the video, what cards are in `{place}`? List the cards from top to bottom: 6 of Hearts,"
        " King of Clubs."
    ),
    (
        "card",
        "comparison_state",
    ): "What cards were in `{place}` at the {time} of the video, but were not there at the {other}?",
    ("card", "prediction_state"): (
        "{now}, and we perform these actions in order: `{operations}`, what cards would be in `{place}`? List the"
        " cards from top to bottom: 6 of Hearts, King of Clubs."
    ),
    ("card", "prediction_operation"): (
        "{now}, which actions should be performed to ensure that `{place}` contains exactly the following cards "
        "from top to bottom: `{target}`? Cards are added to the top and removed from the bottom: add 6 of Hearts "
        "to pile0, remove King of Clubs from pile0."
    ),
    ("chip", "order_operation"): "What are the {first} to {last} chips being {verb}, of any cup? 1st: 100, cup0.",
    ("chip", "counting_operation"): (
        "How many chips were {verb} `{place}`? Write how many there are and their values: 4 chips: 20, 5, 100, 100."
    ),
    ("chip", "counting_state"): (
        "At the {time} of the video, how many chips were in `{place}`? Write how many there are and their values:"
        " 4 chips: 20, 5, 100, 100."
    ),
    ("chip", "comparison_state"): (
        "When is the total value of the chips in `{place}` higher, at the start or at the end, and by how much? "
        "start, 115."
    ),
    ("chip", "prediction_state"): (
        "{now}, and we perform these actions in order: `{operations}`, how many chips would be in `{place}`? "
        "Write how many there are and their values: 4 chips: 20, 5, 100, 100."
    ),
    ("chip", "prediction_operation"): (
        "{now}, which actions should be performed to ensure that `{place}` contains exactly the following chips: "
        "`{target}`? Chips of 5, 10, 20, 50 and 100 can be added: add 20 to cup0, remove 50 from cup0."
    ),
}
