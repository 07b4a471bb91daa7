"""The report: its numbers are those of the definitions, and a browser without a network shows all of it."""

import dataclasses
import html
import html.parser
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import browser
import jax
import numpy as np
import protocol_definitions as definitions
import pytest
import small
from PIL import Image

from bdf_jax.checkpoints import Checkpoints, Metadata
from bdf_jax.config import DataConfig, WorldConfig
from bdf_jax.data.dataset import open_dataset
from bdf_jax.errors import BdfError
from bdf_jax.evaluation import feature_rows, harness, save_features
from bdf_jax.evaluation.protocols import protocols_for
from bdf_jax.evaluation.report import PAGE, check_folder, measures, pictures
from bdf_jax.evaluation.report.sources import report_features
from bdf_jax.models import Network, initial_variables
from bdf_jax.pixels import normalise

ROOT = Path(__file__).parents[2]
SYSU = definitions.small_sysu(seed=1, ids=12)


def evaluated(index, dataset, similarity="dot", **options):
    features_ND = definitions.coarse_features(index, seed=3)
    protocols = protocols_for(dataset, index, **options)
    measured = [[m] for m in harness.measure(features_ND, index, protocols, similarity=similarity)]
    return measures.Evaluated(features_ND, index, similarity, False, protocols, measured)


def test_a_cmc_curve_goes_through_the_numbers_of_the_table():
    index = definitions.small_llcm(seed=2, ids=30)
    one = evaluated(index, "llcm")
    for protocol, splits in zip(one.protocols, one.measured, strict=True):
        row = harness.row(protocol, splits, model="", flags={})
        curve = measures.cmc_curve(splits)
        assert len(curve) == 20
        assert (np.diff(curve) >= 0).all()
        np.testing.assert_allclose(curve[[0, 4, 9, 19]], [row["R1"], row["R5"], row["R10"], row["R20"]])


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("within", [True, False])
def test_pairs_are_all_pairs_or_a_uniform_draw_of_them(same, within):
    rng = np.random.default_rng(0)
    a = np.array([2, 0, 3, 0, 1, 3, 0, 3, 1])
    b = a if within else np.array([5, 1, 3, 0, 1, 2, 3])
    expected = {
        (i, j) for i in range(len(a)) for j in range(len(b)) if (a[i] == b[j]) == same and (not within or i < j)
    }
    left, right, total = measures.draw_pairs(a, b, same=same, within=within, limit=1000, generator=rng)
    assert sorted(zip(left.tolist(), right.tolist(), strict=True)) == sorted(expected)
    assert total == len(expected)

    limit, drawn = total - 1, dict.fromkeys(expected, 0)
    for _ in range(400):
        left, right, again = measures.draw_pairs(a, b, same=same, within=within, limit=limit, generator=rng)
        assert again == total
        assert len(left) == limit
        for i, j in zip(left.tolist(), right.tolist(), strict=True):
            drawn[(min(i, j), max(i, j)) if within else (i, j)] += 1
    mean = 400 * limit / total
    assert max(abs(count - mean) for count in drawn.values()) < 5 * np.sqrt(mean)


def test_similarities_of_pairs():
    one = evaluated(SYSU, "sysu_mm01", "cosine", galleries=["agw"], modes=["all"], shots=[1], trial=0)
    found = measures.pair_similarities(one)
    unit = one.features_ND / np.linalg.norm(one.features_ND, axis=1, keepdims=True)
    for kind, (x, y) in {
        "visible - visible": (0, 0),
        "infrared - infrared": (1, 1),
        "visible - infrared": (0, 1),
    }.items():
        sides = {True: [], False: []}
        for i, j in itertools.product(range(len(SYSU)), repeat=2):
            if (SYSU.modalities[i], SYSU.modalities[j]) == (x, y) and (x != y or i < j):
                sides[bool(SYSU.pids[i] == SYSU.pids[j])].append(unit[i] @ unit[j])
        np.testing.assert_allclose(np.sort(found[kind].true_P), np.sort(sides[True]), atol=1e-6)
        np.testing.assert_allclose(np.sort(found[kind].false_P), np.sort(sides[False]), atol=1e-6)
        assert (found[kind].true_total, found[kind].false_total) == (len(sides[True]), len(sides[False]))

    pairs = measures.PairSimilarities(np.array([0.1, 0.5, 0.5]), np.array([0.5, 0.0]), 3, 2)
    wins = [(t > f) + 0.5 * (t == f) for t in pairs.true_P for f in pairs.false_P]
    assert pairs.separation == np.mean(wins)
    assert np.isnan(measures.PairSimilarities(np.zeros(0), np.zeros(2), 0, 2).separation)


@pytest.mark.parametrize(
    ("dataset", "index", "ignores", "options"),
    [
        ("sysu_mm01", SYSU, definitions.sysu_ignores, {"galleries": ["agw"], "modes": ["all"], "shots": [10]}),
        ("llcm", definitions.small_llcm(seed=2, ids=30), definitions.llcm_ignores, {}),
    ],
)
def test_ranked_lists_are_the_ranking_that_was_measured(dataset, index, ignores, options):
    one = evaluated(index, dataset, trial=0, **options)
    gallery = one.protocols[0].gallery_rows[0]
    lists = measures.ranked_lists(one, each=3, length=8)
    assert [ranked.kind for ranked in lists] == ["best"] * 3 + ["median"] * 3 + ["worst"] * 3
    some_ignored = 0
    for ranked in lists:
        query = index.pids[ranked.query], index.cams[ranked.query]
        left = [g for g in gallery if not ignores(*query, index.pids[g], index.cams[g])]
        scores = [one.features_ND[ranked.query] @ one.features_ND[g] for g in left]
        order = sorted(range(len(left)), key=lambda i: (-scores[i], i))  # small integers: the scores are exact, and tie
        matches = [index.pids[left[i]] == query[0] for i in order]
        assert ranked.rows.tolist() == [left[i] for i in order[:8]]
        assert ranked.scores.tolist() == [scores[i] for i in order[:8]]
        assert ranked.hits.tolist() == matches[:8]
        assert (ranked.matches, ranked.first) == (sum(matches), matches.index(True) + 1)
        assert (ranked.gallery, ranked.ignored) == (len(left), len(gallery) - len(left))
        some_ignored += ranked.ignored
        pids = [index.pids[g] for g in left]
        expected = definitions.query_metrics(scores, [p == query[0] for p in pids], pids, query[0])
        assert ranked.ap == pytest.approx(expected["ap"], abs=1e-6)
    assert some_ignored


def test_ranked_lists_compare_identities_of_any_length():
    """The same people, whose numbers differ beyond 32 bits alone; LLCM's protocol ignores by identity, too."""
    one = evaluated(definitions.small_llcm(seed=2, ids=30), "llcm", trial=0)
    long = dataclasses.replace(one, index=dataclasses.replace(one.index, pids=one.index.pids.astype(np.int64) << 32))
    for a, b in zip(*(measures.ranked_lists(each, each=3, length=8) for each in (one, long)), strict=True):
        assert (a.rows.tolist(), a.hits.tolist(), a.ignored) == (b.rows.tolist(), b.hits.tolist(), b.ignored)


def test_queries_are_the_best_the_middle_and_the_worst_and_nobody_twice():
    ap = np.array([0.9, 0.8, 0.1, 0.7, 0.5, 0.6, 0.99, 0.2, 0.3, 0.4, 1.0])
    pid = np.array([1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    valid = np.arange(11) != 10  # the query with AP 1 has no match, so its AP is none
    chosen = measures.choose_queries(ap, valid, pid, 2)
    assert chosen == {"best": [6, 0], "median": [5, 4], "worst": [7, 2]}
    lonely = measures.choose_queries(ap[:2], valid[:2], pid[:2], 3)
    assert lonely == {"best": [0], "median": [], "worst": []}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run that was never trained, on a few people: what its checkpoint would be at step 0."""
    home = tmp_path_factory.mktemp("run")
    world = WorldConfig(train_ids=2, test_ids=9, images=2, size=(48, 24))
    config = small.tiny_method(data=DataConfig(dir=str(home / "data"), world=world))
    dataset = open_dataset(config.data, progress=False)
    network = Network.of(config, 2)
    variables = jax.device_get(dict(initial_variables(network, 0, config.data.image_size)))
    checkpoints = Checkpoints(home / "work")
    checkpoints.save(7, variables, Metadata(config, dataset.fingerprint, 2))
    checkpoints.close()
    return home / "work"


@pytest.fixture(scope="module")
def report(workdir):
    """The folder of a report from the command line, and the rows of its table."""
    out = workdir / "report"
    flags = [f"--workdir={workdir}", f"--report={out}", f"--json={workdir / 'rows.json'}", "--baselines"]
    done = subprocess.run(
        [sys.executable, "evaluate.py", *flags], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"report: {out / PAGE}" in done.stdout
    return out, json.loads((workdir / "rows.json").read_text())


class Elements(html.parser.HTMLParser):
    """All elements of a page, as (tag, attributes)."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_nothing_but_itself(report):
    text = (report[0] / PAGE).read_text()
    elements = Elements(text).found
    assert "default-src 'none'; img-src data:" in text
    for tag, attributes in elements:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "#").startswith(("data:image/png;base64,", "#"))
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_says_what_was_evaluated_and_how(report):
    out, rows = report
    text = html.unescape((out / PAGE).read_text())
    assert {row["model"] for row in rows} == {"trained", "untrained", "edges", "raw_pixels", "chance"}
    for row in rows:
        for metric in ("R1", "R5", "R10", "R20", "mAP", "mINP"):
            assert f'<td class="n">{row[metric]:.2f}' in text
    flags = "feature embedding · use base · flip_tta no · similarity cosine · rerank no · step 7"
    assert text.count(flags) == 2
    for said in (
        "step 7",
        "synthetic world",
        "of 9 identities",
        "views Dv of V by Pixelwise, Di of I by Pixelwise",
        "50,000",
    ):
        assert said in text
    assert str(out) not in text
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", text)  # no dates


def test_a_run_near_chance_says_so_with_the_likely_causes(report):
    out, rows = report
    assert rows[0]["near_chance"]
    note = re.search(r'<div class="note".*?</div>', (out / PAGE).read_text(), re.DOTALL).group()
    assert "Near chance" in note
    assert f"mAP {rows[0]['mAP']:.2f} where a random ranking has {rows[0]['chance_mAP']:.2f}" in note
    assert "Likely causes: weights that were not loaded" in note


def test_hits_are_framed_green_and_misses_red_in_the_pictures_too(report):
    out, _ = report
    text = (out / PAGE).read_text()
    lists = re.findall(r'<div class="tiles">.*?</div>', text, re.DOTALL)
    files = [out / f"ranked-{kind}-{i}.png" for kind in ("best", "median", "worst") for i in (1, 2, 3)]
    assert len(lists) == len(files) == 9
    colours = {"query": pictures.QUERY, "hit": pictures.HIT, "miss": pictures.MISS}
    seen = set()
    for tiles, file in zip(lists, files, strict=True):
        kinds = re.findall(r'<figure class="(\w+)"', tiles)
        assert kinds[0] == "query"
        assert len(kinds) == 11
        step = pictures.SIZE[1] + 2 * pictures.FRAME + 8
        with Image.open(file) as strip:
            found = ["#{:02x}{:02x}{:02x}".format(*strip.getpixel((i * step, 0))) for i in range(len(kinds))]
        assert found == [colours[kind] for kind in kinds]
        assert [mark == "✓" for mark in re.findall("[✓✗]", tiles)] == [kind == "hit" for kind in kinds[1:]]
        query, *others = (int(pid) for pid in re.findall(r"(?:query|[✓✗]) (\d+)", tiles.replace('alt="query', "")))
        assert [pid == query for pid in others] == [kind == "hit" for kind in kinds[1:]]
        seen |= set(kinds)
    assert seen == {"query", "hit", "miss"}


def test_base_images_stand_beside_their_derivatives(report):
    out, _ = report
    text = (out / PAGE).read_text()
    people = re.findall(r'<div class="person">.*?</div>', text, re.DOTALL)
    assert len(people) == 6
    for person in people:
        kinds = re.findall(r"<figcaption>([\w ]+)<", person)
        assert kinds == ["visible", "derivative of visible", "infrared", "derivative of infrared"]
    # Before training the derivative is the grey image: three equal channels, normalised as the network sees them.
    width, height, frame = pictures.SIZE[1] + 2 * pictures.FRAME + 8, pictures.SIZE[0], pictures.FRAME
    with Image.open(out / "derivatives.png") as sheet:
        visible, derivative = (
            np.asarray(sheet)[frame : height + frame, i * width + frame : i * width + frame + pictures.SIZE[1]]
            for i in (0, 1)
        )
    spread = [np.ptp(np.asarray(normalise(tile)), axis=2).mean() for tile in (visible, derivative)]
    assert spread[0] > 0.1
    assert spread[1] < 0.03
    assert np.corrcoef(visible.mean(2).ravel(), derivative.mean(2).ravel())[0, 1] > 0.98


def test_a_browser_without_a_network_shows_every_picture_and_the_table(report, tmp_path):
    out, rows = report
    text = (out / PAGE).read_text()
    # The page allows no script; so that one can look at it, a copy does.
    probe = """<script>addEventListener("load", () => { document.body.dataset.found = JSON.stringify({
        images: [...document.images].map(i =>
            [i.complete, i.naturalWidth, i.naturalHeight, i.getBoundingClientRect().width]),
        rows: [...document.querySelectorAll("table.rows tbody")[0].rows].map(r => [...r.cells].map(c => c.innerText)),
        overflow: document.documentElement.scrollWidth - innerWidth }); });</script></body>"""
    copy = tmp_path / "copy.html"
    copy.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", text).replace("</body>", probe))
    dom = browser.dump_dom(copy, tmp_path / "profile")
    found = json.loads(html.unescape(re.search(r'data-found="([^"]*)"', dom).group(1)))
    assert len(found["images"]) == text.count("<img ") == 2 + 9 * 11 + 6 * 4
    assert all(
        complete and width > 50 and height > 50 and shown > 50 for complete, width, height, shown in found["images"]
    )
    assert found["overflow"] <= 0
    assert len(found["rows"]) == len(rows)
    for cells, row in zip(found["rows"], rows, strict=True):
        assert cells[1] == row["model"]
        assert cells[9].startswith(f"{row['R1']:.2f}")
        assert cells[13].startswith(f"{row['mAP']:.2f}")

    for scheme, ground in (("1", (244, 246, 248)), ("0", (16, 19, 24))):
        shot = tmp_path / f"{scheme}.png"
        flags = f"--blink-settings=preferredColorScheme={scheme}"
        browser.screenshot(out / PAGE, shot, tmp_path / "profile", (1280, 3000), flags)
        with Image.open(shot) as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert tuple(pixels[0]) == ground
        assert len(np.unique(pixels, axis=0)) > 2000
        for frame in ((26, 152, 80), (215, 48, 39)):  # pictures.HIT, pictures.MISS
            assert (np.abs(pixels.astype(int) - frame).max(axis=1) <= 2).sum() > 1000


@pytest.fixture
def feature_file(tmp_path):
    """Returns a function that writes a feature file and gives its path."""

    def write(name, index=SYSU, seed=3):
        save_features(tmp_path / name, definitions.coarse_features(index, seed), index)
        return str(tmp_path / name)

    return write


SYSU_ROWS = {"galleries": ["agw"], "modes": ["all"], "shots": [1]}


def test_the_same_inputs_give_the_same_bytes_and_old_pictures_go(feature_file, tmp_path):
    path = feature_file("F.npz")
    rows = feature_rows.evaluate_files("sysu_mm01", path, **SYSU_ROWS)
    out = tmp_path / "report"
    contents = []
    for _ in range(2):
        report_features(out, rows, "sysu_mm01", path, **SYSU_ROWS)
        contents.append({file.name: file.read_bytes() for file in out.iterdir()})
        (out / "ranked-best-1.png").write_bytes(b"of an earlier report with pictures")
        (out / "mine.png").write_bytes(b"")
    assert contents[0].keys() == {PAGE, "cmc.png", "similarities.png"}
    contents[1].pop("mine.png")
    assert contents[0] == contents[1]


def test_feature_files_have_pictures_where_their_tree_is_named(workdir, tmp_path):
    (world,) = (path for path in (workdir.parent / "data" / "world").iterdir() if path.is_dir())
    dataset = open_dataset(DataConfig(root=str(world), dir=str(workdir.parent / "data")), progress=False)
    path = tmp_path / "F.npz"
    save_features(path, definitions.coarse_features(dataset.test.index, 0), dataset.test.index)
    asked = {"root": str(world), "rerank": True, "modes": ["all"], "shots": [1], "galleries": ["official"]}
    rows = feature_rows.evaluate_files("sysu_mm01", str(path), **asked)
    page = report_features(tmp_path / "report", rows, "sysu_mm01", str(path), **asked)
    text = page.read_text()
    assert text.count("<img ") == 2 + 9 * 11
    assert "re-ranked" in text
    assert "--root=TREE" not in text
    assert str(world) not in text


def test_names_from_files_are_text_and_nothing_else(feature_file, tmp_path):
    index = definitions.small_regdb(ids=9)
    evil = '<img src=x onerror="alert(1)">'
    index = dataclasses.replace(index, names=np.asarray([f"{evil}{i}" for i in range(len(index))]))
    path = feature_file("_$x_{<b>y.npz", index)
    rows = feature_rows.evaluate_files("regdb", path)
    text = report_features(tmp_path / "report", rows, "regdb", path).read_text()
    assert "<img src=x" not in text
    assert "<b>y" not in text
    assert html.escape(evil, quote=False).replace('"', "&#34;") in text
    assert "give --root=TREE" in text


def test_names_that_no_encoding_takes_are_escaped_on_the_page(feature_file, tmp_path):
    index = definitions.small_regdb(ids=9)
    index = dataclasses.replace(index, names=np.char.add(index.names, "\udcc4"))
    path = feature_file("a.npz", index)
    rows = feature_rows.evaluate_files("regdb", path)
    assert ".bmp\\udcc4" in report_features(tmp_path / "report", rows, "regdb", path).read_text(encoding="utf-8")


def test_a_comparison_over_several_splits(feature_file, tmp_path):
    index = definitions.small_regdb(ids=9)
    for trial, seed in itertools.product((1, 2), (0, 5)):
        feature_file(f"s{seed}_{trial}.npz", index, seed + trial)
    first, second = (",".join(str(tmp_path / f"s{seed}_{trial}.npz") for trial in (1, 2)) for seed in (0, 5))
    rows = feature_rows.evaluate_files("regdb", first, compare=second)
    text = report_features(tmp_path / "report", rows, "regdb", first, compare=second).read_text()
    assert "s0_1 minus s5_1, points" in text
    assert "in the first of 2 splits" in text
    for row in rows[:2]:
        for metric in row["compare"]["metrics"]:
            assert f"{metric['difference']:+.2f}" in text


@pytest.mark.parametrize("name", [PAGE, "cmc.png", "ranked-worst-3.png"])
def test_files_of_another_program_are_neither_replaced_nor_removed(tmp_path, name):
    (tmp_path / name).write_text("<!DOCTYPE html><title>My site</title>")
    with pytest.raises(
        BdfError, match=rf"--report=.*: expected a new folder or an earlier report, found {name} and no"
    ):
        check_folder(tmp_path)
    assert (tmp_path / name).read_text() == "<!DOCTYPE html><title>My site</title>"
    (tmp_path / name).unlink()
    (tmp_path / "notes.txt").write_text("mine")
    check_folder(tmp_path)  # what is not in the way stays
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_cannot_be_written_to_is_named_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BdfError, match=r"--report=.*file: expected a folder to write to"):
        check_folder(tmp_path / "file")
    done = subprocess.run(
        [sys.executable, "evaluate.py", "--workdir=nowhere", f"--report={tmp_path / 'file'}"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: --report=" in done.stderr
    assert "Traceback" not in done.stderr
