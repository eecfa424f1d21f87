"""The report: self-contained, escaped, honest about generated data, and clear about malformed results."""

import base64
import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reports import MODE, Page, Results, evaluation_results, printed, run_results

from federation.errors import DataError, FederationError
from federation.report import check_results, load_results, write_report, write_results
from federation.report.page import render
from federation.report.parts import foreign
from federation.report.words import SCOPE_METHODS, points, share, size

NASTY = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"


def beside_others(results: Results) -> Results:
    """The same evaluation with a published method in each block, and devices that joined after the rounds."""
    for one in results["blocks"]:
        one["methods"]["ditto"] = dict(one["methods"]["local"])
        one["versus_best_baseline"] = {"name": "ditto", "accuracy": [0.02, -0.01, 0.05]}
        one["unseen"] = {key: one[key] for key in ("methods", "gain", "users", "rows", "devices")}
    return results


def finer(results: Results) -> Results:
    """The same evaluation with calibration, accepted answers and requests out of scope in each block."""
    its = {"auroc": 0.87, "interval": [0.81, 0.92], "false_refusals": 0.042, "refused": 0.355}
    for one in results["blocks"]:
        for figures in one["methods"].values():
            figures |= {"accuracy_any": 0.757, "ndcg_at_5": 0.812}
        for name in ("global", "personal"):
            one["methods"][name] |= {"ece": 0.0613, "nll": 1.234}
        one["out_of_scope"] = {"in_scope": 400, "out_of_scope": 1200, "devices": 38, "devices_without_threshold": 1}
        one["out_of_scope"] |= {"aimed_at": 0.05, "methods": {name: dict(its) for name in SCOPE_METHODS}}
    return results


# --- the page


@pytest.mark.parametrize(
    ("results", "pictures"),
    [
        pytest.param(run_results(), 3, id="run"),
        pytest.param(evaluation_results(), 3, id="evaluation"),
        pytest.param(evaluation_results(alphas=(None,)), 1, id="one-block"),
    ],
)
def test_page_is_self_contained_with_pictures_inside(results: Results, pictures: int) -> None:
    html = render(results)
    page = Page(html)
    assert "http://" not in html
    assert "https://" not in html
    assert {"script", "link", "iframe", "object", "form"}.isdisjoint(page.tags)
    assert "url(" not in html
    assert "@import" not in html
    sources = page.values("img", "src") + page.values("source", "srcset")
    assert len(sources) == 2 * pictures  # One for a light page, one for a dark page.
    for source in sources:
        kind, _, content = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content).startswith(b"\x89PNG")
    assert all(len(alt) > 40 for alt in page.values("img", "alt"))
    assert len(page.values("img", "alt")) == pictures
    assert page.tags.count("thead") == page.tags.count("table") > 0
    assert "width=device-width" in html


def test_page_same_results_same_bytes() -> None:
    assert render(run_results()) == render(run_results())


def test_page_shows_mode_command_version_and_what_left() -> None:
    text = Page(render(run_results())).text
    for expected in (MODE, "tacit demo", "0.1.0", "all-MiniLM-L6-v2", "one float32 array of fixed length", "weight 1"):
        assert expected in text
    for expected in ("Personalized", "Global model", "Local only", "The user's most frequent label", "12.0 kB"):
        assert expected in text
    assert "12 replies in all, about 2.0 kB each; 2 failures" in text


def test_rounds_that_were_undone_are_told_loudly_and_why_stands_in_their_table() -> None:
    results = run_results()
    assert "undone" not in render(results)
    assert "undone" not in printed(results)
    results["rounds"][1]["refused"] = "it sets <3> of 90 right"
    page = render(results)
    number = results["rounds"][1]["round"]
    for shown in (page, printed(results)):
        assert f"Round {number} was undone" in " ".join(shown.split())
    assert page.index(f"Round {number} was undone") < page.index("<table>")
    assert "it sets &lt;3&gt; of 90 right" in page
    results["rounds"][2]["refused"] = 5
    with pytest.raises(DataError, match="refused"):
        check_results(results)


def test_page_examples_show_suggestions_and_the_memories_that_explain_them() -> None:
    text = Page(render(run_results())).text
    for expected in ("dinner please", "mum's kitchen", "the usual, extra olives", "similarity 0.66", "private label"):
        assert expected in text


def test_page_evaluation_has_a_section_for_each_alpha() -> None:
    page = Page(render(evaluation_results(alphas=(0.05, 0.3, None))))
    for expected in ("α = 0.05", "α = 0.3", "Users of the data", "Gain in points with its 95% interval"):
        assert expected in page.text


def test_page_devices_without_test_rows_are_listed_and_not_drawn() -> None:
    results = run_results()
    empty = {"device": "quiet", "memories": 3, "rows": 0, "global": None, "personal": None, "gain": None}
    results["devices"].append(empty)
    page = Page(render(results))
    assert "quiet" in page.text
    assert "All 7 devices" in page.text
    counts = re.search(r"(\d+) better \(solid\), (\d+) worse \(hatched\), (\d+) the same", page.text)
    assert counts is not None
    assert sum(map(int, counts.groups())) == 6


def test_published_methods_stand_in_table_and_picture_and_the_best_beside_ours() -> None:
    results = beside_others(evaluation_results(alphas=(None,)))
    check_results(results)
    page, output = Page(render(results)), printed(results)
    assert "Personalized minus Ditto: +2.0 points (95% interval −1.0 to +5.0)" in page.text
    assert "Personalized − Ditto" in output
    assert "+2.0 (−1.0…+5.0)" in output
    assert max(map(len, output.splitlines())) <= 80
    [alt] = [alt for alt in page.values("img", "alt") if alt.startswith("Accuracy by method")]
    assert f"Ditto {share(results['blocks'][0]['methods']['ditto']['accuracy'])}" in alt
    # Nobody is hurt by the model that the others are held against, so no share is shown for it.
    [line] = [line for line in output.splitlines() if line.startswith("Global model")][:1]
    assert line.split()[-2] == "–"


def test_devices_that_joined_late_have_a_section_of_their_own_and_no_place_among_the_alphas() -> None:
    page = Page(render(beside_others(evaluation_results(alphas=(0.05, 5.0)))))
    for name in ("α = 0.05", "α = 5"):
        assert f"{name}, joined late" in page.text
    [gains] = [alt for alt in page.values("img", "alt") if alt.startswith("Gain by α")]
    assert "joined" not in gains


@pytest.mark.parametrize("name", ["sgd", 3, None, ["ditto"]])
def test_a_best_method_that_there_is_not_is_named(name: object) -> None:
    results = beside_others(evaluation_results())
    results["blocks"][0]["versus_best_baseline"]["name"] = name
    with pytest.raises(DataError, match=r"one of .*ditto.* in 'blocks\[0\]\.versus_best_baseline\.name'"):
        check_results(results)


def test_calibration_accepted_answers_and_requests_out_of_scope_stand_in_page_and_table() -> None:
    results = finer(evaluation_results(alphas=(None,)))
    check_results(results)
    page, output = Page(render(results)), printed(results)
    assert max(map(len, output.splitlines())) <= 80
    for text in (page.text, output):
        for expected in ("NDCG@5", "ECE", "0.061", "1.234", "75.7%", "0.812", "0.870 (0.810–0.920)", "4.2%", "35.5%"):
            assert expected in text
        assert "400 requests in scope, 1,200 out of it" in " ".join(text.split())
        assert all(title in text for title in SCOPE_METHODS.values())
    # What says nothing of how sure it is has a dash, not a zero.
    [line] = [line for line in output.splitlines() if line.startswith("Local only") and "75.7%" in line]
    assert line.split()[-2:] == ["–", "–"]
    assert "ECE" not in printed(evaluation_results()) + Page(render(evaluation_results())).text


def test_a_run_prints_one_table_however_much_it_knows() -> None:
    results = run_results()
    plain = printed(results)
    results["methods"]["global"] |= {"ece": 0.0613, "nll": 1.234}
    check_results(results)
    assert printed(results) == plain


@pytest.mark.parametrize("wrong", [{"auroc": 1.2}, {"refused": None}, {"interval": [0.1]}])
def test_malformed_figures_of_requests_out_of_scope_are_named(wrong: dict[str, Any]) -> None:
    results = finer(evaluation_results())
    results["blocks"][0]["out_of_scope"]["methods"]["energy"] |= wrong
    with pytest.raises(DataError, match=rf"blocks\[0\]\.out_of_scope\.methods\.energy\.{next(iter(wrong))}"):
        check_results(results)


# --- generated data says so


def test_generated_population_is_said_by_every_output() -> None:
    for results in (run_results(), evaluation_results(generated=True)):
        page = Page(render(results))
        body = page.text[page.text.index("print {") :]
        assert body.index("generated population") < body.index("Mode:")
        for alt in page.values("img", "alt"):
            assert alt.count("generated population") == 2  # In the picture's own title and in its caption.
        assert "generated population" in printed(results)
        named = results | {"title": "people.jsonl"}
        assert "generated population" in printed(named)
        assert "<title>Tacit: people.jsonl (generated population)</title>" in render(named)


def test_real_data_is_not_called_generated() -> None:
    assert "generated population" not in render(run_results(generated=False)).lower()
    assert "generated population" not in printed(run_results(generated=False))


def test_examples_of_real_people_are_refused() -> None:
    results = run_results() | {"generated": False}
    with pytest.raises(DataError, match="no 'examples' unless 'generated'"):
        render(results)


# --- foreign text


def test_page_escapes_text_from_data() -> None:
    results = run_results()
    example = results["examples"][0]
    for holder, key in (
        (example, "text"),
        (example, "truth"),
        (example, "global"),
        (example["suggestions"][0], "label"),
        (example["suggestions"][0], "source"),
        (example["suggestions"][0]["because"][0], "text"),
        (results, "title"),
        (results, "mode"),
        (results, "command"),
        (results, "version"),
        (results["devices"][0], "device"),
        (results["config"], "strategy"),
        (results["config"], NASTY),
    ):
        holder[key] = NASTY
    html = render(results)
    page = Page(html)
    assert "<script" not in html
    assert "onerror" not in {name for _, name, _ in page.attributes}
    assert page.text.count("<script>alert('x')</script>") >= 13
    assert page.tags.count("img") == 3


@given(text=st.text())
def test_foreign_text_never_makes_markup(text: str) -> None:
    page = Page(foreign(text))
    assert page.tags == ["bdi"]
    assert page.text.isprintable() or "\u200c" in page.text or "\u200d" in page.text


def test_terminal_foreign_text_cannot_steer_it() -> None:
    output = printed(run_results(generated=False) | {"title": "a\x1b[31m[bold]b.jsonl\x07", "mode": "open\r\x1b]0;x"})
    assert not set(output) & {"\x1b", "\x07", "\r"}
    assert "[bold]" in output


def test_files_lone_surrogate_from_json_is_written(tmp_path: Path) -> None:
    results = run_results()
    results["examples"][0]["text"] = json.loads('"\\ud800"')
    write_results(results, tmp_path)
    assert write_report(load_results(tmp_path), tmp_path).is_file()


# --- the table


def test_table_fits_80_columns_and_holds_the_figures() -> None:
    output = printed(run_results())
    assert max(map(len, output.splitlines())) <= 80
    for expected in ("The user's most frequent label", "Global model", "Local only", "Personalized", "Gain", MODE):
        assert expected in output
    figures = run_results()["methods"]["personal"]
    line = next(line for line in output.splitlines() if line.startswith("Personalized"))
    for expected in (
        share(figures["accuracy"]),
        f"{figures['mrr']:.3f}",
        share(figures["hurt_significant"]),
        "12.0 kB",
    ):
        assert expected in line
    sent = {line.split("  ")[0]: line.split()[-2] for line in output.splitlines() if line.endswith(" B")}
    assert sent == {"The user's most frequent label": "0", "Local only": "0"}


def test_table_evaluation_has_a_section_for_each_alpha() -> None:
    output = printed(evaluation_results(alphas=(0.05, 5.0, None)))
    assert max(map(len, output.splitlines())) <= 80
    assert [output.count(name) for name in ("α = 0.05", "α = 5", "users of the data", "Personalized")] == [1, 1, 1, 3]


def test_table_prints_where_only_ascii_does() -> None:
    assert "alpha = 0.05" in printed(evaluation_results(), encoding="ascii")


def test_table_without_local_methods_shows_the_rest() -> None:
    results = run_results()
    del results["methods"]["local"], results["methods"]["most_frequent"]
    assert "Local only" not in printed(results)
    assert "Local only" not in Page(render(results)).text


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (share(0.0), "0.0%"),
        (share(1.0), "100.0%"),
        (share(None), "–"),
        (points(0.0), "0.0"),
        (points(-0.0001), "0.0"),
        (points(-0.05), "−5.0"),
        (points(0.05), "+5.0"),
        (points(None), "–"),
        (size(0), "0 B"),
        (size(999), "999 B"),
        (size(999.7), "1.0 kB"),
        (size(99_960), "100 kB"),
        (size(2.5e13), "25.0 TB"),
        (size(None), "–"),
    ],
)
def test_figures_as_written(written: str, expected: str) -> None:
    assert written == expected


# --- edge cases


def _one_device(results: Results) -> None:
    results["devices"] = results["devices"][:1]


@pytest.mark.parametrize(
    ("change", "pictures"),
    [
        pytest.param(lambda r: r.update(rounds=[]), 1, id="no-rounds"),
        pytest.param(lambda r: r.update(rounds=r["rounds"][:1]), 3, id="one-round-nothing-sent"),
        pytest.param(lambda r: r.update(devices=[]), 2, id="no-devices"),
        pytest.param(_one_device, 3, id="one-device"),
        pytest.param(lambda r: r.update(examples=[]), 3, id="no-examples"),
        pytest.param(lambda r: r.pop("examples"), 3, id="examples-absent"),
        pytest.param(lambda r: [one.update(gain=0.0) for one in r["devices"]], 3, id="all-equal"),
        pytest.param(lambda r: [one.update(gain=-0.5) for one in r["devices"]], 3, id="all-worse"),
        pytest.param(lambda r: r.update(versions={"flwr": "1.41.0"}), 3, id="versions"),
    ],
)
def test_page_edge_case_table(change: Callable[[Results], object], pictures: int) -> None:
    results = run_results()
    change(results)
    page = Page(render(results))
    assert page.tags.count("img") == pictures
    assert printed(results)


# --- files


def test_results_round_trip_and_leave_no_other_file(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "tacit-report"
    results = run_results()
    assert write_results(results, folder) == folder / "results.json"
    assert load_results(folder) == results
    assert write_report(results, folder) == folder / "report.html"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "results.json"]


def test_files_refused_by_the_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for write in (write_results, write_report):
        with pytest.raises(FederationError, match="Cannot write") as caught:
            write(run_results(), tmp_path / "file")
        assert "\n" not in str(caught.value)


def test_results_not_finite_are_not_written(tmp_path: Path) -> None:
    results = run_results()
    results["methods"]["global"]["accuracy"] = float("nan")
    with pytest.raises(DataError, match=r"methods\.global\.accuracy"):
        write_results(results, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "expected a JSON object in 'the whole', got list"),
        (b"null", "got null"),
        (b"{}", "expected 'title', which is missing"),
    ],
)
def test_load_malformed_file_is_one_line(content: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(DataError, match=text) as caught:
        load_results(tmp_path)
    assert "\n" not in str(caught.value)
    assert "results.json" in str(caught.value)


def test_load_missing_folder_or_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        load_results(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no results\.json"):
        load_results(tmp_path)
    (tmp_path / "results.json").mkdir()
    with pytest.raises(DataError, match="Cannot read"):
        load_results(tmp_path)


def _places(value: Any, place: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [place] if place else []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    for key, inner in entries:
        found += _places(inner, (*place, key))
    return found


RUN, EVALUATION = run_results(), evaluation_results()
OPTIONAL = {"examples", "most_frequent", "local"}


@pytest.mark.parametrize("whole", [RUN, EVALUATION], ids=["run", "evaluation"])
def test_check_missing_key_is_named(whole: Results) -> None:
    check_results(whole)
    checked = 0
    for *path, last in _places(whole):
        if not isinstance(last, str) or last in OPTIONAL or "config" in path or (last == "config" and whole is not RUN):
            continue
        broken = copy.deepcopy(whole)
        holder: Any = broken
        for key in path:
            holder = holder[key]
        del holder[last]
        if last == "kind":  # Without it, it reads as a run, and a run's parts are missing.
            last = "rounds"
        with pytest.raises(DataError, match=rf"^results\.json: expected '[^']*\b{last}', which is missing\.$"):
            check_results(broken)
        checked += 1
    assert checked > 50


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    place=st.sampled_from(_places(RUN)),
    value=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just([]), st.just({})),
)
def test_check_wrong_shape_is_one_line_or_can_be_shown(place: tuple[str | int, ...], value: object) -> None:
    broken = copy.deepcopy(RUN)
    holder: Any = broken
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    try:
        check_results(broken)
    except DataError as error:
        message = str(error)
    else:
        message = ""
        printed(broken)
    assert not message or message.startswith("results.json: expected ")
    assert "\n" not in message


def test_check_names_the_place_and_the_value() -> None:
    results = run_results()
    results["devices"][2]["gain"] = 7
    with pytest.raises(DataError, match=r"difference from -1 to 1 in 'devices\[2\]\.gain', got 7"):
        check_results(results)


# --- without matplotlib


def test_report_without_matplotlib_says_what_to_install(tmp_path: Path) -> None:
    write_results(run_results(), tmp_path)
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path\n"
        "from rich.console import Console\n"
        "from federation.errors import FederationError\n"
        "from federation.report import load_results, print_methods, write_report\n"
        f"results = load_results(Path({str(tmp_path)!r}))\n"
        "print_methods(results, Console(width=80))\n"
        "try:\n    write_report(results, Path('.'))\n"
        "except FederationError as error:\n    print(error)\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env={"PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert "pip install 'tacit[federation]'" in done.stdout
    assert not Path(root, "report.html").exists()


def test_import_costs_neither_matplotlib_nor_rich() -> None:
    script = "import sys, federation.report; print({'matplotlib', 'rich', 'numpy', 'torch'} & set(sys.modules))"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env={"PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
