"""README's own text is run, as a newcomer would run it: in an empty folder, with nothing else at hand."""

import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def block(after, language="python"):
    """The first block of code after these words, at most ten lines of it code."""
    code = re.search(rf"```{language}\n(.*?)```", README[README.index(after):], re.DOTALL)[1]
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith(" " * 5)]
    assert len(lines) <= 10, lines
    return code


def run(folder, *code, seconds):
    """What it says, if it takes at most so many seconds of processors: of an idle machine nobody waits longer."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(code, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    assert took < seconds, f"took {took:.0f} s"
    return done


@pytest.mark.slow
def test_ten_lines(tmp_path):
    done = run(tmp_path, sys.executable, "-c", block("## Ten lines"), seconds=120)
    assert "20 rows explained" in done.stdout
    assert (tmp_path / "report.html").stat().st_size > 10_000 and (tmp_path / "cf.safetensors").is_file()


@pytest.mark.slow
def test_a_network_of_ones_own_to_a_picture_within_five_minutes(tmp_path):
    done = run(tmp_path, sys.executable, "-c", block("A network of yours, to a picture"), seconds=300)
    assert Image.open(tmp_path / "counterfactuals.png").size > (400, 300)
    assert "Error" not in done.stderr


@pytest.mark.slow
def test_a_mixed_table_to_three_short_answers_within_two_minutes(tmp_path):
    pandas = pytest.importorskip("pandas")
    rng, n = np.random.RandomState(0), 1000
    X = pandas.DataFrame({
        "age": rng.randint(18, 80, n), "income": rng.gamma(4, 9000, n).round(), "debts": rng.gamma(2, 6000, n).round(),
        "purpose": rng.choice(["car", "house", "studies"], n), "years in job": rng.poisson(5, n)})
    score = X.income / 20_000 - X.debts / 10_000 + (X.purpose == "house") + X["years in job"] / 10 + rng.normal(0, 0.2, n)
    X["decision"] = np.where(score > score.median(), "approved", "declined")
    X.to_csv(tmp_path / "loans.csv", index=False)
    done = run(tmp_path, sys.executable, "-c", block("A table of numbers and categories"), seconds=120)
    answers = done.stdout.strip().split("\n\n")
    assert len(answers) == 3 and len(set(answers)) == 3
    for answer in answers:
        changes = re.findall(r"^\d+\. (.+?) \S+ → \S+: (?:[<>] )?(\d\.\d+)$", answer, re.MULTILINE)
        assert 1 <= len(changes) <= 4 and "age" not in dict(changes) and float(changes[-1][1]) > 0.5


@pytest.mark.slow
def test_a_folder_of_sixty_pictures_to_a_report_within_three_minutes(tmp_path):
    """Discs and squares of any place, size and shade."""
    rng = np.random.RandomState(0)
    y, x = np.mgrid[:32, :32]
    for i in range(66):
        (b, a), r, kind = rng.uniform(10, 22, 2), rng.uniform(5, 9), ("round", "square")[i % 2]
        far = np.hypot(y - b, x - a) if kind == "round" else np.maximum(abs(y - b), abs(x - a))
        picture = np.clip(r - far + 0.5, 0, 1) * rng.uniform(0.6, 1)
        file = tmp_path / (f"pictures/{kind}" if i < 60 else "new") / f"{kind}-{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(255 * picture)).save(file)
    lines = block("A folder of pictures", "bash").strip().splitlines()
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "cfexplain"
        run(tmp_path, sys.executable, "-m", "cfexplain.cli", *arguments, seconds=180 / len(lines))
    report = (tmp_path / "results" / "report.html").read_text("utf-8")
    assert "square-61.png" in report and "round" in report
