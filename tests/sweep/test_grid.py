"""Grids: axes and prompt files become samples, and mistakes in them are reported in one line."""

import itertools
import json

import pytest

from configs import default, sweep
from its_jax.errors import UserError
from its_jax.settings.ids import sample_id
from its_jax.settings.parse import expand
from its_jax.sweep import grid


@pytest.fixture
def settings():
    config = default.get_config().to_dict()
    return config | {"num_samples": 1}


def values(requested, key):
    """Returns the values of a setting, in the order of the samples."""
    group, _, name = key.rpartition(".")
    return [getattr(one.terms[group] if group else one, name) for one in requested.values()]


def test_axes_are_crossed_with_seeds_innermost(settings):
    axes = {"seed": (5, 6), "image": {"prompt": ("a", "b")}, "num_steps": (10, 20)}
    made = grid.read_grid(settings, axes)
    rows = list(zip(values(made, "image.prompt"), values(made, "num_steps"), values(made, "seed"), strict=True))
    assert rows == list(itertools.product(("a", "b"), (10, 20), (5, 6)))
    assert list(made) == [sample_id(one) for one in made.values()]
    assert all(one.terms["audio"] == expand(settings, 1)[0].terms["audio"] for one in made.values())


def test_a_sample_of_a_grid_equals_that_of_its_settings_alone(settings):
    made = grid.read_grid(settings, {"image": {"weight": (0.5, 1)}})
    for weight, (name, one) in zip((0.5, 1.0), made.items(), strict=True):
        (alone,) = expand(settings | {"image": settings["image"] | {"weight": weight}}, 1)
        assert (name, one) == (sample_id(alone), alone)


@pytest.mark.parametrize(
    "flag, key, expected",
    [
        ("seed=0..3", "seed", [0, 1, 2, 3]),
        ("seed=9, 0..4..2", "seed", [9, 0, 2, 4]),
        ("image.weight=0.3..0.6..0.1", "image.weight", [0.3, 0.4, 0.5, 0.6]),
        ("image.weight=1", "image.weight", [1.0]),
        ("audio.prompt=dog barking, cat meowing", "audio.prompt", ["dog barking", "cat meowing"]),
        ('audio.prompt=["a, b", "c"]', "audio.prompt", ["a, b", "c"]),
        ("crop_image=true,false", "crop_image", [True, False]),
        ("solver=ddim,euler", "solver", ["ddim", "euler"]),
    ],
)
def test_axes_of_the_command_line_are_parsed(settings, flag, key, expected):
    assert values(grid.read_grid(settings, {}, flags=[flag]), key) == expected


def test_the_command_line_replaces_an_axis_of_the_config(settings):
    made = grid.read_grid(settings, {"seed": "0..9", "num_steps": (10, 20)}, flags=["seed=7"])
    assert values(made, "seed") == [7, 7] and values(made, "num_steps") == [10, 20]


def test_without_an_axis_over_seeds_there_are_num_samples(settings):
    made = grid.read_grid(settings | {"num_samples": 3, "seed": 4}, {"num_steps": (10, 20)})
    assert values(made, "seed") == [4, 5, 6] * 2


FILES = {
    "a.txt": "# towns\ncastle | bell ringing\n\n  a dog|dog barking\n",
    "a.csv": 'image,audio\ncastle,bell ringing\n"a dog",dog barking\n',
    "a.jsonl": '{"image": "castle", "audio": "bell ringing"}\n{"image": "a dog", "audio.prompt": "dog barking"}\n',
}


@pytest.mark.parametrize("name", FILES)
def test_rows_of_a_prompt_file_belong_together(settings, tmp_path, name):
    (tmp_path / name).write_text("\ufeff" + FILES[name], encoding="utf-8")  # as some editors begin a file
    made = grid.read_grid(settings, {"seed": "0..1"}, str(tmp_path / name))
    assert values(made, "image.prompt") == ["castle", "castle", "a dog", "a dog"]
    assert values(made, "audio.prompt") == ["bell ringing"] * 2 + ["dog barking"] * 2
    assert values(made, "seed") == [0, 1, 0, 1]


def test_columns_are_settings_and_an_empty_cell_keeps_the_config(settings, tmp_path):
    rows = "image,seed,num_samples,image.weight,crop_image\na,7,2,0.3,true\nb,,,,\n"
    (tmp_path / "a.csv").write_text(rows)
    made = grid.read_grid(settings | {"num_samples": 1}, {}, str(tmp_path / "a.csv"))
    assert values(made, "image.prompt") == ["a", "a", "b"] and values(made, "seed") == [7, 8, 0]
    assert values(made, "image.weight") == [0.3, 0.3, 0.6] and values(made, "crop_image") == [True, True, False]


@pytest.mark.parametrize("name, rows", [
    ("a.csv", "image,seed\na,7\nb,4294967294\nc, 0\n"),
    ("a.jsonl", '{"image": "a", "seed": 7}\n{"image": "b", "seed": 4294967294}\n{"image": "c", "seed": 0}\n'),
])  # fmt: skip
def test_the_seed_of_a_row_is_the_first_of_its_samples(settings, tmp_path, name, rows):
    (tmp_path / name).write_text(rows)
    made = grid.read_grid(settings | {"num_samples": 2, "seed": 99}, {"seed": "0..3"}, str(tmp_path / name))
    assert values(made, "seed") == [7, 8, 2**32 - 2, 2**32 - 1, 0, 1]
    assert values(made, "image.prompt") == ["a", "a", "b", "b", "c", "c"]


def test_axes_from_two_files_are_crossed(settings, tmp_path):
    (tmp_path / "images.txt").write_text("a\nb\n")
    (tmp_path / "audios.csv").write_text("audio.prompt\nc\nd\n")
    flags = [f"image.prompt={tmp_path}/images.txt", f"audio.prompt={tmp_path}/audios.csv"]
    made = grid.read_grid(settings, {}, flags=flags)
    pairs = zip(values(made, "image.prompt"), values(made, "audio.prompt"), strict=True)
    assert list(pairs) == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]


def test_equal_cells_are_generated_once(settings):
    made = grid.read_grid(settings, {"image": {"prompt": ("a", "b", "a")}, "seed": (0, 1)})
    assert len(made) == 4


@pytest.mark.parametrize(
    "axes, flags, words",
    [
        ({"sed": (1,)}, [], "there is no setting sed; did you mean seed?"),
        ({"image": {"promt": ("a",)}}, [], "did you mean image.prompt?"),
        ({"batch_size": (1, 2)}, [], "there is no setting batch_size"),
        ({"seed": 3}, [], "grid.seed=3: must be a list of values"),
        ({"seed": ()}, [], "grid.seed: has no values"),
        ({"seed": "3..1"}, [], "grid.seed='3..1': must be numbers, or a rising range such as '0..7'"),
        ({"seed": "0..9999999"}, [], "must be numbers"),
        ({"seed": "0..1..0.5"}, [], "must be numbers"),
        ({"image": {"weight": "0..1"}}, [], "such as '0.3..0.7..0.1'"),
        ({"seed": (1, "x")}, [], "grid.seed: seed='x': must be of type int"),
        ({"seed": (1, 2**32)}, [], "seed=4294967296: seeds must be"),
        ({"image": {"prompt": "a painting of trees"}}, [], "must be a list of values, a range of numbers, or a file"),
        ({"solver": ("ddim",), "num_steps": (10, 0)}, [], "num_steps=0"),
        ({"solver": ("ddim", "foo")}, [], "solver='foo' is not known here; choose one of"),
        ({}, ["seed=1", "seed=2"], "--axis=seed is given twice"),
        ({}, ["seed"], "--axis=seed: must be SETTING=VALUES"),
        ({}, ["image.prompt="], "has no values"),
        ({}, ["image.prompt=[1"], "not valid JSON"),
        ({}, ["image.prompt=none.txt"], "none.txt: cannot be read (No such file or directory)"),
        ({}, ["crop_image=maybe"], "crop_image='maybe': must be of type bool"),
    ],
)
def test_a_wrong_axis_is_named(settings, axes, flags, words):
    with pytest.raises(UserError) as caught:
        grid.read_grid(settings, axes, flags=flags)
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.txt", "castle | bell\ncastle, bell\n", "a.txt, line 2: must be 'image prompt | audio prompt'"),
        ("a.txt", "a | \n", "a.txt, line 1: must be"),
        ("a.txt", "# nothing\n\n", "a.txt: has no rows"),
        ("a.csv", "image,audio\na,b\na, b, c\n", "a.csv, line 3: has 3 cells for 2 columns; put quotes"),
        ("a.csv", "image,sede\na,1\n", "a.csv, line 2: there is no setting sede; did you mean seed?"),
        ("a.csv", "image,seed\na,1\nb,x\n", "a.csv, line 3: seed='x': must be of type int"),
        ("a.csv", "image,seed\na,7.5\n", "a.csv, line 2: seed='7.5': must be of type int"),
        ("a.csv", "image,seed\na,4294967296\n", "a.csv, line 2: seed=4294967296: seeds must be 0 to 4294967295"),
        ("a.csv", "seed,num_samples\n4294967295,2\n", "a.csv, line 2: seed=4294967296: seeds must be"),
        ("a.csv", "image,num_samples\na,0\n", "a.csv, line 2: num_samples=0: must be 1 or more"),
        ("a.csv", 'image\n"a\n', "a.csv, line 2: not valid CSV"),
        ("a.csv", "image,image\na,b\n", "a.csv, line 1: two columns have the same name"),
        ("a.csv", "", "a.csv: has no rows"),
        ("a.csv", "image,\na,b\n", "a.csv, line 1: a column has no name"),
        ("a.csv", "image,seed\n  , \na,-5\n", "a.csv, line 3: seed=-5: seeds must be"),
        ("a.jsonl", '{"image": "a"}\n{"image": \n', "a.jsonl, line 2: not valid JSON"),
        ("a.jsonl", '"a"\n', "a.jsonl, line 1: must be an object"),
        ("a.jsonl", '{"seed": 1.5}\n', "a.jsonl, line 1: seed=1.5: must be of type int"),
        ("a.jsonl", '{"image": 3}\n', "a.jsonl, line 1: image.prompt=3: must be of type str"),
        ("a.toml", "", "a.toml: must be a file of .txt, .csv, .jsonl"),
        ("a.txt", b"\xff\xfe", "a.txt: cannot be read"),
    ],
)
def test_a_malformed_line_is_named(settings, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        grid.read_grid(settings, {}, str(tmp_path / name))
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_columns_replace_axes_of_the_config(settings, tmp_path):
    (tmp_path / "a.txt").write_text("a | b\n")
    made = grid.read_grid(settings, {"image": {"prompt": ("c", "d")}, "num_steps": (10, 20)}, str(tmp_path / "a.txt"))
    assert values(made, "image.prompt") == ["a", "a"] and values(made, "num_steps") == [10, 20]
    with pytest.raises(UserError, match=r"--axis=image.prompt is a column of .*a.txt too"):
        grid.read_grid(settings, {}, str(tmp_path / "a.txt"), ["image.prompt=c"])


def test_lines_end_at_newlines_alone(settings, tmp_path):
    rows = [{"image": "one\u2028two\x0cthree", "audio": "b"}, {"image": "c"}]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "a.jsonl").write_bytes(lines.encode())
    assert values(grid.read_grid(settings, {}, str(tmp_path / "a.jsonl")), "image.prompt") == [
        row["image"] for row in rows
    ]
    (tmp_path / "a.txt").write_bytes("one\u2028two | b\r\n".encode())
    assert values(grid.read_grid(settings, {}, str(tmp_path / "a.txt")), "image.prompt") == ["one\u2028two"]


def test_an_axis_file_has_one_column(settings, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": "a", "audio": "b"}))
    with pytest.raises(UserError, match="has 2 columns; an axis has one"):
        grid.read_grid(settings, {}, flags=[f"image.prompt={tmp_path}/a.jsonl"])


def test_the_config_of_the_repository_expands_to_its_grid():
    config = sweep.get_config().to_dict()
    axes = config.pop("grid")
    assert len(grid.read_grid(config, axes)) == len(sweep.SUBJECTS) * len(sweep.SOUNDS) * 4
